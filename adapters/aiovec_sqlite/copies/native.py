"""Candidates of many queries at once, by the native scan, and their true distances.

The whole scan of a batch is one call, during which Python's other threads run. A few queries that
have the machine for themselves are scanned by two threads, each with floors of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from aiovec.backend import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    Metric,
    distances,
)

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

# Rows that a thread takes at once where two share a scan, and codes below which one is quicker.
_PIECE = 8192
_WORTH_SHARING = 2_000_000
# Products of codes after which a scan looks whether it is still wanted: some 50 ms.
_WITHOUT_BREAK = 4_000_000_000
# Room for what a query finds, beside some for each row that it wants.
_ROOM, _ROOM_FOR_EACH = 256, 24
# Rows that may wait in the scan of so few queries until their floors have risen, as in scan.c.
_WAITING, _FEW = 2048, 4
# The scan wants room for as many rows as it compares at once.
_TILE = 32

# The number of a segment, its first row, and the one behind its last.
_Piece = tuple[int, int, int]
_Masks = Sequence[Sequence[BoolArray] | None]


def scan_natively(
    library: Library,
    segments: Sequence[Segment],
    queries: Sequence[QueryCodes],
    wanted: Sequence[int],
    masks: _Masks,
    metric: Metric,
    helper: Executor | None,
    check: Callable[[], None],
    *,
    plain: bool = False,
) -> list[tuple[Int64Array, Float64Array]]:
    """Return for each query the ids of all rows that may be among its nearest, and the most that
    their values can be; the likeliest first.

    ``plain`` values count as they are: there are no more rows than are wanted. ``check`` is called
    now and then, and ends the scan by raising.
    """
    call = _Call(library, segments, queries, wanted, masks, metric, plain)
    if helper is None or call.rows * call.dim < _WORTH_SHARING:
        call.begin(call.whole())
        whole = _Part(call)
        whole.look_through(check)
        return call.settled([whole])
    call.begin(call.pieces())
    mine, other = _Part(call), _Part(call)
    helping = helper.submit(other.look_through)
    try:
        mine.look_through(check)
    finally:
        call.end()  # the helper ends with what it has
        helping.result()
    return call.settled([mine, other])


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


class _Call:
    """One scan: what is looked through, and for whom."""

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
        self.library = library
        self.kind = KINDS[library.kind]
        self.queries = queries
        self.codes = (
            queries[0].codes if len(queries) == 1 else np.stack([query.codes for query in queries])
        )
        self.dim = len(queries[0].codes)
        self.share = 0.0 if plain else rounding(self.dim)
        alive = [number for number, one in enumerate(segments) if one.count > one.dead]
        self.segments = [segments[number] for number in alive]
        # A segment's arrays are of the same kind in all.
        codes = self.segments[0].codes if self.segments else self.codes
        self.step = codes.strides[0]
        self.how = L2 * (metric == "l2") + SIGNS * (codes.dtype == np.uint8) + PLAIN * plain
        self._plain = plain
        self.rows = sum(one.count for one in self.segments)
        self.wanted = [min(one, self.rows) for one in wanted]
        self._masks: list[list[BoolArray | None]] | None = None
        if any(mask is not None for mask in masks):
            self._masks = [
                [None if mask is None else mask[number] for mask in masks] for number in alive
            ]

    def whole(self) -> list[_Piece]:
        """The segments as they are."""
        return [(number, 0, one.count) for number, one in enumerate(self.segments)]

    def pieces(self) -> list[_Piece]:
        """The segments in pieces, which threads take as they come to them."""
        return [
            (number, first, min(first + _PIECE, one.count))
            for number, one in enumerate(self.segments)
            for first in range(0, one.count, _PIECE)
        ]

    def begin(self, pieces: Sequence[_Piece]) -> None:
        """Have these looked through."""
        self.pieces_of = self.records(pieces)
        self.masks_of = self.masks(pieces)
        self.taken = ctypes.c_int64(0)
        rows = max((last - first for _, first, last in pieces), default=1)
        self.most = max(1, _WITHOUT_BREAK // (rows * self.dim * len(self.queries)))

    def end(self) -> None:
        """Have no more of them taken."""
        self.taken.value = len(self.pieces_of)

    def records(self, pieces: Sequence[_Piece]) -> ctypes.Array[SegmentRecord]:
        places: dict[int, SegmentRecord] = {}
        made = (SegmentRecord * len(pieces))()
        for place, (number, first, last) in enumerate(pieces):
            whole = places.get(number)
            if whole is None:
                whole = places[number] = _record(self.segments[number])
            made[place] = whole
            record = made[place]
            record.codes += first * self.step
            if record.lower:
                record.lower += first * self.step
            record.scale += 4 * first
            record.offset += 4 * first
            record.error += 4 * first
            record.rowids += 8 * first
            record.rows = last - first
        return made

    def masks(self, pieces: Sequence[_Piece]) -> ctypes.Array[ctypes.c_void_p] | None:
        """Where the masks of the pieces' rows lie, for each piece and query."""
        if self._masks is None:
            return None
        places = [
            None if mask is None else address(mask) + first
            for number, first, _ in pieces
            for mask in self._masks[number]
        ]
        return (ctypes.c_void_p * len(places))(*places)

    def settled(self, parts: Sequence[_Part]) -> list[tuple[Int64Array, Float64Array]]:
        """The finds of the parts, without what the floors of all of them exclude."""
        total = sum(part.answer.count for part in parts)
        room = np.empty(FOUND_NUMBERS * total, dtype=np.int64)
        rowids = np.empty(total, dtype=np.int64)
        most = np.empty(total, dtype=np.float64)
        ends = (ctypes.c_int64 * len(self.queries))()
        places = ctypes.c_void_p * len(parts)
        self.library.settle(
            places(*(ctypes.addressof(part.queries) for part in parts)),
            places(*(ctypes.addressof(part.answer) for part in parts)),
            len(parts), len(self.queries), address(room), address(rowids), address(most), ends,
        )  # fmt: skip
        found, start = [], 0
        for end, wanted in zip(ends, self.wanted, strict=True):
            last = min(end, start + wanted) if self._plain else end
            found.append((rowids[start:last], most[start:last]))
            start = end
        return found


