"""Candidates of many queries at once: every row that the codes' bound cannot exclude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from aiovec.schema import Metric

from .codes import Float32Array, QueryCodes, rounding
from .segments import Int64Array, Segment, State

BoolArray = npt.NDArray[np.bool_]

# A threshold from the maxima of blocks is a little low, and needs no sorting of all values.
_BLOCK = 64


@dataclass(slots=True)
class Asked:
    """A query, how many rows it wants, and which rows of each segment it may find (None: all)."""

    query: QueryCodes
    wanted: int
    masks: Sequence[BoolArray | None] | None = None


@dataclass(slots=True)
class _Found:
    """What a scan knows of one query so far."""

    rowids: list[Int64Array] = field(default_factory=list)
    upper: list[npt.NDArray[np.float64]] = field(default_factory=list)
    lower: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    floor: float = -np.inf
    """At least as many rows as are wanted are truly at least this good."""

    def add(self, wanted: int, rowids: Int64Array, value: Any, miss: Any) -> None:
        self.rowids.append(rowids)
        self.upper.append(value + miss)
        lower = np.concatenate([self.lower, value - miss])
        if len(lower) >= wanted:
            lower = np.partition(lower, len(lower) - wanted)[len(lower) - wanted :]
            self.floor = max(self.floor, float(lower[0]))
        self.lower = lower

    def candidates(self) -> Int64Array:
        if not self.rowids:
            return np.empty(0, dtype=np.int64)
        return np.concatenate(self.rowids)[np.concatenate(self.upper) >= self.floor]


def candidates(state: State, asked: Sequence[Asked], metric: Metric) -> list[Int64Array]:
    """For each query the rowids of all rows that may be among its nearest, and some more."""
    found = [_Found() for _ in asked]
    if not asked:
        return []
    packed = numkong.dots_pack(np.stack([one.query.codes for one in asked]))
    scales = np.array([one.query.scale for one in asked], dtype=np.float32)
    for number, segment in enumerate(state.segments):
        if segment.count > segment.dead:
            _scan(segment, number, asked, found, packed, scales, metric)
    return [one.candidates() for one in found]


def _scan(
    segment: Segment,
    number: int,
    asked: Sequence[Asked],
    found: Sequence[_Found],
    packed: Any,
    scales: Float32Array,
    metric: Metric,
) -> None:
    count = segment.count
    products = np.asarray(numkong.dots_packed(segment.codes[:count], packed))
    values = np.multiply(products, segment.scale[:count, None], dtype=np.float32, casting="unsafe")
    if metric == "l2" or segment.dead:
        # In units of the query's scale, as the products are.
        values += segment.offset[:count, None] / scales
    for column, one in enumerate(asked):
        if one.masks is not None and (mask := one.masks[number]) is not None:
            values[~mask[:count], column] = -np.inf
    share = rounding(segment.codes.shape[1])
    most = np.array([_miss(one.query, segment, metric, share) for one in asked])
    floors = np.array([one.floor for one in found])
    first = np.isneginf(floors)
    if first.any():
        floors[first] = (_thresholds(values, asked, first) * scales[first]) - most[first]
    lowest = np.nextafter(((floors - most) / scales).astype(np.float32), np.float32(-np.inf))
    rows, columns = _where(values >= lowest)
    order = np.argsort(columns, kind="stable")
    rows, columns = rows[order], columns[order]
    ends = np.searchsorted(columns, np.arange(len(asked) + 1))
    for column, one in enumerate(asked):
        mine = rows[ends[column] : ends[column + 1]]
        if not len(mine):
            continue
        value = values[mine, column].astype(np.float64) * one.query.scale
        if np.isneginf(value).any():
            keep = ~np.isneginf(value)
            mine, value = mine[keep], value[keep]
        miss = _misses(one.query, segment, mine, metric, share)
        found[column].add(one.wanted, segment.rowids[mine], value, miss)


def _where(mask: BoolArray) -> tuple[Any, Any]:
    """``np.nonzero`` for a mask that is nearly empty: eight elements at a time."""
    flat = mask.reshape(-1)
    whole = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:whole].view(np.uint64))
    spots = (words[:, None] * 8 + np.arange(8)).reshape(-1)
    spots = np.concatenate([spots[flat[spots]], whole + np.flatnonzero(flat[whole:])])
    return np.divmod(spots, mask.shape[1])


def _thresholds(
    values: Float32Array, asked: Sequence[Asked], first: BoolArray
) -> npt.NDArray[np.float64]:
    """For each query that has no floor yet a value that enough rows reach."""
    found = np.full(int(np.count_nonzero(first)), -np.inf)
    blocks = len(values) // _BLOCK
    maxima = values[: blocks * _BLOCK].reshape(blocks, _BLOCK, -1).max(axis=1)
    for place, column in enumerate(np.flatnonzero(first)):
        wanted = asked[int(column)].wanted
        pool = maxima[:, column] if wanted <= blocks // 2 else values[:, column]
        if wanted <= len(pool):
            found[place] = np.partition(pool, len(pool) - wanted)[len(pool) - wanted]
    return found


def _miss(query: QueryCodes, segment: Segment, metric: Metric, share: float) -> float:
    """The most by which a value by codes misses the true one, for any row of a segment."""
    return (
        query.length * segment.most_error
        + query.slack * segment.most_reach * (1 + share)
        + share * segment.most_offset
    )


def _misses(
    query: QueryCodes, segment: Segment, rows: Any, metric: Metric, share: float
) -> npt.NDArray[np.float64]:
    """The same for single rows, from their own facts."""
    codes = segment.codes[rows].astype(np.float32)
    reach = np.sqrt(np.einsum("ij,ij->i", codes, codes)) * segment.scale[rows]
    miss: npt.NDArray[np.float64] = query.length * segment.error[rows].astype(np.float64)
    miss += query.slack * (1 + share) * reach
    if metric == "l2":
        miss += share * np.abs(segment.offset[rows])
    return miss
