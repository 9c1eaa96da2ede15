"""One writer for a store: calls that arrive while a commit runs share the next one."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar, cast

from aiovec.errors import StoreBusyError, StoreClosedError, StoreFullError

from .connection import CancelledWorkError, Connection, Ticket
from .driver import load_driver
from .errors import is_busy, translate

_T = TypeVar("_T")

# Calls in one commit. More would make the first of them wait long for the last.
_LARGEST_GROUP = 512
# How long, in seconds, one try for the write lock may take before the waiting calls are looked at
# again: some may have been cancelled or be out of time.
_LOCK_TRY = 0.1
# Sleeps between looks at the lock. SQLite's own grow to 100 ms, in which others overtake for ever.
_LOCK_POLL = 0.002


class Transaction:
    """What a write's work gets: the connection, change numbers, and whether it is still wanted."""

    __slots__ = ("_change", "_ticket", "db")

    def __init__(self, db: sqlite3.Connection, change: _Change, ticket: Ticket) -> None:
        self.db = db
        self._change = change
        self._ticket = ticket

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


class _Change:
    """The newest change number, read and written once for each commit."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


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
        # It was in a group that found no room as a whole; now it gets a commit of its own.
        self.alone = False
        # Set when the work itself is over, though its commit may be still to come.
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

    - Each has a savepoint of its own: one that fails takes nothing of the others with it.
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
        self._closed = False

    async def run(self, work: Callable[[Transaction], _T]) -> _T:
        """Run the work in a transaction; its result after the commit.

        Cancelled before it began, the work never runs; while it runs, it is rolled back; later, it
        is committed all the same. The caller's data is no longer read when this returns.
        """
        began = time.monotonic()
        await self._take_place()
        try:
            if self._closed:
                raise StoreClosedError(self._target)
            job = _Job(work, began + self._busy_timeout, asyncio.get_running_loop().create_future())
            self._jobs.append(job)
            if self._running is None or self._running.done():
                self._running = asyncio.ensure_future(self._drain())
            try:
                return cast("_T", await asyncio.shield(job.future))
            except asyncio.CancelledError:
                job.cancelled = True
                if not job.begins() and not job.over:
                    await job.settled.wait()
                raise
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        if self._closed:
            raise StoreClosedError(self._target)
        try:
            async with asyncio.timeout(self._busy_timeout):
                await self._places.acquire()
        except TimeoutError:
            raise StoreBusyError("too many writes are waiting", self._busy_timeout) from None

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
                    await self._connection.run(partial(self._commit, group))
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

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        now = time.monotonic()
        while self._jobs and len(group) < _LARGEST_GROUP:
            if group and (self._jobs[0].alone or group[0].alone):
                break
            job = self._jobs.popleft()
            if job.cancelled:
                job.end(CancelledWorkError())
                job.answer()
            elif now > job.deadline:
                waited = now - job.deadline + self._busy_timeout
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
            if not _begin(db):
                return
            (number,) = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
            change = _Change(number)
            for job in group:
                error = self._apply(db, change, job)
                if error is None:
                    applied.append(job)
                    continue
                job.end(self._told(error))
                if not db.in_transaction:
                    # SQLite has rolled back everything, the others' work too.
                    for other in applied:
                        other.again()
                    return
            if change.number != number:
                db.execute(
                    "UPDATE aiovec_state SET value = ? WHERE key = 'change'", (change.number,)
                )
            db.execute("COMMIT")
        except load_driver().Error as exc:
            _roll_back(db)
            told = self._told(exc)
            if isinstance(told, StoreFullError) and len(applied) > 1:
                # Together they found no room; one by one the smaller ones may.
                for job in applied:
                    job.alone = True
                    job.again()
                return
            for job in group:
                if not job.over:
                    job.end(told)
        except BaseException:
            _roll_back(db)
            raise
        else:
            for job in applied:
                job.end(None)

    @staticmethod
    def _apply(db: sqlite3.Connection, change: _Change, job: _Job) -> Exception | None:
        if not job.begins():
            return CancelledWorkError()
        db.execute("SAVEPOINT call")
        try:
            job.result = job.work(Transaction(db, change, job))
        except Exception as exc:  # noqa: BLE001 - the caller gets it
            if db.in_transaction:
                db.execute("ROLLBACK TO call")
                db.execute("RELEASE call")
            return exc
        finally:
            job.future.get_loop().call_soon_threadsafe(job.settled.set)
        db.execute("RELEASE call")
        return None

    def _told(self, error: Exception) -> Exception:
        """The error as its caller gets it."""
        if not isinstance(error, load_driver().Error):
            return error
        told = translate(error, self._target)
        told.__cause__ = error
        return told


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


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        db.execute("ROLLBACK")
