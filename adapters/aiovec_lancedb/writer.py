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
from typing import Any

import anyio
import anyio.to_thread

from aiovec.errors import StoreBusyError, StoreClosedError
from aiovec.pool import in_thread

from .errors import ConflictError, translated
from .locks import WriteLock
from .session import Session

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


class Work(ABC):
    """What one call wants written. Works of one kind may be done together, in one commit."""

    @property
    def size(self) -> int:
        """Rows, as far as they count for a commit; ``ALONE`` where it takes one for itself."""
        return ALONE

    def joins(self, other: Work) -> bool:
        """Whether this may be done together with an earlier ``other``."""
        return False

    @abstractmethod
    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        """Do this and then ``others``, which join it; the result of each, or its error.

        What it raises holds for all of them, and nothing of them was done.
        """


class _Job:
    """A write that waits, runs, or has its outcome."""

    __slots__ = ("begun", "cancelled", "deadline", "future", "settled", "work")

    def __init__(self, work: Work, deadline: float) -> None:
        self.work = work
        self.deadline = deadline
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun = False
        self.cancelled = False
        # Set when the outcome is final.
        self.settled = asyncio.Event()

    def answer(self, outcome: Any) -> None:
        self.settled.set()
        if self.future.done():
            return
        if not isinstance(outcome, BaseException):
            self.future.set_result(outcome)
            return
        self.future.set_exception(outcome)
        if self.cancelled:
            self.future.exception()  # nobody is left to hear of it


class TableWriter:
    """Does the writes of one table one after another, alone among all processes."""

    def __init__(
        self,
        session: Session,
        lock: WriteLock,
        busy_timeout: float,
        threads: anyio.CapacityLimiter,
    ) -> None:
        self._session = session
        self._lock = lock
        self._threads = threads
        self._busy_timeout = busy_timeout
        self._jobs: deque[_Job] = deque()
        self._running: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._running is None or self._running.done()

    async def run(self, work: Work, deadline: float) -> Any:
        """The work's result, after its commit.

        Cancelled before it began, the work is never done; afterwards it is done all the same.
        Which of these it was is settled when this returns.
        """
        job = _Job(work, deadline)
        self._jobs.append(job)
        if self.idle:
            self._running = asyncio.ensure_future(self._drain())
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            if job.begun:
                await job.settled.wait()
            raise

    async def finish(self) -> None:
        """Wait for the writes that were accepted."""
        while self._running is not None and not self._running.done():
            await asyncio.wait({self._running})
        await in_thread(self._lock.close)

    async def _drain(self) -> None:
        while self._jobs:
            try:
                if await self._take_lock():
                    try:
                        await self._run_next()
                    finally:
                        self._lock.release()
            except Exception as exc:  # noqa: BLE001 - the callers get it
                for job in self._jobs:
                    job.answer(_copy_of(exc))
                self._jobs.clear()
            # Callers that write again at once shall share the next commit.
            for _ in range(_TURNS_FOR_CALLERS):
                await asyncio.sleep(0)

    async def _take_lock(self) -> bool:
        """Whether it was taken, and there is still something to do with it."""
        taken = await self._try_lock()
        now = time.monotonic()
        waiting = [job for job in self._jobs if not job.cancelled]
        self._jobs.clear()
        for job in waiting:
            if not taken and now > job.deadline:
                waited = self._busy_timeout + now - job.deadline
                job.answer(StoreBusyError(f"{self._session.target} is locked by others", waited))
            else:
                self._jobs.append(job)
        if taken and not self._jobs:
            self._lock.release()
            return False
        return taken

    async def _try_lock(self) -> bool:
        # Whoever pops this first decides: the thread that it holds the lock, or a loop that ends
        # meanwhile that nobody does.
        wanted = [True]

        def take() -> bool:
            if not self._lock.acquire(_LOCK_TRY):
                return False
            with suppress(IndexError):
                return wanted.pop()
            self._lock.release()
            return False

        try:
            with translated(self._session.target):
                return await anyio.to_thread.run_sync(take, limiter=self._threads)
        except asyncio.CancelledError:
            try:
                wanted.pop()
            except IndexError:
                self._lock.release()
            raise

    async def _run_next(self) -> None:
        """Do the first work that waits, with those behind it that join it."""
        group = self._next_group()
        for job in group:
            job.begun = True
        outcomes: list[Any] = []
        try:
            outcomes = await self._outcomes([job.work for job in group])
        finally:
            # Without an outcome the loop is about to end, and has cancelled every task.
            closed = [StoreClosedError(self._session.target)] * (len(group) - len(outcomes))
            for job, outcome in zip(group, [*outcomes, *closed], strict=True):
                job.answer(outcome)

    def _next_group(self) -> list[_Job]:
        group = [self._jobs.popleft()]
        rows = group[0].work.size
        while self._jobs and len(group) < _MOST_CALLS:
            job = self._jobs[0]
            rows += job.work.size
            if not job.cancelled and (rows > _MOST_ROWS or not job.work.joins(group[0].work)):
                break
            self._jobs.popleft()
            if not job.cancelled:
                group.append(job)
        return group

    async def _outcomes(self, works: list[Work]) -> list[Any]:
        first, *others = works
        failed: Exception | None = None
        for pause in _PAUSES_AFTER_CONFLICTS:
            await asyncio.sleep(pause)
            try:
                return await first.do(self._session, others)
            except ConflictError as exc:
                failed = exc
            except Exception as exc:  # noqa: BLE001 - the callers get it
                failed = exc
                break
        if not others:
            return [failed]
        # Together they failed; one by one some may not.
        outcomes = []
        for work in works:
            outcomes += await self._outcomes([work])
        return outcomes


class Writers:
    """The writers of a store's tables, and the bound on the calls that wait."""

    def __init__(
        self,
        session: Session,
        *,
        lock_of: Callable[[str], WriteLock],
        capacity: int,
        busy_timeout: float,
    ) -> None:
        self._session = session
        self._lock_of = lock_of
        self._places = asyncio.Semaphore(capacity)
        self._busy_timeout = busy_timeout
        self._writers: dict[str, TableWriter] = {}
        # Threads of their own for those that wait for locks, so that they keep no work waiting.
        self._threads = anyio.CapacityLimiter(16)
        self._closed = False

    async def run(self, table: str, work: Work) -> Any:
        """The work's result, once it is committed."""
        deadline = time.monotonic() + self._busy_timeout
        if self._closed:
            raise StoreClosedError(self._session.target)
        self._session.check()
        if self._places.locked():
            try:
                async with asyncio.timeout(self._busy_timeout):
                    await self._places.acquire()
            except TimeoutError:
                raise StoreBusyError("too many writes are waiting", self._busy_timeout) from None
        else:
            await self._places.acquire()
        try:
            if self._closed:
                raise StoreClosedError(self._session.target)
            return await self._writer(table).run(work, deadline)
        finally:
            self._places.release()

    def _writer(self, table: str) -> TableWriter:
        writer = self._writers.get(table)
        if writer is None:
            writer = self._writers[table] = TableWriter(
                self._session, self._lock_of(table), self._busy_timeout, self._threads
            )
        return writer

    async def close(self) -> None:
        """Take no more, and wait for what was accepted."""
        self._closed = True
        for writer in list(self._writers.values()):
            await writer.finish()


def _copy_of(error: Exception) -> Exception:
    """The error for a further caller: raising it writes the traceback into it."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
