"""Work in threads, concurrent and background tasks, and waiting for work that cannot be stopped.

An app's threaded work shares the thread pool of asyncio or anyio. A store must not wait when that
pool is full, so it has its own threads.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from .._tools.lazy_arrow import pa, pc
from ..errors import AiovecError

_T = TypeVar("_T")

INLINE_LIMIT = 2000
"""Maximum cost of work on the event loop, in values that Python code touches: about a millisecond.

A hop to a thread and back takes a tenth of that."""

_slots: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Semaphore] = {}


FORKED = "it was opened before this process was forked; open a store in each process"
"""The reason for StoreClosedError in a forked child, which lacks the store's threads."""


REST = 5.0
"""Seconds without work after which threads and child processes end, and connections free memory."""


# Threads


class _Threads:
    """Daemon threads, each of which does one job after another. All but one end when idle.

    The threads do not keep a process alive. One thread stays, so that a store can still be used in
    ``atexit`` functions, when ``concurrent.futures`` accepts no more work and Python 3.12 starts no
    more threads. Starting a thread for each job would take twice as long, and far longer while
    other threads compute.

    Only the number of connections limits the number of threads: a job may wait for a file lock or a
    slow disk, and other jobs must not wait for it. A burst on 1,000 stores takes about 500 threads.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start again without threads, as a forked process must: it lacks its parent's threads."""
        self._jobs: deque[Callable[[], object]] = deque()
        # Each thread has a bell, a lock that is released to wake it. The thread that became idle
        # last is woken first, so that the others can end after a rest.
        self._bells: set[threading.Lock] = set()
        self._idle: list[threading.Lock] = []

    def begin(self, job: Callable[[], object]) -> None:
        """Run a job, which must not raise, in an idle thread or a new one.

        If the system refuses a new thread, the job waits for an existing thread. Raises AiovecError
        if there is none.
        """
        self._jobs.append(job)
        try:
            self._idle.pop().release()
        except IndexError:
            try:
                threading.Thread(target=self._serve, name="aiovec", daemon=True).start()
            except RuntimeError as exc:
                if not self._bells:
                    self._jobs.remove(job)
                    text = "the store needs a thread, and Python starts none"
                    raise AiovecError(f"{text}: {exc}") from exc

    def _serve(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        self._bells.add(bell)
        while True:
            while self._jobs:
                try:
                    job = self._jobs.popleft()
                except IndexError:  # another thread was faster
                    break
                job()
                del job  # free its objects before the next job
            self._idle.append(bell)
            # A job that was added in between may have woken no thread.
            rest = 0 if self._jobs else REST
            if bell.acquire(timeout=rest):
                continue
            try:
                self._idle.remove(bell)
            except ValueError:
                bell.acquire()  # another thread is just releasing it
                continue
            if rest and self._idle and not self._jobs:
                self._bells.remove(bell)
                return

    def wait(self, seconds: float) -> None:
        """Wait at most this many seconds for the jobs to end."""
        until = time.monotonic() + seconds
        while (self._jobs or len(self._idle) < len(self._bells)) and time.monotonic() < until:
            time.sleep(0.005)


_threads = _Threads()


begin_in_thread: Callable[[Callable[[], object]], None] = _threads.begin
"""Run a job in a daemon thread, without waiting for it to end."""

# At exit, wait for abandoned work: native code in a thread may crash while the interpreter ends.
atexit.register(_threads.wait, 10.0)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)


