"""The S3 server of the LanceDB tests, which can be told to answer with errors for a while.

    python -m tests.migrate.flaky_s3

``PUT /-/503`` lets it answer every request with that status, ``PUT /-/200`` ends it.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.lancedb.buckets import BUCKET, Bucket
from tests.lancedb.s3_server import OneByOne
from tests.sqlite.support import python
from werkzeug.serving import make_server


class Flaky:
    def __init__(self) -> None:
        self._server = OneByOne()
        self._status = "200"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        place, _, status = str(environ["PATH_INFO"]).rpartition("/")
        if place == "/-":
            self._status = status
        elif self._status == "200":
            return self._server(environ, start_response)
        else:
            status = self._status
        start_response(f"{status} told to", [("Content-Length", "0")])
        return []


@contextmanager
def flaky_s3() -> Iterator[Bucket]:
    """Such a server with one bucket, in a process of its own."""
    process = python(
        "-m", "tests.migrate.flaky_s3", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    try:
        assert process.stdout is not None
        bucket = Bucket(process.stdout.readline().strip(), process)
        put(f"{bucket.endpoint}/{BUCKET}")
        yield bucket
    finally:
        process.communicate(timeout=30)


def put(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()


def fail(bucket: Bucket, status: int) -> None:
    """Answer with this status from now on; 200 is to work again."""
    request = urllib.request.Request(f"{bucket.endpoint}/-/{status}", method="PUT")
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as told:
        told.close()


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, Flaky(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
