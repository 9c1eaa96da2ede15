"""Candidates of many queries at once: every row that the codes' bound cannot exclude.

The native scan finds them, or NumPy does here. A first segment gives each query a value that enough
rows reach. Rows that reach it in any segment, give or take the bound, are collected: some hundred
of a hundred thousand. Their own bounds then leave the candidates. Scans share arrays that are used
again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float32Array, Float64Array, Int64Array, Metric

from .codes import QueryCodes, rounding
from .kernel.library import load
from .native import scan_natively
from .products import Int32Array, products_of
from .segments import LIMITS, CopyLimits, Segment, State


class _Arrays:
    """One thread's arrays, as large as its largest scan."""

    products: Int32Array | None = None
    reached: BoolArray | None = None

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in (self.products, self.reached) if one is not None)

    def clear(self) -> None:
        self.products = self.reached = None


class Workspace:
    """Arrays for each thread.

    Memory that is new to the process costs more than what a scan does with it, so every thread
    keeps its arrays (``python -m bench search``).
    """

    def __init__(self, limits: CopyLimits = LIMITS) -> None:
        self.limits = limits
        self._threads = threading.local()
        # Those of threads that have ended go with their threads.
        self._every: WeakSet[_Arrays] = WeakSet()
        self._lock = threading.Lock()

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

    def products(self, rows: int, columns: int) -> Int32Array:
        """Room for the integer products of a block."""
        arrays = self._arrays
        found = arrays.products
        if found is None or found.size < rows * columns:
            found = arrays.products = np.empty(rows * columns, dtype=np.int32)
        return found[: rows * columns].reshape(rows, columns)

    def reached(self, rows: int, columns: int) -> BoolArray:
        arrays = self._arrays
        found = arrays.reached
        if found is None or found.size < rows * columns:
            found = arrays.reached = np.empty(rows * columns, dtype=np.bool_)
        return found[: rows * columns].reshape(rows, columns)


_Float = TypeVar("_Float", np.float32, np.float64)

# A threshold from the maxima of groups is a little low, and needs no sorting of all values.
_GROUP = 64
# Collected rows, for each wanted one, from which on the threshold is raised on the way.
_MANY = 64
# Values lie above minus this, in units of the query's scale, and so within float32.
_FARTHEST = 1e37
_LOWEST = -1e38
# Rows whose values are compared with the thresholds in one run of the processor's loop.
_RUN = 512


@dataclass(slots=True)
class Asked:
    """A query, how many rows it wants, and which rows of each segment it may find (None: all)."""

    query: QueryCodes
    wanted: int
    masks: Sequence[BoolArray] | None = None


@dataclass(slots=True)
class Collected:
    """Rows of some queries: each one's query, its id, its value, and the most this may miss."""

    columns: Int64Array
    rowids: Int64Array
    value: Float64Array
    miss: Float64Array | None = None
    """None where values count as they are."""

    def take(self, which: Any) -> Collected:
        miss = None if self.miss is None else self.miss[which]
        return Collected(self.columns[which], self.rowids[which], self.value[which], miss)


