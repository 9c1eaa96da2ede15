"""A connection: uvicorn's, with bounds on what a slow or greedy client may hold.

uvicorn waits for ever for the head of a request, for its body, and for a client that does not read
its answer, and it keeps a head of any size in memory. ``check`` is called a few times within each
timeout, for all connections in turn: cheaper than timers, which every request would set and cancel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

from aiovec._http.problems import Problem

MAX_HEAD = 64 * 1024
"""Bytes of a request's method, target and headers. A browser's cookies take a few KiB."""

# Errors of the app. Warnings would let anybody who sends nonsense fill the log.
_log = logging.getLogger("aiovec.server.connections")
_log.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds on connections."""

    connections: int
    receive: float
    """Seconds that a client may take for the head of a request, and for each part of a body."""

    send: float
    """Seconds that it may take to read a part of an answer."""


class HeadTooLargeError(Exception):
    """The head of a request has more bytes than ``MAX_HEAD``."""


class FragmentError(Exception):
    """The target of the request has a ``#`` in it, which is no character of a target."""


class _Transport:
    """A transport to which nothing is written once it is closed: uvloop's would raise, and
    asyncio's would log, before either tells of the closing."""

    __slots__ = ("_inner",)

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner = inner

    def write(self, data: bytes) -> None:
        if not self._inner.is_closing():
            self._inner.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        bounds: Bounds,
        crowded: Callable[[Connection], bool],
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self.logger = _log
        self._bounds = bounds
        self._running: RequestResponseCycle | None = None
        self._crowded = crowded
        self.heard = self._sent = self.loop.time()
        # Of a connection without a request, when it began to wait for the rest of a head.
        self._head_since: float | None = self.heard
        self._in_head = self._in_body = False
        self._begun, self._got_body = 0, False  # in the data that came last
        self._unusable = 0  # bytes in a row of a head, or of what stands between parts of a body
        self._unsent = 0

    @property
    def is_idle(self) -> bool:
        """True if no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", _Transport(transport))
        if self._crowded(self):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again")

    def check(self, now: float) -> None:
        """Close the connection if its client has stalled for too long."""
        if self._is_stalled(now):
            self.transport.abort()

    def _is_stalled(self, now: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._sent = unsent, now
        elif now - self._sent >= self._bounds.send:
            return True
        if self.is_idle:
            if self._head_since is None and (self._in_head or self._in_body):
                self._head_since = self.heard  # it came with the request before
            return self._head_since is not None and now - self._head_since >= self._bounds.receive
        if not self.cycle.more_body or self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self.heard = now  # it is not the client's turn
        return now - self.heard >= self._bounds.receive

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        if self._head_since is None and self.is_idle:
            self._head_since = self.heard
        between = not self._in_head and not self._in_body
        self._begun, self._got_body = 0, False
        super().data_received(data)
        # Where several messages came at once, nobody knows where the last one begins in the data.
        whole = not self._begun or (between and self._begun == 1)
        if whole and (self._in_head or (self._in_body and not self._got_body)):
            self._unusable += len(data)
            if self._unusable > MAX_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["http_version"] != "1.1":  # it came with the chunks
            app = _in_one_piece(app, cycle)
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells the last request that came, which may wait behind the one in progress.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def on_message_begin(self) -> None:
        self._in_head, self._unusable = True, 0
        self._begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._head_since = False, True, None
        self._unusable = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            raise HeadTooLargeError
        if b"#" in self.url:  # uvicorn would leave out the rest, which may be that of a name
            raise FragmentError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got_body, self._unusable = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        head = len(self.url or b"") + sum(len(n) + len(v) for n, v in self.headers or ())
        if head > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        elif b"#" in (self.url or b""):
            self._refuse(HTTPStatus.BAD_REQUEST, "the path has a # in it; encode it as %23")
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with an error, and close."""
        if self.transport.is_closing():
            return
        if not self.is_idle:
            # An answer is under way, in the middle of which another one would be taken for a part.
            self.transport.abort()
            return
        again = 1 if status is HTTPStatus.SERVICE_UNAVAILABLE else None
        problem = Problem.plain(status, detail, retry_after=again)
        body = problem.body()
        headers = {**problem.headers(), "content-length": str(len(body)), "connection": "close"}
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


def _in_one_piece(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The app, with answers of unknown length that end with the connection.

    A client of HTTP/1.0 knows no chunks, which uvicorn would send.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_whole(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                if b"content-length" not in names:
                    cycle.chunked_encoding = False
            elif not cycle.expected_content_length:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_whole)

    return answer


_TOO_LARGE = f"the head of the request is larger than {MAX_HEAD // 1024} KiB"
