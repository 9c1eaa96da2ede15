"""Work in threads, tasks in the background, and waiting for the end of what cannot be stopped.

An app's own calls into threads share the limit that anyio sets for all of them. Where forty of them
are slow, nothing of a store may have to wait for one to end: so a store's threads are its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import RunVar

from ..errors import AiovecError

_T = TypeVar("_T")

INLINE_LIMIT = 2000
"""The most work done on the event loop, in values that Python code touches: about a millisecond.

A hop to a thread and back takes a tenth of that."""

# At once, for all stores of one event loop.
_THREADS = max(8, os.cpu_count() or 1)
_limiter: RunVar[anyio.CapacityLimiter] = RunVar("aiovec")


FORKED = "it was opened before this process was forked; open a store in each process"
"""Why a store is of no use in a forked child: the threads that serve it are not there."""


# Threads


def start_thread(thread: threading.Thread) -> None:
    """Start it; AiovecError where the system has no more of them, or the process is ending."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise AiovecError(f"the store needs a thread, and Python starts none: {exc}") from exc


class _Threads:
    """Daemon threads, each of which does one job after another.

    They keep no process from ending, and a store can still be used in the ``atexit`` functions of
    its app, when threads of ``concurrent.futures`` take no more work. To start a thread for each
    job would take twice as long, and far longer beside other threads that compute.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._unfinished: set[Callable[[], object]] = set()

    def begin(self, job: Callable[[], object]) -> None:
        """Have a thread that is idle do the job, or a new one."""
        if not self._idle.acquire(blocking=False):
            start_thread(threading.Thread(target=self._serve, name="aiovec", daemon=True))
        self._unfinished.add(job)
        self._jobs.put(job)

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            job()
            self._unfinished.discard(job)
            del job  # what it refers to must not wait for the next one
            self._idle.release()

    def wait(self, seconds: float) -> None:
        """Wait so long at most for jobs that run."""
        until = time.monotonic() + seconds
        while self._unfinished and time.monotonic() < until:
            time.sleep(0.005)


_threads = _Threads()


def _forget_threads() -> None:
    """In a process that was forked they do not run."""
    global _threads
    _threads = _Threads()


# The end of the process waits for work that nobody waits for any more: native code that meets the
# end of the interpreter in another thread may end it with a crash.
atexit.register(lambda: _threads.wait(10.0))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _in_daemon_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    _threads.begin(lambda: do_for(done, work))
    return done


def do_for(
    done: asyncio.Future[_T] | None,
    work: Callable[[], _T],
    clear: Callable[[BaseException], object] = lambda _: None,
) -> _T | None:
    """Do the work in this thread, and give a future its outcome, on the future's event loop.

    ``clear`` gets an error before it leaves the thread. Returns what the work returns.
    """
    result: _T | None = None
    error: BaseException | None = None
    try:
        result = work()
    except StopIteration as exc:  # a future takes none, and a coroutine makes the same of it
        error = RuntimeError("a function that was called in a thread raised StopIteration")
        error.__cause__ = exc
    except BaseException as exc:  # noqa: BLE001 - it belongs to the one who waits
        error = exc
    try:
        if error is not None:
            clear(error)
        if done is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_settle, done, result, error)
        return result
    finally:
        del work, done, error  # the error's traceback refers to this frame


def _settle(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Give a future its result or error, unless who waits for it has gone. On its event loop."""
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


async def in_daemon_thread(work: Callable[[], _T], places: asyncio.Semaphore | None = None) -> _T:
    """Return the result of a function that runs in a daemon thread, beside any number of others.

    When cancelled it returns at once, and the function runs on unheard. With ``places`` it waits
    for one of them first, which it holds until the function has ended.
    """
    if places is None:
        return await _in_daemon_thread(work)
    await places.acquire()
    try:
        done = _in_daemon_thread(work)
    except AiovecError:
        places.release()
        raise
    done.add_done_callback(lambda _: places.release())
    return await asyncio.shield(done)


def thread_limiter() -> anyio.CapacityLimiter:
    """Return the limit on the running event loop."""
    there = _limiter.get(None)
    if there is None:
        there = anyio.CapacityLimiter(_THREADS)
        _limiter.set(there)
    return there


async def in_thread(
    work: Callable[..., _T],
    *args: object,
    limit: anyio.CapacityLimiter | None = None,
    stop: Callable[[], object] | None = None,
) -> _T:
    """Run the work in a thread and return its result.

    When cancelled it returns when the work has ended, however often it is cancelled: so no thread
    reads what belongs to a caller that has gone on. ``stop`` is called then, for work that can end
    sooner.
    """
    async with limit or thread_limiter():
        done = _in_daemon_thread(partial(copy_context().run, work, *args))
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            if stop is not None:
                stop()
            await wait_out(done)
            done.exception()  # so that it does not count as never retrieved
            raise
        return done.result()


async def hop(weight: int, work: Callable[..., _T], *args: object) -> _T:
    """Do the work here if it touches few values, else in a thread."""
    return work(*args) if weight <= INLINE_LIMIT else await in_thread(work, *args)


async def arrow_ready() -> None:
    """Wait until pyarrow can convert values without importing anything.

    Its first conversion looks for pandas and, where that is installed, imports it, for half a
    second: in a thread, and only in a process that converts.
    """
    if not arrow_is_ready.is_set():
        await in_thread(_convert)


def _convert() -> None:
    import pyarrow as pa

    pa.array([0])
    arrow_is_ready.set()


arrow_is_ready = threading.Event()
"""Set once ``arrow_ready`` has been awaited in this process."""


# Tasks


class Background:
    """Tasks that nobody awaits."""

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
        """Cancel them and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await self.wait()

    async def wait(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)


async def wait_out(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until the future is done, whatever cancels the caller meanwhile, and however often.

    Gives the first cancellation, which the caller has to raise. One of a scope of anyio's is held
    back instead, and comes with the caller's next await.
    """
    first: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as exc:
                first = first or exc
    return first


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a coroutine that is not cancelled when its caller is.

    The cancellation comes through when the work has ended.
    """
    task = asyncio.ensure_future(work)
    cancelled = await wait_out(task)
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # so that it does not count as never retrieved
        raise cancelled
    return task.result()
