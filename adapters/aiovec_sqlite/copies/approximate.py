"""Approximate search in a copy: the likeliest rows by prefixes or by signs, and its recall.

Codes choose the rows that are measured; their distances are then the true ones, from the stored
vectors. A prefix stands for a vector by its first components, a sign by one bit for each component,
1/32 of the vector's size.

A row's bits stand for a vector of +1 and -1. A query is not cut down so far: its components become
one of 16 steps, which are four bits. Each of these four planes is compared with the rows' bits by
Hamming distance, and the distances, weighted by 8, 4, 2 and 1, give the product of the query's
steps with the rows' signs. On real vectors that finds as much with 40 candidates as the query's
signs alone with 160, and one query's four planes are scanned as quickly as one.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numkong
import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float32Array, Int64Array, Metric, UInt64Array

from ..connection import Ticket
from ..layout import TableLayout
from ..vectors import BitReader, VectorReader, ordinary
from .codes import CodeArray, RowCodes, encode_queries
from .scan import Candidates, Collected, Collector, Workspace, reached
from .segments import Segment, State

# Prefix lengths that are kept; for others the rows' lengths are computed again each time.
_MOST_KEPT = 1
# Rows whose lengths are computed at once.
_ROWS_AT_ONCE = 2048


class Prefixes:
    """The lengths of the prefixes of one copy's codes, for each prefix that is searched.

    They take four bytes a row, and are kept by segment as masks are: rows that came since stand
    behind the others.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, dict[object, Float32Array]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(part.nbytes for kept in self._kept.values() for part in kept.values())

    def of(self, state: State, dims: int) -> dict[object, Float32Array]:
        """The lengths by segment's mark, for the segments of a state; kept for the next search."""
        with self._lock:
            known = dict(self._kept.get(dims, ()))
        found = {}
        for segment in state.segments:
            done = known.get(segment.mark)
            if done is None or len(done) < segment.count:
                start = 0 if done is None else len(done)
                more = lengths(segment, dims, start)
                done = more if done is None else np.concatenate([done, more])
            found[segment.mark] = done
        with self._lock:
            self._kept[dims] = found
            self._kept.move_to_end(dims)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found


def lengths(segment: Segment, dims: int, start: int = 0) -> Float32Array:
    """The lengths of prefixes of codes, from a row on."""
    parts = [
        np.sqrt(
            np.square(segment.codes[first : first + _ROWS_AT_ONCE, :dims], dtype=np.float32).sum(1)
        )
        for first in range(start, segment.count, _ROWS_AT_ONCE)
    ]
    # The last block may reach into room for more.
    whole: Float32Array = np.concatenate(parts)[: segment.count - start]
    return whole


class PrefixValues:
    """For a batch of queries the values of rows by their first ``dims`` components."""

    def __init__(
        self,
        queries: Sequence[Float32Array],
        dims: int,
        metric: Metric,
        kept: dict[object, Float32Array],
        workspace: Workspace,
    ) -> None:
        # As for dot products: a length of zero divides nothing.
        codes = encode_queries(np.stack([query[:dims] for query in queries]), "dot")
        self._codes = np.stack([one.codes for one in codes])
        self._scales = np.array([one.scale for one in codes], dtype=np.float32)
        self._packed = numkong.dots_pack(self._codes) if len(codes) > 1 else None
        # A lone query reads whole rows: memory that is read through comes faster than parts of it,
        # up to twice as fast (``python -m bench search``). A batch reads the parts.
        self._padded = np.pad(self._codes, ((0, 0), (0, len(queries[0]) - dims)))
        self._dims = dims
        self._metric = metric
        self._kept = kept
        self._workspace = workspace

    def __call__(self, segment: Segment) -> Float32Array:
        """The values, which are overwritten by the thread's next ones."""
        count, queries = segment.count, len(self._codes)
        values = self._workspace.values(count, queries)
        np.copyto(
            values, np.asarray(self._products(segment)).reshape(count, queries), casting="unsafe"
        )
        scale = segment.scale[: segment.count]
        if self._metric == "dot":
            values *= scale[:, None]
            return values
        length = self._kept.get(segment.mark)
        if length is None:
            length = lengths(segment, self._dims)
        length = length[: segment.count]
        if self._metric == "cosine":
            # The scale stands for the whole vector and falls out.
            values /= np.where(length > 0, length, np.float32(1.0))[:, None]
            return values
        values *= scale[:, None] * self._scales
        values -= (np.square(scale * length) / 2)[:, None]
        return values

    def _products(self, segment: Segment) -> Any:
        if self._packed is None:
            rows = segment.codes[: segment.count]
            return numkong.cdist(rows, self._padded, "dot", out_dtype="float32")
        # The kernel does not copy the rows, though they are parts of longer ones.
        rows = segment.codes[: segment.count, : self._dims]
        room = self._workspace.products(len(rows), len(self._codes))
        return numkong.dots_packed(rows, self._packed, out=room)


