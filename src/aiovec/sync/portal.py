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
from typing import Any, TypeVar

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
        done, cancel = self.begin(call)
        try:
            self._wait(done)
        except BaseException:
            cancel()
            self._wait(done)  # a second interrupt interrupts this as well
            raise
        return self._result(done)

    async def run_for_task(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """As ``run``, awaited on another event loop, which goes on in the meantime.

        A cancelled caller waits until the call has ended.
        """
        if threading.current_thread() is self._thread:
            return await call()
        done, cancel = self.begin(call)
        ended = asyncio.wrap_future(done)
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            cancel()
            await wait_out(ended)
            raise
        finally:
            if ended.done():
                ended.exception()  # which ``_result`` raises
        return self._result(done)

    def begin(self, call: Callable[[], Awaitable[_T]]) -> tuple[Future[_T], Callable[[], None]]:
        """Have something run; return its result to come, and what cancels it.

        StoreClosedError where nothing can run any more.
        """
        gone = self.gone
        if gone or self.stopped:
            raise StoreClosedError(self.target, gone)
        done: Future[_T] = Future()
        tasks: list[asyncio.Task[None]] = []

        async def drive() -> None:
            # Whatever comes out is for the caller; an exit would end the loop's thread here.
            try:
                done.set_result(await call())
            except BaseException as exc:  # noqa: BLE001 - raised again by the caller
                done.set_exception(exc)

        def settle(_: object) -> None:
            if not done.done():  # cancelled before it began
                done.set_exception(asyncio.CancelledError())

        def start() -> None:
            tasks.append(asyncio.ensure_future(drive()))
            tasks[0].add_done_callback(settle)

        self._soon(start)
        return done, lambda: self._soon(lambda: tasks[0].cancel())

    def stop(self) -> None:
        """Cancel what still runs and end the thread. May be called twice."""
        self._soon(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _soon(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so every call is over
            self._loop.call_soon_threadsafe(work)

    def _wait(self, done: Future[Any]) -> None:
        while not done.done() and self._thread.is_alive():
            wait([done], timeout=_TICK)

    def _result(self, done: Future[_T]) -> _T:
        try:
            return done.result(0)
        except (asyncio.CancelledError, TimeoutError):
            if self.stopped:
                raise StoreClosedError(self.target) from None
            raise
