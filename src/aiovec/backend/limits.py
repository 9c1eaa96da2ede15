"""The time that a call waits for its turn, and bounds on what runs at once.

A call's time counts from its start, for all its waits together; that of a long call's step from the
step's own. Memory is taken only after a share of it was given, in the order of asking; a call that
waits longer than it may gets StoreBusyError.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import Context, ContextVar, Token
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import StoreBusyError, StoreFullError
from .nothing import NOTHING
from .threads import Outcome, PerLoop, copy_of_error

_T = TypeVar("_T")
_S = TypeVar("_S", bound="Share")

# Seconds that a call waits at least: without any, of calls that begin together all but one would
# fail, though none of them takes long.
_LEAST = 0.25
# Seconds between two looks at those who wait, at least: a look at thousands takes milliseconds.
LOOK_APART = 0.05
# Pauses that are remembered: those of the tries of some cut-overs.
_MOST_PAUSES = 64


class one_call:  # noqa: N801 - used as a function is
    """A user's call: what it waits for within counts from here, or from when it ``began``."""

    __slots__ = ("_token", "began", "task")
    _token: Token[one_call | None]

    def __init__(self, began: float | None = None) -> None:
        self.began = time.monotonic() if began is None else began
        self.task: asyncio.Task[Any] | None = asyncio.current_task()

    def __enter__(self) -> None:
        self._token = _CALL.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.task = None  # a timer or task that outlives it may have its context
        with suppress(ValueError):  # collected elsewhere, when its loop was closed under it
            _CALL.reset(self._token)


_CALL: ContextVar[one_call | None] = ContextVar("aiovec_call", default=None)


def own_time(starts: bool) -> AbstractContextManager[None]:
    """With ``starts``, what a call waits for within counts from here: an embedder's time, which
    has limits of its own, is no time that the store let it wait."""
    return one_call() if starts else NOTHING


def call_began() -> float:
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

    It counts from the start of the call under way, or from now where this is a ``new_call``.
    What ``pauses`` there are does not count.
    """

    __slots__ = ("_pauses", "began", "limit")

    def __init__(
        self,
        limit: float | None,
        pauses: Pauses | None = None,
        *,
        new_call: bool = False,
    ) -> None:
        self.began = time.monotonic() if new_call else call_began()
        self.limit = math.inf if limit is None else max(limit, _LEAST)
        self._pauses = pauses

    def left(self) -> float:
        """The seconds that are left; not above 0 where none are."""
        left = self.began + self.limit - time.monotonic()
        if left <= 0 and self._pauses is not None:
            left += self._pauses.since(self.began)
        return left

    def error(self, reason: str) -> StoreBusyError:
        """Return the error of a call whose time has run out."""
        return StoreBusyError(reason, time.monotonic() - self.began)


class Alarm:
    """One timer for all who wait for something: ``look`` is called when the first may be late."""

    __slots__ = ("_look", "_rings_at", "_timer")

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def within(self, seconds: float) -> None:
        """Ring in so many seconds, unless it will ring sooner; never in infinitely many."""
        if seconds == math.inf:
            return
        loop = asyncio.get_running_loop()
        rings_at = loop.time() + max(seconds, 0.0)
        if self._timer is not None:
            if self._rings_at <= rings_at:
                return
            self._timer.cancel()
        self._rings_at = rings_at
        # A context of its own: that of one call may hold whatever its app has put there.
        self._timer = loop.call_at(rings_at, self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        self._look()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


# Bytes of the rows of all writing calls that are under way: enough for the largest groups that are
# committed together. One call with more rows runs alone.
_WRITTEN_AT_ONCE = 64 * 2**20


class _State:
    """The shares of one event loop's calls."""

    __slots__ = ("alarm", "calls", "gone", "used", "waiting")

    def __init__(self, look: Callable[[_State], None]) -> None:
        self.calls = 0
        self.used = 0
        self.waiting: deque[Share] = deque()
        self.gone = 0  # about so many of ``waiting`` have left
        self.alarm = Alarm(partial(look, self))