UInt8Array = npt.NDArray[np.uint8]

# Rows measured with whole vectors, for each one wanted: recall@10 is 0.985 on real vectors, with 4
# it is 0.96 (``python -m bench search``).
BIT_OVERSAMPLE = 8.0
_PLANES = 4
_TOP = 2**_PLANES - 1
# Steps reach to so many times the mean size of the query's components; larger ones are cut off.
_REACH = 2.5
# From here on spelling out the signs takes less time than four planes for each query.
_MANY_QUERIES = 4
# Numbers that are read at once, and rows for which whole chunks are still read.
_READ, _FEWEST = 2**18, 1024


class SignReader:
    """The codes of the scan by bits, as the file holds them."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        schema = table.schema
        self.width = schema.dim // 8
        self._metric = schema.metric
        self._bits = BitReader(db, table)
        # Lengths count in the other metrics, so there the vectors have to be read.
        self._vectors = None if schema.metric == "cosine" else VectorReader(db, table)
        numbers = schema.dim if self._vectors else self.width
        self.together = max(_FEWEST, _READ // numbers)

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        bits = self._bits.read(rowids, ticket, present=True)
        nothing = np.zeros(len(rowids), dtype=np.float32)
        if self._vectors is None:
            return RowCodes(bits, nothing + 1, nothing, nothing)
        vectors = ordinary(self._vectors.read(rowids, ticket, present=True))
        squares: Float32Array = np.einsum("ij,ij->i", vectors, vectors)
        sizes: Float32Array = np.abs(vectors).sum(axis=1)
        # So that on the average the product with the signs is that with the vector.
        divisors: Float32Array = np.maximum(sizes, np.float32(1e-30))
        scale: Float32Array = squares / divisors
        halves: Float32Array = squares / np.float32(-2.0)
        offset = halves if self._metric == "l2" else nothing
        return RowCodes(bits, scale, offset, nothing)


class SignValues:
    """For a batch of queries the values of rows by their bits.

    A few queries are compared with the bits as they are, by Hamming distance. For more of them it
    is quicker to spell the bits of some rows out as +1 and -1, and multiply. Both ways add up the
    same whole numbers.
    """

    def __init__(
        self, queries: Sequence[Float32Array], metric: Metric, workspace: Workspace
    ) -> None:
        self._steps, levels = _steps(np.stack(queries))
        self._metric = metric
        self._workspace = workspace
        self._products = _ByPlanes(levels) if len(queries) < _MANY_QUERIES else _BySigns(levels)

    def __call__(self, segment: Segment) -> Float32Array:
        """The values, which are overwritten by the thread's next ones."""
        values = self._workspace.values(segment.count, len(self._steps))
        together = self._products.rows
        for start in range(0, segment.count, together):
            block = slice(start, min(start + together, segment.count))
            self._products.put(segment.codes[block], values[block])
        if self._metric != "cosine":
            values *= segment.scale[: segment.count, None] * self._steps
            values += segment.offset[: segment.count, None]
        return values


class _ByPlanes:
    """Products of steps and signs by the Hamming distances to the planes of the steps' bits."""

    # As many as stay in the processor's cache with all planes' distances.
    rows = 4096

    def __init__(self, levels: UInt8Array) -> None:
        planes = [levels >> plane & 1 for plane in reversed(range(_PLANES))]
        bits = np.packbits(np.concatenate(planes), axis=1, bitorder="little")
        self._packed = numkong.hammings_pack(bits)
        self._most = _TOP * levels.shape[1]
        self._room: Any = numkong.empty((self.rows, len(bits)), dtype="uint32")

    def put(self, bits: CodeArray, products: Float32Array) -> None:
        room = self._room[: len(bits)]
        distances = np.asarray(numkong.hammings_packed(bits, self._packed, out=room))
        columns = products.shape[1]
        np.copyto(products, distances[:, :columns], casting="unsafe")
        for plane in range(1, _PLANES):
            # Each plane counts twice what the next one counts.
            products *= 2.0
            products += distances[:, plane * columns : (plane + 1) * columns]
        # Equal signs add a step's level, different ones take it away.
        products *= -2.0
        products += self._most


