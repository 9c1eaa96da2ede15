"""Vectors that searches measured lately, kept so that the next ones need not read them again.

They are those of one moment, the newest state of the copy. A search in another state gets none,
and adds none.
"""

from __future__ import annotations

import threading

import numpy as np

from aiovec.backend import Float32Array, Int64Array

# For fewer vectors it is not worth it.
_FEWEST = 64
# So large a share of the places is not given to the rows of one read.
_MOST_AT_ONCE = 1 / 4


class KeptVectors:
    """Each row has one place, which it shares with others; the last one read has it."""

    def __init__(self, dim: int, most_bytes: int) -> None:
        self._dim = dim
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._places = 0
        self._change = -1
        self._rowids: Int64Array = np.empty(0, dtype=np.int64)
        self._vectors: Float32Array = np.empty((0, dim), dtype=np.float32)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._rowids.nbytes + self._vectors.nbytes

    def begin(self, change: int, codes: int) -> None:
        """Keep vectors as they are at this change number, beside so many bytes of codes.

        They take at most half as much, when there are any.
        """
        places = min(self._most_bytes, codes // 2) // (4 * self._dim + 8)
        with self._lock:
            self._change = change
            self._places = places if places >= _FEWEST else 0

    def advance(self, change: int, changed: Int64Array) -> None:
        """Go on to a newer change number; these rows are others since, or gone."""
        with self._lock:
            self._change = change
            if len(self._rowids):
                places = changed % self._places
                self._rowids[places[self._rowids[places] == changed]] = -1

    def give_up(self) -> None:
        """Give the memory back, and keep nothing any more."""
        with self._lock:
            self._places = 0
            self._rowids, self._vectors = self._rowids[:0].copy(), self._vectors[:0].copy()

    def get(self, rowids: Int64Array, change: int, to: Float32Array) -> Int64Array:
        """Copy the vectors that are kept to where their rowids stand; return where none is."""
        with self._lock:
            if change != self._change or not len(self._rowids):
                return np.arange(len(rowids))
            places = rowids % self._places
            there = self._rowids[places] == rowids
            if there.all():
                self._vectors.take(places, axis=0, out=to, mode="clip")
            elif there.any():
                to[there] = self._vectors[places[there]]
            return np.flatnonzero(~there)

    def put(self, rowids: Int64Array, change: int, vectors: Float32Array) -> None:
        """Keep these, as they are at this change number."""
        with self._lock:
            if change != self._change or len(rowids) > self._places * _MOST_AT_ONCE:
                return
            if not len(self._rowids):
                self._rowids = np.full(self._places, -1, dtype=np.int64)
                self._vectors = np.empty((self._places, self._dim), dtype=np.float32)
            places = rowids % self._places
            self._rowids[places] = rowids
            last = self._rowids[places] == rowids  # of those that share a place
            self._vectors[places[last]] = vectors[last]
