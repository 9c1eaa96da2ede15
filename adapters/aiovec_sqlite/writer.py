"""One writer for a store: calls that arrive while a commit runs share the next one."""

from __future__ import annotations

import asyncio
import copy
import random
import sqlite3
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any, TypeVar, cast

from aiovec.backend import PAUSED, MoveMark, Patience, Pauses, PerLoop, wait_out
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreFullError,
    StoreReplacedError,
)

from .connection import CancelledWorkError, Connection, Ticket, let_go
from .driver import load_driver
from .errors import failures, is_busy, may_pass, translate
from .layout import change_number
from .moves import change, is_over, mark_in

# More rows than this are not written within a savepoint.
_MOST_ROWS_IN_SAVEPOINT = 1000


class TooLargeForGroupError(Exception):
    """Raised by work that wants a commit of its own. Never reaches a user."""


class Transaction:
    """What a write's work gets: the connection, change numbers, and whether it is still wanted."""

    __slots__ = ("_alone", "_change", "_ticket", "db")

    def __init__(
        self, db: sqlite3.Connection, change: Change, ticket: Ticket, *, alone: bool
    ) -> None:
        self.db = db
        self._change = change
        self._ticket = ticket
        self._alone = alone

    def expect(self, rows: int) -> None:
        """Say how many rows will be written, before the first: many get a commit of their own.

        Within a savepoint SQLite looks through all that the savepoint has saved for each further
        row of vec0, so that 20,000 rows take ten times as long as without one.
        """
        if rows > _MOST_ROWS_IN_SAVEPOINT and not self._alone:
            raise TooLargeForGroupError

    def check(self) -> None:
        """Raise CancelledWorkError, and so roll back, where the caller has gone."""
        self._ticket.check()

    @property
    def newest(self) -> int:
        """The newest change number taken so far."""
        return self._change.number

    def take(self, count: int = 1) -> int:
        """Reserve change numbers; the first of them. They rise and are never used again."""
        first = self._change.number + 1
        self._change.number += count
        return first


