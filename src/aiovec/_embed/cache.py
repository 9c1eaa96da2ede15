"""Vectors of texts that were embedded before, bounded by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from .._model.arrays import Float32Array
from .protocol import Purpose

# Python's objects of one entry: a key, an array and its buffer, a place in the dict.
_OVERHEAD = 400
_AT_ONCE = 256

Key = bytes


class Cache:
    """The vectors that were used last. Any thread may use it."""

    def __init__(self, most_bytes: int, dim: int) -> None:
        self._most = most_bytes // (4 * dim + _OVERHEAD)
        self._held: OrderedDict[Key, Float32Array] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def keys(self, texts: Sequence[str], kind: Purpose) -> list[Key]:
        """Return the keys of texts: digests, so that a long text takes no more than a short one."""
        person = kind.encode()
        return [blake2b(text.encode(), digest_size=20, person=person).digest() for text in texts]

    def get_all(self, keys: Sequence[Key]) -> list[Float32Array | None]:
        """Return the vector of each key, None where there is none."""
        if not self._held:
            return [None] * len(keys)
        found: list[Float32Array | None] = []
        for start in range(0, len(keys), _AT_ONCE):  # the event loop may wait for the lock
            with self._lock:
                for key in keys[start : start + _AT_ONCE]:
                    vector = self._held.get(key)
                    if vector is not None:
                        self._held.move_to_end(key)
                    found.append(vector)
        return found

    def put_all(self, entries: Iterable[tuple[Key, Float32Array]]) -> None:
        """Keep vectors; those that were used longest ago go."""
        if not self._most:
            return
        # More than it holds would only push out one another.
        for key, vector in list(entries)[-self._most :]:
            kept = vector.copy()  # not the whole answer that it is a row of
            with self._lock:
                self._held[key] = kept
                self._held.move_to_end(key)
                if len(self._held) > self._most:
                    self._held.popitem(last=False)
