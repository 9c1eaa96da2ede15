"""Limits on how long a call may wait, and on how many calls run concurrently.

A call has one ``Deadline`` for all its waits together. It waits at a ``Gate``, which admits a
limited number of calls or bytes, in order of arrival. A call that does not have to wait never
times out: a free gate admits it even after the deadline.
"""

from __future__ import annotations

import asyncio
import copy
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, Token
from typing import Any, Self, TypeVar

from ..errors import StoreBusyError, StoreFullError

_T = TypeVar("_T")


class Deadline:
    """The time until which a call may wait for other calls.

    Inside ``with``, ``current_deadline`` returns it in this task.
    """

    __slots__ = ("_extended", "_task", "_token", "began", "seconds", "until")

    def __init__(self, seconds: float | None) -> None:
        """Create a deadline this many seconds from now; None means no limit."""
        self.seconds: float = math.inf if seconds is None else seconds
        self.renew()

    def renew(self) -> None:
        """Start again from now, for the next step of a long call."""
        self.began: float = time.monotonic()
        # At least 0.25 s: a timeout of 0 would fail all simultaneous calls except one, even short
        # ones.
        self.until: float = self.began + max(self.seconds, 0.25)
        self._extended = False

    def left(self) -> float:
        """Return the remaining seconds; 0 or less after the deadline."""
        return self.until - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Allow more time, once, for a migration's pause of all writers."""
        if not self._extended:
            self._extended = True
            self.until += seconds

    def shared(self) -> Deadline:
        """Return the same deadline for another task of the call."""
        return copy.copy(self)

    def error(self, reason: str) -> StoreBusyError:
        """Return the error for a call that has run out of time."""
        return StoreBusyError(reason, time.monotonic() - self.began)

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._token: Token[Deadline | None] = _CALL.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _CALL.reset(self._token)


_CALL: ContextVar[Deadline | None] = ContextVar("aiovec_deadline", default=None)


def current_deadline(seconds: float | None) -> Deadline:
    """Return the deadline of the running call, or a new one this many seconds from now.

    A background task that a call starts inherits the call's context, but not its deadline.
    """
    deadline = _CALL.get()
    if deadline is not None and deadline._task is asyncio.current_task():
        return deadline
    return Deadline(seconds)


def renewed() -> AbstractContextManager[object]:
    """Restart the deadline for the block, which is the next step of a long call."""
    deadline = current_deadline(None)
    return Deadline(deadline.seconds) if deadline is _CALL.get() else nullcontext()


class Steps:
    """The steps of a long call, each of which is saved when it ends.

    Each step may wait as long as a separate call. The error of a later step says that the earlier
    steps are saved.
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
    """The calls that wait in one line for their turn, until their deadlines."""

    __slots__ = ("_most", "_timer", "_waiting")

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._waiting: dict[asyncio.Future[Any], tuple[Deadline, Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def check_room(self, deadline: Deadline, reason: str) -> None:
        """Raise StoreBusyError if the line is full."""
        if len(self._waiting) >= self._most:
            raise deadline.error(f"{reason}, and {self._most} calls wait")

    async def wait(
        self, turn: asyncio.Future[_T], deadline: Deadline, give_up: Callable[[], None]
    ) -> _T:
        """Wait for ``turn``, and return its result.

        After the deadline, ``give_up``, which may set an error, is called repeatedly until ``turn``
        is done.
        """
        self._waiting[turn] = deadline, give_up
        if self._timer is None:
            self._look_later()
        try:
            return await turn
        finally:
            del self._waiting[turn]

    def _look_later(self) -> None:
        # One timer for all waiting calls costs a tenth as much as a timer for each call. The
        # timer's context is empty, since a call's context may hold large objects of its app.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(0.1, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for turn, (deadline, give_up) in list(self._waiting.items()):
            if deadline.until <= now and not turn.done():
                give_up()
        if self._waiting:
            self._look_later()


class Gate:
    """Admits at most ``calls`` calls at a time, with at most ``memory`` bytes in total; None means
    no limit.

    Calls are admitted in order of arrival; a call that needs more than ``memory`` runs alone.
    ``reason`` is the text of StoreBusyError at the deadline, or if ``max_waiting`` calls wait
    already.
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
        """The total size of the admitted calls, in bytes."""
        self._within = 0
        self._waiting: OrderedDict[Slot, asyncio.Future[None]] = OrderedDict()
        self._line = Line(max_waiting)

    def enter(self, deadline: Deadline | None, size: int = 0) -> Slot:
        """Return a slot for ``size`` bytes, to be held with ``async with``. Without a deadline, the
        call waits without limit."""
        if self.memory is not None:
            size = min(size, self.memory)
        return Slot(self, deadline or Deadline(None), size)

    def free(self, size: int = 0) -> bool:
        """Return whether a call of this size would be admitted without waiting."""
        if self._waiting and (size or self.calls is not None):
            return False
        return self._fits(size if self.memory is None else min(size, self.memory))

    def extend(self, seconds: float) -> None:
        """Extend the deadlines of all waiting calls."""
        for slot in self._waiting:
            slot.deadline.extend(seconds)

    def close(self, error: Exception) -> None:
        """Fail the waiting calls with this error."""
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(copy_of_error(error))

    def _fits(self, size: int) -> bool:
        return (self.calls is None or self._within < self.calls) and (
            self.memory is None or not size or self.used + size <= self.memory
        )

    async def _wait(self, slot: Slot) -> None:
        self._line.check_room(slot.deadline, self.reason)
        turn = self._waiting[slot] = asyncio.get_running_loop().create_future()

        def give_up() -> None:
            turn.set_exception(slot.deadline.error(self.reason))

        try:
            await self._line.wait(turn, slot.deadline, give_up)
        except BaseException:
            slot.leave()  # it may have been admitted just as it was cancelled
            if self._waiting.pop(slot, None) is not None:
                self._admit()
            raise

    def _admit(self) -> None:
        """Admit as many waiting calls as fit, in order."""
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
        self.deadline: Deadline = deadline
        self.size: int = size
        self.is_held: bool = False

    async def take(self) -> Self:
        """Wait for the slot."""
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
        """Release the slot and admit the next calls. Does nothing if it is not held."""
        if self.is_held:
            gate = self._gate
            self.is_held = False
            gate._within -= 1
            gate.used -= self.size
            if gate._waiting:
                gate._admit()


def copy_of_error(error: Exception) -> Exception:
    """Return a copy of an error for another caller, since raising an error changes its
    traceback."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - an app's class, whose constructor may fail
        return error
    copied.__cause__ = error.__cause__
    return copied


# The maximum number of open exports of a store: each holds a snapshot, and a connection or some
# rows.
_EXPORTS_AT_ONCE = 8


def read_gate() -> Gate:
    """Return a gate for the reads of a backend whose engine does not limit them."""
    # More concurrent reads make no engine faster.
    most = max(96, 32 * (os.cpu_count() or 1))
    return Gate("other reads of this process take too long", calls=most)


def export_gate() -> Gate:
    """Return the gate for the exports of a store."""
    return Gate(f"{_EXPORTS_AT_ONCE} exports are open", calls=_EXPORTS_AT_ONCE)


def write_gate(calls: int) -> Gate:
    """Return the gate for the writes of a store."""
    # 64 MiB of rows are enough for the largest group of one commit. A larger call runs alone.
    return Gate("too many writes are waiting", calls=calls, memory=64 * 2**20)
