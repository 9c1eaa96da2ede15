"""The memory of a store: shares of it for reads, and giving freed memory back to the system.

Lance reads ahead of what it computes, and the sort behind a flat search keeps the batches that
its candidates come from. So one search may hold a copy of all vectors, and a hundred at once a
hundred copies (``python -m bench lancedb``). Work that reads many rows takes a share and waits for
it.

Lance reads into buffers of some MiB, in many threads. The C library keeps what they free for the
next ones: five hundred tasks left a process at three times the memory that it had before, without
an object alive in it. It gives that back when it is told, which holds up whoever allocates from the
same heap at that moment: 0.1 s for 600 MiB. So it is told when no large read is under way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context

import pyarrow as pa

from aiovec.backend.limits import Gate, Place, current_deadline
from aiovec.backend.memory import give_back, resident_memory
from aiovec.backend.threads import Background, in_thread

# Work that takes less than this need not wait: it is over sooner than its turn would come.
_FREE = 2 * 2**20

# The sort behind a flat search throws batches away when it holds this many rows that it does not
# need: 20 batches of 8,192 rows.
_ROWS_HELD = 20 * 8192
# What is read ahead of the computation, at most: see ``driver``; and a quarter more,
# since what is read comes in pieces of some MiB, and buffers are rounded up.
_READ_AHEAD = 256 * 2**20
_ROUNDED = 1.25
_PLAN = 4 * 2**20
# What the C library keeps of freed memory for the next ones.
_KEPT = 128 * 2**20
# A guess for the bytes of a row beside its vector, and for those of an id where only ids are read.
_ROW_BYTES = 512
_ID_BYTES = 64
# A row of the result as Arrow, as float64 where it is measured, and as Python values.
_COPIES = 4


def scan_bytes(rows: int, dim: int, results: int = 0, row: int = _ROW_BYTES) -> int:
    """Return the bytes that reading ``rows`` vectors may hold at once, results included; ``row`` as
    in ``result_bytes``."""
    vector = dim * 4
    read = _ROUNDED * min(rows * vector, _ROWS_HELD * vector + _READ_AHEAD)
    return int(read) + _result_bytes(results, dim, row) + _PLAN


def kept_bytes(results: int, dim: int, row: int) -> int:
    """Return the bytes of results that are kept while others are looked for; ``dim`` and ``row`` as
    in ``result_bytes``."""
    return results * (dim * 4 + max(row, _ROW_BYTES))


def stream_bytes() -> int:
    """Return the bytes that reading rows batch by batch may hold at once."""
    return int(_ROUNDED * _READ_AHEAD)


def result_bytes(rows: int, found: int, dim: int, row: int = _ROW_BYTES) -> int:
    """Return the bytes that finding ``found`` of ``rows`` rows may hold; ``dim`` 0: no vectors,
    and ``row`` the bytes of a row beside its vector."""
    return min(rows * _ID_BYTES, _READ_AHEAD) + _result_bytes(min(rows, found), dim, row)


def changed_bytes(rows: int, row: int) -> int:
    """Return the bytes that changing the payloads of so many rows may hold."""
    return rows * row * _COPIES


def _result_bytes(rows: int, dim: int, row: int = _ROW_BYTES) -> int:
    return rows * (dim * 4 + max(row, _ROW_BYTES)) * _COPIES


class ReadAdmission(Gate):
    """Shares of the memory that reads may take. Each waits for up to ``busy_timeout`` seconds."""

    def __init__(self, busy_timeout: float, memory: int = 0) -> None:
        super().__init__("other reads use all of search_memory")
        self._busy_timeout = busy_timeout
        self.allow(memory)

    def allow(self, memory: int) -> None:
        """Have all that goes on take this much of the process's memory."""
        self.memory = self.budget = max(1, memory - min(memory // 2, _KEPT))  # of 1 each takes all

    def free(self, size: int = 0) -> bool:
        return size < _FREE or super().free(size)

    def share(self, size: int = 0) -> Place:
        return self.enter(current_deadline(self._busy_timeout), 0 if size < _FREE else size)


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
        if not self._lock.acquire(blocking=False):  # others do, or did when this process was forked
            return
        try:
            held = resident_memory()
            if self._floor is not None:
                self._floor = min(self._floor, held)
                if held and held - self._floor < _WORTH_IT:
                    return
            pa.default_memory_pool().release_unused()
            give_back()
            self._floor = resident_memory()
        finally:
            self._lock.release()


_heap = _Heap()


class Trimmer:
    """Gives memory back some time after a store was used."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        """``busy`` is asked once for each look: whether to look again later."""
        self._busy = busy
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Background()

    def used(self) -> None:
        """A call was made. Cheap."""
        if self._timer is None:
            # A context of its own: that of a call may hold whatever its app has put there.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_AFTER, self._look, context=Context())

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
