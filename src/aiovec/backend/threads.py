"""Threads and event loops: state of each loop, work in threads, and waiting for it to end."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import inspect
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
)
from types import FrameType
from typing import Any, Generic, TypeVar

from ..errors import AiovecError

_T = TypeVar("_T")


class PerLoop(Generic[_T]):
    """A value for the running event loop; the one of the loop before is dropped.

    ``replaced`` is called with a dropped value, on the loop that follows.
    """

    __slots__ = ("_loop", "_make", "_replaced", "_value")

    def __init__(
        self, make: Callable[[], _T], replaced: Callable[[_T], None] | None = None
    ) -> None:
        self._make = make
        self._replaced = replaced
        self._loop: asyncio.AbstractEventLoop | None = None
        self._value: _T | None = None

    def __call__(self) -> _T:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            before, self._value, self._loop = self._value, self._make(), loop
            if before is not None and self._replaced is not None:
                self._replaced(before)
        return self._value  # type: ignore[return-value]  # it was made for this loop

    def drop(self) -> _T | None:
        """Return the value of the newest loop, if there is one, and forget it. Needs no loop."""
        value, self._value, self._loop = self._value, None, None
        return value


def is_over(task: asyncio.Task[object] | None) -> bool:
    """Return whether there is no task, or it has ended, or never will as its loop is closed."""
    return task is None or task.done() or task.get_loop().is_closed()


class NoThreadError(AiovecError):
    """The system has no thread left, or the process is ending. Never named to a user."""


class Background:
    """Tasks that nobody awaits; those of a loop that is closed are forgotten.

    Where no thread can be started for their work, it is left undone.
    """

    def __init__(self) -> None:
        self._tasks: PerLoop[set[asyncio.Task[None]]] = PerLoop(set)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks = self._tasks()
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_leave_undone)
        return task

    def __len__(self) -> int:
        return len(self._tasks())

    async def cancel(self) -> None:
        """Cancel them and wait for their end."""
        for task in self._tasks():
            task.cancel()
        await self.wait()

    async def wait(self) -> None:
        if tasks := self._tasks():
            await asyncio.wait(tasks)


def _leave_undone(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, NoThreadError):
        task.get_loop().call_exception_handler(
            {"message": "work in the background failed", "exception": error, "task": task}
        )


class OneLoop:
    """The event loop that uses a store now. ``target`` names the store in errors."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self, target: str) -> bool:
        """Take the running loop for the store's; whether it is another than before.

        AiovecError where that other one is still running, in another thread.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        if self._loop is not None and self._loop.is_running():
            raise AiovecError(
                f"the store {target} is in use by another event loop, which is running; open a "
                "store for each loop, or use aiovec.sync, whose stores all threads may share"
            )
        before, self._loop = self._loop, loop
        return before is not None


FORKED = "it was opened before this process was forked; open a store in each process"
"""Why a store is of no use in a forked child: the threads that serve it are not there."""


def let_go(error: BaseException) -> None:
    """Clear the variables of the functions that an error, and those behind it, came through.

    One of them may refer to the error, and then only the garbage collector would free it. And a
    cursor of SQLite would be reset where the error is dropped, on another thread: that waits for
    the statement which runs here, and it crashes where this thread is just closing.
    """
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        seen.add(id(one))
        trace = one.__traceback__
        while trace is not None:
            _clear(trace.tb_frame)
            trace = trace.tb_next
        behind = (one.__cause__, one.__context__)
        left += [exc for exc in behind if exc is not None and id(exc) not in seen]


def _clear(frame: FrameType | None) -> None:
    """Clear a frame, and those that called it, as far as they have ended.

    Never that of a coroutine or generator, which may be about to go on.
    """
    while frame is not None and not frame.f_code.co_flags & _MAY_GO_ON:
        try:
            frame.clear()
        except RuntimeError:  # it is running
            return
        frame = frame.f_back


def copy_of_error(error: Exception) -> Exception:
    """Return the error for a further caller: raising it writes the traceback into it."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - an error of somebody else's work, made in its own way
        return error
    copied.__cause__ = error.__cause__
    return copied


class Outcome(Generic[_T]):
    """The result or the error of work that was done elsewhere.

    ``outcome`` gives it once, and drops it: an error refers to the frames that it came through, and
    where one of these referred to the error, only the garbage collector would free them.
    """

    __slots__ = ("_error", "_result")

    def __init__(self) -> None:
        self._result: _T | None = None
        self._error: BaseException | None = None

    def outcome(self) -> _T:
        """Return the result or raise the error."""
        error, self._error = self._error, None
        if error is None:
            result, self._result = self._result, None
            return result  # type: ignore[return-value]  # without an error it is the result
        let_go(error)
        try:
            raise error
        finally:
            del error


