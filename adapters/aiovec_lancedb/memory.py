"""The memory of a store: shares of it for reads.

Lance reads ahead of what it computes, and the sort behind a flat search keeps the batches that
its candidates come from. So one search may hold a copy of all vectors, and a hundred at once a
hundred copies (``python -m bench lancedb``). Work that reads many rows takes a share and waits for
it.
"""

from __future__ import annotations

from aiovec.backend.limits import Gate, Place, current_deadline

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
