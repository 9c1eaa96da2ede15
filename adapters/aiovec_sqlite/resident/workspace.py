"""What scans share: arrays that are used again, and a thread that helps."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from .codes import Float32Array


class _Arrays(threading.local):
    """One thread's arrays, as large as its largest scan."""

    products: Any = None
    values: Float32Array | None = None
    reached: npt.NDArray[np.bool_] | None = None


class Workspace:
    """Arrays for each thread, and a helper for a search that has the machine for itself.

    Memory that is new to the process costs more than what a scan does with it, so every thread
    keeps its arrays (``python -m bench search``).
    """

    def __init__(self, *, helpers: int) -> None:
        self._arrays = _Arrays()
        self.helper: Executor | None = (
            ThreadPoolExecutor(helpers, "aiovec-scan") if helpers else None
        )

    def products(self, rows: int, columns: int) -> Any:
        """Room for the integer products of a segment."""
        found = self._arrays.products
        if found is None or found.shape[1] != columns or found.shape[0] < rows:
            found = self._arrays.products = numkong.empty((rows, columns), dtype="int32")
        return found if found.shape[0] == rows else found[:rows]

    def values(self, rows: int, columns: int) -> Float32Array:
        found = self._arrays.values
        if found is None or found.size < rows * columns:
            found = self._arrays.values = np.empty(rows * columns, dtype=np.float32)
        return found.reshape(-1)[: rows * columns].reshape(rows, columns)

    def reached(self, rows: int, columns: int) -> npt.NDArray[np.bool_]:
        found = self._arrays.reached
        if found is None or found.size < rows * columns:
            found = self._arrays.reached = np.empty(rows * columns, dtype=np.bool_)
        return found.reshape(-1)[: rows * columns].reshape(rows, columns)

    def close(self) -> None:
        if self.helper is not None:
            self.helper.shutdown(wait=False)
