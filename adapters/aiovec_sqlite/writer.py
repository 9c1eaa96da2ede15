"""One writer for a store: calls that arrive while a commit runs share the next one."""

from __future__ import annotations

import asyncio
import copy
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar, cast

from aiovec.errors import StoreBusyError, StoreClosedError, StoreFullError

from .connection import CancelledWorkError, Connection, Ticket
from .driver import load_driver
from .errors import failures, is_busy, translate
from .moves import MOVED, PAUSED, Mark, end_pause, is_over, parsed
from .transaction import Change, JoinableWork, TooLargeForGroupError, Transaction

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
# Sleeps between looks whether a migration's pause is over.
_PAUSE_POLL = 0.005


class _RolledBackError(Exception):
    """SQLite has rolled back the whole transaction. Never reaches a user."""


class _Job(Ticket):
    """A write that waits, runs, or has its outcome."""

    __slots__ = (
        "alone",
        "deadline",
        "error",
        "future",
        "over",
        "result",
        "settled",
        "start",
        "tried",
        "work",
    )

    def __init__(
        self, work: Callable[[Transaction], Any], deadline: float, future: asyncio.Future[Any]
    ) -> None:
        super().__init__()
        self.work = work
        self.deadline = deadline
        self.future = future
        # Whoever pops this begins: the thread the work, or the cancelled caller its leaving.
        # Popping a list is one step for both, so no lock is taken on the event loop.
        self.start = [True]
        # It gets a commit of its own: it is large, or was in a group that found no room as a whole.
        self.alone = False
        # The lock was asked for once: a call may be out of time before it is its turn.
        self.tried = False
        # Set when the outcome is final.
        self.settled = asyncio.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False

    def end(self, error: BaseException | None) -> None:
        self.error = error
        self.over = True

    def begins(self) -> bool:
        try:
            return self.start.pop()
        except IndexError:
            return False

    def again(self) -> None:
        """Make ready for another try."""
        self.result = None
        if not self.cancelled:
            self.start.append(True)

    def answer(self) -> None:
        self.settled.set()
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
            return
        self.future.set_exception(self.error)
        if self.cancelled:
            self.future.exception()  # nobody is left to hear of it


