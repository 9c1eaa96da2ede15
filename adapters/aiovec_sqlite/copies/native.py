"""Candidates of many queries at once, by the scan in C, and their true distances.

The whole scan of a batch is one call, during which Python's other threads run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aiovec.backend import BoolArray, Float32Array, Float64Array, Int64Array, Metric

from .codes import QueryCodes, rounding, stacked
from .kernel.library import (
    FOUND_NUMBERS,
    KINDS,
    METRICS,
    AnswerRecord,
    QueryRecord,
    SegmentRecord,
    address,
    library,
)
from .segments import Segment

# Products of codes after which a scan looks whether it is still wanted: some 50 ms.
_WITHOUT_BREAK = 4_000_000_000
# Room for what a query finds, beside some for each row that it wants.
_ROOM, _ROOM_FOR_EACH = 256, 8
# Rows that may wait in the scan of so few queries until their floors have risen, as in scan.c.
_WAITING, _FEW = 2048, 4
# The scan wants room for as many rows as it compares at once.
_TILE = 32


@dataclass(slots=True)
class Asked:
    """A query, how many rows it wants, and which rows of each segment it may find (None: all)."""

    query: QueryCodes
    wanted: int
    masks: Sequence[BoolArray] | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that may be among a query's nearest, the likeliest first."""

    rowids: Int64Array
    most: Float64Array
    """The most that their true values can be."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows with their distances to a query, in no order."""

    distances: Float64Array
    _found: Int64Array
    _segments: Sequence[Segment]
    _dim: int

    @property
    def rowids(self) -> Int64Array:
        rowids: Int64Array = self._found[:, 0]
        return rowids

    def vectors(self, which: Int64Array) -> Float32Array:
        """The vectors of these rows."""
        found = np.empty((len(which), self._dim), dtype=np.float32)
        # The fourth column has the query and the segment.
        for place, (*_, numbers, row) in enumerate(self._found[which].tolist()):
            kept = self._segments[numbers >> 32].vectors
            if kept is not None:
                found[place] = kept[row]
        return found


def candidates(
    segments: Sequence[Segment],
    asked: Sequence[Asked],
    metric: Metric,
    check: Callable[[], None] = lambda: None,
) -> list[Candidates]:
    """Return for each query all rows that may be among its nearest, and some more.

    ``check`` is called now and then, and ends the scan by raising.
    """
    scan = _Scan(segments, asked, metric)
    scan.look_through(check)
    return scan.finish()


