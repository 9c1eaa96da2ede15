"""Bounds on how long a call may wait, and on what may run at once.

A call has one ``Deadline``, which counts from its start for all its waits together. It waits at a
``Gate``, which lets in so many calls, or calls with so many bytes, in the order in which they came.
A call that has to wait for nobody never fails for time: a free gate lets it in whatever the time.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, Token
from typing import Any, Self, TypeVar

from ..errors import StoreBusyError, StoreFullError

_T = TypeVar("_T")

# Seconds that a call waits at least: without any, of calls that begin together all but one would
# fail, though none of them takes long.
_LEAST = 0.25
# Seconds between the looks at those who wait. One timer for all of them costs a call a tenth of
# what one for each does.
_LOOK_EVERY = 0.1


class Deadline:
    """When a call may no longer wait for others.

    Within ``with`` it is that of the call under way in this task, which ``current_deadline`` gives.
    """

    __slots__ = ("_extended", "_task", "_token", "began", "seconds", "until")

    def __init__(self, seconds: float | None) -> None:
        """Begin a deadline of so many seconds from now; None is no limit."""
        self.seconds = math.inf if seconds is None else seconds
        self.renew()

    def renew(self) -> None:
        """Count from now on: what follows is a further step of a long call."""
        self.began = time.monotonic()
        self.until = self.began + max(self.seconds, _LEAST)
        self._extended = False

    def left(self) -> float:
        """Return the seconds that are left; not above 0 where none are."""
        return self.until - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Allow more time, once: for a pause in which a migration lets all writers wait."""
        if not self._extended:
            self._extended = True
            self.until += seconds

    def shared(self) -> Deadline:
        """Return the same deadline for another task of the call."""
        return copy.copy(self)

    def error(self, reason: str) -> StoreBusyError:
        """Return the error of a call that has no time left."""
        return StoreBusyError(reason, time.monotonic() - self.began)

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._token: Token[Deadline | None] = _CALL.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _CALL.reset(self._token)


_CALL: ContextVar[Deadline | None] = ContextVar("aiovec_deadline", default=None)


def current_deadline(seconds: float | None) -> Deadline:
    """Return the deadline of the call under way, or else a new one so many seconds from now.

    A task that a call begins for work in the background inherits the call's context, but is no part
    of the call: it has none.
    """
    deadline = _CALL.get()
    if deadline is not None and deadline._task is asyncio.current_task():
        return deadline
    return Deadline(seconds)


def renewed() -> AbstractContextManager[object]:
    """Let what is done within wait from now on: it is a further step of a long call."""
    deadline = current_deadline(None)
    return Deadline(deadline.seconds) if deadline is _CALL.get() else nullcontext()


