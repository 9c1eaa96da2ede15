"""An event loop in a thread of its own, and calls into it from other threads.

Each store has its own, as it has its own connections: what blocks one loop harms no other store,
``close`` ends the thread, and nothing global has to be kept, counted or made anew after a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from ..backend.threads import FORKED, start_thread, wait_out
from ..errors import StoreClosedError

_T = TypeVar("_T")

# On Windows a wait without an end cannot be interrupted by Ctrl-C.
_TICK = 0.5


class Portal:
    """Runs awaitables for threads that cannot await. ``target`` names the store in errors.

    The thread ends with ``stop``, and never keeps the process from ending.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._process = os.getpid()
        # The garbage collector may close an iterator where this thread has the lock already.
        self._lock = threading.RLock()
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        # What threads iterate. Others are generators within these, which close with them. One that
        # was collected would be closed by the loop too, and each within it, all at once.
        self.iterated: set[AsyncGenerator[Any, None]] = set()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop, self.iterated), name="aiovec-sync", daemon=True
        )
        start_thread(self._thread)

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def forked(self) -> bool:
        """True in a child process after a fork, where the portal's thread does not exist."""
        return os.getpid() != self._process

    @property
    def gone(self) -> bool:
        """True where the portal's thread runs no more, and cannot be asked: behind a fork, and
        while the interpreter ends, which has halted it."""
        return self.forked or sys.is_finalizing()

    @property
    def is_current(self) -> bool:
        """Return whether the caller runs on the portal's own loop, where it must not wait."""
        # A thread that has ended leaves its number to the next.
        return threading.get_ident() == self._thread.ident and self._thread.is_alive()

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """The result of what ``call``, which runs on the loop, gives to await.

        An interrupt, such as KeyboardInterrupt, cancels it, and goes on when that has ended.
        """
        self._check()
        if self.is_current:
            raise RuntimeError(
                "a coroutine that the store awaits cannot wait for the store; await the "
                "asynchronous store there, or give the store a plain function"
            )
        running = _Running(call)
        try:
            self._start(running)
            running.wait()
        except StoreClosedError:  # what the call raises comes below
            raise
        except BaseException:  # it may have come before the call was begun, or just afterwards
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the call is over
                self._loop.call_soon_threadsafe(running.cancel)
            running.wait(self._thread)  # who is impatient interrupts this as well
            raise
        try:
            return running.done.result()
        except asyncio.CancelledError:
            if self._stopped:
                raise StoreClosedError(self.target) from None
            raise

    async def run_for_task(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """As ``run``, awaited on another event loop, which goes on meanwhile.

        A cancelled caller waits until the call has ended.
        """
        self._check()
        if self.is_current:
            return await call()
        running = _Running(call)
        self._start(running)
        done = asyncio.wrap_future(running.done)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the call is over
                self._loop.call_soon_threadsafe(running.cancel)
            await wait_out(done)
            running.done.exception()
            if not done.cancelled():
                done.exception()
            raise  # the same one, by which a scope of anyio knows its own
        try:
            return done.result()
        except asyncio.CancelledError:
            if self._stopped:
                raise StoreClosedError(self.target) from None
            raise

    def begin(self, call: Callable[[], Awaitable[object]]) -> None:
        """Have something run without waiting for it; nothing where that cannot run any more."""
        with contextlib.suppress(StoreClosedError):
            self._check()
            self._start(_Running(call))

    def stop(self) -> None:
        """Cancel what still runs and end the thread. May be called twice, and after a fork."""
        if self.gone:
            return
        with self._lock:
            self._stopped = True
        with contextlib.suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.is_current:
            self._thread.join()

    def _check(self) -> None:
        # Before the lock, which another thread may have held at the fork or when it was halted.
        if self.forked:
            raise StoreClosedError(self.target, FORKED)
        if self.gone:
            raise StoreClosedError(self.target, "the interpreter is ending")

    def _start(self, running: _Running[_T]) -> None:
        with self._lock:
            if self._stopped:
                raise StoreClosedError(self.target)
            try:
                self._loop.call_soon_threadsafe(running.start)
            except RuntimeError as exc:
                raise StoreClosedError(self.target, "its thread has ended") from exc


class _Running(Generic[_T]):
    """One call on the loop, and what it came to."""

    def __init__(self, call: Callable[[], Awaitable[_T]]) -> None:
        self._call = call
        self._task: asyncio.Task[None] | None = None
        self.done: Future[_T] = Future()

    def start(self) -> None:
        if self.done.done():
            return
        self._task = asyncio.get_running_loop().create_task(self._drive())
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.done.done():
            self.done.set_exception(asyncio.CancelledError())

    def wait(self, thread: threading.Thread | None = None) -> None:
        """Wait until it is over, or the thread that runs it."""
        while not self.done.done() and (thread is None or thread.is_alive()):
            wait([self.done], timeout=_TICK)

    async def _drive(self) -> None:
        # Whatever comes out is for the one who waits; an exit would end the loop's thread here.
        try:
            result = await self._call()
        except BaseException as exc:  # noqa: BLE001 - raised again where it belongs
            self.done.set_exception(exc)
        else:
            self.done.set_result(result)

    def _settle(self, _: asyncio.Task[None]) -> None:
        if not self.done.done():  # cancelled before it began
            self.done.set_exception(asyncio.CancelledError())


def _serve(loop: asyncio.AbstractEventLoop, iterated: set[AsyncGenerator[Any, None]]) -> None:
    try:
        loop.run_forever()
    finally:
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            for generator in list(iterated):
                loop.run_until_complete(generator.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
