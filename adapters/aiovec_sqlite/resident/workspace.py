"""What scans share: arrays that are used again, and a thread that helps."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import numkong
import numpy as np
import numpy.typing as npt

from .codes import Float32Array


class _Arrays:
    """One thread's arrays, as large as its largest scan."""

    products: Any = None
    values: Float32Array | None = None
    reached: npt.NDArray[np.bool_] | None = None

    @property
    def nbytes(self) -> int:
        arrays = (self.products, self.values, self.reached)
        return sum(np.asarray(one).nbytes for one in arrays if one is not None)

    def clear(self) -> None:
        self.products = self.values = self.reached = None


class Workspace:
    """Arrays for each thread, and a helper for a search that has the machine for itself.

    Memory that is new to the process costs more than what a scan does with it, so every thread
    keeps its arrays (``python -m bench search``).
    """

    def __init__(self, *, helpers: int) -> None:
        self._threads = threading.local()
        # Those of threads that have ended go with their threads.
        self._every: WeakSet[_Arrays] = WeakSet()
        self._lock = threading.Lock()
        self.helper: Executor | None = (
            ThreadPoolExecutor(helpers, "aiovec-scan") if helpers else None
        )

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(arrays.nbytes for arrays in self._every)

    def clear(self) -> None:
        """Give the arrays back; a scan that uses some keeps them to its end."""
        with self._lock:
            for arrays in self._every:
                arrays.clear()

    @property
    def _arrays(self) -> _Arrays:
        arrays: _Arrays | None = getattr(self._threads, "arrays", None)
        if arrays is None:
            arrays = self._threads.arrays = _Arrays()
            with self._lock:
                self._every.add(arrays)
        return arrays

    def products(self, rows: int, columns: int) -> Any:
        """Room for the integer products of a segment."""
        arrays = self._arrays
        found = arrays.products
        if found is None or found.shape[1] != columns or found.shape[0] < rows:
            found = arrays.products = numkong.empty((rows, columns), dtype="int32")
        return found if found.shape[0] == rows else found[:rows]

    def values(self, rows: int, columns: int) -> Float32Array:
        arrays = self._arrays
        found = arrays.values
        if found is None or found.size < rows * columns:
            found = arrays.values = np.empty(rows * columns, dtype=np.float32)
        return found.reshape(-1)[: rows * columns].reshape(rows, columns)

    def reached(self, rows: int, columns: int) -> npt.NDArray[np.bool_]:
        arrays = self._arrays
        found = arrays.reached
        if found is None or found.size < rows * columns:
            found = arrays.reached = np.empty(rows * columns, dtype=np.bool_)
        return found.reshape(-1)[: rows * columns].reshape(rows, columns)

    def close(self) -> None:
        if self.helper is not None:
            self.helper.shutdown(wait=False)
