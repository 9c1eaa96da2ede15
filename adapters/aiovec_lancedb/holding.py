"""A lock that tasks take, and that none of them keeps by being cancelled or by its loop's end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from aiovec.backend import PerLoop, in_idle_thread, in_thread

from .locks import WriteLock


class _Try:
    """A try to take the lock: who pops ``wanted`` first decides, the thread that the lock is
    taken, or who does not wait any more that it is not."""

    __slots__ = ("wanted",)

    def __init__(self) -> None:
        self.wanted = [True]


class TaskLock:
    """A ``WriteLock`` for the tasks of one event loop after another."""

    def __init__(self, lock: WriteLock) -> None:
        self._lock = lock
        self._tries: PerLoop[set[_Try]] = PerLoop(set, self._take_over)

    async def take(
        self,
        patience: float,
        limit: anyio.CapacityLimiter,
        first: Callable[[], None] = lambda: None,
    ) -> bool:
        """Whether it was taken within some seconds. One who is cancelled has not taken it.

        ``first`` is done at once under the lock, which is not held where that raises.
        """
        tries, asked = self._tries(), _Try()

        def acquire() -> bool:
            if not self._lock.acquire(patience):
                return False
            try:
                first()
            except BaseException:
                self._lock.release()
                raise
            with suppress(IndexError):
                return asked.wanted.pop()
            self._lock.release()
            return False

        tries.add(asked)
        try:
            # A cancelled caller leaves at once: the thread may wait for the lock.
            async with limit:
                taken = await in_idle_thread(acquire)
        except BaseException:
            tries.discard(asked)
            self._let_go(asked)
            raise
        if not taken:
            tries.discard(asked)
        return taken

    def release(self) -> None:
        """Give it back; whoever took it on the running loop calls this."""
        tries = self._tries()
        tries -= {asked for asked in tries if not asked.wanted}
        self._lock.release()

    async def close(self) -> None:
        """Wait until the lock, which was released, is free for others."""
        await in_thread(self._lock.close)

    def _take_over(self, before: set[_Try]) -> None:
        """From a loop that is closed: what it had taken, or may still take, is given back."""
        for asked in before:
            self._let_go(asked)

    def _let_go(self, asked: _Try) -> None:
        try:
            asked.wanted.pop()
        except IndexError:
            self._lock.release()
