"""An event loop in a separate thread, and calls into it from other threads.

Each store has its own portal: a blocked loop affects no other store, and closing the store ends
its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..backend.threads import FORKED, to_its_end
from ..errors import StoreClosedError

_T = TypeVar("_T")

# On Windows, Ctrl-C cannot interrupt a wait without a timeout.
_TICK = 0.5


class Portal:
    """Runs awaitables for threads that cannot await. ``target`` names the store in errors."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._process = os.getpid()
        self._stop = asyncio.Event()
        # Used instead of is_alive(), which may report a running thread as ended after an interrupt.
        self._over = False
        started: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon thread, so that an unclosed store does not keep the process alive.
        self._thread = threading.Thread(
            target=self._run_loop, args=(started,), name="aiovec-sync", daemon=True
        )
        try:
            self._thread.start()
            self._loop = started.result()
        except BaseException:  # such as an interrupt
            started.add_done_callback(
                lambda loop: loop.result().call_soon_threadsafe(self._stop.set)
            )
            raise

    def _run_loop(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(started))
        finally:
            self._over = True

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()  # when this returns, asyncio.run cancels the remaining tasks

    @property
    def is_here(self) -> bool:
        """True in the portal's own thread."""
        return threading.current_thread() is self._thread

    @property
    def stopped(self) -> bool:
        """True once ``stop`` was called, or the loop has ended."""
        return self._stop.is_set() or self._over

    @property
    def gone(self) -> str | None:
        """The reason why the thread cannot be used, other than ``stop``; None if it can be used."""
        if os.getpid() != self._process:
            return FORKED
        return "the interpreter is ending" if sys.is_finalizing() else None

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of the awaitable that ``call`` returns; both run on the loop.

        An interrupt, such as KeyboardInterrupt, cancels the call, and is raised once the call ends.
        """
        if self.is_here:
            raise RuntimeError(
                "a coroutine that the store awaits cannot wait for the store; await the "
                "asynchronous store there, or give the store a plain function"
            )
        begun = _LoopCall(call)
        self._check()
        try:
            self._soon(begun.start)
            self._wait(begun)
        except BaseException:
            self._soon(begun.cancel)
            self._wait(begun)  # a second interrupt ends this wait too
            raise
        return self._result(begun)

    async def run_for_task(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Like ``run``, but for callers on another event loop, which it does not block.

        If the caller's task is cancelled, the call is cancelled too, and the task waits until the
        call has ended.
        """
        if self.is_here:
            return await call()
        begun = _LoopCall(call)
        self._check()
        self._soon(begun.start)
        ended = asyncio.wrap_future(begun.result)
        try:
            await self._wait_for(ended)
        except asyncio.CancelledError:
            self._soon(begun.cancel)
            await to_its_end(self._wait_for(ended))
            raise
        finally:
            if ended.done():
                ended.exception()  # ``_result`` raises the exception
        return self._result(begun)

    def begin(self, call: Callable[[], Awaitable[object]]) -> None:
        """Run a call without waiting for its end.

        Raises StoreClosedError if the loop no longer runs.
        """
        self._check()
        self._soon(_LoopCall(call).start)

    def _check(self) -> None:
        """Raise StoreClosedError if the loop no longer runs."""
        gone = self.gone
        if gone or self.stopped:
            raise StoreClosedError(self.target, gone)

    def stop(self) -> None:
        """Cancel the running calls and end the thread. May be called twice."""
        self._soon(self._stop.set)
        if not self.is_here:
            self._thread.join()

    def _soon(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so every call is over
            self._loop.call_soon_threadsafe(work)

    # The loop may end before it starts a call, so a wait also checks whether the loop has ended.

    def _wait(self, call: _LoopCall[Any]) -> None:
        while not call.ended and not self._over:
            call.bell.acquire(timeout=_TICK)

    async def _wait_for(self, ended: asyncio.Future[Any]) -> None:
        while not ended.done() and not self._over:
            await asyncio.wait([ended], timeout=_TICK)

    def _result(self, call: _LoopCall[_T]) -> _T:
        try:
            return call.result.result(0)
        except (asyncio.CancelledError, TimeoutError):
            if self.stopped:
                raise StoreClosedError(self.target) from None
            raise


class _LoopCall(Generic[_T]):
    """One call on a portal's loop. ``start`` and ``cancel`` run on that loop.

    An interrupt may arrive at any line of the waiting thread, even while it schedules the call, so
    this object, which can cancel the call, is created first. The thread waits for a lock instead of
    the future, whose condition an interrupt may leave locked.
    """

    def __init__(self, act: Callable[[], Awaitable[_T]]) -> None:
        self.result: Future[_T] = Future()
        self.ended = False
        self.bell = threading.Lock()
        self.bell.acquire()
        self._act = act
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if not self.ended:
            self._task = asyncio.ensure_future(self._drive())
            self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.ended:  # ``start`` has not run, and may never run
            self._end()

    async def _drive(self) -> None:
        # The caller gets every exception; SystemExit would end the loop's thread.
        try:
            self.result.set_result(await self._act())
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller
            self.result.set_exception(exc)

    def _end(self, _: object = None) -> None:
        if not self.result.done():  # cancelled before it began
            self.result.set_exception(asyncio.CancelledError())
        self.ended = True
        self.bell.release()
