"""Giving the memory that a burst of calls took back to the system.

The C library keeps what is freed for the next ones, however long none comes: five hundred tasks on
LanceDB left a process at three times the memory that it had before, without an object alive in it.
It gives that back when it is told, which holds up whoever allocates from the same heap at that
moment: 4 ms for 300 MiB, 0.1 s for 600 MiB in many pieces. So it is told when no large read is
under way.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable

from .memory import give_back, resident_memory
from .pool import in_thread
from .threads import Background

# Seconds from a call to the look whether there is something to give back.
_AFTER = 1.0
# Bytes more than were held behind the last time from which it pays.
_WORTH_IT = 32 * 2**20


class _Heap:
    """The process's memory: how much it is, and giving back what nothing uses. For threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._floor: int | None = None

    def trim(self) -> None:
        with self._lock:
            held = resident_memory()
            if self._floor is None or held < self._floor:
                self._floor = held
            if held and held - self._floor < _WORTH_IT:
                return
            if pyarrow := sys.modules.get("pyarrow"):
                pyarrow.default_memory_pool().release_unused()
            give_back()
            self._floor = resident_memory()


_heap = _Heap()


class Trimmer:
    """Gives memory back some time after a store was used."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Background()

    def used(self) -> None:
        """A call was made. Cheap."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a call is collected whose loop was closed under it
        if self._timer is None or self._loop is not loop:
            self._loop = loop
            self._timer = loop.call_later(_AFTER, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._busy():
            self.used()
        else:
            self._tasks.start(in_thread(_heap.trim))

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tasks.start(in_thread(_heap.trim))
        await self._tasks.wait()
