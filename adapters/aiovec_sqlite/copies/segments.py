"""A table's resident copy: codes in segments, and consistent states of it for scans.

A state never changes. A write makes a new one that shares what it did not touch: a row that goes
gets an offset of minus infinity in a copy of its segment's offsets, a row that comes is written
behind the rows that older states know of. So a scan takes no lock and sees one moment.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float32Array, Int64Array

from .codes import CodeArray, Int8Array, RowCodes, halved, put_together
from .kernel.library import load

# Rows that even a small segment has room for.
_ROOM = 8
# The key of segments whose rows are of any partition. Each segment of a scan costs some time
# (``bench search``), and there may be thousands of small tenants.
SHARED: Hashable = ()
# Where fewer than one in so many rows are sought, each is looked up.
_FEW_SOUGHT = 8
# Where codes begin, in bytes: a row that lies across one more line of the processor's cache than it
# has to takes half as long again to scan (``bench search``).
_CACHE_LINE = 64
# Rows that are gone and not worth a compaction.
_SMALLEST = 256


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """The sizes of resident copies, and the pauses of tables that cannot be copied for now."""

    full_segment: int = 16_384
    """Rows of a full segment: many enough that Python's share of a scan is small
    (``bench search``)."""
    own_segments: int = 4096
    """Rows from which on a partition has its own segments. A scan of fewer takes hardly longer than
    what each segment costs (``bench search``)."""
    scanned_together: int = 32_768
    """Rows that a batch looks through at once. The fewer they are, the more often it hands the
    interpreter to other threads, and waits to get it back; of many the values leave the processor's
    cache (``bench search``)."""
    head_start: float = 0.5
    """Seconds that a load waits at most for the file's answer to the search that asked for it: both
    at once take twice as long to that answer (``bench search``), and a huge file takes long."""
    first_pause: float = 1.0
    """Seconds until a load that failed is tried again; each further failure doubles them."""
    whole: int = 6 * 2**20
    """Bytes of vectors up to which a copy holds these themselves: so few are searched quicker than
    a query is encoded. One that grows to half as much again gets codes (``bench search``)."""
    longest_pause: float = 300.0
    """Seconds of the longest pause, and of the only one where the table itself is in the way: it
    may have shrunk. A look costs a count of its rows, on a connection of its own."""


LIMITS = CopyLimits()


@dataclass(frozen=True, slots=True)
class Segment:
    """The first ``count`` rows of arrays that may have room for more.

    For the native scan int8 codes lie in halves: the upper ones in ``codes``, the lower ones in
    ``lower``. ``most_error``, ``most_reach``, ``most_offset`` and ``most_lower`` bound those rows'
    facts.
    """

    mark: object
    """Stays while rows only come and go; another one means that rows have changed places."""
    key: Hashable
    """The partition that all rows of it belong to, or SHARED."""
    count: int
    dead: int
    width: int
    """The count of a row's codes; of bits, of their bytes."""
    codes: CodeArray
    lower: Int8Array | None
    scale: Float32Array
    offset: Float32Array
    error: Float32Array
    rowids: Int64Array
    ordered: bool = True
    """True where the rowids rise, as they do when a table is read from its start."""
    most_error: float = 0.0
    most_reach: float = 0.0
    most_offset: float = 0.0
    most_lower: float = 0.0

    @classmethod
    def empty(cls, key: Hashable, room: int, width: int, kind: npt.DTypeLike = np.int8) -> Segment:
        scale, offset, error = (np.empty(room, dtype=np.float32) for _ in range(3))
        if kind == np.int8 and load() is not None:
            codes, *lower = _code_room(room, (width + 1) // 2, kind, 2)
        else:
            codes, *lower = _code_room(room, width, kind)
        return cls(
            object(), key, 0, 0, width, codes, next(iter(lower), None), scale, offset, error,
            np.empty(room, dtype=np.int64),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def whole_codes(self, places: Any) -> CodeArray:
        """The codes of the rows at these places, of both halves."""
        codes: CodeArray = self.codes[places]
        return codes if self.lower is None else put_together(codes, self.lower[places], self.width)

    def rows(self, places: Any) -> RowCodes:
        """The rows at these places."""
        return RowCodes(
            self.whole_codes(places), self.scale[places], self.offset[places], self.error[places]
        )

    def with_room(self, room: int) -> Segment:
        """The same rows in larger arrays."""
        # As they lie, whatever way of scanning is wanted by now.
        parts = 1 if self.lower is None else 2
        codes, *lower = _code_room(room, self.codes.shape[1], self.codes.dtype, parts)
        facts = (np.empty(room, dtype=one.dtype) for one in (self.scale, self.offset, self.error))
        scale, offset, error = facts
        grown = replace(
            self, codes=codes, lower=next(iter(lower), None), scale=scale, offset=offset,
            error=error, rowids=np.empty(room, dtype=np.int64),
        )  # fmt: skip
        for to, of in zip(grown._arrays, self._arrays, strict=True):
            to[: self.count] = of[: self.count]
        return grown

    @property
    def _arrays(self) -> list[npt.NDArray[Any]]:
        lower = [] if self.lower is None else [self.lower]
        return [self.codes, *lower, self.scale, self.offset, self.error, self.rowids]

    def append(self, rowids: Int64Array, rows: RowCodes) -> Segment:
        """The segment with more rows, for which there must be room."""
        start, end = self.count, self.count + len(rows)
        self.rowids[start:end] = rowids
        most_lower = self.most_lower
        if self.lower is None:
            self.codes[start:end] = rows.codes
        else:
            upper, lower, longest = halved(rows.codes, load())
            self.codes[start:end], self.lower[start:end] = upper, lower
            most_lower = max(most_lower, longest)
        self.scale[start:end] = rows.scale
        self.offset[start:end] = rows.offset
        self.error[start:end] = rows.error
        # Bits have no bound, and need none.
        whole = rows.codes[:, :0] if rows.codes.dtype == np.uint8 else rows.codes
        lengths = np.sqrt(np.square(whole, dtype=np.float32).sum(axis=1)) * rows.scale
        before = self.rowids[start - 1] if start else -1
        rises = bool(rowids[0] > before and (np.diff(rowids) > 0).all()) if len(rowids) else True
        return replace(
            self,
            count=end,
            ordered=self.ordered and rises,
            most_error=max(self.most_error, float(rows.error.max(initial=0.0))),
            most_reach=max(self.most_reach, float(lengths.max(initial=0.0))),
            most_offset=max(self.most_offset, float(np.abs(rows.offset).max(initial=0.0))),
            most_lower=most_lower,
        )

    def without(self, rowids: Int64Array) -> Segment:
        """The segment without rows of these ids, which must be sorted."""
        places = self._places(rowids)
        places = places[self.offset[places] > -np.inf]
        if not len(places):
            return self
        offset = self.offset.copy()
        offset[places] = -np.inf
        return replace(self, offset=offset, dead=self.dead + len(places))

    def _places(self, rowids: Int64Array) -> Int64Array:
        """Where rows of these sorted ids stand; a row that came again stands in several places."""
        mine = self.rowids[: self.count]
        if not self.ordered:
            return np.flatnonzero(np.isin(mine, rowids, kind="sort"))
        return _found(mine, _within(mine, rowids))

    def among(self, rowids: Int64Array, start: int) -> BoolArray:
        """For each row from ``start`` on whether it has one of these sorted ids."""
        mine = self.rowids[start : self.count]
        if not self.ordered:
            return np.isin(mine, rowids)
        rowids = _within(mine, rowids)
        if len(rowids) * _FEW_SOUGHT > len(mine):
            return np.isin(mine, rowids)
        selected = np.zeros(len(mine), dtype=np.bool_)
        selected[_found(mine, rowids)] = True
        return selected


def _code_room(rows: int, width: int, kind: npt.DTypeLike, parts: int = 1) -> list[CodeArray]:
    """Room for codes, in so many parts that each begin with a line of the processor's cache.

    In one piece, since NumPy asks for large pages for large pieces alone, and a scan by many
    queries takes longer with small ones.
    """
    line = _CACHE_LINE // np.dtype(kind).itemsize
    apart = -(-rows * width // line) * line
    whole = np.empty(parts * apart + line, dtype=kind)
    start = -whole.ctypes.data % _CACHE_LINE // whole.itemsize
    firsts = range(start, start + parts * apart, apart) if apart else [start] * parts
    return [whole[first : first + rows * width].reshape(rows, width) for first in firsts]


def _within(mine: Int64Array, rowids: Int64Array) -> Int64Array:
    """Those of some sorted numbers that lie between the first and the last of others."""
    if not len(mine):
        return rowids[:0]
    first, last = np.searchsorted(rowids, (mine[0], mine[-1] + 1))
    return rowids[first:last]


def _found(mine: Int64Array, rowids: Int64Array) -> Int64Array:
    """Where rising numbers hold these, which lie between their first and their last."""
    places = np.searchsorted(mine, rowids)
    there: Int64Array = places[mine[places] == rowids]
    return there


@dataclass(frozen=True, slots=True)
class State:
    """A table's rows at one change number, as codes."""

    change: int
    segments: tuple[Segment, ...]

    @property
    def whole(self) -> bool:
        """True where the codes are the vectors themselves."""
        return any(segment.codes.dtype == np.float32 for segment in self.segments)

    @property
    def rows(self) -> int:
        return sum(segment.count - segment.dead for segment in self.segments)

    @property
    def dead(self) -> int:
        return sum(segment.dead for segment in self.segments)

    @property
    def nbytes(self) -> int:
        return sum(segment.nbytes for segment in self.segments)

    @property
    def longest(self) -> float:
        """No row is longer; for cosine, whose rows are unit vectors, it tells nothing."""
        ends = (segment.most_reach + segment.most_error for segment in self.segments)
        return 1.001 * max(ends, default=0.0)

    @property
    def keys(self) -> set[Hashable]:
        """The keys that have segments of their own, and SHARED where there are shared ones."""
        return {segment.key for segment in self.segments}

    def of_key(self, key: Hashable) -> State:
        """The rows in the segments of one key."""
        return State(self.change, tuple(part for part in self.segments if part.key == key))


def appended(
    segments: Sequence[Segment],
    key: Hashable,
    rowids: Int64Array,
    rows: RowCodes,
    dim: int,
    *,
    coming: int = 0,
    full: int = LIMITS.full_segment,
) -> list[Segment]:
    """Return the segments with more rows of one key, behind its others.

    ``coming`` rows in all will be appended from here on, so that room is made for them at once.
    A segment of ``full`` rows gets no more.
    """
    grown = list(segments)
    place = next((i for i in range(len(grown) - 1, -1, -1) if grown[i].key == key), None)
    done = 0
    while done < len(rows):
        if place is None or grown[place].count == full:
            room = min(full, max(_ROOM, len(rows) - done, coming - done))
            grown.append(Segment.empty(key, room, dim, rows.codes.dtype))
            place = len(grown) - 1
        segment = grown[place]
        if segment.count == len(segment.rowids):
            # By a quarter: twice the size would be mostly room.
            left = max(len(rows), coming) - done
            wanted = max(segment.count * 5 // 4, _ROOM, segment.count + left)
            segment = segment.with_room(min(full, wanted))
        take = slice(done, done + len(segment.rowids) - segment.count)
        part = RowCodes(rows.codes[take], rows.scale[take], rows.offset[take], rows.error[take])
        grown[place] = segment.append(rowids[take], part)
        done += len(part)
    return grown


def without(segments: Sequence[Segment], rowids: Int64Array) -> list[Segment]:
    """The segments without rows of these ids."""
    if not len(rowids):
        return list(segments)
    sought = np.sort(rowids)
    return [segment.without(sought) for segment in segments]


def sparse(state: State) -> list[Segment]:
    """The segments of which at least half of the rows are gone."""
    return [part for part in state.segments if part.dead and part.dead * 2 >= part.count]


def compacted(parts: Sequence[Segment], *, full: int = LIMITS.full_segment) -> list[Segment]:
    """Return the rows of sparse segments, without room for those that are gone."""
    fresh: list[Segment] = []
    for part in parts:
        rows = np.flatnonzero(part.offset[: part.count] > -np.inf)
        rows = rows[np.argsort(part.rowids[rows])]
        # In segments of their own: room in the others may be taken by a write meanwhile.
        fresh = appended(fresh, part.key, part.rowids[rows], part.rows(rows), part.width, full=full)
    return fresh


def replaced(
    state: State,
    parts: Sequence[Segment],
    fresh: Sequence[Segment],
    *,
    full: int = LIMITS.full_segment,
) -> State | None:
    """Return the state with ``fresh``, made of ``parts``, in the place of these as they are now.

    Rows of them that have gone since go, those that have come since come. None where one of them
    has gone altogether.
    """
    now = {segment.mark: segment for segment in state.segments}
    if any(part.mark not in now for part in parts):
        return None
    segments = list(fresh)
    for part in parts:
        before = part.offset[: part.count] > -np.inf
        gone = before & np.isneginf(now[part.mark].offset[: part.count])
        segments = without(segments, part.rowids[: part.count][gone])
    for part in parts:
        newer = now[part.mark]
        rows = part.count + np.flatnonzero(newer.offset[part.count : newer.count] > -np.inf)
        segments = appended(
            segments,
            part.key,
            newer.rowids[rows],
            newer.rows(rows),
            newer.width,
            full=full,
        )
    marks = {part.mark for part in parts}
    kept = (segment for segment in state.segments if segment.mark not in marks)
    return State(state.change, (*kept, *segments))


def needs_compaction(state: State) -> bool:
    """Return whether a good part of the memory is for rows that are gone."""
    return state.dead > _SMALLEST and bool(sparse(state))


def gathered(state: State, masks: Sequence[BoolArray]) -> State:
    """The masked rows alone, in one segment: for few of them quicker than a scan of all."""
    parts = []
    for segment, mask in zip(state.segments, masks, strict=True):
        rows = np.flatnonzero(mask[: segment.count])
        if len(rows):
            parts.append((segment, rows))
    if not parts:
        return State(state.change, ())

    def joined(name: str) -> Any:
        return np.concatenate([getattr(segment, name)[rows] for segment, rows in parts])

    in_halves = all(segment.lower is not None for segment, _ in parts)
    lower = joined("lower") if in_halves else None
    codes = (
        joined("codes")
        if in_halves
        else np.concatenate([segment.whole_codes(rows) for segment, rows in parts])
    )
    offset = joined("offset")
    rowids = joined("rowids")
    whole = Segment(
        object(), (), len(rowids), int(np.count_nonzero(np.isneginf(offset))),
        parts[0][0].width, codes, lower, joined("scale"), offset, joined("error"), rowids,
        ordered=False,
        most_error=max(segment.most_error for segment, _ in parts),
        most_reach=max(segment.most_reach for segment, _ in parts),
        most_offset=max(segment.most_offset for segment, _ in parts),
        most_lower=max(segment.most_lower for segment, _ in parts),
    )  # fmt: skip
    return State(state.change, (whole,))
