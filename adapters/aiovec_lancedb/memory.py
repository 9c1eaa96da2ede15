"""Limit the memory that a store's reads use in total.

Lance reads ahead of its computation, and the sort in a flat search keeps the batches that contain
its candidates. So one search may hold a copy of all vectors, and a hundred searches may hold a
hundred copies (``python -m bench lancedb``). Work that reads many rows takes a share of the memory,
and waits until its share is free.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from aiovec.backend.limits import Gate, Slot, read_gate

# Work that takes fewer bytes need not wait: it usually ends before its turn would come.
_FREE = 2 * 2**20

# The sort in a flat search discards batches once it holds this many rows that are not candidates:
# 20 batches of 8,192.
_ROWS_HELD = 20 * 8192
# The most bytes that are read ahead of the computation (see ``driver``), plus a quarter, because
# data comes in pieces of a few MiB and buffers are rounded up.
_READ_AHEAD = 256 * 2**20
_ROUNDED = 1.25
_PLAN = 4 * 2**20
# Freed memory that the C library keeps for later.
_KEPT = 128 * 2**20
# Estimated bytes of a row without its vector, and of an id when only ids are read.
_ROW_BYTES = 512
_ID_BYTES = 64
# The number of copies of a row in a result: one in Arrow, two as float64 for exact distances, and
# one as Python values.
_COPIES = 4

SCAN_BATCH = 4096
"""The number of rows in each batch of a scan."""

STREAM_BYTES = int(_ROUNDED * _READ_AHEAD)
"""Maximum number of bytes that a read of rows in batches holds at a time."""


def scan_bytes(rows: int, dim: int) -> int:
    """Return how many bytes a search for the nearest of ``rows`` vectors may hold."""
    vector = dim * 4
    return int(_ROUNDED * min(rows * vector, _ROWS_HELD * vector + _READ_AHEAD)) + _PLAN


def ids_bytes(rows: int) -> int:
    """Return how many bytes a read that finds ``rows`` rows by their fields may hold."""
    return min(rows * _ID_BYTES, _READ_AHEAD)


def result_bytes(rows: int, dim: int, row: int) -> int:
    """Return how many bytes ``rows`` rows may hold as a result, or while they are changed.

    ``dim`` is 0 without vectors, and ``row`` is the size of a row without its vector.
    """
    return rows * (dim * 4 + max(row, _ROW_BYTES)) * _COPIES


class ReadAdmission(Gate):
    """Gives reads shares of the memory. A read waits for its share without a time limit."""

    def __init__(self, memory: int = 0) -> None:
        super().__init__("other reads use all of search_memory")
        self._turns = read_gate()
        self.allow(memory)

    def allow(self, memory: int) -> None:
        """Let all reads together use this much of the process's memory."""
        self.memory = max(1, memory - min(memory // 2, _KEPT))  # with 1 byte, each read runs alone

    def free(self, size: int = 0) -> bool:
        return size < _FREE or super().free(size)

    def waits(self, size: int) -> bool:
        """Return whether a read of this size would wait for its share or its turn."""
        return not (self.free(size) and self._turns.free())

    def share(self, size: int) -> AbstractAsyncContextManager[object]:
        """Return a context manager that holds a share of this size. Small shares are not counted,
        and need not wait."""
        if size < _FREE:
            return nullcontext()
        return self.enter(None, size)

    def turn(self) -> Slot:
        """Return a slot for a read that holds its share. More slots would not make reads faster."""
        return self._turns.enter(None)

    def close(self, error: Exception) -> None:
        super().close(error)
        self._turns.close(error)
