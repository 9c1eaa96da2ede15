"""A table's resident copy: codes in segments, and consistent states for scans.

A state never changes. A write makes a new state that shares all unchanged arrays: a removed row
gets an offset of minus infinity in a copy of its segment's offsets, and a new row is written after
the rows that older states refer to. So a scan takes no lock and sees a consistent state.

``docs/internals/exact-search.md`` derives the error bound of a value from codes. A row is
x = m·(c/127 + r), with m its largest component, c its codes and r the rounding remainder. A
row's *value* ranks it; a higher value is better:

    cosine  x·q/‖x‖ with ‖q‖ = 1      dot  x·q      l2  x·q - ‖x‖²/2

Computed from codes, the value is ``scale·query.scale·(c·c_q) + offset``. It differs from the true
value by at most ``query.length·error + query.slack·reach + rounding·|offset| + query.blur``, where
``error`` is the length of the part of the row that its codes leave out, and ``reach`` the length of
the part that they represent. Queries are encoded in ``scan.c``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float32Array, Int64Array, Metric

from ..errors import DamageError
from .kernel.library import SegmentRecord, address, library

Int8Array = npt.NDArray[np.int8]
_Scalar = TypeVar("_Scalar", bound=np.generic)
_Number = TypeVar("_Number", np.int64, np.uint32)

_STEPS = 127
# Squares of larger components overflow float32; squares of smaller ones become denormal.
_LARGEST, _SMALLEST = 1e15, 1e-15
# Half a unit in the last place of a float32 near 1.
_UNIT = 2.0**-24


def rounding(dim: int) -> float:
    """Return a bound for the relative error of a float32 sum of ``dim`` products in any order."""
    return (dim + 32) * _UNIT


@dataclass(frozen=True, slots=True)
class RowCodes:
    """The codes of rows, with the rows' bounds and vectors."""

    codes: Int8Array
    scale: Float32Array
    offset: Float32Array
    error: Float32Array
    reach: Float32Array
    """For each row, an upper bound for the length of the part that its codes represent."""
    vectors: Float32Array

    def __len__(self) -> int:
        return len(self.codes)

    def part(self, rows: slice) -> RowCodes:
        facts = self.scale[rows], self.offset[rows], self.error[rows], self.reach[rows]
        return RowCodes(self.codes[rows], *facts, self.vectors[rows])


def encode_rows(vectors: Float32Array, metric: Metric) -> RowCodes:
    """Return the codes of vectors.

    Raises DamageError if a vector's largest component is neither 0 nor between 1e-15 and 1e15: such
    a vector would make the bound useless for all rows.
    """
    count, dim = vectors.shape
    largest: Float32Array = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    if not ((largest == 0) | ((largest >= _SMALLEST) & (largest <= _LARGEST))).all():
        raise DamageError("a vector is not finite, or extreme")
    unit: Float32Array = np.where(largest > 0, largest, np.float32(1.0))
    steps: Float32Array = vectors * (np.float32(_STEPS) / unit)[:, None]
    coded = np.rint(steps)
    codes = coded.astype(np.int8)
    steps -= coded
    relative = np.float32(1 + rounding(dim))
    # A component of ``steps`` is off by a few units in the last place of numbers up to 127.
    left_out: Float32Array = np.sqrt(_squares(steps)) * relative
    left_out += np.float32(4 * _STEPS * _UNIT * dim**0.5)
    squares = _squares(vectors)
    lengths = np.sqrt(squares)
    scale: Float32Array = unit / np.float32(_STEPS)
    offset = np.zeros(count, dtype=np.float32)
    if metric == "cosine":
        scale /= np.where(largest > 0, lengths, np.float32(1.0))
        lengths[:] = 1.0
    elif metric == "l2":
        offset = squares / np.float32(-2.0)
    error = left_out * scale * relative
    # The codes represent the row minus the part that they leave out.
    return RowCodes(codes, scale, offset, error, (lengths + error) * relative, vectors)


def halved(codes: Int8Array) -> tuple[Int8Array, Int8Array, float]:
    """Return the upper and lower halves of rows' codes, and the largest length of a lower half.

    A code plus 128 has eight bits, four in each half. Two codes share a byte: a code from the row's
    first half takes the lower bits, a code from its second half the upper bits. To compute the
    length, 7.5, the middle of the possible values, is subtracted from the lower halves.
    """
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)), constant_values=-128)
    codes = np.ascontiguousarray(codes)
    count, half = len(codes), codes.shape[1] // 2
    upper, lower = (np.empty((count, half), dtype=np.int8) for _ in range(2))
    squares = library().functions["halve"](
        address(codes), count, half, address(upper), address(lower)
    )
    return upper, lower, squares**0.5 / 2


def stacked(rows: Sequence[npt.NDArray[_Scalar]]) -> npt.NDArray[_Scalar]:
    """Stack rows into one matrix. A single row is not copied: a view takes a tenth of the time."""
    return np.stack(rows) if len(rows) > 1 else rows[0][None]


def _squares(rows: Float32Array) -> Float32Array:
    squares: Float32Array = np.einsum("ij,ij->i", rows, rows)
    return squares


