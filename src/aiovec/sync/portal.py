"""An event loop in a thread of its own, and calls into it from other threads.

Each store has its own, as it has its own connections: what blocks one loop harms no other store,
and ``close`` ends the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from ..backend.threads import FORKED, wait_out
from ..errors import StoreClosedError

_T = TypeVar("_T")

# On Windows a wait without an end cannot be interrupted by Ctrl-C.
_TICK = 0.5


class Portal:
    """Runs awaitables for threads that cannot await. ``target`` names the store in errors."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._process = os.getpid()
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon: a store that nobody closed never keeps the process from ending.
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._serve(started),), name="aiovec-sync", daemon=True
        )
        self._thread.start()
        self._loop = started.result()

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()  # then asyncio.run cancels what is left

    @property
    def stopped(self) -> bool:
        """True after ``stop``."""
        return self._stop.is_set() or not self._thread.is_alive()

    @property
    def gone(self) -> str | None:
        """The reason why the thread cannot be asked any more, without ``stop``; None if it can."""
        if os.getpid() != self._process:
            return FORKED
        return "the interpreter is ending" if sys.is_finalizing() else None

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of what ``call``, which runs on the loop, gives to await.

        An interrupt, such as KeyboardInterrupt, cancels it, and is raised when that has ended.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a coroutine that the store awaits cannot wait for the store; await the "
                "asynchronous store there, or give the store a plain function"
            )
        running = _Running(call)
        try:
            self._start(running)
            self._wait(running)
        except StoreClosedError:  # one that the call raises comes below
            raise
        except BaseException:  # it may have come before the call was begun, or just afterwards
            self._soon(running.cancel)
            self._wait(running)  # a second interrupt interrupts this as well
            raise
        return self._result(running)

    async def run_for_task(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """As ``run``, awaited on another event loop, which goes on in the meantime.

        A cancelled caller waits until the call has ended.
        """
        if threading.current_thread() is self._thread:
            return await call()
        running = _Running(call)
        self._start(running)
        done = asyncio.wrap_future(running.done)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            self._soon(running.cancel)
            await wait_out(done)
            raise
        finally:
            if done.done() and not done.cancelled():
                done.exception()  # which ``_result`` raises
        return self._result(running)

    def begin(self, call: Callable[[], Awaitable[object]]) -> None:
        """Have something run without waiting for it; nothing where that cannot run any more."""
        with contextlib.suppress(StoreClosedError):
            self._start(_Running(call))

    def stop(self) -> None:
        """Cancel what still runs and end the thread. May be called twice."""
        self._soon(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _start(self, running: _Running[_T]) -> None:
        gone = self.gone
        if gone or self.stopped:
            raise StoreClosedError(self.target, gone)
        self._soon(running.start)

    def _soon(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so every call is over
            self._loop.call_soon_threadsafe(work)

    def _wait(self, running: _Running[_T]) -> None:
        while not running.done.done() and self._thread.is_alive():
            wait([running.done], timeout=_TICK)

    def _result(self, running: _Running[_T]) -> _T:
        try:
            return running.done.result(0)
        except (asyncio.CancelledError, TimeoutError):
            if self.stopped:
                raise StoreClosedError(self.target) from None
            raise


class _Running(Generic[_T]):
    """One call on the loop, and its result."""

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

    async def _drive(self) -> None:
        # Whatever comes out is for the caller; an exit would end the loop's thread here.
        try:
            result = await self._call()
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller
            self.done.set_exception(exc)
        else:
            self.done.set_result(result)

    def _settle(self, _: asyncio.Task[None]) -> None:
        if not self.done.done():  # cancelled before it began
            self.done.set_exception(asyncio.CancelledError())
