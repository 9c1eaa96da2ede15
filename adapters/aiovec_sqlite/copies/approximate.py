"""Approximate search in a copy: what the scan compares by prefixes or by signs, and its recall.

Codes choose the rows that are measured; their distances are then the true ones, from the stored
vectors. A prefix stands for a vector by its first components, a sign by one bit for each component,
1/32 of the vector's size. Both are scanned as exact codes are, but their values count as they are.

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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiovec.backend import Float32Array, Int64Array, Metric

from ..connection import Ticket
from ..layout import TableLayout
from ..vectors import BitReader, VectorReader, ordinary
from .codes import QueryCodes, RowCodes, encode_queries
from .products import TOP
from .scan import Asked, Workspace, candidates
from .segments import Segment, State

# Prefix lengths whose facts are kept; for others they are computed again each time.
_MOST_KEPT = 1
# Rows whose facts are computed at once.
_ROWS_AT_ONCE = 2048
# The codes of a prefix may be longer than the vector: rounding adds up to half a step for each.
_MOST_LONGER = 2.0


class Prefixes:
    """The states of one copy as its prefixes see them, for each prefix that is searched.

    The facts of rows' prefixes take four bytes a row, but for dot none. They are kept by segment as
    masks are: rows that came since stand behind the others.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._kept: OrderedDict[int, dict[object, Float32Array]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(part.nbytes for kept in self._kept.values() for part in kept.values())

    def of(
        self, state: State, queries: Sequence[Float32Array], dims: int, *, keep: bool
    ) -> tuple[State, list[QueryCodes]]:
        """The things that the scan compares; ``keep`` the rows' facts for the next search."""
        # As for dot products: a length of zero divides nothing.
        codes = encode_queries(np.stack([query[:dims] for query in queries]), "dot")
        codes = [replace(one, length=0.0, slack=0.0) for one in codes]
        facts = self._facts_of(state, dims, keep)
        parts = tuple(self._seen(segment, facts.get(segment.mark)) for segment in state.segments)
        return State(state.change, parts), codes

    def _facts_of(self, state: State, dims: int, keep: bool) -> dict[object, Float32Array]:
        """The facts by segment's mark, for the segments of a state."""
        if self._metric == "dot":
            return {}
        with self._lock:
            known = dict(self._kept.get(dims, ())) if keep else {}
        found = {}
        for segment in state.segments:
            done = known.get(segment.mark)
            if done is None or len(done) < segment.count:
                start = 0 if done is None else len(done)
                more = self._facts(segment, dims, start)
                done = more if done is None else np.concatenate([done, more])
            found[segment.mark] = done
        if keep:
            with self._lock:
                self._kept[dims] = found
                self._kept.move_to_end(dims)
                while len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
        return found

    def _facts(self, segment: Segment, dims: int, start: int) -> Float32Array:
        """From a row on: for cosine one by the length of the codes, for l2 the offset."""
        whole = np.empty(segment.count - start, dtype=np.float32)
        for first in range(start, segment.count, _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, segment.count))
            codes = segment.whole_codes(rows)[:, :dims]
            squares = np.square(codes, dtype=np.float32).sum(axis=1)
            if self._metric == "cosine":
                # The product with nothing is 0.
                found = 1 / np.sqrt(np.maximum(squares, np.float32(1)))
            else:
                found = np.square(segment.scale[rows] * np.sqrt(squares)) / np.float32(-2)
            whole[rows.start - start : rows.stop - start] = found
        return whole

    def _seen(self, segment: Segment, facts: Float32Array | None) -> Segment:
        """A segment with the facts of a prefix, whose queries are as long as that."""
        if facts is None:  # the scale of the whole row is that of its first codes
            return segment
        if self._metric == "cosine":
            return replace(segment, scale=facts)
        if segment.dead:
            gone = np.isneginf(segment.offset[: segment.count])
            facts = np.where(gone, np.float32(-np.inf), facts[: segment.count])
        most = segment.most_offset * _MOST_LONGER
        return replace(segment, offset=facts, most_offset=most)


def sign_codes(queries: Sequence[Float32Array]) -> list[QueryCodes]:
    """The queries as steps: odd numbers from -15 to 15, times the scale."""
    exact = np.stack(queries).astype(np.float64)
    sizes = np.sqrt(np.square(exact).mean(axis=1, keepdims=True))
    steps = np.where(sizes > 0, sizes, 1.0) * _REACH / TOP
    levels = np.clip(np.floor((exact / steps + TOP + 1) / 2), 0, TOP)
    codes = (2 * levels - TOP).astype(np.int8)
    return [
        QueryCodes(code, scale, 0.0, 0.0)
        for code, scale in zip(codes, steps[:, 0].tolist(), strict=True)
    ]


# Rows measured with whole vectors, for each one wanted: recall@10 is 0.985 on real vectors, with 4
# it is 0.96 (``python -m bench search``).
BIT_OVERSAMPLE = 8.0
# Steps reach to so many times the mean size of the query's components; larger ones are cut off.
_REACH = 2.5
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
    workspace = Workspace()
    shares = []
    for start in range(0, len(sample), _TOGETHER):
        ticket.check()
        part = queries[start : start + _TOGETHER]
        asked = [Asked(codes, wanted) for codes in sign_codes(list(part))]
        found = candidates(state, asked, metric, workspace, plain=True)
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
