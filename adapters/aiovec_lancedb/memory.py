"""The memory of a store: shares of it for reads.

Lance reads ahead of what it computes, and the sort behind a flat search keeps the batches that
its candidates come from. So one search may hold a copy of all vectors, and a hundred at once a
hundred copies (``python -m bench lancedb``). Work that reads many rows takes a share and waits for
it.
"""

from __future__ import annotations

from aiovec.backend.limits import Gate, Slot, current_deadline

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

STREAM_BYTES = int(_ROUNDED * _READ_AHEAD)
"""The bytes that reading rows batch by batch may hold at once."""


def scan_bytes(rows: int, dim: int) -> int:
    """Return the bytes that looking for the nearest of ``rows`` vectors may hold at once."""
    vector = dim * 4
    return int(_ROUNDED * min(rows * vector, _ROWS_HELD * vector + _READ_AHEAD)) + _PLAN


def ids_bytes(rows: int) -> int:
    """Return the bytes that looking for some of ``rows`` rows by their fields may hold at once."""
    return min(rows * _ID_BYTES, _READ_AHEAD)


def result_bytes(rows: int, dim: int, row: int) -> int:
    """Return the bytes that so many rows may hold as a result, or while they are changed.

    ``dim`` is 0 without vectors, and ``row`` has the bytes of a row beside its vector.
    """
    return rows * (dim * 4 + max(row, _ROW_BYTES)) * _COPIES


class ReadAdmission(Gate):
    """Shares of the memory that reads may take. Each waits for up to ``busy_timeout`` seconds."""

    def __init__(self, busy_timeout: float, memory: int = 0) -> None:
        super().__init__("other reads use all of search_memory")
        self._busy_timeout = busy_timeout
        self.allow(memory)

    def allow(self, memory: int) -> None:
        """Have all that goes on take this much of the process's memory."""
        self.memory = max(1, memory - min(memory // 2, _KEPT))  # of 1 each takes all

    def free(self, size: int = 0) -> bool:
        return size < _FREE or super().free(size)

    def share(self, size: int = 0) -> Slot:
        return self.enter(current_deadline(self._busy_timeout), 0 if size < _FREE else size)
