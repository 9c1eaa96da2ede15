"""Limits of a request: bytes and pace of its body, its time, the calls in progress, its client."""

from __future__ import annotations

import asyncio

from aiovec.backend.server import ServerSettings

from .access import Access, access_of, may_take_long
from .asgi import App, Message, Receive, Scope, Send, header_values, path_of, state_of_request
from .bounds import BOUNDS, Bounds, Room
from .problems import RequestError, response_of

_MIB = 1024 * 1024
_BODIES, _ANSWERS = 2, 4
"""Bodies and answers of the largest size that the server holds in memory at once."""

_BARE = frozenset({"GET", "HEAD", "OPTIONS"})

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
    """Keeps each request within its limits, and cancels the call of a client that has gone."""

    def __init__(self, app: App, settings: ServerSettings) -> None:
        self._app = app
        self._timeout = settings.timeout
        self._turns = asyncio.Semaphore(settings.max_calls)
        self._max_rows = settings.max_rows
        self.max_body = settings.max_body_mb * _MIB
        self.stall = settings.receive_timeout
        self.bodies = Room(_BODIES * self.max_body)
        self._answers = Room(_ANSWERS * self.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], path_of(scope)
        seconds = _LONG if may_take_long(method, path) else self._timeout
        exchange = _Exchange(self, scope, receive, send, seconds)
        bounds = Bounds(self._max_rows, self.max_body, self._answers)
        token = BOUNDS.set(bounds)
        refused: RequestError | None = None
        try:
            async with asyncio.timeout(seconds) as exchange.deadline:
                exchange.expect(_length_of(scope))
                if access_of(method, path) is Access.NONE:  # it answers without a turn, too
                    await self._app(scope, exchange.receive, exchange.send)
                else:
                    await self._in_turn(scope, exchange)
        except RequestError as exc:
            refused = exc
        except Exception as exc:
            if exchange.gone.is_set():
                return  # it only says that
            if not isinstance(exc, TimeoutError) or not exchange.deadline.expired():
                raise
            refused = RequestError(
                504,
                f"the call took more than {seconds:g} s, so it was cancelled; a write that was "
                "cancelled is wholly done or not at all",
            )
        finally:
            exchange.close()
            BOUNDS.reset(token)
            self.bodies.give(exchange.held)
            self._answers.give(bounds.held)
            state_of_request(scope)["aiovec_received"] = exchange.held
        # An answer that has begun stays without its end: the server closes the connection, so
        # nobody takes it as whole.
        if refused is not None and not exchange.begun:
            answer = await response_of(refused)
            await answer(scope, receive, exchange.send)

    async def _in_turn(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            async with asyncio.timeout(_QUEUE_SECONDS if self._turns.locked() else None):
                await self._turns.acquire()
        except TimeoutError:
            again = "the server has all the calls it takes; try again"
            raise RequestError(429, again) from None
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._turns.release()


def _length_of(scope: Scope) -> int | None:
    """Return the length of the body, None if only its end will tell."""
    for given in header_values(scope, b"content-length"):
        if not (given.isascii() and given.isdigit()):
            raise RequestError(400, "the Content-Length is no number")
        return int(given[:20])
    # In HTTP/2 and later, a body needs neither.
    bare = scope["method"] in _BARE or scope.get("http_version", "1.1").startswith("1")
    return 0 if bare and not header_values(scope, b"transfer-encoding") else None


class _Exchange:
    """The messages of one request and its answer, which put off its deadline.

    No time counts in which the client is slow, but a body has to come with a pace.
    """

    deadline: asyncio.Timeout

    def __init__(
        self, limits: Limits, scope: Scope, receive: Receive, send: Send, seconds: float
    ) -> None:
        self._limits = limits
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._is_read = self._is_empty = False
        self._waits = bool(header_values(scope, b"expect"))
        """The client sends its body when it is asked to."""
        self._watching: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._closed = False
        self.held = 0
        """Bytes of the body."""
        self.begun = False
        """True if the answer has begun."""
        self.gone = asyncio.Event()
        """Set when the client has gone."""

    def expect(self, length: int | None) -> None:
        """Refuse a body that is too long, and expect one of this length."""
        self._check_length(length or 0)
        if length == 0:
            self._is_empty = True
            self._end_body()

    async def receive(self) -> Message:
        """Return the next message for the app."""
        if self._is_empty:
            self._is_empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._is_read:
            self._watch()
            await self.gone.wait()
            return {"type": "http.disconnect"}
        self._put_off(None)
        try:
            slowest = self._began + self._limits.stall + self.held / _PACE
            async with asyncio.timeout_at(slowest):
                message = await self._receive()
        except TimeoutError:
            slow = f"the body comes with less than {_PACE // 1024} KiB a second"
            raise RequestError(408, slow) from None
        finally:
            self._put_off(self._seconds)
        if message["type"] == "http.disconnect":
            self._leave()
            return message
        size = len(message.get("body", b""))
        self._check_length(self.held + size)
        if not self._limits.bodies.take(size):
            words = "the bodies of other requests take the memory for bodies; try again"
            raise RequestError(503, words)
        self.held += size
        if not message.get("more_body", False):
            self._end_body()
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the app, at the pace of the client."""
        self._put_off(None)
        try:
            if message["type"] == "http.response.start":
                self.begun = True
                if self._waits and not self._is_read:  # nobody knows if the body still comes
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
            await self._send(message)
        except (OSError, RuntimeError):  # uvloop's word for a connection that has gone
            self.gone.set()
            raise
        finally:
            self._put_off(self._seconds)

    def close(self) -> None:
        """Watch no longer."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()

    def _check_length(self, size: int) -> None:
        if size > self._limits.max_body:
            most = self._limits.max_body // _MIB
            raise RequestError(
                413, f"the body has more than {most} MiB; send it in parts, or raise max_body_mb"
            )

    def _end_body(self) -> None:
        self._is_read = True
        self._watching = self._loop.call_later(_AT_FIRST, self._watch)

    def _watch(self) -> None:
        if self._closed or isinstance(self._watching, asyncio.Task):
            return
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self._loop.create_task(self._wait_for_its_end())

    async def _wait_for_its_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.gone.set()
        self._put_off(0)

    def _put_off(self, seconds: float | None) -> None:
        """Let the call end after so many seconds from now; None waits for the client."""
        if self._closed or self.deadline.expired() or (self.gone.is_set() and seconds != 0):
            return
        self.deadline.reschedule(None if seconds is None else self._loop.time() + seconds)
