"""Find the nearest rows: Lance finds candidates, their distances are settled here in float64.

So hits rank the same and carry the same distances whatever found them, and as on any other
backend. The planner decides for each query whether an index answers it, and how hard the index
tries.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from aiovec.backend import Float32Array, distances, nearest_first, to_matrix
from aiovec.backend.contract import Found, VectorQuery
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from .index.info import vector_index
from .index.recall import with_effort
from .layout import column_names
from .reads import NeedsEveryRow, condition_of, filtered, rows_by_id, rows_of
from .session import Opened, Session
from .tuning import MARGIN, MOST_CANDIDATES, Effort, named_effort

if TYPE_CHECKING:
    from lancedb.query import AsyncVectorQuery


# Where the gap behind the last hit is no wider than float32's error, an exact search is repeated
# with this many times the candidates, and then by measuring every row.
_WIDER = 8
_EPSILON = 2.0**-23
# The largest component of a query that Lance measures dot products for. It ranks by 1 - dot, in
# which small products would vanish beside the 1; a power of two scales them without an error.
_LARGEST_COMPONENT = 2.0**60
_SCAN_BATCH = 4096
# Bytes of vectors that one query may bring into memory. Beyond, a search measures every row.
_CANDIDATE_BYTES = 64 * 2**20
# So many rows more than were asked for cost less to hand on than to leave out.
_FEW_MORE = 24


async def search(
    session: Session,
    table: Opened,
    queries: Sequence[VectorQuery],
    planner: Planner,
    *,
    whole: bool,
) -> list[Found]:
    """Return the rows that each query finds. ``whole``: memory for the whole table is at hand."""
    return [await search_one(session, table, query, planner, whole=whole) for query in queries]


async def search_one(
    session: Session, table: Opened, query: VectorQuery, planner: Planner, *, whole: bool
) -> Found:
    condition = await condition_of(query.where)
    plan = await planner.plan(session, table, query, condition)
    while not plan.scans and plan.asked * table.schema.dim * 4 <= _CANDIDATE_BYTES:
        if plan.exact and not whole:
            raise NeedsEveryRow
        found, settled = await _by_lance(session, table, query, condition, plan)
        if plan.indexed:
            if len(found.measures) >= query.limit:
                return found
            # The index had too few in the partitions that were searched, or of a filter's rows.
            plan = past_index(query)
            continue
        if settled:
            return found
        if plan.asked > query.limit + MARGIN:
            break
        plan = replace(plan, exact=True).wider(_WIDER)
    # A plan that scans is about the few rows that a filter selects.
    return await _by_scan(session, table, query, whole=whole or plan.scans)


async def _by_lance(
    session: Session, table: Opened, query: VectorQuery, condition: str | None, plan: SearchPlan
) -> tuple[Found, bool]:
    asked = await filtered(_lance_query(table, query, plan), condition)
    candidates = await session.fetch(asked)
    return await hop(weight(candidates), lambda: _ranked(table, query, candidates, plan.asked))


def _lance_query(table: Opened, query: VectorQuery, plan: SearchPlan) -> AsyncVectorQuery:
    metric = table.schema.metric
    # Codes of an index know the range of what is stored, and a scaled query would leave it.
    scales = metric == "dot" and plan.effort is None
    vector = _scaled(query.vector) if scales else query.vector
    built = table.lance.query().nearest_to(vector).column(table.schema.vector)
    names = column_names(table.schema, replace(query.columns, vector=True))
    built = built.distance_type(metric).select([*names, "_distance"])
    built = built.limit(plan.asked)
    if plan.exact:
        return built.bypass_vector_index()
    return built if plan.effort is None else with_effort(built, plan.effort)


def _scaled(vector: Float32Array) -> Float32Array:
    largest = float(np.abs(vector).max(initial=0.0))
    if not largest:
        return vector
    exponent = np.floor(np.log2(_LARGEST_COMPONENT / largest))
    return (vector * np.float32(2.0**exponent)).astype(np.float32)


def _ranked(
    table: Opened, query: VectorQuery, candidates: pa.Table, asked: int
) -> tuple[Found, bool]:
    """The best of the candidates, and whether no other row can be among them."""
    vectors = to_matrix(candidates.column(table.schema.vector))
    measured = distances(vectors, query.vector, table.schema.metric)
    best = nearest_first(measured, query.limit)
    taken, kept = candidates, measured
    if len(measured) - len(best) > _FEW_MORE:
        taken, kept = candidates.take(pa.array(best)), measured[best]
    found = Found(rows_of(taken, query.columns, table.schema.vector), kept.tolist())
    if candidates.num_rows < asked:
        return found, True
    last, worst = float(measured[best[-1]]), float(measured.max())
    return found, worst - last > 2 * _error(table, query, vectors, worst)


def _error(table: Opened, query: VectorQuery, vectors: Float32Array, worst: float) -> float:
    """Return the error bound of float32 sums for distances near the last candidate's."""
    relative = table.schema.dim * _EPSILON
    match table.schema.metric:
        case "cosine":
            return relative
        case "l2":
            return relative * worst
        case _:
            # Other rows may be somewhat longer than the candidates.
            rows = 4 * np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
            point = float(np.sqrt(np.square(query.vector.astype(np.float64)).sum()))
            return relative * float(rows.max(initial=0.0)) * point