class Change:
    """The newest change number, read and written once for each commit."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class JoinableWork(ABC):
    """Work that can be done in one go with more of its kind that waits beside it.

    A statement for all of them costs little more than one for each, and each costs several
    hand-overs of the interpreter (``python -m bench writers``).
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """How many rows it writes."""

    @abstractmethod
    def joins(self, other: object) -> bool:
        """Whether the other one may be done in the same go."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> Callable[[Transaction], object]:
        """The work of this one and the others behind it. Where it fails, each is done alone."""

    @abstractmethod
    def __call__(self, tx: Transaction) -> object:
        """Do it alone."""


_T = TypeVar("_T")

# Calls in one commit. More would make the first of them wait long for the last.
_LARGEST_GROUP = 512
# Rows that calls may have together to be done in one go.
_MOST_ROWS_JOINED = 256
# Rounds of the event loop that answered callers get before the next commit begins.
_TURNS_FOR_CALLERS = 3
# How long, in seconds, one try for the write lock may take before the waiting calls are looked at
# again: some may have been cancelled or be out of time.
_LOCK_TRY = 0.1
# Sleeps between looks at the lock. SQLite's own grow to 100 ms, in which others overtake for ever.
_LOCK_POLL = 0.002
# How long, in seconds, the lock is waited for where a failed commit has to be undone.
_PATIENCE_TO_UNDO = 2.0
# Sleeps between looks whether a migration's pause is over.
_PAUSE_POLL = 0.005


class _RolledBackError(Exception):
    """SQLite has rolled back the whole transaction. Never reaches a user."""


class _Job(Ticket):
    """A write that waits, runs, or has its outcome."""

    __slots__ = (
        "alone", "begun", "changes_mark", "error", "future", "over", "read_since", "repeated",
        "result", "settled", "start", "tried", "work",
    )  # fmt: skip

    def __init__(self, work: Callable[[Transaction], Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.work = work
        self.future: asyncio.Future[Any] = loop.create_future()
        # Whoever pops this begins: the thread the work, or the cancelled caller its leaving.
        # Popping a list is one step for both, so no lock is taken on the event loop.
        self.start = [True]
        # The thread has begun; only the thread asks.
        self.begun = False
        # It gets a commit of its own: it is large, or was in a group that found no room as a whole.
        self.alone = False
        # It changes the mark of a migration, so it is not held by that mark. It commits alone.
        self.changes_mark = False
        # The lock was asked for, and another process had it.
        self.tried = False
        # The file system failed, and nothing of the work was kept: it was begun anew. And once more
        # when all of the file could be read behind that.
        self.repeated = self.read_since = False
        # Done when the outcome is final.
        self.settled: asyncio.Future[None] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            let_go(error)
        self.error = error
        self.over = True

    def begins(self) -> bool:
        try:
            return self.start.pop()
        except IndexError:
            return False

    def give_up(self, error: BaseException) -> None:
        """Let it never begin, where it has not begun yet."""
        if not self.future.done() and self.begins():
            self.cancelled = True
            self.future.set_exception(error)
            self.settled.set_result(None)

    def once_more(self, told: Callable[[], Exception]) -> bool:
        """Try again, alone, unless that was done before: what failed may have been for a moment.

        A file is damaged only where the work fails once more after all of it could be read.
        """
        if self.repeated:
            if self.read_since or not isinstance(told(), CorruptStoreError):
                return False
            self.read_since = True
        self.repeated = self.alone = True
        if self.begun:
            self.again()
        return True

    def again(self) -> None:
        """Make ready for another try."""
        self.result = None
        self.begun = False
        if not self.cancelled:
            self.start.append(True)

    def answer(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
            return
        self.future.set_exception(self.error)
        if self.cancelled:
            self.future.exception()  # nobody is left to hear of it


class _Queue:
    """The writes of one event loop: those that wait, and the task that does them."""

    __slots__ = ("jobs", "running")

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.running: asyncio.Task[None] | None = None


class Writer:
    """Runs writes one after another on one connection, several in one commit.

    - Each has a savepoint of its own, or large ones a commit: one that fails harms no other.
      Small inserts into one table are tried in one go first, and one by one where that fails.
    - A caller hears of success after the commit.
    - A call whose work has not begun within ``busy_timeout`` fails, whatever it waits for.
    """

    def __init__(
        self,
        connection: Connection,
        target: str,
        *,
        busy_timeout: float,
        turn: Callable[[], AbstractAsyncContextManager[object]],
        check_file: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._busy_timeout = busy_timeout
        self._turn = turn
        self._check_file = check_file
        self._queue = PerLoop(_Queue)
        self._was_full = False
        self._closed = False
        # The migration's run whose writes pass its own mark.
        self.run_acted_for: str | None = None
        self._pause: MoveMark | None = None
        self._pause_seen = 0.0
        self._pauses = Pauses()

    async def run(self, work: Callable[[Transaction], _T], *, changes_mark: bool = False) -> _T:
        """Run the work in a transaction; its result after the commit.

        Cancelled before it began, the work never runs; while it runs alone, it is rolled back;
        together with others or later, it is committed all the same. Which of these it was is
        settled when this returns, however often it is cancelled, and the caller's data is no
        longer read.
        """
        if self._closed:
            raise StoreClosedError(self._target)
        loop = asyncio.get_running_loop()
        patience = self.patience()
        job = _Job(work, loop)
        job.alone = job.changes_mark = changes_mark
        queue = self._queue()
        queue.jobs.append(job)
        if queue.running is None or queue.running.done():
            queue.running = loop.create_task(self._drain(queue))
        try:
            with patience.when_over(lambda: job.give_up(patience.error(self._reason(job)))):
                return cast("_T", await job.future)
        except asyncio.CancelledError:
            job.cancelled = True
            if not job.begins():
                await wait_out(job.settled)
            if not job.future.cancelled():
                job.future.exception()  # it came at the same moment, and nobody hears of it
            raise

    def patience(self) -> Patience:
        """How long the call under way may wait; a migration's pauses do not count."""
        return Patience(self._busy_timeout, self._pauses.since)

    def _reason(self, job: _Job) -> str:
        if job.tried:
            return f"{self._target} is locked by another process"
        return "other writes of this process take too long"

    async def close(self) -> None:
        """Take no more, and wait for what was accepted."""
        self._closed = True
        queue = self._queue()
        while queue.running is not None and not queue.running.done():
            await asyncio.wait({queue.running})

    async def _drain(self, queue: _Queue) -> None:
        while queue.jobs:
            group = _next_group(queue.jobs)
            if not group:
                continue
            try:
                async with self._turn():
                    await self._connection.run_to_its_end(partial(self._commit, group))
            except asyncio.CancelledError:
                # The loop is about to end, and has cancelled every task. Their callers are among
                # those; what still waits for them here needs its answer all the same.
                pass
            except Exception as exc:  # noqa: BLE001 - each caller gets it
                # aiosqlite says ValueError for a connection that is closed.
                closed = isinstance(exc, ValueError)
                error = StoreClosedError(self._target) if closed else self._told(exc)
                for job in group:
                    if not job.over:
                        job.end(error)
            for job in reversed(group):
                if job.over:
                    job.answer()
                else:
                    queue.jobs.appendleft(job)
            if self._pause is not None:
                await self._wait_out(self._pause)
            # Callers that write again at once shall share the next commit. If it began without
            # them, they would also wrangle with its thread for the interpreter.
            for _ in range(_TURNS_FOR_CALLERS):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

    async def _wait_out(self, paused: MoveMark) -> None:
        """Wait while a migration's pause lasts, and end it for all where it lasts too long."""
        began = self._pauses.begin(self._pause_seen)
        try:
            while not await self._do(lambda db: is_over(db, self._target, paused)):
                if time.monotonic() - self._pause_seen > paused.limit:
                    await self._do(lambda db: self._end_pause(db, paused))
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(_PAUSE_POLL)
        except Exception:  # noqa: BLE001 - the next try to write tells it to those who wait
            pass
        finally:  # also of a loop that was closed meanwhile
            self._pauses.end(began)
            self._pause = None

    async def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        try:
            async with self._turn():
                return await self._connection.run(work)
        except asyncio.CancelledError:  # as in _drain
            return None

    def _end_pause(self, db: sqlite3.Connection, paused: MoveMark) -> None:
        if not _begin(db):
            return
        try:
            tx = Transaction(db, Change(0), Ticket(), alone=True)
            change(tx, self._target, lambda record: record.end_pause(paused.pause), anew=False)
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise

    def _may_write(
        self, db: sqlite3.Connection, group: list[_Job], state: dict[str, object]
    ) -> bool:
        """Whether no migration keeps the group from writing now, or for ever."""
        mark = mark_in(state, self._target)
        if mark is None or mark.run == self.run_acted_for:
            return True
        if not mark.left and mark.state != PAUSED:
            return True
        _roll_back(db)
        if mark.left:
            for job in group:
                job.end(mark.moved_error(self._target))
        else:
            self._pause_seen = time.monotonic()
            self._pause = mark
        return False

    # On the connection's thread

    def _commit(self, group: list[_Job], db: sqlite3.Connection) -> None:
        """Run a group in one transaction. Jobs that are not over afterwards want another try."""
        applied: list[_Job] = []
        repeated: list[_Job] = []
        change, number = Change(0), 0
        committing = False
        try:
            if self._was_full:
                # There may be room by now, and the WAL, which takes the most, can be cut.
                self._was_full = False
                _cut_log(db)
            if not _begin(db):
                for job in group:
                    job.tried = True
                return
            self._check_file()
            state = dict(db.execute("SELECT key, value FROM aiovec_state").fetchall())
            changes_mark = any(job.changes_mark for job in group)
            if not changes_mark and not self._may_write(db, group, state):
                return
            number = change_number(state.get("change"))
            change = Change(number)
            for job in self._not_joined(db, change, group, applied):
                error = self._apply(db, change, job, alone=len(group) == 1)
                if isinstance(error, TooLargeForGroupError):
                    job.alone = True
                    job.again()
                    continue
                if error is None:
                    applied.append(job)
                    continue
                if may_pass(error) and job.once_more(partial(self._told, error)):
                    if db.in_transaction:
                        continue
                    for other in applied:
                        other.again()
                    return
                told = self._told(error)
                self._was_full |= isinstance(told, StoreFullError)
                if not db.in_transaction:
                    # Everything was rolled back, the others' work too.
                    if isinstance(told, StoreFullError) and (_cut_log(db) or applied):
                        # Whoever of them took the room; one by one it shows.
                        applied.append(job)
                        for other in applied:
                            other.alone = True
                    for other in applied:
                        other.again()
                    if job not in applied:
                        job.end(told)
                    return
                job.end(told)
            if change.number != number:
                db.execute(
                    "UPDATE aiovec_state SET value = ? WHERE key = 'change'", (change.number,)
                )
            committing = True
            db.execute("COMMIT")
            committing = False
            self._check_kept()
        except _RolledBackError:
            for job in applied:
                job.again()
        except load_driver().Error as exc:
            _roll_back(db)
            # Told before the log is cut, by whose length a file-size limit is known.
            told = self._told(exc)
            self._was_full |= isinstance(told, StoreFullError)
            if isinstance(told, StoreFullError) and (_cut_log(db) or len(applied) > 1):
                # Together they found no room; one by one the smaller ones may.
                for job in applied:
                    job.alone = True
                    job.again()
                return
            full = isinstance(told, StoreFullError)
            if committing and not full and not _undone(db, number, change.number):
                told = OutcomeUnknownError(self._target, str(exc))
                told.__cause__ = exc
            elif not full and may_pass(exc):
                repeated = [job for job in group if not job.over and job.once_more(lambda: told)]
            for job in group:
                if not job.over and job not in repeated:
                    job.end(_copy_of(told))
        except BaseException:
            _roll_back(db)
            raise
        else:
            for job in applied:
                job.end(None)

    def _check_kept(self) -> None:
        """What is acknowledged is in the file that the target names."""
        try:
            self._check_file()
        except StoreReplacedError:
            raise
        except AiovecError as exc:
            raise OutcomeUnknownError(self._target, str(exc.__cause__ or exc)) from exc

    def _not_joined(
        self, db: sqlite3.Connection, change: Change, group: list[_Job], applied: list[_Job]
    ) -> Iterator[_Job]:
        """Do what can be done together, in order; gives the jobs that are left to be done alone."""
        for jobs in _runs(group):
            if len(jobs) > 1 and self._apply_together(db, change, jobs):
                applied += jobs
            else:
                yield from jobs

    @staticmethod
    def _apply_together(db: sqlite3.Connection, change: Change, jobs: list[_Job]) -> bool:
        """Do jobs that are alike as one; False where each has to be tried alone."""
        begun = [job for job in jobs if job.begins()]
        for job in begun:
            job.begun = True
        done = False
        if len(begun) == len(jobs):
            first, *others = (job.work for job in jobs)
            work = cast("JoinableWork", first).joined(others)
            db.execute("SAVEPOINT calls")
            try:
                work(Transaction(db, change, Ticket(), alone=False))
                done = True
            except Exception as exc:
                if not db.in_transaction:
                    for job in jobs:
                        job.alone = True
                        job.again()
                    raise _RolledBackError from exc
                db.execute("ROLLBACK TO calls")
            db.execute("RELEASE calls")
        if not done:
            for job in begun:
                job.again()
        return done

    @staticmethod
    def _apply(
        db: sqlite3.Connection, change: Change, job: _Job, *, alone: bool
    ) -> Exception | None:
        """Do a job's work in a savepoint, or alone in the transaction itself."""
        if not job.begins():
            return CancelledWorkError()
        job.begun = True
        if not alone:
            db.execute("SAVEPOINT call")
        try:
            job.result = job.work(Transaction(db, change, job, alone=alone))
        except Exception as exc:  # noqa: BLE001 - the caller gets it
            if alone:
                _roll_back(db)
            elif db.in_transaction:
                db.execute("ROLLBACK TO call")
                db.execute("RELEASE call")
            return exc
        if not alone:
            db.execute("RELEASE call")
        return None

    def _told(self, error: Exception) -> Exception:
        """The error as its caller gets it."""
        if not isinstance(error, failures()):
            return error
        told = translate(error, self._target)
        told.__cause__ = error
        return told


