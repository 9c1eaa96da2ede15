"""A batch of searches answered from a resident copy, on a reader's thread, in one snapshot.

The scan's candidates get their true distances from the vectors in the file.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from aiovec.backend import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    Metric,
    nearest_first,
)
from aiovec.backend.contract import Found, VectorQuery

from ..connection import Ticket
from ..layout import TableLayout, partition_value
from ..reads import by_rowids, split
from ..search import PREFIX_OVERSAMPLE, oversampled, prefix_of
from ..sql.filters import fixed_values, only_fixes
from ..vectors import VectorReader
from .approximate import BIT_OVERSAMPLE, sign_codes
from .codes import encode_queries, value_of
from .native import measure
from .scan import Asked, Candidates, candidates
from .segments import SHARED, State, gathered
from .whole import likeliest_whole

if TYPE_CHECKING:
    from .copy import ResidentCopy

STAGES = ("queue", "fresh", "filter", "scan", "rescore", "fetch")


class Timings:
    """Sums for one table. Written by several threads.

    ``clock`` gives the seconds by which stages are timed.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._searches = 0
        self._batches = 0
        self._candidates = 0
        self._largest_batch = 0

    def stage(self, name: str) -> Stage:
        """Count the time within as this stage of a batch."""
        return Stage(self, name)

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] += seconds

    def add_waiting(self, seconds: float) -> None:
        """One search waited for its batch."""
        self.add("queue", seconds)

    def add_batch(self, searches: int, candidates: int) -> None:
        with self._lock:
            self._searches += searches
            self._batches += 1
            self._candidates += candidates
            self._largest_batch = max(self._largest_batch, searches)

    def to_dict(self) -> dict[str, float]:
        """Milliseconds a search in each stage, and the means of the counts."""
        with self._lock:
            searches = max(self._searches, 1)
            shown = {f"{name}_ms": 1000 * s / searches for name, s in self._seconds.items()}
            return {
                "searches": self._searches,
                **shown,
                "candidates": self._candidates / searches,
                "batch": self._searches / max(self._batches, 1),
                "largest_batch": self._largest_batch,
            }


class Stage:
    __slots__ = ("_began", "_name", "_timings")

    def __init__(self, timings: Timings, name: str) -> None:
        self._timings = timings
        self._name = name

    def __enter__(self) -> None:
        self._began = self._timings.clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timings.add(self._name, self._timings.clock() - self._began)


# Where there are this many rows for each candidate, hardly two of these lie in one chunk.
_SPARSE = 32


# Rows read at once.
_BLOCK = 4096
# So many vectors are read by one statement. A lone query has as many measured at first, which often
# saves a second look.
_FILLED_UP = 16


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows and their distances to a query; vectors where the batch wants any."""

    rowids: Int64Array
    distances: Float64Array
    vectors: Float32Array | None

    def take(self, which: Int64Array) -> Nearest:
        vectors = None if self.vectors is None else self.vectors[which]
        return Nearest(self.rowids[which], self.distances[which], vectors)


class Rescoring:
    """Settles a batch's candidates in a state of the copy."""

    def __init__(
        self,
        vectors: VectorReader,
        metric: Metric,
        state: State,
        ticket: Ticket,
    ) -> None:
        self.read = 0
        self._vectors = vectors
        self._metric = metric
        self._rows = state.rows
        self._longest = state.longest
        self._ticket = ticket

    def nearest(self, found: Sequence[Candidates], queries: Sequence[VectorQuery]) -> list[Nearest]:
        """Of each query's candidates its nearest, best first, and those that equal the last one.

        The likeliest ones are measured first: their distances leave few of the others.
        """
        extra = _FILLED_UP if len(queries) == 1 else 1
        first = [
            one.rowids[: query.limit + -query.limit % extra]
            for one, query in zip(found, queries, strict=True)
        ]
        measured = self._measured(first, queries)
        others = [
            self._others(one, near, query)
            for one, near, query in zip(found, measured, queries, strict=True)
        ]
        if not any(map(len, others)):
            return [
                near.take(nearest_first(near.distances, query.limit))
                for near, query in zip(measured, queries, strict=True)
            ]
        more = self._measured(others, queries)
        return [
            _best(near, other, query.limit)
            for near, other, query in zip(measured, more, queries, strict=True)
        ]

    def _others(self, found: Candidates, near: Nearest, query: VectorQuery) -> Int64Array:
        """Candidates beyond the first ones that may be as near as the last one wanted of these."""
        first, limit = len(near.rowids), query.limit
        if len(found.rowids) == first:
            return found.rowids[first:]
        last = np.partition(near.distances, limit - 1)[limit - 1]
        reached = value_of(float(last), query.vector, self._metric, self._longest)
        return found.rowids[first:][found.most[first:] >= reached]

    def _measured(
        self, wanted: Sequence[Int64Array], queries: Sequence[VectorQuery]
    ) -> list[Nearest]:
        """Each query's rows with their distances; those of all queries are read together."""
        rowids = wanted[0] if len(wanted) == 1 else np.concatenate(wanted)
        dim = len(queries[0].vector)
        measured = np.empty(len(rowids), dtype=np.float64)
        keeps = any(query.columns.vector for query in queries)
        kept = np.empty((len(rowids), dim), dtype=np.float32) if keeps else None
        sizes = [len(part) for part in wanted]
        points = np.stack([query.vector for query in queries])
        which = np.repeat(np.arange(len(queries)), sizes)
        for start in range(0, len(rowids), _BLOCK):
            some = slice(start, start + _BLOCK)
            # One that several queries want is read once.
            once, places = np.unique(rowids[some], return_inverse=True)
            vectors = self._read(once)
            measured[some] = measure(vectors, places, points, which[some], self._metric)
            if kept is not None:
                kept[some] = vectors[places]
        self.read += len(rowids)
        found, start = [], 0
        for size in sizes:
            part = slice(start, start + size)
            mine = None if kept is None else kept[part]
            found.append(Nearest(rowids[part], measured[part], mine))
            start += size
        return found

    def _read(self, rowids: Int64Array) -> Float32Array:
        """The vectors of different rows."""
        sparse = len(rowids) * _SPARSE < self._rows
        return self._vectors.read(rowids, self._ticket, scattered=sparse, present=True)