def _record(segment: Segment) -> SegmentRecord:
    """A whole segment as the scan reads it."""
    lower = None if segment.lower is None else address(segment.lower)
    return SegmentRecord(
        address(segment.codes), lower, address(segment.scale), address(segment.offset),
        address(segment.error), address(segment.rowids), segment.count, segment.most_error,
        segment.most_reach, segment.most_offset, segment.most_lower,
    )  # fmt: skip


class _Part:
    """The share of one thread, with floors and room of its own."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._lowers = np.empty(sum(call.wanted), dtype=np.float64)
        self.queries = (QueryRecord * len(call.queries))()
        codes, lowers = address(call.codes), address(self._lowers)
        for record, query, wanted in zip(self.queries, call.queries, call.wanted, strict=True):
            record.codes, record.lowers, record.wanted = codes, lowers, wanted
            record.scale, record.length = query.scale, query.length
            record.slack, record.blur = query.slack, query.blur
            record.floor = -np.inf
            codes += call.dim
            lowers += 8 * wanted
        count = len(call.queries)
        room = count * _ROOM + _ROOM_FOR_EACH * len(self._lowers)
        self.answer = AnswerRecord()
        self._found = np.empty(0, dtype=np.int64)
        waiting = _WAITING if count <= _FEW else 0
        self._grow(min(room + waiting, count * call.rows) + count * _TILE)

    def look_through(self, check: Callable[[], None] = lambda: None) -> None:
        """Look through pieces until none is left. ``check`` may end it by raising."""
        call, answer = self._call, self.answer
        answer.segment = -1
        while True:
            check()
            done = call.library.scan(
                call.kind, call.pieces_of, len(call.pieces_of), call.masks_of, self.queries,
                len(self.queries), call.dim, call.step, call.share, call.how,
                ctypes.byref(call.taken), call.most, ctypes.byref(answer),
            )  # fmt: skip
            if done == 1:
                return
            if done < 0:
                raise MemoryError("no memory for a scan")
            if not done:
                self._grow(2 * answer.room + _TILE * len(self.queries))

    def _grow(self, room: int) -> None:
        found = np.empty(FOUND_NUMBERS * room, dtype=np.int64)
        kept = FOUND_NUMBERS * self.answer.count
        found[:kept] = self._found[:kept]
        self._found = found
        self.answer.found, self.answer.room = address(found), room
