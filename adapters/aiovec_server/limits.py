"""Limits of a request: bytes and pace of its body, its time, the calls in progress, its client."""

from __future__ import annotations

import asyncio
from collections import deque

from aiovec._http.problems import Problem
from aiovec.backend.server import ServerSettings

from .access import Access, access_of, may_take_long
from .asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    begin_problem,
    header_values,
    path_of,
    state_of_request,
)
from .bounds import BOUNDS, Bounds, Room
from .watching import Watch

_MIB = 1024 * 1024
_BODIES = 2
"""Bodies of the largest size that the server holds in memory at once."""

_ANSWERS = 4
"""Answers of the largest size that the server holds in memory at once."""

_BARE = frozenset({"GET", "HEAD", "OPTIONS"})

_QUEUE = 64
"""Calls that wait for a turn; the next ones are told to come again."""
_QUEUE_SECONDS = 2.0
_RETRY_SECONDS = 1

_LONG = 30 * 86_400.0
"""Seconds that an index build, or another call that takes long by its nature, may take."""

_PACE = 16 * 1024
"""Bytes a second that a body has to come with. A client that sends slower holds a turn for long."""

# What a client still sends of a body that was refused: it is read for a moment, so that the client
# gets to read its answer before the connection closes.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 8 * _MIB
_MID_BODY = frozenset({400, 408, 413})


class _RefusedError(Exception):
    """The body is refused; whoever reads it stops here."""


class Turns:
    """So many calls at once; a few more wait in their order."""

    def __init__(self, most: int, queue: int = _QUEUE) -> None:
        self._free = most
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> bool:
        """Wait for a turn. Return False if there is no room to wait, or no turn came in time."""
        if self._free > 0:
            self._free -= 1
            return True
        if len(self._waiting) >= self._queue:
            return False
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn], timeout=_QUEUE_SECONDS)
        except asyncio.CancelledError:
            if turn.done():
                self.give()
            raise
        finally:
            if not turn.done():
                self._waiting.remove(turn)
        return turn.done()

    def give(self) -> None:
        """Hand the turn to the next call."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1


class Limits:
    """Keeps each request within its limits, and cancels the call of a client that has gone."""

    def __init__(self, app: App, settings: ServerSettings) -> None:
        self._app = app
        self._max_body = settings.max_body_mb * _MIB
        self._timeout = settings.timeout
        self.stall = settings.receive_timeout
        self._turns = Turns(settings.max_calls)
        self._most = settings.max_rows, self._max_body
        self._answers = Room(_ANSWERS * self._max_body)
        self._room = _BODIES * self._max_body
        """Bytes for the bodies of all requests in progress."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send)
        length, problem = self._length(scope)
        if problem is not None:
            await answer.refuse(problem)
            return
        # Health and the page's files answer also while all turns are taken.
        counted = access_of(scope["method"], path_of(scope)) is not Access.NONE
        body = _Body(self, answer, receive, length)
        bounds = Bounds(*self._most, self._answers)
        token = BOUNDS.set(bounds)
        long = may_take_long(scope["method"], path_of(scope))
        watch = Watch(_LONG if long else self._timeout, body.receive, has_body=length != 0)
        try:
            async with watch:
                if counted and not await self._turns.take():
                    again = "the server has all the calls it takes; try again"
                    answer.problem = Problem.plain(429, again, retry_after=_RETRY_SECONDS)
                else:
                    try:
                        await self._app(scope, watch.receive, watch.sending(answer.send))
                    except _RefusedError:
                        pass
                    except Exception:
                        if not watch.is_gone:  # else it only says that the client has gone
                            raise
                    finally:
                        if counted:
                            self._turns.give()
        finally:
            BOUNDS.reset(token)
            self._room += body.held
            self._answers.give(bounds.held)
            state_of_request(scope)["aiovec_received"] = body.held
        if watch.is_gone:
            return
        if watch.is_late:
            seconds = f"{self._timeout:g} s"
            detail = f"the call took more than {seconds}, so it was cancelled; a write that was "
            detail += "cancelled is wholly done or not at all"
            answer.problem = Problem.plain(504, detail)
        await answer.end()

    def _length(self, scope: Scope) -> tuple[int | None, Problem | None]:
        """Return the length of the body, None if only its end will tell."""
        given = header_values(scope, b"content-length")
        coded = header_values(scope, b"transfer-encoding")
        # The server's parser refuses these already. Two readings of where a request ends are how
        # one is smuggled past a proxy, so no other parser shall let them through either.
        if len(given) > 1 or (given and coded) or len(coded) > 1:
            return None, Problem.plain(400, "the request says twice where its body ends")
        if coded:
            known = coded[0].strip().lower() == "chunked"
            return None, None if known else Problem.plain(
                400, "the Transfer-Encoding is not chunked"
            )
        if not given:
            # In HTTP/2 and later, a body needs neither.
            known = scope.get("http_version", "1.1").startswith("1") or scope["method"] in _BARE
            return 0 if known else None, None
        text = given[0]
        if not (text.isascii() and text.isdigit()):
            return None, Problem.plain(400, "the Content-Length is no number")
        length = int(text) if len(text) < 20 else self._max_body + 1
        return length, self.too_large() if length > self._max_body else None

    def too_large(self) -> Problem:
        most = self._max_body // _MIB
        return Problem.plain(
            413, f"the body has more than {most} MiB; send it in parts, or raise max_body_mb"
        )

    def hold(self, size: int, held: int) -> Problem | None:
        """Take room for another part of a body, of which ``held`` bytes are there."""
        if held + size > self._max_body:
            return self.too_large()
        if size > self._room:
            detail = "the bodies of other requests take the memory for bodies; try again"
            return Problem.plain(503, detail, retry_after=_RETRY_SECONDS)
        self._room -= size
        return None


class _Body:
    """The body of one request, as it comes."""

    def __init__(
        self, limits: Limits, answer: _Answer, receive: Receive, length: int | None
    ) -> None:
        self._limits = limits
        self._answer = answer
        self._receive = receive
        self._began = asyncio.get_running_loop().time()
        self._ended = length == 0
        self.held = 0

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()  # which tells that the client is gone
        try:
            # The body has to come with a pace.
            async with asyncio.timeout_at(self._began + self._limits.stall + self.held / _PACE):
                message = await self._receive()
        except TimeoutError:
            slow = f"the body comes with less than {_PACE // 1024} KiB a second"
            self._answer.problem = Problem.plain(408, slow)
            raise _RefusedError from None
        self._ended = not message.get("more_body", False)
        if part := message.get("body", b""):
            problem = self._limits.hold(len(part), self.held)
            if problem is not None:
                self._answer.problem = problem
                raise _RefusedError
            self.held += len(part)
        return message


class _Answer:
    """The answer to one request, which a problem replaces as long as it has not begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._begun = False
        self.problem: Problem | None = None

    async def send(self, message: Message) -> None:
        if self.problem is not None and not self._begun:
            return  # the answer of who met the refusal, such as "cannot read the body"
        self._begun = True
        await self._send(message)

    async def end(self) -> None:
        """Send the problem, if there is one."""
        if self.problem is None:
            return
        if self._begun:
            return  # without its end: the server closes the connection, so nobody takes it as whole
        await self.refuse(self.problem)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem. A connection whose body was not read cannot go on."""
        unread = problem.status in _MID_BODY
        headers = {"connection": "close"} if unread else {}
        await begin_problem(self._scope, self._send, problem, headers)
        if unread:
            await self._linger()
        await self._send({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0:
                    message = await self._receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            pass
