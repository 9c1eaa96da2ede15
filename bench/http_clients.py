"""Keep-alive HTTP clients in a process of their own that do little but send and count.

The requests are whole, in a file that ``save`` wrote.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

_LENGTH = 8
_STRIDE = 31
_KEPT = 200  # answers that are returned
_TIMED = 10_000  # the last answers, of whose times the median and the 99th percentile are told
_CONTENT_LENGTH = b"\r\ncontent-length:"


def request(method: str, path: str, kind: str, body: bytes) -> bytes:
    """Return a request as it goes over the wire."""
    headers = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": len(body)}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


def save(path: Path, requests: Iterable[bytes]) -> Path:
    """Write requests to a file and return its path."""
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


class _Load:
    """Clients that ask again as soon as they are answered."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.done = 0
        self.took: deque[float] = deque(maxlen=_TIMED)
        self.answers: dict[int, bytes] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, port: int, clients: int, seconds: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        transports = []
        for number in range(clients):
            first = number * _STRIDE % len(self.requests)
            client = partial(_Client, self, first)
            transport, _ = await loop.create_connection(client, "127.0.0.1", port)
            transports.append(transport)
        await asyncio.wait([self.failed], timeout=seconds / 5)  # warm up
        warmed, began = self.done, time.perf_counter()
        while not self.failed.done() and self.done == warmed:
            await asyncio.wait([self.failed], timeout=seconds)
        elapsed = time.perf_counter() - began
        if self.failed.done():
            self.failed.result()
        self.failed.cancel()
        for transport in transports:
            transport.abort()
        times = sorted(self.took)
        return {
            "rate": (self.done - warmed) / elapsed,
            "p50": 1000 * times[len(times) // 2],
            "p99": 1000 * times[len(times) * 99 // 100],
            "answers": {n: base64.b64encode(body).decode() for n, body in self.answers.items()},
        }


class _Client(asyncio.Protocol):
    """One connection. It reads only the status and the length of the answers' heads."""

    transport: asyncio.Transport

    def __init__(self, load: _Load, first: int) -> None:
        self._load = load
        self._number = first
        self._data = bytearray()
        self._body = self._end = 0
        self._asked = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a connection, it is one
        self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self.transport.write(self._load.requests[self._number])

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._end and (head := self._data.find(b"\r\n\r\n")) >= 0:
            fields = bytes(self._data[:head]).lower()
            _, there, length = fields.partition(_CONTENT_LENGTH)
            if fields.split(None, 2)[1][:1] != b"2" or not there:
                self._fail(f"the answer is {bytes(self._data[:500])!r}")
                return
            self._body = head + 4
            self._end = self._body + int(length.partition(b"\r\n")[0])
        if self._end and len(self._data) >= self._end:
            load = self._load
            load.done += 1
            load.took.append(time.perf_counter() - self._asked)
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
    load = _Load(_saved(Path(asked["requests"])))
    return await load.run(asked["port"], asked["clients"], asked["seconds"])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measured(json.loads(sys.argv[1])))))