_MAY_GO_ON = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


async def in_daemon_thread(work: Callable[[], _T]) -> _T:
    """Return the result of a function that runs in a thread of its own.

    For what is rare and slow, such as the first import of a driver: it takes no thread from a
    pool that may be exhausted, needs no module that is not loaded yet (anyio loads its backend on
    the event loop at first use), and does not keep the process from ending. When cancelled it
    returns at once, and the function runs on unheard.
    """
    job, done = _job_of(work)
    start_thread(threading.Thread(target=job, name="aiovec-open", daemon=True))
    del job
    try:
        return await done
    finally:
        del done  # it refers to the error, which refers to this frame


async def in_idle_thread(work: Callable[[], _T]) -> _T:
    """Return the result of a function that runs in a thread which waits for work, or in a new one.

    The caller bounds how many run at once. When cancelled it returns at once, and the function
    runs on unheard. Where no thread can be started, it waits for one that is busy.
    """
    job, done = _job_of(work)
    if not _to_idle(job):
        thread = _Thread()
        try:
            start_thread(thread)
        except NoThreadError:
            if not _alive:
                raise
            _left.append(job)
            _to_idle(_nothing)  # one that is idle since then would not have looked
        else:
            _alive.add(thread)
            _busy.add(thread)
            thread.jobs.put(job)
    del job
    try:
        return await done
    finally:
        del done  # as above


def _to_idle(job: Callable[[], None]) -> bool:
    """Give the job to a thread that waits for one, if any does."""
    try:
        thread = _idle.pop()
    except IndexError:
        return False
    _busy.add(thread)
    thread.jobs.put(job)
    return True


def _nothing() -> None: ...


def start_thread(thread: threading.Thread) -> None:
    """Start it; NoThreadError where the system has no more of them, or the process is ending."""
    try:
        thread.start()
    except RuntimeError as exc:
        raise NoThreadError(f"the store needs a thread, and Python starts none: {exc}") from exc


def _job_of(work: Callable[[], _T]) -> tuple[Callable[[], None], asyncio.Future[_T]]:
    """Return what a thread calls, and the future that it settles on the running event loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()
    waiting = [done]

    def run() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except StopIteration as exc:  # a future takes none, and a coroutine makes the same of it
            error = RuntimeError("a function that was called in a thread raised StopIteration")
            error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001 - it belongs to the one who waits
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle_future, waiting.pop(), result, error)
        result = error = None  # the error refers to this frame

    return run, done


def settle_future(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Give a future its result or error, unless who waits for it has gone. On its event loop."""
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


