"""Group commit: writes that arrive while a commit runs wait together and share the next one.

This module handles the queue, deadlines, cancellation and results for all backends. An adapter
provides a ``Committer``, which takes a lock, commits a group of calls, and releases the lock.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..errors import StoreClosedError
from .limits import Deadline, Gate, Line, copy_of_error
from .marks import MoveMark
from .threads import wait_out

# Maximum number of calls in one commit. With more, the first call would wait too long for the last.
_LARGEST_GROUP = 512


class WriteCall:
    """A write that is waiting, running or finished.

    ``size`` is its number of rows, if the committer limits the rows of a commit.
    """

    __slots__ = tuple("_error _result _start deadline ended future gone settled size".split())
    deadline: Deadline

    def __init__(self, size: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.size: int = size
        # Set to the caller's result or error.
        self.future: asyncio.Future[Any] = loop.create_future()
        # Done when the outcome is final.
        self.settled: asyncio.Future[None] = loop.create_future()
        # True if the caller no longer waits for the outcome.
        self.gone: bool = False
        self.ended: bool = False
        self._result: Any = None
        self._error: BaseException | None = None
        # Whichever side pops this entry wins: the committer, which then starts the work, or the
        # caller, which leaves. Popping a list is atomic, so the event loop takes no lock.
        self._start = [True]

    # For the committer, on any thread

    def begin(self) -> bool:
        """Mark the work as begun, and return True; return False if it has begun already or the
        caller has left."""
        try:
            return self._start.pop()
        except IndexError:
            return False

    @property
    def has_begun(self) -> bool:
        return not self._start

    def wait_again(self) -> None:
        """Let a call begin again, because none of its work was kept.

        It does not begin again if its caller has left.
        """
        if not self.gone:
            self._start.append(True)

    def succeed(self, result: Any = None) -> None:
        """Set the result that the caller gets when the committer returns."""
        self._result = result
        self.ended = True

    def fail(self, error: BaseException) -> None:
        """Set the error that the caller gets when the committer returns."""
        self._error = error
        self.ended = True

    # On the event loop

    def give_up(self, error: BaseException) -> None:
        """If the call has not begun, fail it, so that it never begins."""
        if self.begin():
            self.gone = True
            self.fail(error)
            self.answer()

    def answer(self) -> None:
        """Give the caller the outcome."""
        if not self.settled.done():
            self.settled.set_result(None)
        if not self.future.done():
            if self._error is None:
                self.future.set_result(self._result)
            else:
                self.future.set_exception(self._error)
        self._result = self._error = None


_Write = TypeVar("_Write", bound=WriteCall)


class Committer(ABC, Generic[_Write]):
    """The part of a ``GroupCommit`` that an adapter implements."""

    target: str
    """The store's name in errors."""

    busy: str | None = None
    """The reason that errors give why nothing can be committed now; None if only this store's own
    writes can delay a commit."""

    @abstractmethod
    async def take(self) -> Callable[[], Awaitable[None]] | None:
        """Try once, briefly, to take the lock.

        Return the function that releases the lock, or None if the lock is held elsewhere. During
        the attempt, calls may be cancelled or time out. A cancelled attempt must not keep the lock.
        If an attempt raises an error, all waiting calls get the error.
        """

    @abstractmethod
    async def commit(self, group: list[_Write]) -> MoveMark | None:
        """Do the group's work under the lock; if a migration's pause forbids it, return the pause's
        mark.

        For each call, call ``begin``, then ``succeed`` or ``fail``. Calls that have not ended when
        this method returns wait again, in order; if this method raises an error, those calls get
        the error. A cancellation, which comes only when the loop is about to end, must not leave
        work running.
        """

    @abstractmethod
    def joins(self, group: list[_Write], call: _Write, size: int) -> bool:
        """Return whether the call may join the group, whose size would then be ``size``."""

    def translated(self, error: Exception) -> Exception:
        """Return the error that callers get."""
        return error

    @property
    @abstractmethod
    def pause_poll(self) -> float:
        """Seconds between two checks of a migration's pause."""

    @abstractmethod
    async def pause_is_over(self, pause: MoveMark) -> bool:
        """Return whether the pause no longer holds up writes."""

    @abstractmethod
    async def end_pause(self, pause: MoveMark) -> None:
        """End a pause that has exceeded its limit, for all writers."""


