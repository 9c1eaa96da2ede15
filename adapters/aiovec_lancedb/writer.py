"""One writer for each table: calls that arrive while a commit runs share the next one.

A commit costs Lance some milliseconds and leaves a version and files behind, whatever its size.
"""

from __future__ import annotations

import asyncio
import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from aiovec.backend import (
    OPEN,
    PAUSED,
    MoveMark,
    Patience,
    Pauses,
    PerLoop,
    StaleTableError,
    Unstoppable,
    in_thread,
    wait_out,
)
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreReplacedError,
)

from .errors import ConflictError
from .locks.local import TaskLock, WriteLock
from .session import CONFIRM, Session
from .written import DataFiles

if TYPE_CHECKING:
    from .locks.moves import Fence

# Calls and rows in one commit. More would make the first of them wait long for the last.
_MOST_CALLS = 512
_MOST_ROWS = 8192
ALONE = _MOST_ROWS
# Rounds of the event loop that answered callers get before the next commit begins.
_TURNS_FOR_CALLERS = 3
# How long, in seconds, one try for the lock may take before the waiting calls are looked at again:
# some may have been cancelled or be out of time.
_LOCK_TRY = 0.1
# A compaction, or a program that does not know our locks, may commit first. The work is done anew
# then, after these seconds.
_PAUSES_AFTER_CONFLICTS = (0.0, 0.02, 0.1, 0.5, 1.0)


Touched = Sequence[str]


class _Held(Exception):  # noqa: N818 - it reports no error
    """The work was not done and has to take its turn anew."""


class Work(ABC):
    """What one call wants written. Works of one kind may be done together, in one commit."""

    @property
    def size(self) -> int:
        """Rows, as far as they count for a commit; ``ALONE`` where it takes one for itself."""
        return ALONE

    def joins(self, other: Work) -> bool:
        """Whether this may be done together with an earlier ``other``."""
        return False

    changes_schema: ClassVar[bool] = False
    """Whether it is held off while a migration is open."""

    async def refused(self, session: Session, mark: MoveMark) -> Exception:
        """Why it is not done while the mark stands, of a work that changes schemas."""
        return mark.frozen_error()

    @abstractmethod
    async def touches(self, session: Session, others: Sequence[Work]) -> Touched:
        """The ids of the rows that this and ``others`` may insert, change or delete.

        Asked under the table's lock, and only while a migration is open, which has to learn of
        every row that changes.
        """

    @abstractmethod
    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        """Do this and then ``others``, which join it; the result of each, or its error.

        What it raises holds for all of them, and nothing of them was done.
        """


class _Job:
    """A write that waits, runs, or has its outcome."""

    __slots__ = ("begun", "future", "given_up", "settled", "work")

    def __init__(self, work: Work) -> None:
        loop = asyncio.get_running_loop()
        self.work = work
        self.future: asyncio.Future[Any] = loop.create_future()
        self.begun = False
        # Its caller has gone before it began.
        self.given_up = False
        # Done when the outcome is final.
        self.settled: asyncio.Future[None] = loop.create_future()

    def answer(self, outcome: Any) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _Queue:
    """The writes of one event loop to one table: those that wait, and the task that does them."""

    __slots__ = ("jobs", "running", "tried")

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.running: asyncio.Task[None] | None = None
        # The lock was asked for, and others had it.
        self.tried = False


