"""The search in C: one call for a batch, during which Python's other threads run."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiovec.backend import BoolArray, Float32Array, Float64Array, Int64Array, Metric

from .codes import stacked
from .kernel.library import KINDS, METRICS, address, library
from .segments import State


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, how many rows it wants, and which rows of each segment it may find (None: all)."""

    vector: Float32Array
    wanted: int
    masks: Sequence[BoolArray] | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that may be among a query's nearest, the likeliest first."""

    rowids: Int64Array
    most: Float64Array
    """The most that their true values can be."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows and their distances to a query; vectors where the batch wants any."""

    rowids: Int64Array
    distances: Float64Array
    vectors: Float32Array | None


def candidates(
    state: State, asked: Sequence[Asked], metric: Metric, stop: ctypes.c_byte | None = None
) -> list[Candidates]:
    """Return for each query all rows that may be among its nearest, and some more.

    Where ``stop`` becomes true the scan ends early, and rows are missing.
    """
    room = sum(8 * min(one.wanted, state.rows) + 256 for one in asked)
    search = _Search(state, asked, metric, stop, settled=False)
    ends, rowids, most, _ = search.run(room)
    parts = _slices(ends)
    return [Candidates(rowids[part], most[part]) for part in parts]


def nearest(
    state: State,
    asked: Sequence[Asked],
    metric: Metric,
    stop: ctypes.c_byte | None = None,
    *,
    vectors: bool = False,
) -> list[Nearest]:
    """Return each query's nearest rows, and those that equal the last one, the nearest first.

    The state has its vectors, which come along on demand. Where ``stop`` becomes true the scan ends
    early, and rows are missing.
    """
    room = sum(2 * min(one.wanted, state.rows) + 16 for one in asked)
    search = _Search(state, asked, metric, stop, settled=True)
    ends, rowids, far, kept = search.run(room, vectors=vectors)
    return [
        Nearest(rowids[part], far[part], None if kept is None else kept[part])
        for part in _slices(ends)
    ]


def _slices(ends: Sequence[int]) -> list[slice]:
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class _Search:
    """The arguments of one call."""

    def __init__(
        self,
        state: State,
        asked: Sequence[Asked],
        metric: Metric,
        stop: ctypes.c_byte | None,
        *,
        settled: bool,
    ) -> None:
        self._library = library()
        self._points = np.ascontiguousarray(stacked([one.vector for one in asked]), np.float32)
        count, self._dim = self._points.shape
        masks = None
        if any(one.masks is not None for one in asked):
            places = [
                None if one.masks is None else address(one.masks[number])
                for number in range(len(state.segments))
                for one in asked
            ]
            masks = (ctypes.c_void_p * len(places))(*places)
        self._count = count
        self._arguments = (
            KINDS[self._library.kind], state.records, len(state.segments), masks,
            address(self._points), (ctypes.c_int64 * count)(*[one.wanted for one in asked]), count,
            self._dim, METRICS[metric], state.longest, int(settled),
            None if stop is None else ctypes.byref(stop),
        )  # fmt: skip

    def run(
        self, room: int, *, vectors: bool = False
    ) -> tuple[list[int], Int64Array, Float64Array, Float32Array | None]:
        """Return where each query's rows end, the rows, their numbers, and their vectors.

        Where there are more rows than there is room for, which takes many that are equal, all is
        done again.
        """
        while True:
            found = np.empty(self._count + 2 * room, dtype=np.int64)
            kept = np.empty((room, self._dim), dtype=np.float32) if vectors else None
            place = address(found)
            rows = place + 8 * self._count
            total = self._library.search(
                *self._arguments, room, place, rows, rows + 8 * room,
                None if kept is None else address(kept),
            )  # fmt: skip
            if total < 0:
                raise MemoryError("no memory for a scan")
            if total <= room:
                ends = found[: self._count].tolist()
                rowids, numbers = found[self._count :].reshape(2, room)
                return ends, rowids, numbers.view(np.float64), kept
            room = total


def measure(
    vectors: Float32Array,
    rows: Int64Array,
    points: Float32Array,
    which: Int64Array,
    metric: Metric,
) -> Float64Array:
    """The true distances of pairs: rows of the vectors, and the points that each belongs to.

    They are those of ``distances``, to the last bit, and all come from one call.
    """
    vectors, points = (np.ascontiguousarray(some, dtype=np.float32) for some in (vectors, points))
    rows, which = (np.ascontiguousarray(some, dtype=np.int64) for some in (rows, which))
    measured = np.empty(len(rows), dtype=np.float64)
    done = library().distances(
        address(vectors), address(rows), address(points), address(which), len(rows),
        vectors.shape[1], METRICS[metric], address(measured),
    )  # fmt: skip
    if done < 0:
        raise MemoryError("no memory for distances")
    return measured
