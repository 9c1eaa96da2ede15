"""Group commit: writes that arrive while a commit runs wait together and share the next one.

The queue, the deadline, the cancellation and the answer of a write are here, once for every
backend. An adapter brings a ``Committer``, which takes a lock, commits a group of calls under it,
and releases it.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from ..errors import StoreClosedError
from .limits import LOOK_APART, Alarm, Patience, Pauses
from .marks import MoveMark
from .threads import Outcome, PerLoop, copy_of_error, wait_out

# Calls in one commit. More would make the first of them wait long for the last.
_LARGEST_GROUP = 512
# Rounds of the event loop that answered callers get at most before the next commit begins, so that
# those who write again at once share it. If it began without them, they would also compete with its
# thread for the interpreter.
_ROUNDS_FOR_CALLERS = 3
# Seconds between the looks at a call that was out of time when its work had begun.
_LOOK_AGAIN = 0.25


class WriteCall(Outcome[Any]):
    """A write that waits, runs, or has its outcome. ``size`` counts its rows, as a group does."""

    __slots__ = (
        "_start", "ended", "future", "gone", "patience", "settled", "size",
    )  # fmt: skip

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.size = size
        # Done when the caller may hear of it.
        self.future: asyncio.Future[None] = loop.create_future()
        # Done when the outcome is final.
        self.settled: asyncio.Future[None] = loop.create_future()
        self.patience: Patience | None = None
        # Nobody waits for the outcome any more.
        self.gone = False
        # Whoever pops this begins: the committer the work, or the caller its leaving. Popping a
        # list is one step for all threads, so no lock is taken on the event loop.
        self._start = [True]
        self.ended = False

    # For the committer, on any thread

    def begin(self) -> bool:
        """Begin the work, unless the caller has left or it has begun; return whether it begins."""
        try:
            return self._start.pop()
        except IndexError:
            return False

    @property
    def has_begun(self) -> bool:
        return not self._start

    def wait_again(self) -> None:
        """Let a call that began wait for another commit: nothing of its work was kept.

        Where its caller has left meanwhile, it never begins again.
        """
        if not self.gone:
            self._start.append(True)

    def succeed(self, result: Any = None) -> None:
        """End it with a result, which its caller gets when the committer returns."""
        self._result = result
        self.ended = True

    def fail(self, error: BaseException) -> None:
        """End it with an error, which its caller gets when the committer returns."""
        self._error = error
        self.ended = True

    # On the event loop

    def give_up(self, error: BaseException) -> bool:
        """Fail it, where it has not begun yet: then it never begins. Return whether it has ended.

        One that has begun may wait again.
        """
        if self.future.done():
            return True
        if not self.begin():
            return False
        self.gone = True
        self.fail(error)
        self.answer()
        return True

    def answer(self) -> None:
        """Tell the caller the outcome."""
        if not self.settled.done():
            self.settled.set_result(None)
        if not self.future.done():
            self.future.set_result(None)


_Call = TypeVar("_Call", bound=WriteCall)


class Held:
    """Why a group was not committed: a migration's ``pause``, or another one has the lock."""

    __slots__ = ("pause", "seen")

    def __init__(self, pause: MoveMark | None = None) -> None:
        self.pause = pause
        self.seen = time.monotonic()


class Committer(ABC, Generic[_Call]):
    """The adapter's side of a ``GroupCommit``."""

    target: str
    """The store's name in errors."""

    others: str
    """Those who have the lock where it cannot be taken, for errors."""

    held_up = False
    """True while ``take`` waits for reads of this process."""

    @abstractmethod
    async def take(self) -> Callable[[], None] | None:
        """Take the lock in one short try, after which calls may have left or be out of time.

        Return what releases the lock, or None where others have it. Whoever is cancelled here has
        not taken it. An error goes to all calls that wait.
        """

    @abstractmethod
    async def commit(self, group: list[_Call]) -> Held | None:
        """Do the group's work under the lock; return what kept it from being done, if anything did.

        Each call begins by ``begin`` and ends by ``succeed`` or ``fail``; those that have not ended
        when this returns wait again, in their order. An error goes to these calls. A cancellation,
        which comes where the loop is about to end, must not leave work running.
        """

    @abstractmethod
    def joins(self, group: list[_Call], call: _Call, size: int) -> bool:
        """Return whether the call may join the group, whose size would then be ``size``."""

    def translated(self, error: Exception) -> Exception:
        """Return the error as callers get it."""
        return error

    @property
    @abstractmethod
    def pause_poll(self) -> float:
        """The seconds between two looks at a migration's pause."""

    @abstractmethod
    async def pause_is_over(self, pause: MoveMark) -> bool:
        """Return whether the pause no longer holds writes."""

    @abstractmethod
    async def end_pause(self, pause: MoveMark) -> None:
        """End, for all writers, a pause that lasts longer than its limit."""