class _BySigns:
    """The same products, by spelling the signs out."""

    # As many as stay in the processor's cache when spelled out.
    rows = 1024

    def __init__(self, levels: UInt8Array) -> None:
        steps = levels.astype(np.int8) * 2 - _TOP
        self._packed = numkong.dots_pack(np.ascontiguousarray(steps, dtype=np.int8))
        self._signs = np.empty((self.rows, levels.shape[1] // 8), dtype=np.uint64)
        self._room: Any = numkong.empty((self.rows, len(levels)), dtype="int32")

    def put(self, bits: CodeArray, products: Float32Array) -> None:
        signs = self._signs[: len(bits)]
        np.take(_SIGNS_OF_BYTES, bits, out=signs, mode="clip")
        room = self._room[: len(bits)]
        found = numkong.dots_packed(signs.view(np.int8), self._packed, out=room)
        np.copyto(products, np.asarray(found), casting="unsafe")


def _signs_of_bytes() -> UInt64Array:
    """For each byte the signs of its bits, the lowest first, in eight bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    signs = np.where(bits == 1, 1, -1).astype(np.int8)
    return signs.view(np.uint64).reshape(-1)


_SIGNS_OF_BYTES = _signs_of_bytes()


def _steps(queries: Float32Array) -> tuple[Float32Array, UInt8Array]:
    """Each query's step, and its components as 0 to 15: multiples of the step from -15 to 15."""
    exact = queries.astype(np.float64)
    sizes = np.sqrt(np.square(exact).mean(axis=1, keepdims=True))
    steps = np.where(sizes > 0, sizes, 1.0) * _REACH / _TOP
    levels = np.clip(np.floor((exact / steps + _TOP + 1) / 2), 0, _TOP)
    return steps[:, 0].astype(np.float32), levels.astype(np.uint8)


# Queries of a batch that is small enough to be shared with a helper.
_FEW_QUERIES = 4
# Collected rows, for each wanted one, from which on the threshold is raised on the way.
_MANY = 16


@dataclass(slots=True)
class Sought:
    """The count of rows a query wants, and those of each segment it may find (None: all)."""

    wanted: int
    masks: Sequence[BoolArray] | None = None


class Values(Protocol):
    """Values by codes for a batch of queries, higher is better."""

    def __call__(self, segment: Segment) -> Float32Array:
        """One row for each of the segment's, one column a query; the caller may write to it."""
        ...


def likeliest(
    state: State,
    sought: Sequence[Sought],
    values: Callable[[], Values],
    workspace: Workspace,
    *,
    alone: bool,
) -> list[Candidates]:
    """For each query as many rows as it wants, the likeliest first, where there are so many.

    ``values`` makes what computes them, for one thread; ``alone`` tells that a second core has
    nothing else to do.
    """

    def best_of(segments: Sequence[tuple[int, Segment]]) -> _Best:
        best, values_of = _Best([one.wanted for one in sought], workspace), values()
        for number, segment in segments:
            found = values_of(segment)
            if segment.dead:
                found[np.isneginf(segment.offset[: segment.count])] = -np.inf
            for column, one in enumerate(sought):
                if one.masks is not None:
                    found[~one.masks[number][: segment.count], column] = -np.inf
            best.add(segment, found)
        return best

    alive = [
        (i, segment) for i, segment in enumerate(state.segments) if segment.count > segment.dead
    ]
    helper = workspace.helper if alone and len(sought) <= _FEW_QUERIES else None
    if helper is None or len(alive) < 2:
        return best_of(alive).finish()
    half = len(alive) // 2
    waiting = helper.submit(best_of, alive[:half])
    best = best_of(alive[half:])
    best.join(waiting.result())
    return best.finish()


class _Best:
    """The best rows of each query so far, by values that count as they are."""

    def __init__(self, wanted: Sequence[int], workspace: Workspace) -> None:
        self._collector = Collector(wanted, _MANY * sum(wanted))
        self._workspace = workspace

    def add(self, segment: Segment, values: Float32Array) -> None:
        floors = self._collector.floors
        new = np.isneginf(floors)
        if new.any():
            floors[new] = reached(values, self._collector.wanted, new)
        # Those at minus infinity are no rows of the query's.
        least = np.maximum(floors, np.finfo(np.float32).min).astype(np.float32)
        found = np.greater_equal(values, least, out=self._workspace.reached(*values.shape))
        rows, columns = np.divmod(np.flatnonzero(found), values.shape[1])
        value = values[rows, columns].astype(np.float64)
        self._collector.add(Collected(columns, segment.rowids[rows], value))

    def join(self, other: _Best) -> None:
        """Take in the rows that were collected from other segments."""
        self._collector.join(other._collector)

    def finish(self) -> list[Candidates]:
        # Nothing bounds their true values.
        return [
            Candidates(part.rowids, np.full(len(part.rowids), np.inf))
            for part in self._collector.finish()
        ]


_K = 10
_SAMPLE = 100
# Queries scanned at once.
_TOGETHER = 32
# Scores closer than this are ties: float32 sums differ.
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of the nearest rows that searches for some of the table's own rows found.

    The row itself, which is always found, does not count.
    """

    recall: float
    k: int
    sample: int
    rows: int
    """The table's rows at that time."""


def measure(
    db: sqlite3.Connection, ticket: Ticket, table: TableLayout, state: State
) -> Recall | None:
    """Search for some rows exactly and by bits. The state is that of the connection's snapshot."""
    rowids = np.sort(_alive(state))
    if len(rowids) < 2:
        return None
    # The same rows of the same table each time.
    places = np.random.default_rng(0).permutation(len(rowids))[:_SAMPLE]
    sample = np.sort(rowids[places])
    reader, metric = VectorReader(db, table), table.schema.metric
    queries = reader.read(sample, ticket)
    k = min(_K, len(rowids) - 1)
    least = _least_scores(reader, ticket, rowids, sample, queries, metric, k)
    wanted = min(len(rowids), int(k * BIT_OVERSAMPLE) + 1)
    workspace = Workspace(helpers=0)
    shares = []
    for start in range(0, len(sample), _TOGETHER):
        ticket.check()
        part = queries[start : start + _TOGETHER]
        values = partial(SignValues, list(part), metric, workspace)
        found = likeliest(state, [Sought(wanted)] * len(part), values, workspace, alone=False)
        for place, one in enumerate(found, start):
            others = one.rowids[one.rowids != sample[place]]
            scores = _scores(reader.read(others, ticket), queries[place : place + 1], metric)[:, 0]
            near = np.count_nonzero(scores >= least[place] - _TIE * abs(least[place]))
            shares.append(min(1.0, near / k))
    return Recall(float(np.mean(shares)), k, len(sample), len(rowids))


def _alive(state: State) -> Int64Array:
    parts = [
        part.rowids[: part.count][part.offset[: part.count] > -np.inf] for part in state.segments
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _least_scores(
    reader: VectorReader,
    ticket: Ticket,
    rowids: Int64Array,
    sample: Int64Array,
    queries: Float32Array,
    metric: Metric,
    k: int,
) -> Float32Array:
    """For each row of the sample the score of the k-th nearest other row."""
    best = np.full((k, len(sample)), -np.inf, dtype=np.float32)
    for start in range(0, len(rowids), _ROWS_AT_ONCE):
        ticket.check()
        block = rowids[start : start + _ROWS_AT_ONCE]
        scores = _scores(reader.read(block, ticket), queries, metric)
        mine = np.flatnonzero(np.isin(sample, block))
        scores[np.searchsorted(block, sample[mine]), mine] = -np.inf
        best = np.partition(np.concatenate([best, scores]), -k, axis=0)[-k:]
    least: Float32Array = best.min(axis=0)
    return least


def _scores(rows: Float32Array, queries: Float32Array, metric: Metric) -> Float32Array:
    """Scores of rows for queries, higher is nearer; float32 is enough to count by."""
    products: Float32Array = rows @ queries.T
    squares = np.einsum("ij,ij->i", rows, rows)[:, None]
    if metric == "cosine":
        products /= np.sqrt(squares)
    elif metric == "l2":
        # The query's own square is the same for all rows, and keeps a near row's score small.
        products = products * 2 - squares - np.einsum("ij,ij->i", queries, queries)
    return products
