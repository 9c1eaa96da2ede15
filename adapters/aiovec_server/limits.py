"""Limits of a request: its body, rows, response and time, and the number of calls in progress.

The server applies these limits to each of its requests; endpoints in a user's own app have no
limits. The store counts the bytes of rows while it reads them, so it stops early if the response
becomes too large.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiovec.backend.context import CallContext, calling
from aiovec.backend.server import ServerSettings
from aiovec.errors import InvalidArgumentError

from .problems import RequestError
from .security import Access

_MOST_COMPARED = 10_000
"""Maximum number of rows whose vectors are compared with each other for diversity."""


class ByteBudget:
    """A number of bytes shared by all bodies, or by all responses, in progress."""

    def __init__(self, nbytes: int) -> None:
        self._free = nbytes
        self._lock = threading.Lock()  # a lock, because large responses are built in threads

    def reserve(self, nbytes: int) -> bool:
        """Reserve bytes; return False if fewer are left."""
        with self._lock:
            if nbytes > self._free:
                return False
            self._free -= nbytes
            return True

    def release(self, nbytes: int) -> None:
        with self._lock:
            self._free += nbytes


@dataclass(slots=True)
class Bounds:
    """The limits of one request."""

    rows: int
    nbytes: int
    budget: ByteBudget
    held: int | None = 0
    """Bytes reserved for the response; None once the request has ended."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check_bytes(self, nbytes: int) -> None:
        """Refuse a response that is larger than ``Bounds.nbytes``.

        Also reserves the bytes, until the request ends, from the budget of all responses. Once the
        request has ended, this method reserves nothing, because nobody would release the bytes.
        """
        if nbytes > self.nbytes:
            raise RequestError(
                413,
                "the rows or values read for the answer take more than "
                f"{self.nbytes // 2**20:,} MiB, the most on this server; ask for fewer rows at "
                "once, fewer of their fields, or a smaller offset or fetchK",
            )
        with self._lock:
            if self.held is None or nbytes <= self.held:
                return
            if not self.budget.reserve(nbytes - self.held):
                words = "the answers to other requests take the memory; try again"
                raise RequestError(503, words)
            self.held = nbytes

    def end(self) -> None:
        """Release the reserved bytes, and reserve no more, because the request has ended."""
        with self._lock:
            self.budget.release(self.held or 0)
            self.held = None


_UNBOUNDED = Bounds(sys.maxsize, sys.maxsize, ByteBudget(sys.maxsize))
BOUNDS = ContextVar("aiovec_server_bounds", default=_UNBOUNDED)


def check_rows(count: int, name: str = "rows") -> None:
    """Refuse more rows, or more items of an argument, than a request may have."""
    most = BOUNDS.get().rows
    if count > most:
        raise InvalidArgumentError(
            name, count,
            reason=f"{name}: {count:,} is more than {most:,}, the limit of this server. Use "
            "several requests, or an export.",
        )  # fmt: skip