class _Queue(Generic[_Call]):
    """The writes of one event loop: those that wait, and the task that does them."""

    __slots__ = ("alarm", "answered", "calls", "locked", "running", "under_way")

    def __init__(self, look: Callable[[_Queue[_Call]], None]) -> None:
        self.calls: deque[_Call] = deque()
        # Also those of the commit that runs, and those whose callers have not heard yet; in order.
        self.under_way: dict[_Call, None] = {}
        self.alarm = Alarm(partial(look, self))
        self.running: asyncio.Task[None] | None = None
        # The lock was asked for, and others had it.
        self.locked = False
        # The number of calls that the last commit answered.
        self.answered = 0


class GroupCommit(Generic[_Call]):
    """Commits calls in the order in which they came, those that may be together in one go.

    - A caller hears of success after the commit.
    - A call that still waits for others when its patience is over fails. One that waits for nobody
      does not: the machine may be slow.
    - A call that is cancelled before it began is never done. Cancelled later, it returns when its
      outcome is final, however often it is cancelled: all of it was done, or nothing.
    - What belongs to an event loop is made anew for the next one.
    """

    def __init__(self, committer: Committer[_Call], pauses: Pauses) -> None:
        self._committer = committer
        self._pauses = pauses
        self._queue: PerLoop[_Queue[_Call]] = PerLoop(lambda: _Queue(self._look))

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a commit."""
        return len(self._queue().calls)

    async def run(self, call: _Call, patience: Patience) -> Any:
        """Have the call's work committed; return its result."""
        queue = self._queue()
        call.patience = patience
        queue.calls.append(call)
        queue.under_way[call] = None
        queue.alarm.within(patience.left())
        if queue.running is None or queue.running.done():
            queue.running = asyncio.get_running_loop().create_task(self._drain(queue))
        try:
            await call.future
        except asyncio.CancelledError:
            call.gone = True
            if not call.begin():
                await wait_out(call.settled)
            raise
        finally:
            del queue.under_way[call]
            if not queue.under_way:
                queue.alarm.cancel()
        return call.outcome()

    def _look(self, queue: _Queue[_Call]) -> None:
        """Have calls fail whose time is over. Look again when the next one's may be: pauses may
        come meanwhile, and calls whose work has begun may wait again."""
        soonest = math.inf
        reason = self._why_it_waits(queue)
        for call in queue.under_way:
            if call.patience is None or call.ended:
                continue
            left = call.patience.left()
            if left <= 0:
                if reason is not None and call.give_up(call.patience.error(reason)):
                    continue
                left = _LOOK_AGAIN
            soonest = min(soonest, left)
        queue.alarm.within(max(soonest, LOOK_APART))

    def _why_it_waits(self, queue: _Queue[_Call]) -> str | None:
        """Return what a call that has not begun waits for; None where that is nobody."""
        if queue.locked:
            return f"{self._committer.target} is locked by {self._committer.others}"
        if any(call.has_begun and not call.ended for call in queue.under_way):
            return "other writes of this process take too long"
        return "reads of this process take too long" if self._committer.held_up else None

    async def finish(self) -> None:
        """Wait for the calls that were accepted."""
        queue = self._queue()
        while queue.running is not None and not queue.running.done():
            await asyncio.wait({queue.running})

    async def _drain(self, queue: _Queue[_Call]) -> None:
        try:
            while self._is_wanted(queue):
                held: Held | None = None
                # Where the loop is about to end, every task is cancelled. The callers are among
                # those; a call that has begun needs its answer all the same.
                with suppress(asyncio.CancelledError):
                    held = await self._commit_some(queue)
                if held is not None and held.pause is not None:
                    await self._wait_out(queue, held.pause, held.seen)
                for _ in range(_ROUNDS_FOR_CALLERS):
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                    if len(queue.calls) >= queue.answered:
                        break  # as many write again
        except GeneratorExit:  # the loop is closed, and nobody hears of it
            raise
        except BaseException:
            # Nothing follows this task for those who still wait.
            self._fail_all(queue.calls, StoreClosedError(self._committer.target))
            raise

    async def _commit_some(self, queue: _Queue[_Call]) -> Held | None:
        """Take the lock once, and commit a group where that gives it."""
        try:
            release = await self._committer.take()
        except Exception as exc:  # noqa: BLE001 - the callers get it
            self._fail_all(queue.calls, exc)
            return None
        if release is None:
            queue.locked = True
            return None
        held: Held | None = None
        try:
            if self._is_wanted(queue):
                held = await self._commit(queue, self._next_group(queue))
        finally:
            release()
        queue.locked = held is not None and held.pause is None
        return held

    async def _commit(self, queue: _Queue[_Call], group: list[_Call]) -> Held | None:
        held: Held | None = None
        try:
            held = await self._committer.commit(group)
        except Exception as exc:  # noqa: BLE001 - the callers get it
            self._fail_all(deque(call for call in group if not call.ended), exc)
        except GeneratorExit:  # as in _drain
            raise
        except BaseException:
            self._settle(queue, group)
            raise
        self._settle(queue, group)
        return held

    @staticmethod
    def _settle(queue: _Queue[_Call], group: list[_Call]) -> None:
        """Answer the calls that have ended; the others wait before those that came later."""
        for call in group:
            if call.ended:
                call.answer()
        left = [call for call in group if not call.ended]
        queue.calls.extendleft(reversed(left))
        queue.answered = len(group) - len(left)

    def _next_group(self, queue: _Queue[_Call]) -> list[_Call]:
        group = [queue.calls.popleft()]
        size = group[0].size
        while queue.calls and len(group) < _LARGEST_GROUP:
            size += queue.calls[0].size
            if not self._committer.joins(group, queue.calls[0], size):
                break
            group.append(queue.calls.popleft())
        return group

    @staticmethod
    def _is_wanted(queue: _Queue[_Call]) -> bool:
        """Return whether somebody waits, after calls whose callers have gone have left the queue.

        Nothing of their work was kept: they have not begun, or wait again.
        """
        gone = [call for call in queue.calls if call.gone]
        if gone:
            waiting = [call for call in queue.calls if not call.gone]
            queue.calls.clear()
            queue.calls.extend(waiting)
            for call in gone:
                call.future.cancel()
                call.answer()
        return bool(queue.calls)

    def _fail_all(self, calls: deque[_Call], error: Exception) -> None:
        """End calls with an error, of which each gets a copy."""
        translated = self._committer.translated(error)
        while calls:
            call = calls.popleft()
            call.fail(copy_of_error(translated))
            call.answer()

    async def _wait_out(self, queue: _Queue[_Call], pause: MoveMark, seen: float) -> None:
        """Wait while a migration's pause lasts, and end it for all where it lasts too long."""
        began = self._pauses.begin(seen)
        try:
            while self._is_wanted(queue):
                with suppress(asyncio.CancelledError):  # as in _drain
                    if await self._committer.pause_is_over(pause):
                        return
                    if time.monotonic() - seen > pause.limit:
                        await self._committer.end_pause(pause)
                    await asyncio.sleep(self._committer.pause_poll)
        except Exception:  # noqa: BLE001 - the next try to write tells it to those who wait
            pass
        finally:  # also of a loop that was closed meanwhile
            self._pauses.end(began)