class TableWriter:
    """Does the writes of one table one after another, alone among all processes."""

    def __init__(
        self,
        session: Session,
        table: str,
        lock: WriteLock,
        threads: PerLoop[anyio.CapacityLimiter],
        fence: Fence,
        pauses: Pauses,
    ) -> None:
        self._session = session
        self._table = table
        self._fence = fence
        self._pauses = pauses
        self._mark: MoveMark | None = None
        folder = session.folder
        self._files = None if folder is None else DataFiles(folder, table)
        self._looked = False
        self._lock = TaskLock(lock)
        self._write_lock = lock
        self._threads = threads
        self._queue = PerLoop(_Queue)

    async def run(self, work: Work, patience: Patience) -> Any:
        """The work's result, after its commit.

        Cancelled before it began, the work is never done; afterwards it is done all the same.
        Which of these it was is settled when this returns, however often it is cancelled.
        """
        job = _Job(work)
        queue = self._queue()
        queue.jobs.append(job)
        if queue.running is None or queue.running.done():
            queue.running = asyncio.get_running_loop().create_task(self._drain(queue))
        try:
            with patience.when_over(lambda: self._give_up(queue, job, patience)):
                return await job.future
        except asyncio.CancelledError:
            if job.begun:
                await wait_out(job.settled)
            job.given_up = True
            if not job.future.cancelled():
                job.future.exception()  # it came at the same moment, and nobody hears of it
            raise

    def _give_up(self, queue: _Queue, job: _Job, patience: Patience) -> None:
        """The call's time is over: it fails, unless its work has begun."""
        if job.begun or job.future.done():
            return
        job.given_up = True
        locked = f"{self._session.target} is locked by others"
        busy = "other writes of this process take too long"
        job.answer(patience.error(locked if queue.tried else busy))

    async def finish(self) -> None:
        """Wait for the writes that were accepted."""
        queue = self._queue()
        while queue.running is not None and not queue.running.done():
            await asyncio.wait({queue.running})
        await self._lock.close()

    async def _drain(self, queue: _Queue) -> None:
        while queue.jobs:
            paused: MoveMark | None = None
            try:
                await self._session.check_place()  # a lock would be made in its place
                if await self._take_lock(queue):
                    try:
                        if self._mark is not None and self._mark.state == PAUSED:
                            paused = self._mark
                        else:
                            await self._run_next(queue)
                    finally:
                        self._lock.release()
            except Exception as exc:  # noqa: BLE001 - the callers get it
                for job in queue.jobs:
                    job.answer(_copy_of(exc))
                queue.jobs.clear()
            if paused is not None:
                await self._wait_out(paused)
            # Callers that write again at once shall share the next commit.
            for _ in range(_TURNS_FOR_CALLERS):
                await asyncio.sleep(0)

    async def _take_lock(self, queue: _Queue) -> bool:
        """Whether it was taken, and there is still something to do with it."""
        with self._session.translated():
            taken = await self._lock.take(_LOCK_TRY, self._threads(), self._note_mark)
        queue.tried = not taken
        waiting = [job for job in queue.jobs if not job.given_up]
        queue.jobs.clear()
        queue.jobs.extend(waiting)
        if taken and not waiting:
            self._lock.release()
            return False
        return taken

    def _note_mark(self) -> None:
        """Under the lock, as every write: who changes the mark takes the lock afterwards.

        So a mark that was open, or none, still is where nobody else had the lock meanwhile.
        """
        kept = self._looked and (self._mark is None or self._mark.state == OPEN)
        if not (kept and self._write_lock.undisturbed):
            self._mark = self._fence.look()
            self._looked = True

    async def _wait_out(self, paused: MoveMark) -> None:
        """Wait while a migration's pause lasts, and end it for all where it lasts too long."""
        began = self._pauses.begin(time.monotonic())
        try:
            with suppress(AiovecError):  # the next look tells it to those who wait
                while not await in_thread(self._fence.is_over, paused):
                    if time.monotonic() - began > paused.limit:
                        await in_thread(self._fence.end_pause, paused)
                    await asyncio.sleep(self._fence.poll)
        finally:
            self._pauses.end(began)

    async def _run_next(self, queue: _Queue) -> None:
        """Do the first work that waits, with those behind it that join it."""
        group = _next_group(queue.jobs)
        for job in group:
            job.begun = True
        outcomes: list[Any] = []
        try:
            # A loop that is about to end cancels every task. What has begun is settled all the
            # same, and those who wait for it get its outcome.
            outcomes = await Unstoppable(self._outcomes([job.work for job in group]))
        finally:
            closed = [StoreClosedError(self._session.target)] * (len(group) - len(outcomes))
            ended = list(zip(group, [*outcomes, *closed], strict=True))
            for job, outcome in ended:
                if not isinstance(outcome, _Held):
                    job.answer(outcome)
            for job, outcome in reversed(ended):
                if isinstance(outcome, _Held):
                    # It was begun, and not done: it takes its turn anew. Its caller waits for the
                    # outcome from here on, whether it was cancelled or not.
                    queue.jobs.appendleft(job)

    async def _outcomes(self, works: list[Work]) -> list[Any]:
        failed: Exception | None = None
        for pause in _PAUSES_AFTER_CONFLICTS:
            await asyncio.sleep(pause)
            try:
                if failed is not None:
                    await self._look_again()
                return await self._done(works)
            except ConflictError as exc:
                failed = exc
            except _Held as exc:
                return [exc] * len(works)
            except (OutcomeUnknownError, StoreReplacedError) as exc:
                # Done once more, what was kept would be in the way of itself.
                return [_copy_of(exc) for _ in works]
            except Exception as exc:  # noqa: BLE001 - the callers get it
                failed = exc
                break
        if len(works) == 1:
            return [failed]
        # Together they failed; one by one some may not.
        outcomes = []
        for work in works:
            outcomes += await self._outcomes([work])
        return outcomes

    async def _done(self, works: list[Work]) -> list[Any]:
        """Do works as one, as far as the mark lets them; the result of each, or its error."""
        first, *others = works
        if self._write_lock.overtook:
            await self._fence_off()
        if self._write_lock.confirmed:
            CONFIRM.set(self._write_lock.is_held)
        mark = self._mark
        if mark is not None:
            if mark.left:
                raise mark.moved_error(self._session.target)
            if first.changes_schema:
                raise await first.refused(self._session, mark)
            touched = await first.touches(self._session, others)
            await self._fence.note(mark, self._table, touched)
        files = self._files
        if files is None:
            return await first.do(self._session, others)
        with self._session.translated():
            await in_thread(files.begin)
        outcomes = await first.do(self._session, others)
        try:
            await self._session.check_place()
            cut = await in_thread(files.cut_short)
            if not cut:
                return outcomes
            await self._undo(files, cut)
        except StoreReplacedError:
            raise
        except (OSError, AiovecError) as exc:
            reason = f"the file system failed while it was written: {exc}"
            raise OutcomeUnknownError(self._session.target, reason) from exc
        raise AiovecError(
            f"the file system or the disk failed under {self._session.target} while {cut[0]} was "
            "written; nothing of the call was kept, try again"
        )

    async def _undo(self, files: DataFiles, cut: list[str]) -> None:
        """Go back behind a commit that refers to files which were not written whole."""
        number = await in_thread(files.version_without, cut)
        if number is None:
            raise CorruptStoreError(
                self._session.target,
                f"files of the table {self._table!r} were cut short while they were written",
            )
        lance, _ = await self._session.open_any(self._table)
        await self._session.run(lance.checkout(number))
        await self._session.run(lance.restore())

    async def _fence_off(self) -> None:
        """Commit a version with which every commit that was begun before is in conflict."""
        try:
            lance, _ = await self._session.open_any(self._table)
        except StaleTableError:
            lance = None
        if lance is not None:
            await self._session.run(lance.checkout(await self._session.run(lance.version())))
            await self._session.run(lance.restore())
        self._write_lock.overtook = False

    async def _look_again(self) -> None:
        """What was in the way may be what fences off writes that are late."""
        held, self._mark = await in_thread(lambda: (self._write_lock.is_held(), self._fence.look()))
        if not held:
            raise _Held
        if self._mark is not None and self._mark.state == PAUSED:
            raise _Held