class GroupCommit(Generic[_Write]):
    """Commits calls in order of arrival, several together if they may share a commit.

    - A call returns after its commit.
    - A call that still waits for other calls at its deadline fails. A call that waits for no other
      call does not fail: perhaps the machine is slow. A migration's pause extends the deadlines of
      the calls that wait in this queue and at the ``gate`` of writing calls.
    - A call that is cancelled before it has begun writes nothing. If it is cancelled later, it
      returns when its outcome is final, however often it is cancelled: its write was done
      completely or not at all.
    """

    def __init__(self, committer: Committer[_Write], gate: Gate) -> None:
        self._committer = committer
        self._gate = gate
        self._waiting: deque[_Write] = deque()
        self._line = Line()
        # The calls of the running commit.
        self._group: list[_Write] = []
        self._running: asyncio.Task[None] | None = None
        # The number of calls that the last commit completed.
        self._answered = 0

    async def run(self, call: _Write, deadline: Deadline) -> Any:
        """Commit the call's work, and return its result."""
        call.deadline = deadline
        self._waiting.append(call)
        if self.idle:
            self._running = asyncio.get_running_loop().create_task(self._drain())

        def give_up() -> None:
            if (reason := self._why_calls_wait()) is not None:
                call.give_up(deadline.error(reason))

        try:
            return await self._line.wait(call.future, deadline, give_up)
        except asyncio.CancelledError:
            call.gone = True
            if not call.begin():
                await wait_out(call.settled)
            raise

    def _why_calls_wait(self) -> str | None:
        """Return why waiting calls have not begun; None if they wait for no other call."""
        if self._committer.busy is not None:
            return self._committer.busy
        if any(call.has_begun and not call.ended for call in self._group):
            return "other writes of this process take too long"
        return None

    @property
    def idle(self) -> bool:
        """True if no call waits or runs."""
        return self._running is None or self._running.done()

    async def finish(self) -> None:
        """Wait until all accepted calls have ended."""
        while self._running is not None and not self.idle:
            await asyncio.wait({self._running})

    async def _drain(self) -> None:
        try:
            while self._is_wanted():
                pause: MoveMark | None = None
                # When the loop is about to end, it cancels every task, including this one and the
                # callers'. A call that has begun still needs its outcome.
                with suppress(asyncio.CancelledError):
                    pause = await self._commit_some()
                if pause is not None:
                    await self._wait_out(pause)
                # Callers that immediately write again share the next commit. Otherwise they would
                # also compete with the commit's thread for the interpreter.
                for _ in range(3):
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                    if len(self._waiting) >= self._answered:
                        break  # all callers write again
        except BaseException:
            # No other task ends the calls that still wait.
            self._fail_all(self._waiting, StoreClosedError(self._committer.target))
            raise

    async def _commit_some(self) -> MoveMark | None:
        """Try to take the lock, and commit a group if that succeeds."""
        try:
            release = await self._committer.take()
        except Exception as exc:  # noqa: BLE001 - the callers get it
            self._fail_all(self._waiting, exc)
            return None
        if release is None:
            return None
        try:
            if not self._is_wanted():
                return None
            group = self._group = self._next_group()
            try:
                return await self._committer.commit(group)
            except Exception as exc:  # noqa: BLE001 - the callers get it
                self._fail_all((call for call in group if not call.ended), exc)
                return None
            finally:
                self._settle(group)
        finally:
            await release()

    def _settle(self, group: list[_Write]) -> None:
        """Give ended calls' outcomes to the callers; put the other calls back, first in line."""
        left = []
        for call in group:
            if call.ended:
                call.answer()
            else:
                left.append(call)
        self._waiting.extendleft(reversed(left))
        self._answered = len(group) - len(left)
        self._group = []

    def _next_group(self) -> list[_Write]:
        group = [self._waiting.popleft()]
        size = group[0].size
        while self._waiting and len(group) < _LARGEST_GROUP:
            size += self._waiting[0].size
            if not self._committer.joins(group, self._waiting[0], size):
                break
            group.append(self._waiting.popleft())
        return group

    def _is_wanted(self) -> bool:
        """Remove the calls whose callers have left; return whether any call still waits.

        A removed call has written nothing: it had not begun, or was waiting for a retry.
        """
        calls, self._waiting = self._waiting, deque()
        for call in calls:
            if call.gone:
                call.answer()
            else:
                self._waiting.append(call)
        return bool(self._waiting)

    def _fail_all(self, calls: Iterable[_Write], error: Exception) -> None:
        """End calls with an error; each call gets its own copy of the error."""
        translated = self._committer.translated(error)
        for call in calls:
            call.fail(copy_of_error(translated))
            call.answer()
        if calls is self._waiting:
            self._waiting.clear()

    async def _wait_out(self, pause: MoveMark) -> None:
        """Wait for the end of a migration's pause; if the pause exceeds its limit, end it for all
        writers."""
        until = time.monotonic() + pause.limit
        try:
            while self._is_wanted():
                self._gate.extend(pause.limit)
                for call in self._waiting:
                    call.deadline.extend(pause.limit)
                with suppress(asyncio.CancelledError):  # as in _drain
                    if await self._committer.pause_is_over(pause):
                        return
                    if time.monotonic() > until:
                        await self._committer.end_pause(pause)
                    await asyncio.sleep(self._committer.pause_poll)
        # On a full disk the mark cannot be changed, and the next attempt would find the same pause.
        except Exception as exc:  # noqa: BLE001 - the callers get it
            self._fail_all(self._waiting, exc)