async def _by_scan(session: Session, table: Opened, query: VectorQuery, *, whole: bool) -> Found:
    """Measure every selected row, in constant memory."""
    if not whole:
        raise NeedsEveryRow
    vector = table.schema.vector
    scan = table.lance.query().select(["id", vector])
    condition = await condition_of(query.where)
    if table.schema.vector_nullable:
        present = f"`{vector}` IS NOT NULL"
        condition = present if condition is None else f"({condition}) AND {present}"
    scan = await filtered(scan, condition)
    best: list[tuple[float, str]] = []
    batches = await session.run(scan.to_batches(max_batch_length=_SCAN_BATCH))
    with session.guarded():
        async for batch in batches:
            effort = weight(batch) + len(best)
            best = await hop(effort, partial(_nearer, best, batch, table, query))
    measures = {id: measure for measure, id in best}
    rows = await rows_by_id(session, table, list(measures), query.columns)
    found = await hop(weight(rows), lambda: rows_of(rows, query.columns, vector))
    return Found(found, [measures[id] for id in found.ids])


def _nearer(
    best: list[tuple[float, str]], batch: pa.RecordBatch, table: Opened, query: VectorQuery
) -> list[tuple[float, str]]:
    vectors = to_matrix(batch.column(table.schema.vector))
    measured = distances(vectors, query.vector, table.schema.metric)
    kept = nearest_first(measured, query.limit)
    ids = batch.column("id").take(pa.array(kept)).to_pylist()
    return heapq.nsmallest(query.limit, [*best, *zip(measured[kept].tolist(), ids, strict=True)])


# Rows selected by a filter that are all read and measured: so many take about as long as looking
# for them in every partition of an index, and a tenth of what Lance takes to do it.
_FEW = 1000


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """``asked`` candidates from Lance, or with ``scans`` all selected rows read and measured here.

    ``effort`` is None where Lance is told nothing, and ``indexed`` tells that an index may answer.
    """

    asked: int
    exact: bool
    effort: Effort | None = None
    indexed: bool = False
    scans: bool = False

    def wider(self, times: int) -> SearchPlan:
        return replace(self, asked=self.asked * times)


def past_index(query: VectorQuery, *, scans: bool = False) -> SearchPlan:
    """Every selected row is measured."""
    return SearchPlan(query.limit + MARGIN, exact=True, scans=scans)


class Planner:
    """Plans the searches of a store. ``target`` is the recall where neither table nor call say."""

    def __init__(self, target: float) -> None:
        self._target = target

    async def plan(
        self, session: Session, table: Opened, query: VectorQuery, condition: str | None
    ) -> SearchPlan:
        """A plan for a search; ``condition`` is the query's filter in SQL."""
        index = await vector_index(session, table)
        if index is not None and not index.tuned.is_usable(index.tuned.target or self._target):
            index = None
        selected, share = None, 1.0
        if condition is not None and (query.exact or index is not None):
            selected = await session.rows(table, condition)
            share = max(selected, 1) / max(await session.rows(table), 1)
        if query.exact:
            return past_index(query, scans=selected is not None and selected <= _FEW)
        if index is None:
            # As past an index, but memory for every row is taken only if near ones are so many.
            return SearchPlan(query.limit + MARGIN, exact=False)
        named = named_effort(query.tuning)
        if named is not None:
            return _with_index(query, named)
        if selected is not None and selected <= max(_FEW, query.limit):
            return past_index(query, scans=True)
        limit = query.limit
        if index.kind.graph:
            # A graph is walked until so many of the filter's rows are found, wherever they lie.
            limit = math.ceil(limit / share)
        asked_for = query.tuning.recall if query.tuning is not None else None
        target = asked_for or index.tuned.target or self._target
        rung = index.tuned.rung(target)
        if asked_for is not None and (asked_for == 1 or rung is None or rung.recall < target):
            return past_index(query)  # no effort is known to find so much, but this does
        effort = index.effort(target).for_limit(limit)
        if condition is not None and not index.kind.graph:
            effort = effort.under_filter(limit, whole=index.kind.whole)
        return _with_index(query, effort)


def _with_index(query: VectorQuery, effort: Effort) -> SearchPlan:
    # With refine Lance reads the vectors of the best codes and ranks by them, without it we do.
    more: float = 0 if effort.refine else MARGIN
    if query.tuning is not None and query.tuning.oversample is not None:
        more = min(query.limit * (query.tuning.oversample - 1), MOST_CANDIDATES)
    asked = query.limit + math.ceil(more)
    return SearchPlan(asked, exact=False, effort=effort.bounded(asked), indexed=True)