class Writers:
    """The writers of a store's tables."""

    def __init__(
        self,
        session: Session,
        *,
        lock_of: Callable[[str], WriteLock],
        busy_timeout: float,
        fence: Fence,
        pauses: Pauses,
    ) -> None:
        self._session = session
        self._fence = fence
        # For all tables: a pause holds every one of them.
        self._pauses = pauses
        self._lock_of = lock_of
        self._busy_timeout = busy_timeout
        self._writers: dict[str, TableWriter] = {}
        # Threads of their own for those that wait for locks, so that they keep no work waiting.
        self._threads = PerLoop(lambda: anyio.CapacityLimiter(16))
        self._closed = False

    async def run(self, table: str, work: Work, limit: float | None = None) -> Any:
        """The work's result, once it is committed. StoreBusyError where it cannot begin in time.

        That is ``limit`` seconds, or ``busy_timeout``.
        """
        if self._closed:
            raise StoreClosedError(self._session.target)
        self._session.check()
        patience = Patience(self._busy_timeout if limit is None else limit, self._pauses.since)
        return await self._writer(table).run(work, patience)

    def _writer(self, table: str) -> TableWriter:
        writer = self._writers.get(table)
        if writer is None:
            writer = self._writers[table] = TableWriter(
                self._session, table, self._lock_of(table), self._threads, self._fence,
                self._pauses,
            )  # fmt: skip
        return writer

    async def close(self) -> None:
        """Take no more, and wait for what was accepted."""
        self._closed = True
        for writer in list(self._writers.values()):
            await writer.finish()


def _next_group(jobs: deque[_Job]) -> list[_Job]:
    group = [jobs.popleft()]
    rows = group[0].work.size
    while jobs and len(group) < _MOST_CALLS:
        job = jobs[0]
        rows += job.work.size
        if not job.given_up and (rows > _MOST_ROWS or not job.work.joins(group[0].work)):
            break
        jobs.popleft()
        if not job.given_up:
            group.append(job)
    return group


def _copy_of(error: Exception) -> Exception:
    """The error for a further caller: raising it writes the traceback into it."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