def cut(limit: int, queries: int = 1) -> int:
    """Return the number of rows to request per query: at most one more than a response may have."""
    return min(limit, BOUNDS.get().rows // max(1, queries) + 1)


def check_answered(count: int, queries: int = 1, unit: str = "rows", fix: str = "") -> None:
    """Refuse a response with more rows or values per query than allowed."""
    most = BOUNDS.get().rows // max(1, queries)
    if count > most:
        reason = f"The answer has more than {most:,} {unit}, the limit of this server. Ask for "
        raise InvalidArgumentError("limit", None, reason=f"{reason}fewer{fix}.")


def bounded(options: Mapping[str, Any], queries: int = 1) -> dict[str, Any]:
    """Return the options of a find or a search, with ``limit`` reduced by ``cut``.

    Raises InvalidArgumentError if the call would read or compare too many rows.
    """
    limit = cut(options.get("limit", 10), queries)
    if "group_by" in options:
        check_rows(queries * limit * options.get("per_group", 1), "limit times perGroup")
    check_rows(options.get("offset", 0), "offset")
    fetched = options.get("fetch_k", 0)
    if not options.get("diversity"):
        check_rows(fetched, "fetchK")
    elif fetched > _MOST_COMPARED and BOUNDS.get().rows < sys.maxsize:
        expected = f"at most {_MOST_COMPARED:,} with diversity on this server"
        raise InvalidArgumentError("fetchK", fetched, expected)
    return {**options, "limit": limit}


_MIB = 1024 * 1024
_BODIES, _ANSWERS = 2, 4
"""How many bodies, and how many responses, of the largest size may be in memory at once."""

_QUEUE_SECONDS = 2.0
"""Seconds that a call waits for a free slot."""

_LONG = 30 * 86_400.0
"""Timeout in seconds of index builds and other inherently long calls."""

_PACE = 16 * 1024
"""The slowest accepted upload, in bytes/s. A slower client would occupy a slot for too long."""

_AT_FIRST = 0.05
"""Seconds from the start of a call until the server starts to watch whether the client disconnects.
Most calls end earlier, and cost only a timer."""


class Limits:
    """Enforces the limits of each request, and cancels the call if its client disconnects.

    ``scope["route"]`` is the request's endpoint.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._timeout = settings.timeout
        self._turns = anyio.Semaphore(settings.max_calls, fast_acquire=True)
        self._max_rows = settings.max_rows
        self.max_body: int = settings.max_body_mb * _MIB
        self.stall: float = settings.receive_timeout
        self.bodies: ByteBudget = ByteBudget(_BODIES * self.max_body)
        self._answers = ByteBudget(_ANSWERS * self.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = scope["route"]
        exchange = _Exchange(self, receive, send, _LONG if endpoint.long else self._timeout)
        bounds = Bounds(self._max_rows, self.max_body, self._answers)
        token = BOUNDS.set(bounds)
        try:
            async with asyncio.timeout(None) as exchange.deadline:
                exchange.begin(0 if endpoint.body is None else _length_of(scope))
                if endpoint.access is Access.NONE:  # needs no slot
                    await self._app(scope, exchange.receive, exchange.send)
                else:
                    await self._in_turn(scope, exchange)
        except Exception as exc:
            if exchange.gone.is_set():
                return  # the client's disconnect caused the error
            if isinstance(exc, TimeoutError) and exchange.deadline.expired():
                raise exchange.late() from None
            raise
        finally:
            exchange.end()
            BOUNDS.reset(token)
            self.bodies.release(exchange.held)
            bounds.end()
            scope["state"]["aiovec_received"] = exchange.held

    async def _in_turn(self, scope: Scope, exchange: _Exchange) -> None:
        with anyio.move_on_after(_QUEUE_SECONDS) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise RequestError(429, "the server is at its limit of concurrent calls; try again")
        try:
            with calling(CallContext(check_bytes=BOUNDS.get().check_bytes)):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._turns.release()


def _length_of(scope: Scope) -> int | None:
    """Return the length of the body; None if it is unknown until the body ends."""
    headers = Headers(scope=scope)
    if "content-length" in headers:
        try:
            return int(headers["content-length"])
        except ValueError:  # uvicorn refuses such a header; other servers pass it on
            raise RequestError(400, "the Content-Length is not a number") from None
    # In HTTP/2 and later, a body needs neither header.
    needed = scope.get("http_version", "1.1").startswith("1")
    return 0 if needed and "transfer-encoding" not in headers else None


class _Exchange:
    """The messages of one request and its response, under one deadline.

    The body has to arrive at a minimum rate. Then the call's timeout runs until the response
    begins. The client may read the response at any speed.
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
        """Bytes of the body received so far."""
        self.gone = asyncio.Event()
        """Set when the client has disconnected."""

    def begin(self, length: int | None) -> None:
        """Set the first deadline, or refuse a body that is too long; None is an unknown length."""
        self._check_length(length or 0)
        self._is_empty = length == 0
        self._go_on(more=length != 0)

    def end(self) -> None:
        """Stop watching whether the client disconnects."""
        if self._watching is not None:
            self._watching.cancel()

    def late(self) -> RequestError:
        """Return the error for a call that missed its deadline."""
        if not self._is_read:
            slow = f"the body arrives at less than {_PACE // 1024} KiB a second"
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
        if not self._limits.bodies.reserve(size):
            words = "the bodies of other requests take all the memory for bodies; try again"
            raise RequestError(503, words)
        self.held += size
        self._go_on(more=message.get("more_body", False))
        return message

    async def send(self, message: Message) -> None:
        """Send a message from the app, and wait until the client has read enough of it."""
        if message["type"] == "http.response.start":
            self._set_deadline(None)
        try:
            await self._send(message)
        except (OSError, RuntimeError):  # how uvloop reports a closed connection
            self.gone.set()
            raise

    def _check_length(self, size: int) -> None:
        if size > self._limits.max_body:
            most = self._limits.max_body // _MIB
            raise RequestError(
                413, f"the body has more than {most} MiB; send it in parts, or raise max_body_mb"
            )

    def _go_on(self, *, more: bool) -> None:
        """Set the deadline for the rest of the body or, once it is complete, for the call."""
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
