"""An S3 server on loopback, which runs until its standard input ends.

    python -m tests.lancedb.s3_server

It prints its address on one line. It handles one request after another: moto first checks the
condition of a write and then writes; another thread could write in between, which S3 rules out.
"""

from __future__ import annotations

import logging
import mmap
import sys
import threading
from collections.abc import Iterable
from typing import Any

from flask import has_request_context, request
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import FakeKey
from werkzeug.serving import make_server

# Size in bytes from which only a part of an object is read: moto reads all of it for each part.
_LARGE = 2**20


def _part_or_all(key: Any, whole: Any = FakeKey.value.fget) -> Any:
    is_part = has_request_context() and request.method == "GET" and "Range" in request.headers
    if not is_part or key.contentsize < _LARGE:
        return whole(key)
    with key.lock:
        file = key._value_buffer
        file.rollover()
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # which slices as bytes do


class OneByOne:
    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            return list(self._moto(environ, start_response))


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    FakeKey.value = FakeKey.value.getter(_part_or_all)
    server = make_server("127.0.0.1", 0, OneByOne(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
