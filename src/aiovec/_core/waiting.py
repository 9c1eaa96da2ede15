"""The time that a call waits for its turn, and bounds on what runs at once.

A call's time counts from its start, for all its waits together; that of a long call's step from the
step's own. Memory is taken only after a share of it was given, in the order of asking; a call that
waits longer than it may gets StoreBusyError.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TypeVar

from ..errors import StoreBusyError, StoreFullError
from .threads import PerLoop

_T = TypeVar("_T")

# Seconds that a call waits at least: without any, of calls that begin together all but one would
# fail, though none of them takes long.
_LEAST = 0.25
# Seconds between the looks at a call that was out of time when it could not be ended.
_LOOK_AGAIN = 0.25
# Pauses that are remembered: those of the tries of some cut-overs.
_MOST_PAUSES = 64


class _Call:
    __slots__ = ("began", "task")

    def __init__(self, began: float | None) -> None:
        self.began = time.monotonic() if began is None else began
        self.task = asyncio.current_task()


_CALL: ContextVar[_Call | None] = ContextVar("aiovec_call", default=None)


class one_call:  # noqa: N801 - used as a function is
    """A user's call: what it waits for within counts from here, or from when it ``began``."""

    __slots__ = ("_began", "_token")
    _token: Token[_Call | None]

    def __init__(self, began: float | None = None) -> None:
        self._began = began

    def __enter__(self) -> None:
        self._token = _CALL.set(_Call(self._began))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ValueError):  # collected elsewhere, when its loop was closed under it
            _CALL.reset(self._token)


def _began() -> float:
    """When the call under way began. Work in the background, which is a task of its own, inherits
    the context of the call that started it, but is no part of that call: it begins now."""
    current = _CALL.get()
    if current is None or current.task is not asyncio.current_task():
        return time.monotonic()
    return current.began


def worked(seconds: float) -> None:
    """Take off what the call under way has worked itself: no time that the store let it wait."""
    current = _CALL.get()
    if current is not None and current.task is asyncio.current_task():
        current.began += seconds


class Steps:
    """The steps of a long call, the first of which writes.

    Each waits from its own start: the work of those before is no time that the call waited.
    """

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = False

    async def __call__(self, step: Awaitable[_T]) -> _T:
        """Do a step; its error tells where earlier ones are kept."""
        try:
            with one_call():
                result = await step
        except StoreBusyError as exc:
            if not self._begun:
                raise
            raise StoreBusyError(exc.reason, exc.waited, in_part=True) from exc.__cause__
        except StoreFullError as exc:
            if not self._begun:
                raise
            raise StoreFullError(exc.target, exc.reason, in_part=True) from exc.__cause__
        self._begun = True
        return result


class Pauses:
    """When a migration let the writers of a store wait, which is no part of a call's time."""

    __slots__ = ("_over", "_under_way")

    def __init__(self) -> None:
        self._over: deque[tuple[float, float]] = deque(maxlen=_MOST_PAUSES)
        self._under_way: list[float] = []

    def begin(self, at: float) -> float:
        """Note a pause that was seen then; what ``end`` takes."""
        self._under_way.append(at)
        return at

    def end(self, began: float) -> None:
        self._under_way.remove(began)
        self._over.append((began, time.monotonic()))

    def since(self, moment: float) -> float:
        """The seconds since then in which writers waited; those of pauses that overlap, once."""
        now = time.monotonic()
        found = sorted([*self._over, *((began, now) for began in self._under_way)])
        total, until = 0.0, moment
        for began, ended in found:
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return total


class Patience:
    """The time that a call has until its work begins.

    ``paused_since`` tells the seconds since a moment that do not count.
    """

    __slots__ = ("_paused_since", "began", "limit")

    def __init__(self, limit: float, paused_since: Callable[[float], float] | None = None) -> None:
        self.began = _began()
        self.limit = max(limit, _LEAST)
        self._paused_since = paused_since

    def left(self) -> float:
        """The seconds that are left; not above 0 where none are."""
        left = self.began + self.limit - time.monotonic()
        if left <= 0 and self._paused_since is not None:
            left += self._paused_since(self.began)
        return left

    def when_over(self, act: Callable[[], bool]) -> _Watch:
        """While this is held by ``with``: ``act`` is called when no time is left, and every now and
        then until it returns that the call has ended."""
        return _Watch(self, act)

    def error(self, reason: str) -> StoreBusyError:
        """Return the error of a call whose time has run out."""
        return StoreBusyError(reason, time.monotonic() - self.began)


class _Watch:
    """A timer that goes on for as long as there is time: pauses may come while it runs, and a
    loop may be early (uvloop rounds to milliseconds)."""

    __slots__ = ("_act", "_loop", "_patience", "_timer")

    def __init__(self, patience: Patience, act: Callable[[], bool]) -> None:
        self._patience = patience
        self._act = act
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._patience.left(), self._look)

    def _look(self) -> None:
        left = self._patience.left()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif not self._act():
            self._timer = self._loop.call_later(_LOOK_AGAIN, self._look)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()