class Steps:
    """The steps of a long call, which are kept one by one.

    Each may wait as long as a call of its own. The error of a later one says that those before are
    kept.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = False

    async def __call__(self, step: Awaitable[_T]) -> _T:
        try:
            with renewed():
                result = await step
        except StoreBusyError as exc:
            raise StoreBusyError(exc.reason, exc.waited, in_part=self._kept) from exc.__cause__
        except StoreFullError as exc:
            raise StoreFullError(exc.target, exc.reason, in_part=self._kept) from exc.__cause__
        self._kept = True
        return result


class Line:
    """Those who wait at one place for their turn, until their deadlines."""

    __slots__ = ("_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Any], tuple[Deadline, Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(
        self, turn: asyncio.Future[_T], deadline: Deadline, give_up: Callable[[], None]
    ) -> _T:
        """Return the result of ``turn``.

        When no time is left, ``give_up`` is called, which may end it by an error; and again a
        while later where it does not.
        """
        self._waiting[turn] = deadline, give_up
        if self._timer is None:
            self._look_later()
        try:
            return await turn
        finally:
            del self._waiting[turn]

    def _look_later(self) -> None:
        # A context of its own: that of a call may hold whatever its app has put there.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_EVERY, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for turn, (deadline, give_up) in list(self._waiting.items()):
            if deadline.until <= now and not turn.done():
                give_up()
        if self._waiting:
            self._look_later()


class Gate:
    """Lets in at most ``calls`` calls, and calls with at most ``memory`` bytes; None is no bound.

    Who comes first is let in first; who needs more memory than all of it runs alone. ``reason`` is
    what StoreBusyError says to those who wait in vain: to the deadline, or behind ``max_waiting``.
    """

    def __init__(
        self,
        reason: str,
        *,
        calls: int | None = None,
        memory: int | None = None,
        max_waiting: int = 10_000,
    ) -> None:
        self.reason = reason
        self.calls = calls
        self.memory = memory
        self.used = 0
        """The bytes of those within."""
        self._within = 0
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[Slot, asyncio.Future[None]] = OrderedDict()
        self._line = Line()

    def enter(self, deadline: Deadline | None, size: int = 0) -> Slot:
        """A slot within for ``size`` bytes, to be held by ``async with``. None waits for ever."""
        if self.memory is not None:
            size = min(size, self.memory)
        return Slot(self, deadline or Deadline(None), size)

    def free(self, size: int = 0) -> bool:
        """Return whether a call of this size would be let in without waiting."""
        if self.memory is not None:
            size = min(size, self.memory)
        return not (self._waiting and (size or self.calls is not None)) and self._fits(size)

    def extend(self, seconds: float) -> None:
        """Extend the deadline of all who wait."""
        for slot in self._waiting:
            slot.deadline.extend(seconds)

    def close(self, error: Exception) -> None:
        """Have those who wait end with the error."""
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(copy_of_error(error))

    def _fits(self, size: int) -> bool:
        return (self.calls is None or self._within < self.calls) and (
            self.memory is None or not size or self.used + size <= self.memory
        )

    async def _wait(self, slot: Slot) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise slot.deadline.error(f"{self.reason}, and {self._max_waiting} calls wait")
        turn = self._waiting[slot] = asyncio.get_running_loop().create_future()

        def give_up() -> None:
            turn.set_exception(slot.deadline.error(self.reason))

        try:
            await self._line.wait(turn, slot.deadline, give_up)
        except BaseException:
            slot.leave()  # it may have been let in at the moment in which it was cancelled
            if self._waiting.pop(slot, None) is not None:
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in those who wait, as many as fit, in their order."""
        while self._waiting:
            slot, turn = next(iter(self._waiting.items()))
            if not turn.done():
                if not self._fits(slot.size):
                    return
                slot._hold()
                turn.set_result(None)
            del self._waiting[slot]


class Slot:
    """A call's share of a gate, held by ``async with``, or from ``take`` to ``leave``."""

    __slots__ = ("_gate", "deadline", "is_held", "size")

    def __init__(self, gate: Gate, deadline: Deadline, size: int) -> None:
        self._gate = gate
        self.deadline = deadline
        self.size = size
        self.is_held = False

    async def take(self) -> Self:
        """Wait for it."""
        if self._gate.free(self.size):
            self._hold()
        else:
            await self._gate._wait(self)
        return self

    __aenter__ = take

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def _hold(self) -> None:
        self.is_held = True
        self._gate._within += 1
        self._gate.used += self.size

    def leave(self) -> None:
        """Let the next ones in. Does nothing where it is not held."""
        if self.is_held:
            gate = self._gate
            self.is_held = False
            gate._within -= 1
            gate.used -= self.size
            if gate._waiting:
                gate._admit()


def copy_of_error(error: Exception) -> Exception:
    """Return the error for a further caller: each that raises one writes its traceback into it."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - an error of somebody else's work, made in its own way
        return error
    copied.__cause__ = error.__cause__
    return copied


# Exports of a store that are open at once: each holds a snapshot, and a connection or some rows.
_EXPORTS_AT_ONCE = 8
# Bytes of the rows of all writing calls that are under way: enough for the largest groups that are
# committed together. One call with more rows runs alone.
_WRITTEN_AT_ONCE = 64 * 2**20


def export_gate() -> Gate:
    """For the exports of a store."""
    return Gate(f"{_EXPORTS_AT_ONCE} exports are open", calls=_EXPORTS_AT_ONCE)


def write_gate(calls: int) -> Gate:
    """For the writing calls of a store: at most so many, and so many bytes of rows."""
    return Gate("too many writes are waiting", calls=calls, memory=_WRITTEN_AT_ONCE)