def nearest(
    segments: Sequence[Segment],
    asked: Sequence[Asked],
    points: Float32Array,
    metric: Metric,
    longest: float,
    check: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Return for each query rows with their distances, of which some are its nearest.

    The segments have their vectors; ``points`` are the queries. No row is longer than ``longest``.
    """
    scan = _Scan(segments, asked, metric)
    scan.look_through(check)
    return scan.measured(points, metric, longest)


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


class _Scan:
    """One scan: the segments it reads, the queries, and room for what it finds."""

    def __init__(self, segments: Sequence[Segment], asked: Sequence[Asked], metric: Metric) -> None:
        self._library = library()
        self._asked = asked
        self._l2 = int(metric == "l2")
        # Also what is only pointed to is kept here, until the scan is over.
        self._codes = stacked([one.query.codes for one in asked])
        self._dim = self._codes.shape[1]
        self._alive = [number for number, one in enumerate(segments) if one.count > one.dead]
        self._segments = [segments[number] for number in self._alive]
        self._rows = sum(one.count for one in self._segments)
        self._wanted = [min(one.wanted, self._rows) for one in asked]
        self._segment_records = (SegmentRecord * len(self._segments))(
            *[one.record for one in self._segments]
        )
        self._mask_addresses = self._addresses_of_masks()
        self._lowers = np.empty(sum(self._wanted), dtype=np.float64)
        self._queries = self._records_of_queries()
        count = len(asked)
        room = count * _ROOM + _ROOM_FOR_EACH * len(self._lowers)
        waiting = _WAITING if count <= _FEW else 0
        self._answer = AnswerRecord()
        self._found = np.empty(0, dtype=np.int64)
        self._grow(min(room + waiting, count * self._rows) + count * _TILE)

    def look_through(self, check: Callable[[], None]) -> None:
        """Look through all segments. ``check`` may end it by raising."""
        answer = self._answer
        largest = max((one.count for one in self._segments), default=1)
        most = max(1, _WITHOUT_BREAK // (largest * self._dim * len(self._asked)))
        while answer.segment < len(self._segments):
            check()
            done = self._library.scan(
                KINDS[self._library.kind], self._segment_records, len(self._segments),
                self._mask_addresses, self._queries, len(self._asked), self._dim,
                rounding(self._dim), self._l2, most, ctypes.byref(answer),
            )  # fmt: skip
            if done < 0:
                raise MemoryError("no memory for a scan")
            if not done:
                self._grow(2 * answer.room + _TILE * len(self._asked))

    def finish(self) -> list[Candidates]:
        """Return what was found, without what the last floors exclude."""
        total = self._answer.count
        room = np.empty(FOUND_NUMBERS * total, dtype=np.int64)
        rowids = np.empty(total, dtype=np.int64)
        most = np.empty(total, dtype=np.float64)
        ends = (ctypes.c_int64 * len(self._asked))()
        self._library.sort(
            self._queries, len(self._asked), ctypes.byref(self._answer), address(room),
            address(rowids), address(most), ends,
        )  # fmt: skip
        starts = [0, *ends[:-1]]
        return [Candidates(rowids[a:b], most[a:b]) for a, b in zip(starts, ends, strict=True)]

    def measured(self, points: Float32Array, metric: Metric, longest: float) -> list[Measured]:
        """Return the rows that are measured by their vectors in memory."""
        total = self._answer.count
        room = np.empty((total, FOUND_NUMBERS), dtype=np.int64)
        far = np.empty(total, dtype=np.float64)
        ends = (ctypes.c_int64 * len(self._asked))()
        points = np.ascontiguousarray(points, dtype=np.float32)
        done = self._library.measure(
            self._queries, self._segment_records, address(points), len(self._asked), self._dim,
            METRICS[metric], longest, ctypes.byref(self._answer), address(room), address(far), ends,
        )  # fmt: skip
        if done < 0:
            raise MemoryError("no memory for distances")
        starts = [0, *ends[:-1]]
        return [
            Measured(far[a:b], room[a:b], self._segments, self._dim)
            for a, b in zip(starts, ends, strict=True)
        ]

    def _addresses_of_masks(self) -> ctypes.Array[ctypes.c_void_p] | None:
        """Where the masks of the segments' rows lie, for each segment and query."""
        if all(one.masks is None for one in self._asked):
            return None
        places = [
            None if one.masks is None else address(one.masks[number])
            for number in self._alive
            for one in self._asked
        ]
        return (ctypes.c_void_p * len(places))(*places)

    def _records_of_queries(self) -> ctypes.Array[QueryRecord]:
        records = (QueryRecord * len(self._asked))()
        codes, lowers = address(self._codes), address(self._lowers)
        for record, one, wanted in zip(records, self._asked, self._wanted, strict=True):
            query = one.query
            record.codes, record.lowers, record.wanted = codes, lowers, wanted
            record.scale, record.length = query.scale, query.length
            record.slack, record.blur = query.slack, query.blur
            record.floor = -np.inf
            codes += self._dim
            lowers += 8 * wanted
        return records

    def _grow(self, room: int) -> None:
        found = np.empty(FOUND_NUMBERS * room, dtype=np.int64)
        kept = FOUND_NUMBERS * self._answer.count
        found[:kept] = self._found[:kept]
        self._found = found
        self._answer.found, self._answer.room = address(found), room