# Bytes of the rows of all writing calls that are under way: enough for the largest groups that are
# committed together. One call with more rows runs alone.
_WRITTEN_AT_ONCE = 64 * 2**20


class _State:
    """The shares of one event loop's calls."""

    __slots__ = ("calls", "used", "waiting")

    def __init__(self) -> None:
        self.calls = 0
        self.used = 0
        self.waiting: deque[_Asking] = deque()


class _Asking:
    __slots__ = ("size", "turn")

    def __init__(self, size: int, turn: asyncio.Future[None]) -> None:
        self.size = size
        self.turn = turn

    def give_up(self, error: Exception) -> bool:
        if not self.turn.done():
            self.turn.set_exception(error)
        return True


class Admission:
    """Shares of at most ``calls`` places and ``memory`` bytes; None is no bound.

    Who asks first is served first; who asks for more memory than all of it runs alone. ``reason``
    tells why there was no turn.
    """

    def __init__(self, reason: str, *, calls: int | None = None, memory: int | None = None) -> None:
        self.reason = reason
        self.calls = calls
        self.memory = memory
        self._state: PerLoop[_State] = PerLoop(_State)

    @property
    def used(self) -> int:
        """The bytes that are taken now."""
        return self._state().used

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a share."""
        return len(self._state().waiting)

    def free(self, size: int = 0) -> bool:
        """Return whether a share of this size is available without waiting."""
        state = self._state()
        return not state.waiting and self._fits(state, self._bounded(size))

    def share(self, size: int = 0, patience: Patience | None = None) -> Share:
        """A place and ``size`` bytes, to be held by ``async with``."""
        return Share(self, size, patience)

    async def place(self, patience: Patience) -> Share:
        """A place that the caller gives back. It costs little where one is free."""
        share = Share(self, 0, patience)
        state = self._state()
        if state.waiting or not self._fits(state, 0):
            return await share.__aenter__()
        state.calls += 1
        share._state = state
        return share

    def close(self, error: Exception) -> None:
        """Have those that wait end with the error."""
        state = self._state()
        while state.waiting:
            state.waiting.popleft().give_up(error)

    def _bounded(self, size: int) -> int:
        return size if self.memory is None else min(size, self.memory)

    def _fits(self, state: _State, size: int) -> bool:
        return (self.calls is None or state.calls < self.calls) and (
            self.memory is None or not size or state.used + size <= self.memory
        )

    async def _take(self, size: int, patience: Patience | None) -> tuple[_State, int]:
        state = self._state()
        size = self._bounded(size)
        free = not size and self.calls is None
        if not free and (state.waiting or not self._fits(state, size)):
            await self._wait(state, size, patience)
        else:
            state.calls += 1
            state.used += size
        return state, size

    async def _wait(self, state: _State, size: int, patience: Patience | None) -> None:
        asking = _Asking(size, asyncio.get_running_loop().create_future())
        state.waiting.append(asking)
        try:
            if patience is None:
                await asking.turn
            else:
                with patience.when_over(lambda: asking.give_up(patience.error(self.reason))):
                    await asking.turn
        except BaseException:
            turn = asking.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # It came, and the caller was cancelled at the same moment.
                self._give_back(state, size)
            elif asking in state.waiting:
                state.waiting.remove(asking)
                self._admit(state)
            raise

    def _give_back(self, state: _State, size: int) -> None:
        state.calls -= 1
        state.used -= size
        self._admit(state)

    def _admit(self, state: _State) -> None:
        while state.waiting and self._fits(state, state.waiting[0].size):
            asking = state.waiting.popleft()
            # The loop may be closed, when what it left behind is collected.
            if not asking.turn.done() and not asking.turn.get_loop().is_closed():
                state.calls += 1
                state.used += asking.size
                asking.turn.set_result(None)


class Share:
    """A place among the calls that go on, and bytes for it."""

    __slots__ = ("_admission", "_patience", "_size", "_state")

    def __init__(self, admission: Admission, size: int, patience: Patience | None) -> None:
        self._admission = admission
        self._patience = patience
        self._size = size
        self._state: _State | None = None

    def resize(self, size: int) -> None:
        """Count so many bytes from now on, which turned out to be taken. Waits for none."""
        if self._state is not None:
            size = self._admission._bounded(size)
            self._state.used += size - self._size
            self._size = size
            self._admission._admit(self._state)

    async def __aenter__(self) -> Share:
        self._state, self._size = await self._admission._take(self._size, self._patience)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Leave, once; the next ones get their turn."""
        state, self._state = self._state, None
        if state is not None:
            self._admission._give_back(state, self._size)


# Each holds a snapshot, and a connection or some blocks of rows.
_EXPORTS_AT_ONCE = 8


def export_admission() -> Admission:
    """For the exports of a store that are open at once."""
    return Admission(f"{_EXPORTS_AT_ONCE} exports are open", calls=_EXPORTS_AT_ONCE)


def write_admission(calls: int) -> Admission:
    """For the writing calls of a store: at most so many, and so many bytes of rows, at once."""
    return Admission("too many writes are waiting", calls=calls, memory=_WRITTEN_AT_ONCE)