class Admission:
    """Shares of at most ``calls`` places and ``memory`` bytes; None is no bound.

    Who asks first is served first; who asks for more memory than all of it runs alone. ``reason``
    tells why there was no turn.
    """

    def __init__(self, reason: str, *, calls: int | None = None, memory: int | None = None) -> None:
        self.reason = reason
        self.calls = calls
        self.memory = memory
        self._state: PerLoop[_State] = PerLoop(lambda: _State(self._look))

    @property
    def used(self) -> int:
        """The bytes that are taken now."""
        return self._state().used

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a share."""
        return sum(not share._gone for share in self._state().waiting)

    def free(self, size: int = 0) -> bool:
        """Return whether a share of this size is available without waiting."""
        state = self._state()
        return not state.waiting and self._fits(state, self._bounded(size))

    def share(self, size: int = 0, patience: Patience | None = None) -> Share:
        """A place and ``size`` bytes, to be held by ``async with``."""
        return Share(self, size, patience)

    def close(self, error: Exception) -> None:
        """Have those that wait end with copies of the error."""
        state = self._state()
        state.alarm.cancel()
        for share in state.waiting:
            share._give_up(copy_of_error(error))  # one that many raised would have all their frames
        state.waiting.clear()

    def _bounded(self, size: int) -> int:
        return size if self.memory is None else min(size, self.memory)

    def _fits(self, state: _State, size: int) -> bool:
        return (self.calls is None or state.calls < self.calls) and (
            self.memory is None or not size or state.used + size <= self.memory
        )

    async def _take(self, share: _S) -> _S:
        state = self._state()
        share.size = size = self._bounded(share.size)
        free = not size and self.calls is None
        if free or (not state.waiting and self._fits(state, size)):
            state.calls += 1
            state.used += size
            return share._hold(state)
        state.waiting.append(share)
        turn = share._begin_waiting()
        if share.patience is not None:
            state.alarm.within(share.patience.left())
        try:
            await turn
            share.outcome()
        except BaseException:
            if share._came:  # and the caller was cancelled at the same moment
                self._give_back(state, share.size)
            else:
                self._leave(state, share)
            raise
        return share._hold(state)

    def _leave(self, state: _State, share: Share) -> None:
        # To look for one among thousands takes long where all of them leave at once.
        share._turn = None
        state.gone += 1
        if 2 * state.gone > len(state.waiting):
            self._forget_gone(state)
        self._admit(state)

    def _forget_gone(self, state: _State) -> None:
        state.waiting = deque(share for share in state.waiting if not share._gone)
        state.gone = 0

    def _give_back(self, state: _State, size: int) -> None:
        state.calls -= 1
        state.used -= size
        self._admit(state)

    def _admit(self, state: _State) -> None:
        while state.waiting:
            share = state.waiting[0]
            if not share._gone:
                if share.patience is not None and share.patience.left() <= 0:
                    share._give_up(share.patience.error(self.reason))
                elif not self._fits(state, share.size):
                    return
                else:
                    state.calls += 1
                    state.used += share.size
                    share._begin()
            state.waiting.popleft()

    def _look(self, state: _State) -> None:
        """Have those end whose time is over."""
        soonest = math.inf
        for share in state.waiting:
            if share.patience is None or share._gone:
                continue
            left = share.patience.left()
            if left <= 0:
                share._give_up(share.patience.error(self.reason))
            else:
                soonest = min(soonest, left)
        self._forget_gone(state)
        self._admit(state)
        if state.waiting:
            state.alarm.within(max(soonest, LOOK_APART))


class Share(Outcome[None]):
    """A place among the calls that go on, and bytes for it.

    Thousands may wait for theirs, and the garbage collector looks through all that they hold: so
    this is all that the one who waits has of an ``Admission``.
    """

    __slots__ = ("_admission", "_came", "_state", "_turn", "patience", "size")

    def __init__(self, admission: Admission, size: int, patience: Patience | None) -> None:
        super().__init__()
        self._admission = admission
        self._state: _State | None = None
        self.patience = patience
        self.size = size
        # While it waits.
        self._turn: asyncio.Future[None] | None = None
        self._came = False

    def resize(self, size: int) -> None:
        """Count so many bytes from now on, which turned out to be taken. Waits for none."""
        if self._state is not None:
            size = self._admission._bounded(size)
            self._state.used += size - self.size
            self.size = size
            self._admission._admit(self._state)

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        return self.take()

    @property
    def waits(self) -> bool:
        """True if it would have to wait now."""
        return not self._admission.free(self.size)

    def take(self) -> Coroutine[Any, Any, Self]:
        return self._admission._take(self)

    def _hold(self, state: _State) -> Self:
        self._state, self._turn = state, None
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
            self._admission._give_back(state, self.size)

    # While it waits

    @property
    def _gone(self) -> bool:
        """True if its caller has left, or cannot go on as its event loop was closed."""
        turn = self._turn
        return turn is None or turn.done() or turn.get_loop().is_closed()

    def _begin_waiting(self) -> asyncio.Future[None]:
        self._turn = asyncio.get_running_loop().create_future()
        self._came, self._error = False, None  # it may have waited before
        return self._turn

    def _begin(self) -> None:
        self._came = True
        if self._turn is not None:
            self._turn.set_result(None)

    def _give_up(self, error: Exception) -> None:
        if self._turn is not None and not self._turn.done():
            self._error = error
            self._turn.set_result(None)


# Each holds a snapshot, and a connection or some blocks of rows.
_EXPORTS_AT_ONCE = 8


def export_admission() -> Admission:
    """For the exports of a store that are open at once."""
    return Admission(f"{_EXPORTS_AT_ONCE} exports are open", calls=_EXPORTS_AT_ONCE)


def write_admission(calls: int) -> Admission:
    """For the writing calls of a store: at most so many, and so many bytes of rows, at once."""
    return Admission("too many writes are waiting", calls=calls, memory=_WRITTEN_AT_ONCE)