def _best(near: Nearest, other: Nearest, limit: int) -> Nearest:
    if len(other.rowids):
        vectors = None
        if near.vectors is not None and other.vectors is not None:
            vectors = np.concatenate([near.vectors, other.vectors])
        near = Nearest(
            np.concatenate([near.rowids, other.rowids]),
            np.concatenate([near.distances, other.distances]),
            vectors,
        )
    return near.take(nearest_first(near.distances, limit))


# Where a filter selects less than this share of the rows, their codes are gathered and scanned
# alone.
_FEW = 1 / 16


@dataclass(slots=True)
class _Scan:
    """Queries that scan the same rows of the copy together."""

    state: State
    dims: int | None
    """The count of components that rank the rows; None for an exact scan."""
    places: list[int] = field(default_factory=list)
    masks: list[Sequence[BoolArray] | None] = field(default_factory=list)
    gathered: bool = False

    def add(self, place: int, mask: Sequence[BoolArray] | None) -> None:
        self.places.append(place)
        self.masks.append(mask)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reader's snapshot of the file, and the copy's state at it."""

    db: sqlite3.Connection
    ticket: Ticket
    table: TableLayout
    state: State


class Batch:
    """Some queries that are answered together from one copy, in one snapshot."""

    __slots__ = ("_copy", "_metric", "_queries", "_snapshot")

    def __init__(
        self,
        copy: ResidentCopy,
        snapshot: Snapshot,
        queries: Sequence[VectorQuery],
    ) -> None:
        self._copy = copy
        self._snapshot = snapshot
        self._queries = queries
        self._metric: Metric = snapshot.table.schema.metric

    def answer(self, timings: Timings) -> list[Found]:
        snapshot, queries = self._snapshot, self._queries
        with timings.stage("filter"):
            scans = self._plan()
        if snapshot.state.whole:
            best, measured = self._measured(scans, timings)
        else:
            best, measured = self._settled(scans, timings)
        with timings.stage("fetch"):
            answers = self._fetch(best)
        timings.add_batch(len(queries), measured)
        return answers

    def _measured(self, scans: Sequence[_Scan], timings: Timings) -> tuple[list[Nearest], int]:
        """Return each query's nearest by the vectors in memory, and the count of measured rows."""
        queries, metric = self._queries, self._metric
        likeliest: dict[int, tuple[Int64Array, Float32Array]] = {}
        with timings.stage("scan"):
            for scan in scans:
                for place, masks in zip(scan.places, scan.masks, strict=True):
                    self._snapshot.ticket.check()
                    likeliest[place] = likeliest_whole(scan.state, queries[place], masks, metric)
        best, count = [], 0
        with timings.stage("rescore"):
            for place, query in enumerate(queries):
                rowids, vectors = likeliest.pop(place)
                all_rows, one = np.arange(len(rowids)), np.zeros(len(rowids), dtype=np.int64)
                far = measure(vectors, all_rows, query.vector[None], one, metric)
                near = Nearest(rowids, far, vectors if query.columns.vector else None)
                best.append(near.take(nearest_first(far, query.limit)))
                count += len(rowids)
            self._check_present(best)
        return best, count

    def _check_present(self, best: Sequence[Nearest]) -> None:
        """Raise DamageError where another program removed a vector that was not read again."""
        rowids = best[0].rowids
        if len(best) > 1:
            rowids = np.unique(np.concatenate([one.rowids for one in best]))
        VectorReader(self._snapshot.db, self._snapshot.table).check_present(
            rowids, self._snapshot.ticket
        )

    def _settled(self, scans: Sequence[_Scan], timings: Timings) -> tuple[list[Nearest], int]:
        """Return each query's nearest by codes and the file, and the count of measured rows."""
        snapshot, queries = self._snapshot, self._queries
        found: dict[int, Candidates] = {}
        with timings.stage("scan"):
            for scan in scans:
                snapshot.ticket.check()
                found.update(zip(scan.places, self._candidates(scan), strict=True))
        with timings.stage("rescore"):
            reader = VectorReader(snapshot.db, snapshot.table)
            rescoring = Rescoring(reader, self._metric, snapshot.state, snapshot.ticket)
            best = rescoring.nearest([found[place] for place in range(len(queries))], queries)
        return best, rescoring.read

    def _fetch(self, best: Sequence[Nearest]) -> list[Found]:
        """Read the rows of all, by one statement for those that want the same columns."""
        snapshot, queries = self._snapshot, self._queries
        if len(queries) == 1:
            (only,), columns = best, queries[0].columns
            rows = by_rowids(
                snapshot.db, snapshot.ticket, snapshot.table, only.rowids, columns, only.vectors
            )
            return [Found(rows, only.distances.tolist())]
        answers: dict[int, Found] = {}
        for columns in {query.columns: None for query in queries}:
            places = [i for i, query in enumerate(queries) if query.columns == columns]
            mine = [best[place] for place in places]
            kept = [one.vectors for one in mine if one.vectors is not None]
            vectors = np.concatenate(kept) if columns.vector else None
            rowids = np.concatenate([one.rowids for one in mine])
            rows = by_rowids(snapshot.db, snapshot.ticket, snapshot.table, rowids, columns, vectors)
            parts = split(rows, [len(one.rowids) for one in mine])
            for place, one, part in zip(places, mine, parts, strict=True):
                answers[place] = Found(part, one.distances.tolist())
        return [answers[place] for place in range(len(queries))]

    def _plan(self) -> list[_Scan]:
        """Group the queries by the rows they scan: a partition's, the few of a filter, or all."""
        table, state = self._snapshot.table, self._snapshot.state
        shared: dict[Hashable, _Scan] = {}
        alone: list[_Scan] = []
        keys = state.keys
        for place, query in enumerate(self._queries):
            dims = prefix_of(query, table.schema.dim)
            key = _partition_of(query, table)
            if key is not None and key not in keys:
                key = SHARED
            part = state if key is None else state.of_key(key)
            mask: list[BoolArray] | None = None
            whole = key not in (None, SHARED) and only_fixes(query.where, table.schema)
            if query.where is not None and not whole:
                mask = self._copy.masks.of(self._snapshot.db, table, part, query.where)
                if sum(int(np.count_nonzero(one)) for one in mask) < _FEW * part.rows:
                    few = _Scan(gathered(part, mask), dims, gathered=True)
                    few.add(place, None)
                    alone.append(few)
                    continue
            shared.setdefault((key, dims), _Scan(part, dims)).add(place, mask)
        return [*shared.values(), *alone]

    def _candidates(self, scan: _Scan) -> list[Candidates]:
        """Return the candidates of a scan's queries: exact, by signs, or by a prefix."""
        mine = [self._queries[place] for place in scan.places]
        vectors = [query.vector for query in mine]
        state, metric = scan.state, self._metric
        wanted = [query.limit for query in mine]
        if self._copy.bits:
            codes = sign_codes(vectors)
            wanted = [oversampled(query, BIT_OVERSAMPLE, state.rows) for query in mine]
        elif scan.dims is not None:
            wanted = [oversampled(query, PREFIX_OVERSAMPLE, state.rows) for query in mine]
            # The facts of gathered rows serve this search alone.
            state, codes = self._copy.prefixes.of(state, vectors, scan.dims, keep=not scan.gathered)
        else:
            codes = encode_queries(np.stack(vectors), metric)
        return candidates(
            state,
            [Asked(*one) for one in zip(codes, wanted, scan.masks, strict=True)],
            metric,
            self._copy.workspace,
            plain=self._copy.bits or scan.dims is not None,
            check=self._snapshot.ticket.check,
        )


def _partition_of(query: VectorQuery, table: TableLayout) -> Hashable | None:
    """The key of the only partition that a query's filter leaves, if it leaves one."""
    if query.where is None or not table.partitions:
        return None
    fixed = fixed_values(query.where, table.schema)
    if len(fixed) < len(table.partitions):
        return None
    return tuple(partition_value(fixed[name]) for name in table.partitions)
