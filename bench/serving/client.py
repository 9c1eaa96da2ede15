"""Keep-alive clients in a process of their own that do little but send and count.

``python -m bench.serving.client ASKED TOLD`` gets a JSON object and writes one to a file. The
requests are whole, in a file that ``save`` wrote.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LENGTH = 8
_STRIDE = 31
_KEPT = 200  # answers that are handed back, to be looked at
_CONTENT_LENGTH = b"\r\ncontent-length:"


def request(
    method: str, path: str, kind: str, body: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """A request as it goes over the wire."""
    named = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": len(body)}
    lines = [f"{name}: {value}\r\n" for name, value in {**named, **(headers or {})}.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


def save(path: Path, requests: Iterable[bytes]) -> Path:
    parts = (part for one in requests for part in (len(one).to_bytes(_LENGTH, "big"), one))
    path.write_bytes(b"".join(parts))
    return path


def _saved(path: Path) -> list[bytes]:
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        start = place + _LENGTH
        place = start + int.from_bytes(data[place:start], "big")
        found.append(data[start:place])
    return found


class Load:
    """Clients that each ask again as soon as they are answered."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.took: list[float] = []
        self.answers: dict[int, bytes] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, port: int, clients: int, warm_up: float, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        transports = []
        for number in range(clients):
            first = number * _STRIDE % len(self.requests)
            made = await loop.create_connection(lambda n=first: _Client(self, n), "127.0.0.1", port)
            transports.append(made[0])
        await asyncio.wait([self.failed], timeout=warm_up)
        warmed = len(self.took)
        began, cpu = time.perf_counter(), time.process_time()
        while not self.failed.done():
            await asyncio.wait([self.failed], timeout=seconds)
            if len(self.took) > warmed:
                break
        elapsed, used = time.perf_counter() - began, time.process_time() - cpu
        if self.failed.done():
            self.failed.result()
        self.failed.cancel()
        for transport in transports:
            transport.abort()
        took = self.took[warmed:]
        p50, p99 = np.percentile(took, (50, 99)) * 1000
        return {
            "rate": len(took) / elapsed,
            "p50": p50,
            "p99": p99,
            "all": len(self.took),
            "cpu": used / elapsed,
            "answers": {n: base64.b64encode(body).decode() for n, body in self.answers.items()},
        }


class _Client(asyncio.Protocol):
    """One connection. Of the answers' heads it reads the status and the length alone."""

    transport: asyncio.Transport

    def __init__(self, load: Load, first: int) -> None:
        self._load = load
        self._number = first
        self._began = 0.0
        self._data = bytearray()
        self._body = self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a connection, it is one
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self.transport.write(self._load.requests[self._number])

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._end and (head := self._data.find(b"\r\n\r\n")) >= 0:
            fields = bytes(self._data[:head]).lower()
            _, there, length = fields.partition(_CONTENT_LENGTH)
            if fields.split(None, 2)[1] != b"200" or not there:
                self._fail(f"the answer is {bytes(self._data[:500])!r}")
                return
            self._body = head + 4
            self._end = self._body + int(length.partition(b"\r\n")[0])
        if self._end and len(self._data) >= self._end:
            load = self._load
            load.took.append(time.perf_counter() - self._began)
            if len(load.answers) < _KEPT:
                load.answers[self._number] = bytes(self._data[self._body : self._end])
            del self._data[: self._end]
            self._body = self._end = 0
            self._number = (self._number + 1) % len(load.requests)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}")

    def _fail(self, reason: str) -> None:
        if not self._load.failed.done():
            self._load.failed.set_exception(RuntimeError(reason))


async def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    load = Load(_saved(Path(asked["requests"])))
    return await load.run(asked["port"], asked["clients"], asked["warm_up"], asked["seconds"])


def main() -> None:
    asked = json.loads(sys.argv[1])
    try:
        import uvloop
    except ImportError:
        told = asyncio.run(_measured(asked))
    else:
        told = uvloop.run(_measured(asked))
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
