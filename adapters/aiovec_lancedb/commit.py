"""Commit a table's writes: operations that arrive while a commit runs share the next commit.

A commit of any size takes Lance a few milliseconds and adds a version and files. So a group of
calls that give the ids of their rows takes at most two commits on a folder: one inserts, replaces
and changes rows, and one deletes rows. In a bucket, changes take a separate commit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiovec.backend.commit import Committer, WriteCall
from aiovec.backend.contract import TableHandle
from aiovec.backend.limits import Deadline, copy_of_error
from aiovec.backend.marks import PAUSED, MoveMark
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import CorruptStoreError, OutcomeUnknownError, StoreReplacedError

from .errors import ConflictError, unknown_outcome
from .locks.local import ONE_TRY
from .session import Session

# The most rows in one commit. With more, the first call would wait too long for the last one.
_MOST_ROWS = 8192
ALONE = _MOST_ROWS
# If the commit of a compaction or another writer came first, the work is retried until the call's
# timeout, but attempted at least this many times in total.
_ATTEMPTS = 5


class WriteOperation(ABC):
    """The write of one call. An operation that ``joins`` another one can share its commit."""

    handle: TableHandle | None
    """The table to open for the operation; None if it opens none."""

    altered: bool = False
    """True if the table's fields may differ from the handle's."""

    size: int = ALONE
    """The number of rows that the operation adds to a commit; ``ALONE`` for a separate commit."""

    changes_schema: bool = False
    """True if an open migration refuses this write."""

    by_hand: bool = False
    """True if a store that a migration is filling refuses this write. Such a store accepts the
    writes of upkeep."""

    fills: bool = False
    """True if this write is part of an engine's load, during which the table refuses other
    writes."""

    def joins(self, other: WriteOperation, *, exclusive: bool) -> bool:
        """Return whether this operation may join the group of ``other``, an earlier operation.

        Without ``exclusive``, other processes may write too, and only Lance keeps ids unique.
        """
        return False

    @abstractmethod
    async def do(self, table: Any, others: Sequence[WriteOperation]) -> list[Any]:
        """Do this operation and then ``others``; return the result or error of each.

        ``table`` is a ``Snapshot`` of the newest version of the handle's table; None without a
        handle. An error raised here applies to all operations; unless it is OutcomeUnknownError,
        none of them was done.
        """


TableWork = Callable[..., Awaitable[Any]]
"""A function that gets the opened table as its last argument if the operation has a handle."""


@dataclass(frozen=True, slots=True, eq=False)
class SeparateWrite(WriteOperation):
    """Calls a function with ``args``, in a separate commit, and calls it again after a conflict."""

    act: TableWork
    handle: TableHandle | None = None
    altered: bool = False
    changes_schema: bool = False
    by_hand: bool = False
    fills: bool = False
    args: tuple[Any, ...] = ()

    async def do(self, table: Any, others: Sequence[WriteOperation]) -> list[Any]:
        return [await self.act(*self.args, *([] if table is None else [table]))]


class OperationCall(WriteCall):
    """A call that writes to one table."""

    __slots__ = ("_conflicts", "work")

    def __init__(self, work: WriteOperation) -> None:
        super().__init__(work.size)
        self.work = work
        self._conflicts = 0

    def end(self, outcome: Any) -> None:
        """End the call with its work's result or error, or queue the call again after a
        conflict."""
        self._conflicts += isinstance(outcome, ConflictError)
        if isinstance(outcome, ConflictError) and (
            self._conflicts < _ATTEMPTS or self.deadline.left() > 0
        ):
            self.wait_again()
        elif isinstance(outcome, BaseException):
            self.fail(outcome)
        else:
            self.succeed(outcome)


def _refuses(mark: MoveMark, work: WriteOperation) -> bool:
    return mark.left or work.changes_schema or (work.by_hand and mark.filling)


class TableCommitter(Committer[OperationCall]):
    """Commits the operations of one table, one commit after another and in one process at a
    time."""

    def __init__(self, session: Session, table: str) -> None:
        self.target = session.target
        self._session = session
        self._mark: MoveMark | None = None
        self._lock = session.lock(table)

    # The committer

    @property
    def pause_poll(self) -> float:
        return self._session.mark.poll

    async def take(self) -> Callable[[], Awaitable[None]] | None:
        with self._session.guarded:
            taken = await self._lock.take(ONE_TRY, self._note_mark)
        self.busy = None if taken else f"{self.target} is locked by another process"
        return self._lock.release if taken else None

    def joins(self, group: list[OperationCall], call: OperationCall, size: int) -> bool:
        first, work = group[0].work, call.work
        return size <= _MOST_ROWS and work.joins(first, exclusive=self._session.exclusive)

    async def commit(self, group: list[OperationCall]) -> MoveMark | None:
        if self._mark is not None and self._mark.state == PAUSED:
            return self._mark
        if begun := [call for call in group if call.begin()]:
            # Complete work that has begun, and give its callers the outcome.
            await to_its_end(self._do(begun))
        return None

    async def _do(self, group: list[OperationCall]) -> None:
        """Do the operations of the calls in one commit, or one by one if that commit fails, and end
        the calls."""
        outcomes: list[Any]
        try:
            outcomes = await self._done([call.work for call in group])
        except (ConflictError, OutcomeUnknownError, StoreReplacedError) as exc:
            # Do not retry the calls one by one: either nothing was done and all calls are queued
            # again, or rows of the first attempt may exist.
            outcomes = [copy_of_error(exc) for _ in group]
        except Exception as exc:  # noqa: BLE001 - the callers get it
            if len(group) > 1:  # some may succeed separately
                for call in group:
                    await self._do([call])
                return
            outcomes = [exc]
        for call, outcome in zip(group, outcomes, strict=True):
            call.end(outcome)

    async def pause_is_over(self, pause: MoveMark) -> bool:
        return await in_thread(self._session.mark.is_over, pause)

    async def end_pause(self, pause: MoveMark) -> None:
        await in_thread(self._session.mark.end_pause, pause)

    def _note_mark(self) -> None:
        """Read a migration's mark under the lock: a process sets a mark before it takes the lock.

        In a bucket, where other processes can write despite the lock, a write checks again after
        opening the table.
        """
        if self._session.exclusive or self._mark is not None:
            self._mark = self._session.mark.look()

    async def _done(self, works: list[WriteOperation]) -> list[Any]:
        """Do operations in one commit, unless the mark refuses them; return each operation's result
        or error."""
        first, *others = works
        if (mark := self._mark) is not None and _refuses(mark, first):
            raise mark.refusal(self.target)
        try:
            outcomes = await self._on_newest(first, others)
        finally:
            # A restore may have moved the folder away during the commit.
            with unknown_outcome(self.target, "its folder could not be checked"):
                await self._session.check_folder()
        # The lock stops neither processes that create tables nor writers in a bucket, so look for
        # a new mark.
        if first.changes_schema or (first.by_hand and not self._session.exclusive):
            what = "the mark of a migration could not be read after the commit"
            with unknown_outcome(self.target, what):
                await self._check_mark(first)
        return outcomes

    async def _on_newest(self, first: WriteOperation, others: list[WriteOperation]) -> list[Any]:
        if first.handle is None:
            await self._obey(first)
            return await first.do(None, others)
        # The folder was checked under the lock, and is checked again after the commit.
        table = await self._session.opened(first.handle, altered=first.altered, checked=True)
        if not first.fills:
            table.check_not_filled()
        await self._obey(first)
        try:
            return await first.do(table, others)
        except CorruptStoreError:
            await self._session.check_not_dropped(first.handle)
            raise

    async def _obey(self, work: WriteOperation) -> None:
        """Raise an error if, in a bucket, a migration's mark pauses or refuses the work.

        This sees a mark that was set before the version was opened; the check after the commit sees
        a mark that was set later.
        """
        if self._session.exclusive:
            return
        mark = self._mark = await in_thread(self._session.mark.look)
        if mark is None:
            return
        if mark.state == PAUSED:
            raise ConflictError(f"{self._session.target}: a migration pauses writes", 0.0)
        if _refuses(mark, work):
            raise mark.refusal(self.target)

    async def _check_mark(self, work: WriteOperation) -> None:
        """Look for a mark that was set while a write committed.

        The process that set it cannot know whether its migration copies the write. So if the mark
        pauses writes, this waits for the end of the pause. Then the write is acknowledged if the
        mark allows it; otherwise its outcome is unknown.
        """
        deadline, look = None, self._session.mark.look
        while (mark := await in_thread(look)) is not None and mark.state == PAUSED:
            deadline = deadline or Deadline(mark.limit)
            if deadline.left() <= 0:
                await in_thread(self._session.mark.end_pause, mark)
            await asyncio.sleep(self.pause_poll)
        if mark is not None and _refuses(mark, work):
            reason = f"the run {mark.run} of a migration paused writes while this one was committed"
            raise OutcomeUnknownError(self._session.target, reason)