# Rows of a full segment: enough that Python takes only a small part of a scan's time.
FULL = 16_384
# The smallest capacity of a segment, in rows.
_ROOM = 8
# Codes begin at a multiple of this many bytes: a row that touches one more line of the processor's
# cache than necessary takes 1.5 times as long to scan.
_CACHE_LINE = 64


@dataclass(frozen=True)
class Segment:
    """The first ``count`` rows of arrays that may have room for more.

    ``upper`` and ``lower`` are the halves of the codes. ``vectors`` are the rows themselves.
    ``most_error``, ``most_reach``, ``most_offset`` and ``most_lower`` are maxima over the rows.
    """

    mark: object
    """The same object while rows are only added and removed; a new mark means that rows moved."""
    count: int
    dead: int
    dim: int
    upper: Int8Array
    lower: Int8Array
    scale: Float32Array
    offset: Float32Array
    error: Float32Array
    rowids: Int64Array
    vectors: Float32Array
    ordered: bool = True
    """True if the rowids are sorted, as in a table without partitions."""
    most_error: float = 0.0
    most_reach: float = 0.0
    most_offset: float = 0.0
    most_lower: float = 0.0
    mapped: bool = False
    """True if the arrays are in a scan file, to which nothing is written. Once a row is removed,
    the segment has a private ``offset`` array."""

    @classmethod
    def empty(cls, room: int, dim: int) -> Segment:
        upper, lower = _code_room(room, (dim + 1) // 2)
        scale, offset, error = (np.empty(room, dtype=np.float32) for _ in range(3))
        vectors, rowids = np.empty((room, dim), dtype=np.float32), np.empty(room, dtype=np.int64)
        return cls(object(), 0, 0, dim, upper, lower, scale, offset, error, rowids, vectors)

    def emptied(self, room: int) -> Segment:
        """Return an empty segment that reuses the first ``room`` rows of these arrays."""
        return Segment(
            object(), 0, 0, self.dim, self.upper[:room], self.lower[:room], self.scale[:room],
            self.offset[:room], self.error[:room], self.rowids[:room], self.vectors[:room],
        )  # fmt: skip

    @cached_property
    def record(self) -> SegmentRecord:
        """The segment in the form that the scan reads."""
        return SegmentRecord(
            address(self.upper), address(self.lower), address(self.scale), address(self.offset),
            address(self.error), address(self.rowids), address(self.vectors), self.count,
            self.dead, self.most_error, self.most_reach, self.most_offset, self.most_lower,
        )  # fmt: skip

    @cached_property
    def _span(self) -> tuple[int, int]:
        """The smallest and largest rowids, so that ``places`` can skip most segments."""
        present = self.rowids[: self.count]
        return int(present.min(initial=2**63 - 1)), int(present.max(initial=-1))

    @property
    def nbytes(self) -> int:
        """The size of the private memory in bytes."""
        if self.mapped:
            return self.offset.nbytes if self.dead else 0
        return sum(array.nbytes for array in self._arrays)

    def with_room(self, room: int) -> Segment:
        """Return the same rows in new arrays with room for ``room`` rows."""
        larger = Segment.empty(room, self.dim)
        for to, of in zip(larger._arrays, self._arrays, strict=True):
            to[: self.count] = of[: self.count]
        return replace(
            self, upper=larger.upper, lower=larger.lower, scale=larger.scale, offset=larger.offset,
            error=larger.error, rowids=larger.rowids, vectors=larger.vectors,
        )  # fmt: skip

    @property
    def _arrays(self) -> list[npt.NDArray[Any]]:
        codes = [self.upper, self.lower]
        return [*codes, self.scale, self.offset, self.error, self.rowids, self.vectors]

    def append(self, rowids: Int64Array, rows: RowCodes) -> Segment:
        """Return the segment plus these rows; its arrays must have room for them."""
        start, end = self.count, self.count + len(rows)
        self.rowids[start:end] = rowids
        self.upper[start:end], self.lower[start:end], longest = halved(rows.codes)
        self.scale[start:end] = rows.scale
        self.offset[start:end] = rows.offset
        self.error[start:end] = rows.error
        self.vectors[start:end] = rows.vectors
        before = self.rowids[start - 1] if start else -1
        rises = bool(rowids[0] > before and (np.diff(rowids) > 0).all()) if len(rowids) else True
        return replace(
            self,
            count=end,
            ordered=self.ordered and rises,
            most_error=max(self.most_error, float(rows.error.max(initial=0.0))),
            most_reach=max(self.most_reach, float(rows.reach.max(initial=0.0))),
            most_offset=max(self.most_offset, float(np.abs(rows.offset).max(initial=0.0))),
            most_lower=max(self.most_lower, longest),
        )

    def without(self, rowids: Int64Array) -> Segment:
        """Return the segment without the rows with these sorted ids."""
        places = self.places(rowids)
        if not len(places):
            return self
        offset = self.offset.copy()
        offset[places] = -np.inf
        return replace(self, offset=offset, dead=self.dead + len(places))

    def places(self, rowids: Int64Array) -> Int64Array:
        """Return the positions of the rows that have one of these sorted ids.

        If a row was removed and added again, only its new position is returned.
        """
        first, last = self._span
        if not len(rowids) or rowids[-1] < first or last < rowids[0]:
            return np.zeros(0, dtype=np.int64)
        present = self.rowids[: self.count]
        if self.ordered:
            places = positions_of(present, rowids)
        else:
            places = np.flatnonzero(np.isin(present, rowids, kind="sort"))
        return places[self.offset[places] > -np.inf]

    def among(self, rowids: Int64Array, start: int) -> BoolArray:
        """Return a mask of the rows from ``start`` on that have one of these sorted ids."""
        return among(self.rowids[start : self.count], rowids, ordered=self.ordered)


def _code_room(rows: int, width: int) -> tuple[Int8Array, Int8Array]:
    """Allocate both halves of codes; each begins at the start of a cache line.

    Both halves are in one array, because NumPy requests large pages only for large arrays, and a
    scan for many queries takes longer with small pages.
    """
    apart = -(-rows * width // _CACHE_LINE) * _CACHE_LINE
    whole = np.empty(2 * apart + _CACHE_LINE, dtype=np.int8)
    start = -whole.ctypes.data % _CACHE_LINE
    upper, lower = (
        whole[first : first + rows * width].reshape(rows, width) for first in (start, start + apart)
    )
    return upper, lower


def among(
    present: npt.NDArray[_Number], numbers: npt.NDArray[_Number], *, ordered: bool
) -> BoolArray:
    """Return a mask of the ``present`` numbers that are among the sorted ``numbers``.

    ``ordered`` means that ``present`` is sorted too.
    """
    if not ordered:
        return np.isin(present, numbers)
    selected = np.zeros(len(present), dtype=np.bool_)
    selected[positions_of(present, numbers)] = True
    return selected


def positions_of(present: npt.NDArray[_Number], rowids: npt.NDArray[_Number]) -> Int64Array:
    """Return the positions in ``present`` of the ``rowids`` that it contains; both are sorted."""
    if not len(present):
        return np.zeros(0, dtype=np.int64)
    first, last = np.searchsorted(rowids, (present[0], present[-1] + 1))
    sought = rowids[first:last]
    places = np.searchsorted(present, sought)
    matches: Int64Array = places[present[places] == sought]
    return matches


@dataclass(frozen=True)
class State:
    """A table's rows at one change number."""

    change: int
    segments: tuple[Segment, ...]

    @cached_property
    def records(self) -> ctypes.Array[SegmentRecord]:
        """The segments in the form that the scan reads."""
        return (SegmentRecord * len(self.segments))(*[part.record for part in self.segments])

    @cached_property
    def nbytes(self) -> int:
        """The size of the private memory in bytes."""
        return sum(segment.nbytes for segment in self.segments)

    @cached_property
    def changed(self) -> int:
        """The number of rows changed since the scan file was written; without a file, all rows."""
        return sum(part.dead if part.mapped else part.count for part in self.segments)

    @cached_property
    def codes(self) -> int:
        """The number of codes, including the codes of dead rows."""
        return sum(segment.count * segment.dim for segment in self.segments)

    @cached_property
    def is_mapped(self) -> bool:
        return any(segment.mapped for segment in self.segments)

    @cached_property
    def rows(self) -> int:
        return sum(segment.count - segment.dead for segment in self.segments)

    @cached_property
    def dead(self) -> int:
        return sum(segment.dead for segment in self.segments)

    @cached_property
    def longest(self) -> float:
        """An upper bound for the rows' lengths; not meaningful for cosine (unit vectors)."""
        ends = (segment.most_reach + segment.most_error for segment in self.segments)
        return 1.001 * max(ends, default=0.0)


def appended(
    segments: Sequence[Segment],
    rowids: Int64Array,
    rows: RowCodes,
    *,
    coming: int = 0,
    full: int = FULL,
) -> list[Segment]:
    """Return the segments plus these rows at the end.

    Makes room for ``coming`` rows, which this call and later calls will append. A segment with
    ``full`` rows gets no more rows.
    """
    grown = list(segments)
    done = 0
    while done < len(rows):
        if not grown or grown[-1].mapped or grown[-1].count >= full:
            room = min(full, max(_ROOM, len(rows) - done, coming - done))
            dim = rows.codes.shape[1]
            grown.append(Segment.empty(room, dim))
        segment = grown[-1]
        if segment.count == len(segment.rowids):
            # Grow by a quarter: doubling would leave much of the room unused.
            left = max(len(rows), coming) - done
            wanted = max(segment.count * 5 // 4, _ROOM, segment.count + left)
            segment = segment.with_room(min(full, wanted))
        take = slice(done, done + len(segment.rowids) - segment.count)
        part = rows.part(take)
        grown[-1] = segment.append(rowids[take], part)
        done += len(part)
    return grown


def without(segments: Sequence[Segment], rowids: Int64Array) -> list[Segment]:
    """Return the segments without the rows with these ids."""
    sought = np.sort(rowids)
    return [segment.without(sought) for segment in segments]
