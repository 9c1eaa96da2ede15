"""A proxy in front of a server, which lets a test change, delay or drop responses.

It parses only as much HTTP as it needs to separate the messages.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Request:
    """A request from a client: its first line, its headers by lower-case name, and its bytes."""

    line: str
    headers: dict[str, str]
    data: bytes


# Gets the request, a function that asks the server, and a writer to the client. If it returns
# False, the connection ends.
Meddling = Callable[
    [Request, Callable[[], Awaitable[bytes]], asyncio.StreamWriter], Awaitable[bool]
]


class Proxy:
    """A running proxy; ``url`` is the server's URL through the proxy.

    Each meddling that a test arms handles one of the next requests; all others pass unchanged.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._tls = tls
        self._server = parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._armed: deque[Meddling] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.meddled = 0
        self.closed = asyncio.Event()
        """Set when a client disconnects while its response is held."""

    async def __aenter__(self) -> Proxy:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        port = self._listening.sockets[0].getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{port}{self._path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(self, *meddlings: Meddling) -> None:
        self._armed.extend(meddlings)

    @property
    def armed(self) -> bool:
        """True if some armed meddlings have not been used yet."""
        return bool(self._armed)

    def disarm(self) -> None:
        self._armed.clear()

    def cut(self, *lengths: int) -> None:
        """Let the server answer the next requests, but cut each response to the given length."""

        def cutting(length: int) -> Meddling:
            async def meddle(_: Request, ask: Callable[[], Awaitable[bytes]],
                             client: asyncio.StreamWriter) -> bool:  # fmt: skip
                client.write((await ask())[:length])
                return False

            return meddle

        self.arm(*map(cutting, lengths))

    def answer(self, *answers: bytes) -> None:
        """Answer the next requests with these bytes, without asking the server."""

        def answering(data: bytes) -> Meddling:
            async def meddle(_: Request, ask: object, client: asyncio.StreamWriter) -> bool:
                client.write(data)
                return True

            return meddle

        self.arm(*map(answering, answers))

    def hold(self, *, ask: bool = False) -> asyncio.Event:
        """Send no response to the next request; with ``ask``, the server handles it first.

        Return an event that is set when the request has arrived and, with ``ask``, was handled."""
        came = asyncio.Event()

        async def meddle(_: Request, asking: Callable[[], Awaitable[bytes]], __: object) -> bool:
            if ask:
                await asking()
            came.set()
            await self.closed.wait()
            return False

        self.arm(meddle)
        return came

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: Streams | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    request = await _request(reader)
                    self.requests.append(request)
                    if behind is None:
                        behind = await asyncio.open_connection(*self._server)
                    if self._armed:
                        if not await self._meddle(request, behind, reader, writer):
                            break
                    else:
                        behind[1].write(request.data)
                        writer.write(await _answer(behind[0], request))
                        await writer.drain()
        finally:
            for stream in (writer, behind[1] if behind else None):
                if stream is not None:
                    stream.close()

    async def _meddle(
        self, request: Request, behind: Streams, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        meddling = self._armed.popleft()
        self.meddled += 1

        async def ask() -> bytes:
            behind[1].write(request.data)
            return await _answer(behind[0], request)

        async def leaving() -> None:
            with suppress(OSError):  # it was reset
                await reader.read(1)
            self.closed.set()

        left = asyncio.ensure_future(leaving())
        try:
            goes_on = await meddling(request, ask, writer)
            with suppress(OSError):
                await writer.drain()
        finally:
            left.cancel()
            await asyncio.wait({left})  # otherwise it would read the bytes of the next request
        return goes_on


async def _request(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").strip().split("\r\n")
    pairs = (header.partition(": ") for header in rest)
    headers = {name.lower(): value for name, _, value in pairs}
    return Request(line, headers, head + await _body(reader, head))


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            body += size + await reader.readexactly(int(size, 16) + 2)
            if not int(size, 16):
                return body
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
    return await reader.readexactly(int(length[1])) if length else b""


async def _answer(reader: asyncio.StreamReader, request: Request) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + (b"" if request.line.startswith("HEAD") else await _body(reader, head))
