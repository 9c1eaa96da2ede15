"""Limits of a request: bytes and pace of its body, its time, the calls in progress, its client."""

from __future__ import annotations

import asyncio

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiovec.backend.context import CallContext, calling
from aiovec.backend.server import ServerSettings

from .bounds import BOUNDS, Bounds, Room
from .keys import Access
from .problems import RequestError

_MIB = 1024 * 1024
_BODIES, _ANSWERS = 2, 4
"""Bodies and answers of the largest size that the server holds in memory at once."""

_QUEUE_SECONDS = 2.0
"""Seconds that a call waits for its turn."""

_LONG = 30 * 86_400.0
"""Seconds that an index build, or another call that takes long by its nature, may take."""

_PACE = 16 * 1024
"""Bytes a second that a body has to come with. A client that sends slower holds a turn for long."""

_AT_FIRST = 0.05
"""Seconds after which the client's end is watched for. Most calls have ended by then, and cost a
timer alone."""


class Limits:
    """Keeps each request within its limits, and cancels the call of a client that has gone.

    ``scope["route"]`` is the request's endpoint.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._timeout = settings.timeout
        self._turns = anyio.Semaphore(settings.max_calls, fast_acquire=True)
        self._max_rows = settings.max_rows
        self.max_body: int = settings.max_body_mb * _MIB
        self.stall: float = settings.receive_timeout
        self.bodies: Room = Room(_BODIES * self.max_body)
        self._answers = Room(_ANSWERS * self.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = scope["route"]
        exchange = _Exchange(self, receive, send, _LONG if endpoint.long else self._timeout)
        bounds = Bounds(self._max_rows, self.max_body, self._answers)
        token = BOUNDS.set(bounds)
        try:
            async with asyncio.timeout(None) as exchange.deadline:
                exchange.begin(0 if endpoint.body is None else _length_of(scope))
                if endpoint.access is Access.NONE:  # it answers without a turn, too
                    await self._app(scope, exchange.receive, exchange.send)
                else:
                    await self._in_turn(scope, exchange)
        except Exception as exc:
            if exchange.gone.is_set():
                return  # it only says that
            if isinstance(exc, TimeoutError) and exchange.deadline.expired():
                raise exchange.late() from None
            raise
        finally:
            exchange.end()
            BOUNDS.reset(token)
            self.bodies.give(exchange.held)
            bounds.end()
            scope["state"]["aiovec_received"] = exchange.held

    async def _in_turn(self, scope: Scope, exchange: _Exchange) -> None:
        with anyio.move_on_after(_QUEUE_SECONDS) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise RequestError(429, "the server has all the calls it takes; try again")
        try:
            with calling(CallContext(check_bytes=BOUNDS.get().check_bytes)):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._turns.release()


def _length_of(scope: Scope) -> int | None:
    """Return the length of the body, None if only its end will tell."""
    headers = Headers(scope=scope)
    if "content-length" in headers:
        try:
            return int(headers["content-length"])
        except ValueError:  # which other servers than uvicorn's let through
            raise RequestError(400, "the Content-Length is no number") from None
    # In HTTP/2 and later, a body needs neither.
    needed = scope.get("http_version", "1.1").startswith("1")
    return 0 if needed and "transfer-encoding" not in headers else None


class _Exchange:
    """The messages of one request and its answer, under one deadline.

    A body has to come with a pace. Then the call has its time until its answer begins, which the
    client reads at a pace of its own.
    """

    deadline: asyncio.Timeout

    def __init__(self, limits: Limits, receive: Receive, send: Send, seconds: float) -> None:
        self._limits = limits
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._is_read = self._is_empty = False
        self._watching: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.held = 0
        """Bytes of the body."""
        self.gone = asyncio.Event()
        """Set when the client has gone."""

    def begin(self, length: int | None) -> None:
        """Wait for a body of this length, or refuse it. An unexpected one is not read."""
        self._check_length(length or 0)
        self._is_empty = length == 0
        self._go_on(more=length != 0)

    def end(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()

    def late(self) -> RequestError:
        """Return what is wrong behind the deadline."""
        if not self._is_read:
            slow = f"the body comes with less than {_PACE // 1024} KiB a second"
            return RequestError(408, slow)
        return RequestError(
            504,
            f"the call took more than {self._seconds:g} s, so it was cancelled; a write that was "
            "cancelled is wholly done or not at all",
        )

    async def receive(self) -> Message:
        """Return the next message for the app."""
        if self._is_empty:
            self._is_empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._is_read:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
            return message
        size = len(message.get("body", b""))
        self._check_length(self.held + size)
        if not self._limits.bodies.take(size):
            words = "the bodies of other requests take the memory for bodies; try again"
            raise RequestError(503, words)
        self.held += size
        self._go_on(more=message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the app, at the pace of the client."""
        if message["type"] == "http.response.start":
            self._set_deadline(None)
        try:
            await self._send(message)
        except (OSError, RuntimeError):  # uvloop's word for a connection that has gone
            self.gone.set()
            raise

    def _check_length(self, size: int) -> None:
        if size > self._limits.max_body:
            most = self._limits.max_body // _MIB
            raise RequestError(
                413, f"the body has more than {most} MiB; send it in parts, or raise max_body_mb"
            )

    def _go_on(self, *, more: bool) -> None:
        """Wait for more of the body, or let the call begin."""
        if more:
            self._set_deadline(self._began + self._limits.stall + self.held / _PACE)
        else:
            self._is_read = True
            self._set_deadline(self._loop.time() + self._seconds)
            self._watching = self._loop.call_later(_AT_FIRST, self._watch)

    def _watch(self) -> None:
        self._watching = self._loop.create_task(self._wait_for_its_end())

    async def _wait_for_its_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self._set_deadline(self._loop.time())
        self.gone.set()

    def _set_deadline(self, when: float | None) -> None:
        if not self.gone.is_set() and not self.deadline.expired():
            self.deadline.reschedule(when)
