"""A client that reads an export as an Arrow stream, in a process of its own.

``python -m bench.serving.reading ASKED TOLD`` gets a JSON object and writes one to a file. With
``pace``, it reads nothing for ``wait`` seconds at first, and then so many rows a second at most.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

_ARROW = "application/vnd.apache.arrow.stream"


def read(port: int, table: str, *, wait: float = 0.0, pace: float | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began, cpu = time.perf_counter(), time.process_time()
    connection.request("GET", f"/tables/{table}/records", headers={"Accept": _ARROW})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"the answer is {response.status}: {response.read(500)!r}")
    time.sleep(wait)
    started, rows = time.perf_counter(), 0
    for batch in pa.ipc.open_stream(response):
        rows += batch.num_rows
        if pace is not None:
            time.sleep(max(0.0, started + rows / pace - time.perf_counter()))
    took = time.perf_counter() - began
    connection.close()
    return {"rows": rows, "seconds": took, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    found = read(**json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")