def _in_daemon_thread(work: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
    done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    begin_in_thread(partial(do_for, done, partial(work, *args) if args else work))
    return done


def do_for(
    done: asyncio.Future[_T] | None,
    work: Callable[[], _T],
    clear: Callable[[BaseException], object] | None = None,
) -> None:
    """Run the work in this thread, and set the future's outcome on its event loop.

    ``clear`` is called with an error before the error leaves the thread.
    """
    result: _T | None = None
    error: BaseException | None = None
    try:
        result = work()
    except StopIteration as exc:  # a future refuses it, as a coroutine does
        error = RuntimeError("a function that was called in a thread raised StopIteration")
        error.__cause__ = exc
    except BaseException as exc:  # noqa: BLE001 - raised again by the waiting call
        error = exc
    try:
        if error is not None and clear is not None:
            clear(error)
        if done is not None:
            with suppress(RuntimeError):  # the loop is closed: no call waits
                done.get_loop().call_soon_threadsafe(_settle, done, result, error)
    finally:
        del work, done, error  # the error's traceback refers to this frame


def _settle(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Set a future's result or error, unless it was cancelled. Runs on its event loop."""
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


async def in_daemon_thread(
    work: Callable[..., _T], *args: object, slots: asyncio.Semaphore | None = None
) -> _T:
    """Run a function in a daemon thread, however many are running, and return its result.

    When cancelled, the call returns immediately; the function keeps running, and its result is
    dropped. With ``slots``, the call first waits for a slot, which is held until the function has
    ended.
    """
    if slots is None:
        return await _in_daemon_thread(work, *args)
    await slots.acquire()
    try:
        done = _in_daemon_thread(work, *args)
    except AiovecError:
        slots.release()
        raise
    done.add_done_callback(lambda _: slots.release())
    return await asyncio.shield(done)


def slots(name: str, count: int) -> asyncio.Semaphore:
    """Return the running event loop's semaphore with ``count`` slots for one kind of work."""
    key = asyncio.get_running_loop(), name
    if key not in _slots:
        for ended in [each for each in tuple(_slots) if each[0].is_closed()]:
            _slots.pop(ended, None)
        _slots[key] = asyncio.Semaphore(count)
    return _slots[key]


async def in_thread(
    work: Callable[..., _T],
    *args: object,
    limit: asyncio.Semaphore | None = None,
    stop: Callable[[], object] | None = None,
) -> _T:
    """Run the work in a thread and return its result.

    When cancelled, the call runs ``stop``, for work that can end early, and still waits for the
    work to end, however often it is cancelled, so that no thread uses objects of a caller that has
    continued.
    """
    # By default, at most this many jobs run concurrently for all stores of the event loop.
    async with limit or slots("jobs", max(8, os.cpu_count() or 1)):
        done: asyncio.Future[_T] = _in_daemon_thread(copy_context().run, work, *args)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            if stop is not None:
                stop()
            await wait_out(done)
            done.exception()  # marks the exception as retrieved
            raise
        return done.result()


async def hop(cost: int, work: Callable[..., _T], *args: object) -> _T:
    """Do the work on the event loop if it costs little, otherwise in a thread, and return its
    result."""
    return work(*args) if cost <= INLINE_LIMIT else await in_thread(work, *args)


async def arrow_ready() -> None:
    """Wait until pyarrow is imported, and can convert values without further imports.

    The first conversion imports pandas, if installed, which takes half a second. So a thread makes
    the first conversion, and only in a process that converts values.
    """
    if not arrow_is_ready.is_set():
        await in_thread(_convert)


def _convert() -> None:
    pa.array([0])
    pc.equal  # noqa: B018 - imports the functions
    arrow_is_ready.set()


arrow_is_ready: threading.Event = threading.Event()
"""Set once ``arrow_ready`` has been awaited in this process."""


# Tasks


class Background:
    """Background tasks, which no call awaits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            task.get_loop().call_exception_handler(
                {"message": "work in the background failed", "exception": error, "task": task}
            )

    def __len__(self) -> int:
        return len(self._tasks)

    async def cancel(self) -> None:
        """Cancel the tasks and wait for them to end."""
        for task in self._tasks:
            task.cancel()
        await self.wait()

    async def wait(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)


async def wait_out(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until the future is done, however often the caller is cancelled.

    Return the first cancellation, if any, which the caller must raise. A cancellation by an anyio
    scope is delayed instead, until the caller's next await.
    """
    first: asyncio.CancelledError | None = None
    # Only an app that has imported anyio has scopes. Importing it takes 40 ms of CPU time.
    scope: Any = getattr(sys.modules.get("anyio"), "CancelScope", None)
    with nullcontext() if scope is None else scope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as exc:
                first = first or exc
    return first


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to completion, even if the caller is cancelled, and return its result.

    A cancellation is raised when the work has ended.
    """
    task = asyncio.ensure_future(work)
    cancelled = await wait_out(task)
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved
        raise cancelled
    return task.result()


async def together(
    calls: Iterable[Callable[[], Awaitable[_T]]], at_once: int | None = None
) -> list[_T]:
    """Return the results of concurrent calls, at most ``at_once`` of them at a time.

    The first error cancels the other calls, and is raised with a note about each other call
    that also failed.
    """
    calls = list(calls)
    places = asyncio.Semaphore(at_once or max(1, len(calls)))

    async def in_turn(call: Callable[[], Awaitable[_T]]) -> _T:
        async with places:
            return await call()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_turn(call)) for call in calls]
    except BaseExceptionGroup as failed:
        error, *others = failed.exceptions
        for other in others:
            error.add_note(f"At the same time, another part failed: {other!r}")
        raise error from error.__cause__
    return [task.result() for task in tasks]
