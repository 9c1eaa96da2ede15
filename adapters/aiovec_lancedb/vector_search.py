"""Find the nearest rows: Lance finds candidates, whose distances are measured here in float64.

So hits have the same ranks and distances with and without an index, and on every backend. A call
first searches the index, with the effort that the target recall needs. An exact search follows for
queries that the index cannot serve, with memory reserved for a scan of the whole table.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Float64Array, Int64Array, Metric, distances, nearest_first, to_matrix
from aiovec.backend.contract import (
    Columns,
    Found,
    FromEach,
    Query,
    TableHandle,
    Tuning,
    stored_rows,
)
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop
from aiovec.errors import UnsupportedError

from .index.effort import MOST_CANDIDATES, Effort, with_effort
from .index.info import InUse, usable_index
from .layout import ROW, column_names
from .memory import SCAN_BATCH, scan_bytes
from .reads import condition_of, rows_by_number
from .session import Snapshot
from .table import Versions

if TYPE_CHECKING:
    from lancedb.query import AsyncVectorQuery

_T = TypeVar("_T")

_EPSILON = 2.0**-23
# The number of candidates that an exact search requests beyond its limit, because float32 sums may
# reorder ties.
_NEAR_TIES = 16
# The largest component of a scaled query, if the metric is dot. Lance ranks by 1 - dot, in which a
# small product would be lost to rounding, so queries are scaled by a power of two, which is exact.
_LARGEST_COMPONENT = 2.0**60
# The most bytes of vectors that one query may load. If it needs more, a scan measures every row.
_CANDIDATE_BYTES = 64 * 2**20
# The most exact queries that share a scan: 32 take a quarter of the time of 32 single queries, and
# 64 do not save more time.
_TOGETHER = 32
# Passing on up to this many surplus rows costs less than removing them.
_FEW_MORE = 24
# If a filter selects up to this many rows and the index finds too few of them, all of them are read
# and measured: that takes about as long as a search in every partition of the index, and a tenth of
# the time of Lance's exact search.
_FEW = 1000


class Nearest(NamedTuple):
    """The nearest rows in any order, with their ids, row numbers and columns, and their
    distances."""

    rows: pa.Table
    distances: list[float]


async def search_vectors(
    versions: Versions, handle: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
) -> _T:
    """Find the nearest rows for each query, all in one version; return the result of ``finish``.

    If a meter counts the bytes read, the searches return only row numbers, by which the rows are
    read later.
    """
    table: Snapshot | None = None
    nearest: dict[int, Nearest] = {}
    columns, wanted = queries[0].columns, queries
    if columns.meter is not None:
        wanted = [replace(query, columns=Columns(())) for query in queries]
    if not all(query.exact for query in queries):
        async with searching(versions, handle, queries, every_row=False) as table:
            index = await usable_index(table)
            if index is None:  # in this case, the reserved memory suffices for all rows
                await _check_scan(table, queries, "it has no usable index")
                return await _finished(table, columns, await _exactly(table, wanted), finish)
            for n, query in enumerate(wanted):
                near = None if query.exact else await _by_index(table, query, index)
                if near is not None:
                    nearest[n] = near
            if len(nearest) == len(queries):
                return await _finished(table, columns, [*nearest.values()], finish)
    left = [n for n in range(len(queries)) if n not in nearest]
    async with searching(versions, handle, queries, every_row=True, version=table) as table:
        nearest.update(zip(left, await _exactly(table, [wanted[n] for n in left]), strict=True))
        in_order = [nearest.pop(n) for n in range(len(queries))]
        return await _finished(table, columns, in_order, finish)


async def nearest(table: Snapshot, query: Query, *, every_row: bool) -> Nearest | None:
    """Return an opened table's nearest rows. With ``every_row``, measure every row instead of using
    an index.

    Returns None if every row has to be measured, but ``searching`` has reserved no memory for that.
    """
    index = None if every_row else await usable_index(table)
    if index is not None:
        return await _by_index(table, query, index)
    await _check_scan(table, [query], "it has no usable index")
    return (await _exactly(table, [query]))[0]


def searching(
    versions: Versions,
    handle: TableHandle,
    queries: Sequence[Query],
    *,
    every_row: bool,
    version: Snapshot | None = None,
    beside: Callable[[Snapshot], Awaitable[int]] | None = None,
) -> AbstractAsyncContextManager[Snapshot]:
    """Open the table, with memory reserved for a scan of every row, or of the rows that the index
    does not cover.

    ``beside`` returns how many additional bytes the read may hold.
    """

    async def scanned(table: Snapshot) -> int:
        index = None if every_row else await usable_index(table)
        rows = await table.rows() if index is None else index.rows_unindexed
        more = 0 if beside is None else await beside(table)
        return scan_bytes(rows, table.schema.dim) + more

    limit = max(query.limit for query in queries)
    columns = replace(queries[0].columns, vector=True)
    return versions.reading(
        handle, limit, columns, times=len(queries), beside=scanned, version=version
    )


async def _by_index(table: Snapshot, query: Query, index: InUse) -> Nearest | None:
    """Return the nearest rows that the index finds; None if every row has to be measured."""
    condition = await condition_of(query.where)
    tuning = query.tuning or Tuning()
    effort = Effort(nprobes=tuning.nprobes, ef=tuning.ef, refine=tuning.refine)
    if effort == Effort():  # the caller set none
        effort = index.effort.for_limit(query.limit)
        # A graph search continues until it has found enough matches of the filter.
        if condition is not None and not index.kind.graph:
            effort = effort.under_filter(query.limit)
    measure = tuning.measure is not False
    more: float = effort.margin(query.limit, fine=index.kind.fine) if measure else 0
    if tuning.oversample is not None:
        more = min(query.limit * (tuning.oversample - 1), MOST_CANDIDATES)
    requested = query.limit + math.ceil(more)
    if requested * table.schema.dim * 4 > _CANDIDATE_BYTES:
        reason = f"an index search cannot return as many as {query.limit:,} rows"
        await _check_scan(table, [query], reason)
        return None
    built = _lance_query(table, [query], requested, measure=measure)
    built = with_effort(built, effort.bounded(requested))
    candidates = await table.session.fetch(built, requested, condition)
    if len(candidates) < query.limit:
        # The filter's matches are counted only now, because counting takes about as long as the
        # search. Null vectors are counted last, because that reads all vectors.
        selected = await table.rows(condition)
        if len(candidates) < selected and table.schema.vector_nullable:
            selected = await table.rows(_with_vector(table, condition))
        if len(candidates) < selected:  # too few rows in the searched partitions
            if selected <= max(_FEW, query.limit):
                return await _by_scan(table, query)
            reason = f"its index finds fewer than {query.limit:,} rows"
            await _check_scan(table, [query], reason)
            return None
    # Lance ranks by codes, unless it also measures rows that are not in the index yet.
    by_codes = not (effort.refine or index.kind.whole or index.rows_unindexed)

    def ranked() -> Nearest:
        if measure:
            near = _distances(table, query, candidates)
        else:
            near = _lance_distances(candidates, table.schema.metric, by_codes=by_codes)
        return _best(candidates, near, nearest_first(near, query.limit))

    return await hop(cost_of(candidates), ranked)


async def _check_scan(table: Snapshot, queries: Sequence[Query], reason: str) -> None:
    """Raise UnsupportedError if a search without ``exact`` would read too many vectors."""
    most, row = table.session.settings.scan_bytes(), 4 * table.schema.dim
    if await table.rows() * row <= most:
        return
    for where in {id(q.where): q.where for q in queries if not q.exact}.values():
        condition = await condition_of(where)
        size = await table.rows(_with_vector(table, condition)) * row
        if size > most:
            hint = (
                f"{reason}, so this search would read {size:,} bytes of vectors, and scan_limit is "
                f"{most:,}; bring the index up to date with optimize(), or pass exact=True"
            )
            raise UnsupportedError("search", "lancedb", hint, table=table.name)


async def _exactly(table: Snapshot, queries: Sequence[Query]) -> list[Nearest]:
    """Return the exact nearest rows for each query.

    Rows that float32 cannot distinguish from the last hit are read by another query.
    """
    answers: dict[int, Nearest] = {}
    most = _CANDIDATE_BYTES // (4 * table.schema.dim)  # candidates

    def ranked() -> list[tuple[Nearest, float | None]]:
        parts = [candidates]
        if len(batch) > 1:
            numbers = candidates.column("query_index").to_numpy()
            parts = [candidates.filter(pa.array(numbers == n)) for n in range(len(batch))]
        asked = zip(batch, parts, strict=True)
        return [_ranked(table, query, part, requested) for query, part in asked]

    for places, requested in _scans(queries, most):
        batch = [queries[n] for n in places]
        if requested > most:
            answers[places[0]] = await _by_scan(table, batch[0])
            continue
        condition = await condition_of(batch[0].where)
        scan = _lance_query(table, batch, requested, exact=True)
        candidates = await table.session.fetch(scan, requested * len(batch), condition)
        of_each = await hop(cost_of(candidates), ranked)
        for place, query, (answer, reach) in zip(places, batch, of_each, strict=True):
            if reach is not None:
                near = _lance_query(table, [query], most, exact=True)
                near = near.distance_range(upper_bound=reach)
                ties = await table.session.fetch(near, most, condition)
                if len(ties) < most:
                    answer, _ = await hop(cost_of(ties), _ranked, table, query, ties)
                else:
                    answer = await _by_scan(table, query)
            answers[place] = answer
    return [answers[n] for n in range(len(queries))]


async def _by_scan(table: Snapshot, query: Query) -> Nearest:
    """Return the nearest rows by measuring every selected row, in constant memory."""
    vector = table.schema.vector
    scan = table.lance.query().select(["id", ROW, vector])
    condition = _with_vector(table, await condition_of(query.where))
    best: list[tuple[float, str, int]] = []
    async for batch in await table.session.batches(scan, SCAN_BATCH, condition):
        cost = cost_of(batch) + len(best)
        best = await hop(cost, _nearer, best, batch, table, query)
    measures = {number: measure for measure, _, number in best}
    rows = await rows_by_number(table, list(measures), query.columns)
    return Nearest(rows, [measures[number] for number in rows.column(ROW).to_pylist()])


async def _finished(
    table: Snapshot, columns: Columns, results: list[Nearest], finish: FromEach[_T]
) -> _T:
    """Return the result of ``finish``. If ``columns`` has a meter, first read the results' rows
    for it to count.

    ``results`` is emptied in the thread that calls ``finish``, because freeing many tables takes a
    long time.
    """
    rows = None
    cost = cost_of(*(near.rows for near in results))
    if columns.meter is not None:

        def numbers() -> list[int]:
            return [*{n for near in results for n in near.rows.column(ROW).to_pylist()}]

        rows = await rows_by_number(table, await hop(cost, numbers), columns)
        cost += cost_of(rows)

    def found(near: Nearest) -> Found:
        of_near = near.rows
        if rows is not None:
            of_near = rows.take(pc.index_in(near.rows.column(ROW), value_set=rows.column(ROW)))
        return Found(stored_rows(of_near, table.schema, columns), near.distances)

    def finished() -> _T:
        result = finish([*map(found, results)])
        results.clear()
        return result

    return await hop(cost, finished)


def _with_vector(table: Snapshot, condition: str | None) -> str | None:
    """Return the condition for the rows that meet ``condition`` and have a vector."""
    if not table.schema.vector_nullable:
        return condition
    present = f"`{table.schema.vector}` IS NOT NULL"
    return present if condition is None else f"({condition}) AND {present}"


def _lance_query(
    table: Snapshot,
    queries: Sequence[Query],
    limit: int,
    *,
    exact: bool = False,
    measure: bool = True,
) -> AsyncVectorQuery:
    """Return one query for the nearest rows of each vector, at most ``limit`` for each.

    With ``measure``, it also reads the rows' vectors.
    """
    columns = replace(queries[0].columns, vector=True) if measure else queries[0].columns
    names = column_names(table.schema, columns)
    vectors = [query.vector * _scale(table, query) if exact else query.vector for query in queries]
    built = table.lance.query().nearest_to(vectors).column(table.schema.vector)
    built = built.distance_type(table.schema.metric).select([*names, ROW, "_distance"]).limit(limit)
    return built.bypass_vector_index() if exact else built


def _scale(table: Snapshot, query: Query) -> np.float32:
    """Return the factor that scales an exact query to a range in which Lance measures precisely.

    Searches by index codes need no scaling.
    """
    largest = float(np.abs(query.vector).max(initial=0.0))
    if table.schema.metric != "dot" or not largest:
        return np.float32(1)
    return np.float32(2.0 ** np.floor(np.log2(_LARGEST_COMPONENT / largest)))


def _scans(queries: Sequence[Query], most: int) -> Iterator[tuple[list[int], int]]:
    """For each scan, yield the positions of its queries, which have the same filter, and the number
    of rows to request for each query.

    A scan has at most ``most`` candidates, unless a single query needs more.
    """
    groups: dict[int, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(id(query.where), []).append(place)
    for group in groups.values():
        requested = max(queries[n].limit for n in group) + _NEAR_TIES
        step = max(1, min(most // requested, _TOGETHER))
        for n in range(0, len(group), step):
            yield group[n : n + step], requested


def _distances(table: Snapshot, query: Query, rows: pa.Table | pa.RecordBatch) -> Float64Array:
    vectors = to_matrix(rows.column(table.schema.vector))
    return distances(vectors, query.vector, table.schema.metric)


def _lance_distances(candidates: pa.Table, metric: Metric, *, by_codes: bool) -> Float64Array:
    """Convert Lance's distances to the metric's distances.

    If Lance ranked ``by_codes``, it doubled cosine distances
    (https://github.com/lancedb/lancedb/issues/3530).
    """
    numbers: Float64Array = candidates.column("_distance").to_numpy().astype(np.float64)
    if metric == "dot":
        numbers -= 1.0
        return numbers
    numbers = np.maximum(numbers, 0.0)
    if metric == "l2":
        return np.sqrt(numbers)
    return numbers / 2 if by_codes else numbers


def _best(candidates: pa.Table, near: Float64Array, best: Int64Array) -> Nearest:
    """Return the best candidates, and possibly a few others, with their distances."""
    if len(near) - len(best) > _FEW_MORE:
        candidates, near = candidates.take(pa.array(best)), near[best]
    return Nearest(candidates, near.tolist())


def _ranked(
    table: Snapshot, query: Query, candidates: pa.Table, requested: int | None = None
) -> tuple[Nearest, float | None]:
    """Return the best candidates by the distances of their vectors.

    If rows beyond the ``requested`` candidates may be as near as the best ones, also return the
    largest distance that Lance may compute for such rows; otherwise None.
    """
    near = _distances(table, query, candidates)
    best = nearest_first(near, query.limit)
    answer = _best(candidates, near, best)
    if requested is None or len(near) < requested:
        return answer, None
    worst = float(near.max())
    error = _error(table, query, candidates, worst)
    if worst - near[best[-1]] > 2 * error:
        return answer, None
    reached = candidates.column("_distance").to_numpy()[best].max()
    if table.schema.metric == "l2":  # Lance's distances are squared
        error = 4 * error * worst
    reach = np.float32(reached + 4 * float(_scale(table, query)) * error)
    return answer, float(np.nextafter(reach, np.float32(np.inf)))


def _error(table: Snapshot, query: Query, candidates: pa.Table, worst: float) -> float:
    """Return a bound on the float32 error of distances near the last candidate's distance."""
    relative = table.schema.dim * _EPSILON
    match table.schema.metric:
        case "cosine":
            return relative
        case "l2":
            return relative * worst
        case _:
            vectors = to_matrix(candidates.column(table.schema.vector)).astype(np.float64)
            # Other rows' vectors may be somewhat longer than the vectors of the candidates.
            rows = 4 * np.sqrt(np.square(vectors).sum(axis=1))
            point = float(np.sqrt(np.square(query.vector.astype(np.float64)).sum()))
            return relative * float(rows.max(initial=0.0)) * point


def _nearer(
    best: list[tuple[float, str, int]], batch: pa.RecordBatch, table: Snapshot, query: Query
) -> list[tuple[float, str, int]]:
    measured = _distances(table, query, batch)
    kept = nearest_first(measured, query.limit)
    rows = batch.take(pa.array(kept))
    columns = measured[kept].tolist(), rows["id"].to_pylist(), rows[ROW].to_pylist()
    return heapq.nsmallest(query.limit, [*best, *zip(*columns, strict=True)])
