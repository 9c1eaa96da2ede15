"""Candidates of many queries at once, by the native scan, and their true distances.

The whole scan of a batch is one call, during which Python's other threads run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from aiovec.backend import BoolArray, Float32Array, Float64Array, Int64Array, Metric, distances

from .codes import QueryCodes, rounding
from .kernel.library import (
    FOUND_NUMBERS,
    KINDS,
    L2,
    METRICS,
    PLAIN,
    SIGNS,
    AnswerRecord,
    Library,
    QueryRecord,
    SegmentRecord,
    address,
    load,
)
from .segments import Segment

# Products of codes after which a scan looks whether it is still wanted: some 50 ms.
_WITHOUT_BREAK = 4_000_000_000
# Room for what a query finds, beside some for each row that it wants.
_ROOM, _ROOM_FOR_EACH = 256, 24
# Rows that may wait in the scan of so few queries until their floors have risen, as in scan.c.
_WAITING, _FEW = 2048, 4
# The scan wants room for as many rows as it compares at once.
_TILE = 32

_Masks = Sequence[Sequence[BoolArray] | None]


def scan_natively(
    library: Library,
    segments: Sequence[Segment],
    queries: Sequence[QueryCodes],
    wanted: Sequence[int],
    masks: _Masks,
    metric: Metric,
    check: Callable[[], None],
    *,
    plain: bool = False,
) -> list[tuple[Int64Array, Float64Array]]:
    """Return for each query the ids of all rows that may be among its nearest, and the most that
    their values can be; the likeliest first.

    ``plain`` values count as they are: there are no more rows than are wanted. ``check`` is called
    now and then, and ends the scan by raising.
    """
    scan = _Scan(library, segments, queries, wanted, masks, metric, plain)
    scan.look_through(check)
    return scan.finish()


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
    library = load()
    if library is None:
        return distances(vectors[rows], points[which], metric)
    vectors, points = (np.ascontiguousarray(some, dtype=np.float32) for some in (vectors, points))
    rows, which = (np.ascontiguousarray(some, dtype=np.int64) for some in (rows, which))
    measured = np.empty(len(rows), dtype=np.float64)
    done = library.distances(
        address(vectors), address(rows), address(points), address(which), len(rows),
        vectors.shape[1], METRICS[metric], address(measured),
    )  # fmt: skip
    if done < 0:
        raise MemoryError("no memory for distances")
    return measured


class _Scan:
    """One scan: the segments it reads, the queries, and room for what it finds."""

    def __init__(
        self,
        library: Library,
        segments: Sequence[Segment],
        queries: Sequence[QueryCodes],
        wanted: Sequence[int],
        masks: _Masks,
        metric: Metric,
        plain: bool,
    ) -> None:
        self._library = library
        self._plain = plain
        # Also what is only pointed to is kept here, until the scan is over.
        self._codes = (
            queries[0].codes if len(queries) == 1 else np.stack([query.codes for query in queries])
        )
        self._dim = len(queries[0].codes)
        self._alive = [number for number, one in enumerate(segments) if one.count > one.dead]
        self._segments = [segments[number] for number in self._alive]
        self._rows = sum(one.count for one in self._segments)
        self._wanted = [min(one, self._rows) for one in wanted]
        # A segment's arrays are of the same kind in all.
        codes = self._segments[0].codes if self._segments else self._codes
        self._step = codes.strides[0]
        self._how = L2 * (metric == "l2") + SIGNS * (codes.dtype == np.uint8) + PLAIN * plain
        self._segment_records = self._records_of_segments()
        self._masks = masks
        self._mask_addresses = self._addresses_of_masks()
        self._lowers = np.empty(sum(self._wanted), dtype=np.float64)
        self._queries = self._records_of_queries(queries)
        count = len(queries)
        room = count * _ROOM + _ROOM_FOR_EACH * len(self._lowers)
        waiting = _WAITING if count <= _FEW else 0
        self._answer = AnswerRecord()
        self._found = np.empty(0, dtype=np.int64)
        self._grow(min(room + waiting, count * self._rows) + count * _TILE)

    def look_through(self, check: Callable[[], None]) -> None:
        """Look through all segments. ``check`` may end it by raising."""
        answer = self._answer
        answer.segment = -1
        taken = ctypes.c_int64(0)
        largest = max((one.count for one in self._segments), default=1)
        most = max(1, _WITHOUT_BREAK // (largest * self._dim * len(self._queries)))
        share = 0.0 if self._plain else rounding(self._dim)
        while True:
            check()
            done = self._library.scan(
                KINDS[self._library.kind], self._segment_records, len(self._segments),
                self._mask_addresses, self._queries, len(self._queries), self._dim, self._step,
                share, self._how, ctypes.byref(taken), most, ctypes.byref(answer),
            )  # fmt: skip
            if done == 1:
                return
            if done < 0:
                raise MemoryError("no memory for a scan")
            if not done:
                self._grow(2 * answer.room + _TILE * len(self._queries))

    def finish(self) -> list[tuple[Int64Array, Float64Array]]:
        """Return what was found, without what the last floors exclude."""
        total = self._answer.count
        room = np.empty(FOUND_NUMBERS * total, dtype=np.int64)
        rowids = np.empty(total, dtype=np.int64)
        most = np.empty(total, dtype=np.float64)
        ends = (ctypes.c_int64 * len(self._queries))()
        one = ctypes.c_void_p * 1
        self._library.settle(
            one(ctypes.addressof(self._queries)), one(ctypes.addressof(self._answer)), 1,
            len(self._queries), address(room), address(rowids), address(most), ends,
        )  # fmt: skip
        found, start = [], 0
        for end, wanted in zip(ends, self._wanted, strict=True):
            last = min(end, start + wanted) if self._plain else end
            found.append((rowids[start:last], most[start:last]))
            start = end
        return found

    def _records_of_segments(self) -> ctypes.Array[SegmentRecord]:
        return (SegmentRecord * len(self._segments))(*map(_record, self._segments))

    def _addresses_of_masks(self) -> ctypes.Array[ctypes.c_void_p] | None:
        """Where the masks of the segments' rows lie, for each segment and query."""
        if all(mask is None for mask in self._masks):
            return None
        places = [
            None if mask is None else address(mask[number])
            for number in self._alive
            for mask in self._masks
        ]
        return (ctypes.c_void_p * len(places))(*places)

    def _records_of_queries(self, queries: Sequence[QueryCodes]) -> ctypes.Array[QueryRecord]:
        records = (QueryRecord * len(queries))()
        codes, lowers = address(self._codes), address(self._lowers)
        for record, query, wanted in zip(records, queries, self._wanted, strict=True):
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


def _record(segment: Segment) -> SegmentRecord:
    """A whole segment as the scan reads it."""
    lower = None if segment.lower is None else address(segment.lower)
    return SegmentRecord(
        address(segment.codes), lower, address(segment.scale), address(segment.offset),
        address(segment.error), address(segment.rowids), segment.count, segment.most_error,
        segment.most_reach, segment.most_offset, segment.most_lower,
    )  # fmt: skip