class Writer:
    """Runs writes one after another on one connection, several in one commit.

    - Each has a savepoint of its own, or large ones a commit: one that fails harms no other.
      Small inserts into one table are tried in one go first, and one by one where that fails.
    - A caller hears of success after the commit.
    - At most ``capacity`` calls wait; further ones wait for a place, at most ``busy_timeout``.
    """

    def __init__(
        self,
        connection: Connection,
        target: str,
        *,
        capacity: int,
        busy_timeout: float,
        turn: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._connection = connection
        self._target = target
        self._busy_timeout = busy_timeout
        self._turn = turn
        self._places = asyncio.Semaphore(capacity)
        self._jobs: deque[_Job] = deque()
        self._running: asyncio.Task[None] | None = None
        self._was_full = False
        self._closed = False
        # The migration's run whose writes pass its own mark.
        self.run_acted_for: str | None = None
        self._pause: Mark | None = None
        self._pause_seen = 0.0
        self._paused_before = 0.0

    async def run(self, work: Callable[[Transaction], _T]) -> _T:
        """Run the work in a transaction; its result after the commit.

        Cancelled before it began, the work never runs; while it runs alone, it is rolled back;
        together with others or later, it is committed all the same. Which of these it was is
        settled when this returns, and the caller's data is no longer read.
        """
        patience = self._clock() + self._busy_timeout
        await self._take_place(patience)
        try:
            if self._closed:
                raise StoreClosedError(self._target)
            job = _Job(work, patience, asyncio.get_running_loop().create_future())
            self._jobs.append(job)
            if self._running is None or self._running.done():
                self._running = asyncio.ensure_future(self._drain())
            try:
                return cast("_T", await job.future)
            except asyncio.CancelledError:
                job.cancelled = True
                if not job.begins() and not job.over:
                    await job.settled.wait()
                raise
        finally:
            self._places.release()

    async def _take_place(self, deadline: float) -> None:
        if self._closed:
            raise StoreClosedError(self._target)
        while self._places.locked():
            try:
                async with asyncio.timeout(max(deadline - self._clock(), _PAUSE_POLL)):
                    await self._places.acquire()
                return
            except TimeoutError:
                if self._clock() >= deadline:
                    raise StoreBusyError(
                        "too many writes are waiting", self._busy_timeout
                    ) from None
        await self._places.acquire()

    def _clock(self) -> float:
        """Seconds, without those in which a migration let the writers wait."""
        if self._pause is not None:
            return self._pause_seen - self._paused_before
        return time.monotonic() - self._paused_before

    async def close(self) -> None:
        """Take no more, and wait for what was accepted."""
        self._closed = True
        while self._running is not None and not self._running.done():
            await asyncio.wait({self._running})

    async def _drain(self) -> None:
        while self._jobs:
            group = self._next_group()
            if not group:
                continue
            try:
                async with self._turn():
                    await self._run_group(group)
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
                    self._jobs.appendleft(job)
            if self._pause is not None:
                await self._wait_out(self._pause)
            # Callers that write again at once shall share the next commit. If it began without
            # them, they would also wrangle with its thread for the interpreter.
            for _ in range(_TURNS_FOR_CALLERS):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

    async def _wait_out(self, paused: Mark) -> None:
        """Wait while a migration's pause lasts, and end it for all where it lasts too long."""
        with suppress(Exception):  # the next try to write tells it to those who wait
            while not await self._do(lambda db: is_over(db, paused)):
                if time.monotonic() - self._pause_seen > paused.limit:
                    await self._do(lambda db: self._end_pause(db, paused))
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(_PAUSE_POLL)
        self._paused_before += time.monotonic() - self._pause_seen
        self._pause = None

    async def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        try:
            async with self._turn():
                return await self._connection.run(work)
        except asyncio.CancelledError:  # as in _drain
            return None

    @staticmethod
    def _end_pause(db: sqlite3.Connection, paused: Mark) -> None:
        if not _begin(db):
            return
        try:
            end_pause(Transaction(db, Change(0), Ticket(), alone=True), paused)
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise

    def _may_write(self, db: sqlite3.Connection, group: list[_Job], mark: Mark | None) -> bool:
        """Whether no migration keeps the group from writing now, or for ever."""
        if mark is None or mark.run == self.run_acted_for or mark.state not in (PAUSED, MOVED):
            return True
        _roll_back(db)
        if mark.state == MOVED:
            for job in group:
                job.end(mark.moved_error(self._target))
        else:
            self._pause_seen = time.monotonic()
            self._pause = mark
        return False

    async def _run_group(self, group: list[_Job]) -> None:
        """Commit a group. Ends when the thread has, also where this is cancelled."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def commit(db: sqlite3.Connection) -> None:
            try:
                self._commit(group, db)
            finally:
                loop.call_soon_threadsafe(over.set)

        try:
            await self._connection.run(commit)
        except asyncio.CancelledError:
            while not over.is_set():
                with suppress(asyncio.CancelledError):
                    await over.wait()

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        now = self._clock()
        while self._jobs and len(group) < _LARGEST_GROUP:
            if group and (self._jobs[0].alone or group[0].alone):
                break
            job = self._jobs.popleft()
            if job.cancelled:
                job.end(CancelledWorkError())
                job.answer()
            elif now > job.deadline and job.tried:
                waited = max(now - job.deadline, 0.0) + self._busy_timeout
                job.end(StoreBusyError(f"{self._target} is locked by another process", waited))
                job.answer()
            else:
                group.append(job)
        return group

    # On the connection's thread

    def _commit(self, group: list[_Job], db: sqlite3.Connection) -> None:
        """Run a group in one transaction. Jobs that are not over afterwards want another try."""
        applied: list[_Job] = []
        try:
            if self._was_full:
                # There may be room by now, and the WAL, which takes the most, can be cut.
                self._was_full = False
                _cut_log(db)
            if not _begin(db):
                for job in group:
                    job.tried = True
                return
            state = dict(db.execute("SELECT key, value FROM aiovec_state").fetchall())
            if not self._may_write(db, group, parsed(state.get("move"))):
                return
            number = state["change"]
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
            db.execute("COMMIT")
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
            for job in group:
                if not job.over:
                    job.end(_copy_of(told))
        except BaseException:
            _roll_back(db)
            raise
        else:
            for job in applied:
                job.end(None)

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