def _next_group(jobs: deque[_Job]) -> list[_Job]:
    group: list[_Job] = []
    while jobs and len(group) < _LARGEST_GROUP:
        if group and (jobs[0].alone or group[0].alone):
            break
        job = jobs.popleft()
        if job.cancelled:
            job.end(CancelledWorkError())
            job.answer()
        else:
            group.append(job)
    return group


def _runs(group: list[_Job]) -> Iterator[list[_Job]]:
    """The jobs in their order, those together that may be done as one."""
    run: list[_Job] = []
    rows = 0
    for job in group:
        size = job.work.size if isinstance(job.work, JoinableWork) else _MOST_ROWS_JOINED
        rows += size
        if run and rows <= _MOST_ROWS_JOINED and cast("JoinableWork", run[0].work).joins(job.work):
            run.append(job)
            continue
        if run:
            yield run
        run, rows = [job], size
    yield run


def _begin(db: sqlite3.Connection) -> bool:
    """Take the write lock; False where another process held it all the time."""
    until = time.monotonic() + _LOCK_TRY
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except load_driver().Error as exc:
            if not is_busy(exc):
                raise
        else:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(_LOCK_POLL * (0.5 + random.random()))


def _undone(db: sqlite3.Connection, number: int, reserved: int) -> bool:
    """Whether a commit that failed is undone for good; ``number`` was the newest change before.

    What it wrote to the WAL may be whole, though the flush failed, and would be found when the file
    is opened after a crash. Another commit takes its place there. It keeps the change numbers that
    were ``reserved`` from being used again.
    """
    until = time.monotonic() + _PATIENCE_TO_UNDO
    try:
        while not _begin(db):
            if time.monotonic() > until:
                return False
        (found,) = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
        if found != number:  # others have written meanwhile, or it was kept
            _roll_back(db)
            return False
        db.execute("UPDATE aiovec_state SET value = ? WHERE key = 'change'", (reserved,))
        db.execute("COMMIT")
    except load_driver().Error:
        with suppress(load_driver().Error):
            _roll_back(db)
        return False
    return True


def _copy_of(error: Exception) -> Exception:
    """The error for a further caller: raising it writes the traceback into it."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def _cut_log(db: sqlite3.Connection) -> bool:
    """Bring the WAL into the file and cut it; whether that gave room to try again."""
    try:
        _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except load_driver().Error:
        return False
    return frames > 0 and not busy


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")