class _Thread(threading.Thread):
    """Does one job after another, for any event loop of the process.

    A daemon: a process ends whichever loops it closed with calls in them, which keep threads of
    anyio waiting for ever, and can still use a store in its ``atexit`` functions, when threads of
    ``concurrent.futures`` take no more work.
    """

    def __init__(self) -> None:
        super().__init__(name="aiovec", daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            job = self.jobs.get()
            job()
            del job  # what it refers to must not wait for the next one
            while _left:
                with contextlib.suppress(IndexError):  # another one took it
                    _left.popleft()()
            _busy.discard(self)
            if len(_idle) >= _MOST_IDLE:
                _alive.discard(self)
                return
            _idle.append(self)
            if _left:  # since it looked
                _to_idle(_nothing)


# After many calls at once so many threads stay; more end, and are begun anew when needed.
_MOST_IDLE = 64
_idle: deque[_Thread] = deque()
_busy: set[_Thread] = set()
_alive: set[_Thread] = set()
# For the next one that is free, since none could be started.
_left: deque[Callable[[], None]] = deque()
# Seconds that the end of the process waits for work that nobody waits for any more: native code
# that meets the end of the interpreter in another thread may end it with a crash.
_LAST_WAIT = 10.0


def idle_threads() -> int:
    """The number of idle threads that are kept for the next work."""
    return len(_idle)


def _wait_for_threads() -> None:
    until = time.monotonic() + _LAST_WAIT
    while _busy and time.monotonic() < until:
        time.sleep(0.005)


def _forget_threads() -> None:
    """In a process that was forked they do not run."""
    for threads in (_idle, _busy, _alive, _left):
        threads.clear()


atexit.register(_wait_for_threads)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


async def wait_out(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until the future is done, whatever cancels the caller meanwhile, and however often.

    Gives the first cancellation, which the caller has to raise. One of a scope of anyio's is held
    back instead, and comes with the caller's next await.
    """
    import anyio  # not loaded by ``import aiovec``

    first: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as exc:
                first = first or exc
    return first


async def to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that is not cancelled when its caller is.

    The cancellation comes through when the work has ended.
    """
    task = asyncio.ensure_future(work)
    cancelled = await wait_out(task)
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # so that it does not count as never retrieved
        raise cancelled
    return task.result()


class Unstoppable(Awaitable[_T]):
    """A coroutine to await that no cancellation of its task reaches; the first comes at its end.

    It runs in the task that awaits it. A task of its own would be cancelled as well where a loop
    is about to end, and whatever that awaits with it.
    """

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, _T]:
        steps = self._work.__await__()
        cancelled: asyncio.CancelledError | None = None
        while True:
            waited_for = None  # its error refers to this frame
            try:
                waited_for = next(steps)
            except StopIteration as stop:
                if cancelled is not None:
                    raise cancelled from None
                return stop.value  # type: ignore[no-any-return]
            except BaseException as exc:
                if cancelled is not None:
                    raise cancelled from exc
                raise
            if waited_for is None:  # asyncio.sleep(0)
                try:
                    yield None
                except asyncio.CancelledError as exc:
                    cancelled = cancelled or exc
                continue
            waited_for._asyncio_future_blocking = False
            while not waited_for.done():
                try:
                    yield from asyncio.wait([waited_for]).__await__()
                except asyncio.CancelledError as exc:
                    cancelled = cancelled or exc


class NeverBegunError(Exception):
    """Raised in a thread in place of work whose caller has gone. Never reaches a user."""


class ThreadWork(Generic[_T]):
    """Work for a thread, and who waits for its end where its caller is cancelled.

    Popping from a list is one step for all threads, so no lock is taken on the event loop.
    """

    __slots__ = ("_ends", "_loop", "_over", "_start", "_work")

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        # Whoever pops this begins: the thread the work, or the cancelled caller its leaving.
        self._start = [True]
        # The thread and the cancelled caller pop one each; the second of them finds True.
        self._ends = [True, False]
        self._over: asyncio.Future[None] | None = None

    def __call__(self) -> _T:
        """Do the work, in the thread; NeverBegunError where the caller was cancelled before."""
        if not self._pop_start():
            raise NeverBegunError
        try:
            return self._work()
        finally:
            if self._ends.pop() and self._over is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    self._loop.call_soon_threadsafe(self._over.set_result, None)

    async def leave(self) -> None:
        """The caller was cancelled: let the work never begin, or wait until it has ended."""
        self._over = self._loop.create_future()
        if not self._pop_start() and not self._ends.pop():
            await wait_out(self._over)

    def _pop_start(self) -> bool:
        try:
            return self._start.pop()
        except IndexError:
            return False


class Nested(AsyncIterator[_T]):
    """An async generator of which no event loop knows, nor of those that it iterates.

    A loop that ends closes all that it knows at once: one that iterates another would find that
    closing already, or be found so by it. Who iterates this one closes it.

    One whose step is collected in the middle, as its loop was closed under it, is left as it is:
    what it would await to clean up has no loop, and Python up to 3.12 takes it to be running on.
    """

    def __init__(self, generator: AsyncGenerator[_T, None]) -> None:
        self._generator = generator
        self._left = False

    async def __anext__(self) -> _T:
        try:
            return await _Unknown(self._generator.__anext__)
        except GeneratorExit:
            self._left = True
            raise

    async def aclose(self) -> None:
        if not self._left:
            await _Unknown(self._generator.aclose)


class _Unknown(Awaitable[_T]):
    """A step of an async generator, to await once."""

    def __init__(self, begin: Callable[[], Awaitable[_T]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, Any, _T]:
        steps: Any = None
        error: BaseException | None = None
        while True:
            hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(firstiter=None, finalizer=_leave)
            try:
                if steps is None:
                    steps = self._begin().__await__()
                waited_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            finally:
                sys.set_asyncgen_hooks(*hooks)
                error = None
            try:
                yield waited_for
            except GeneratorExit:
                raise
            except BaseException as exc:  # noqa: BLE001 - it is the generator's
                error = exc


def _leave(generator: object) -> None:
    """Of one that is collected: whoever iterated it was collected with it."""