class Collector:
    """The best rows of each query so far, collected from segment after segment.

    Where values may miss the truth, every row stays that may be among the best. Where they count
    as they are, so many rows stay as are wanted. ``room`` rows are collected before they are cut.
    """

    def __init__(self, wanted: Sequence[int], room: int) -> None:
        self.wanted = wanted
        # At least as many rows as are wanted truly reach this.
        self.floors: Float64Array = np.full(len(wanted), -np.inf)
        self._room = room
        self._parts: list[Collected] = []
        self._collected = 0

    def add(self, part: Collected) -> None:
        self._parts.append(part)
        self._collected += len(part.rowids)
        if self._collected > self._room:
            self._cut()

    def finish(self) -> list[Collected]:
        """Return each query's rows, best first."""
        whole = self._cut()
        whole = whole.take(np.lexsort((-whole.value, whole.columns)))
        return [whole.take(mine) for mine in self._by_query(whole)]

    def _cut(self) -> Collected:
        """Raise the floors by the rows that were collected, and keep those that still count."""
        whole = self._joined()
        if not len(whole.rowids):
            return whole
        # Small numbers are sorted in one pass.
        whole = whole.take(np.argsort(whole.columns.astype(np.int16), kind="stable"))
        whole = self._likeliest(whole) if whole.miss is None else self._possible(whole, whole.miss)
        self._parts = [whole]
        self._collected = 0
        return whole

    def _joined(self) -> Collected:
        if not self._parts:
            return Collected(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        columns, rowids, value = (
            np.concatenate([getattr(part, name) for part in self._parts])
            for name in ("columns", "rowids", "value")
        )
        misses = [part.miss for part in self._parts if part.miss is not None]
        return Collected(columns, rowids, value, np.concatenate(misses) if misses else None)

    def _possible(self, whole: Collected, miss: Float64Array) -> Collected:
        lower = whole.value - miss
        for column, mine in enumerate(self._by_query(whole)):
            wanted, reached = self.wanted[column], lower[mine]
            if len(reached) >= wanted:
                best = np.partition(reached, len(reached) - wanted)[len(reached) - wanted]
                self.floors[column] = max(self.floors[column], best)
        return whole.take(whole.value + miss >= self.floors[whole.columns])

    def _likeliest(self, whole: Collected) -> Collected:
        kept = []
        for column, mine in enumerate(self._by_query(whole)):
            wanted, best = self.wanted[column], np.arange(mine.start, mine.stop)
            if len(best) > wanted:
                place = len(best) - wanted
                best = best[np.argpartition(whole.value[mine], place)[place:]]
            if len(best) == wanted:
                self.floors[column] = whole.value[best].min()
            kept.append(best)
        return whole.take(np.concatenate(kept))

    def _by_query(self, part: Collected) -> Iterable[slice]:
        """Return where each query's rows stand in a part that is in the order of queries."""
        ends = np.searchsorted(part.columns, np.arange(len(self.wanted) + 1)).tolist()
        return map(slice, ends[:-1], ends[1:])


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that may be among a query's nearest, the likeliest first."""

    rowids: Int64Array
    most: Float64Array
    """The most that their true values can be; infinite where nothing bounds them."""


def candidates(
    state: State,
    asked: Sequence[Asked],
    metric: Metric,
    workspace: Workspace,
    *,
    plain: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[Candidates]:
    """For each query all rows that may be among its nearest, and some more.

    ``plain`` values count as they are: then there are as many rows as are wanted, where there are
    so many. ``check`` raises where nobody waits for the answer any more.
    """
    if (library := load()) is not None and _for_the_library(state.segments):
        found = scan_natively(
            library, state.segments, [one.query for one in asked], [one.wanted for one in asked],
            [one.masks for one in asked], metric, check, plain=plain,
        )  # fmt: skip
        return [
            Candidates(rowids, np.full(len(rowids), np.inf) if plain else most)
            for rowids, most in found
        ]
    scan = _Scan(asked, state, metric, workspace, plain)
    for block in _blocks(state.segments, scan.most_rows):
        check()
        scan.add(block, scan.products(block))
    return scan.finish()


def _for_the_library(segments: Sequence[Segment]) -> bool:
    """Return whether all are signs or in halves: not so where the way of scanning was changed while
    the process ran."""
    return all(one.lower is not None or one.codes.dtype == np.uint8 for one in segments)


@dataclass(frozen=True, slots=True)
class _Block:
    """Segments that are looked through together: their numbers, themselves, and their facts."""

    numbers: Sequence[int]
    parts: Sequence[Segment]
    whole: Segment
    """Has no codes of its own."""

    @classmethod
    def of(cls, numbered: Sequence[tuple[int, Segment]]) -> _Block:
        numbers, parts = zip(*numbered, strict=True)
        if len(parts) == 1:
            return cls(numbers, parts, parts[0])

        def joined(name: str) -> Any:
            return np.concatenate([getattr(part, name)[: part.count] for part in parts])

        first: Segment = parts[0]
        whole = replace(
            first,
            count=sum(part.count for part in parts),
            dead=sum(part.dead for part in parts),
            codes=first.codes[:0],
            lower=None,
            scale=joined("scale"),
            offset=joined("offset"),
            error=joined("error"),
            rowids=joined("rowids"),
            most_error=max(part.most_error for part in parts),
            most_reach=max(part.most_reach for part in parts),
            most_offset=max(part.most_offset for part in parts),
        )
        return cls(numbers, parts, whole)

    def mask(self, masks: Sequence[BoolArray]) -> BoolArray:
        """Of the masks of all segments what is for these."""
        mine = [
            masks[number][: part.count]
            for number, part in zip(self.numbers, self.parts, strict=True)
        ]
        return mine[0] if len(mine) == 1 else np.concatenate(mine)


def _blocks(segments: Sequence[Segment], most_rows: int) -> Iterator[_Block]:
    """The segments that have rows, some at a time."""
    some: list[tuple[int, Segment]] = []
    for number, segment in enumerate(segments):
        if segment.count == segment.dead:
            continue
        if some and sum(part.count for _, part in some) + segment.count > most_rows:
            yield _Block.of(some)
            some = []
        some.append((number, segment))
    if some:
        yield _Block.of(some)


class _Scan:
    """One pass over a copy for a batch of queries."""

    def __init__(
        self,
        asked: Sequence[Asked],
        state: State,
        metric: Metric,
        workspace: Workspace,
        plain: bool,
    ) -> None:
        self._asked = asked
        self._workspace = workspace
        self._metric = metric
        self._plain = plain
        self._share = 0.0 if plain else rounding(len(asked[0].query.codes))
        self._scales: Float64Array = np.array([one.query.scale for one in asked])
        self._lengths = np.array([one.query.length for one in asked])
        self._slacks = np.array([one.query.slack for one in asked])
        self._blurs = np.array([one.query.blur for one in asked])
        wanted = [one.wanted for one in asked]
        self._collector = Collector(wanted, _MANY * sum(wanted) + 4096)
        codes = np.stack([one.query.codes for one in asked])
        self._dim = codes.shape[1]
        signs = any(segment.codes.dtype == np.uint8 for segment in state.segments)
        self._products = products_of(codes, signs=signs)
        self._width = self._products.width
        self._padding = self._width - len(asked)

    @property
    def most_rows(self) -> int:
        """The count of rows to look through at once."""
        return self._workspace.limits.scanned_together if len(self._asked) > 1 else 0

    def products(self, block: _Block) -> Int32Array:
        """The integer products of a block's rows with all queries, and a column or so more.

        They are overwritten by the thread's next ones.
        """
        room = self._workspace.products(block.whole.count, self._width)
        first = 0
        for part in block.parts:
            last = first + part.count
            codes = part.whole_codes(slice(part.count))[:, : self._dim]
            self._products.put(codes, room[first:last])
            first = last
        return room

    def add(self, block: _Block, products: Int32Array) -> None:
        """Collect the rows of a block that may be wanted."""
        segment = block.whole
        values = self._values(block, products)
        most = self._most_miss(segment)
        floors, wanted = self._collector.floors, self._collector.wanted
        new = np.isneginf(floors)
        if new.any():
            if segment.dead:
                values[np.flatnonzero(np.isneginf(segment.offset[: segment.count]))] = -np.inf
            floors[new] = reached(values, wanted, new) * self._scales[new] - most[new]
        lowest = np.maximum((floors - most) / self._scales, _LOWEST).astype(np.float32)
        lowest = np.nextafter(lowest, np.float32(-np.inf))
        rows, columns = self._where_reached(values, self._padded(lowest, np.inf))
        value = values[rows, columns].astype(np.float64) * self._scales[columns]
        if segment.dead or any(one.masks is not None for one in self._asked):
            there = np.flatnonzero((value > -np.inf) & (segment.offset[rows] > -np.inf))
            rows, columns, value = rows[there], columns[there], value[there]
        if not len(rows):
            return
        miss = None if self._plain else self._misses(segment, rows, columns)
        self._collector.add(Collected(columns, segment.rowids[rows], value, miss))

    def finish(self) -> list[Candidates]:
        return [
            Candidates(
                part.rowids,
                np.full(len(part.rowids), np.inf) if part.miss is None else part.value + part.miss,
            )
            for part in self._collector.finish()
        ]

    def _values(self, block: _Block, products: Int32Array) -> Float32Array:
        """The rows' values by codes, in units of the query's scale, in the place of the products.

        Minus infinity is no row, and one that is gone may have any value.
        """
        segment, count = block.whole, block.whole.count
        # Twice the memory would not stay in the processor's cache.
        values: Float32Array = products.view(np.float32)
        np.copyto(values, products, casting="unsafe")
        values *= segment.scale[:count, None]
        if self._metric == "l2":
            scales = self._padded(self._scales, 1.0)
            if segment.most_offset > _FARTHEST * self._scales.min():
                # A huge row and a tiny query. All that is farther counts as equally far, which
                # keeps the bound: no two values part by that.
                exact = values + segment.offset[:count, None] / scales
                values[:] = np.where(np.isneginf(exact), exact, np.maximum(exact, -_FARTHEST))
            else:
                offsets: Float32Array = segment.offset[:count, None] / np.float32(scales)
                values += offsets
        for column, one in enumerate(self._asked):
            if one.masks is not None:
                values[~block.mask(one.masks), column] = -np.inf
        return values

    def _padded(self, numbers: npt.NDArray[_Float], value: float) -> npt.NDArray[_Float]:
        """A number for each query, and this one for each column beyond."""
        if not self._padding:
            return numbers
        return np.concatenate([numbers, np.full(self._padding, value, dtype=numbers.dtype)])

    def _where_reached(
        self, values: Float32Array, lowest: Float32Array
    ) -> tuple[Int64Array, Int64Array]:
        """Rows and columns of the values that reach their column's lowest; few do."""
        rows, columns = values.shape
        even = rows // _RUN * _RUN
        reached = self._workspace.reached(rows, columns)
        if even:
            # Compared in long runs: a row of few queries would be a loop of its own.
            np.greater_equal(
                values[:even].reshape(-1, _RUN * columns),
                np.tile(lowest, _RUN),
                out=reached[:even].reshape(-1, _RUN * columns),
            )
        np.greater_equal(values[even:], lowest, out=reached[even:])
        return np.divmod(np.flatnonzero(reached), columns)

    def _most_miss(self, segment: Segment) -> Float64Array:
        """For each query the most by which any value of a segment misses the true one."""
        reach = segment.most_reach * (1 + self._share)
        miss: Float64Array = self._lengths * segment.most_error + self._slacks * reach
        miss += self._share * segment.most_offset + self._blurs
        return miss

    def _misses(self, segment: Segment, rows: Int64Array, columns: Int64Array) -> Float64Array:
        """The same for single rows, from their own facts."""
        miss: Float64Array = self._lengths[columns] * segment.error[rows]
        miss += self._slacks[columns] * (segment.most_reach * (1 + self._share))
        if self._metric == "l2":
            miss += self._share * np.abs(segment.offset[rows]) + self._blurs[columns]
        return miss


def reached(values: Float32Array, wanted: Sequence[int], which: BoolArray) -> Float64Array:
    """Return for each of these queries a value that as many rows as are wanted reach."""
    found = np.full(int(np.count_nonzero(which)), -np.inf)
    groups, columns = len(values) // _GROUP, values.shape[1]
    # A group's rows lie far apart, so that long runs are compared.
    runs = values[: groups * _GROUP].reshape(_GROUP, groups * columns)
    maxima = runs.max(axis=0).reshape(groups, columns)
    for place, column in enumerate(np.flatnonzero(which).tolist()):
        pool = maxima[:, column] if wanted[column] <= groups // 2 else values[:, column]
        if wanted[column] <= len(pool):
            place_from_below = len(pool) - wanted[column]
            found[place] = np.partition(pool, place_from_below)[place_from_below]
    return found
