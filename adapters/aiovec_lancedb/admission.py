"""Who may use how much memory at once: work that reads many rows takes a share and waits for it.

Lance reads ahead of what it computes, and the sort behind a flat search keeps the batches that
its candidates come from. So one search may hold a copy of all vectors, and a hundred at once a
hundred copies (``python -m bench lancedb``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


def scan_bytes(rows: int, dim: int, results: int = 0) -> int:
    """What reading ``rows`` vectors may hold at once, with so many rows as its result."""
    row = dim * 4
    read = _ROUNDED * min(rows * row, _ROWS_HELD * row + _READ_AHEAD)
    return int(read) + _result_bytes(min(rows, results), dim) + _PLAN


def stream_bytes() -> int:
    """What reading rows one batch after another may hold at once."""
    return int(_ROUNDED * _READ_AHEAD)


def result_bytes(rows: int, found: int, dim: int) -> int:
    """What finding ``found`` of ``rows`` rows may hold; ``dim`` is 0 where no vectors are read."""
    return min(rows * _ID_BYTES, _READ_AHEAD) + _result_bytes(min(rows, found), dim)


def _result_bytes(rows: int, dim: int) -> int:
    return rows * (dim * 4 + _ROW_BYTES) * _COPIES


class Admission:
    """Shares of a budget. Who asks first is served first; who asks for more than all runs alone."""

    def __init__(self, memory: int = 0) -> None:
        self.budget = 0
        self.allow(memory)
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def allow(self, memory: int) -> None:
        """Have all that goes on take this much of the process's memory."""
        self.budget = max(1, memory - min(memory // 2, _KEPT))  # of 1 each takes all

    @property
    def used(self) -> int:
        """The shares that are taken now."""
        return self._used

    @property
    def waiting(self) -> int:
        """Who waits for a share."""
        return len(self._waiting)

    def free(self, size: int) -> bool:
        """Whether a share of this size would come without a wait."""
        room = self.budget - self._used
        return size < _FREE or (not self._waiting and min(size, self.budget) <= room)

    @asynccontextmanager
    async def share(self, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes of the budget, after those who asked before have got theirs."""
        if size < _FREE:
            yield
            return
        size = min(size, self.budget)
        await self._take(size)
        try:
            yield
        finally:
            self._give_back(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and self._used + size <= self.budget:
            self._used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.append(entry)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(size)  # it came, and the caller was cancelled at the same moment
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._admit()
            raise

    def _give_back(self, size: int) -> None:
        self._used -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self.budget:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._used += size
                turn.set_result(None)

    def close(self, error: Exception) -> None:
        """Have those that wait end with the error."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)
