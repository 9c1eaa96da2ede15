"""Find the nearest rows: Lance finds candidates, and their distances are measured here in float64.

So hits have the same ranks and distances however they were found, and as on any other backend. A
call asks the index first, with the effort that its recall needs. Queries that the index cannot
answer are answered exactly, with memory for a scan of the whole table.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from aiovec.backend import Float32Array, distances, nearest_first, to_matrix
from aiovec.backend.contract import Found, TableHandle, VectorQuery
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import UnsupportedError

from .index.effort import MOST_CANDIDATES, named_effort
from .index.info import InUse, vector_index
from .index.recall import with_effort
from .layout import column_names
from .memory import SCAN_BATCH, scan_bytes
from .reads import condition_of, get, rows_of
from .session import Opened
from .table import Table

if TYPE_CHECKING:
    from lancedb.query import AsyncVectorQuery

_EPSILON = 2.0**-23
# Candidates beyond the limit of an exact search, because float32 sums may put ties in another
# order.
_NEAR_TIES = 16
# The largest component of a query when Lance measures dot products. Lance ranks by 1 - dot, in
# which small products would vanish beside the 1; scaling by a power of two is exact.
_LARGEST_COMPONENT = 2.0**60
# Bytes of vectors that one query may bring into memory. Above, a search measures every row.
_CANDIDATE_BYTES = 64 * 2**20
# Up to this many surplus rows, handing them on costs less than leaving them out.
_FEW_MORE = 24
# If a filter selects up to this many rows, all of them are read and measured: that takes about as
# long as looking for them in every partition of an index, and a tenth of Lance's time for it.
_FEW = 1000


class VectorSearch:
    """The searches of one table. ``target`` is the recall if neither table nor call sets one."""

    def __init__(self, table: Table, target: float) -> None:
        self._table = table
        self._session = table.session
        self._target = target

    async def search(self, handle: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return the rows that each query finds, one query after another."""
        answers: dict[int, Found] = {}
        if not all(query.exact for query in queries):
            async with self.reading(handle, queries, whole=False) as table:
                index = await self._usable_index(table)
                for n, query in enumerate(queries):
                    answer = None
                    if index is None:  # then the memory is for all rows
                        await self._check_scan(table, query, "it has no usable index")
                        answer = await self._exactly(table, query)
                    elif not query.exact:
                        answer = await self._by_index(table, query, index)
                    if answer is not None:
                        answers[n] = answer
        if len(answers) < len(queries):
            async with self.reading(handle, queries, whole=True) as table:
                for n, query in enumerate(queries):
                    if n not in answers:
                        answers[n] = await self._exactly(table, query)
        return [answers[n] for n in range(len(queries))]

    async def nearest(self, table: Opened, query: VectorQuery, *, whole: bool) -> Found | None:
        """Return the nearest rows of an opened table; None if every row has to be measured, and
        there is no memory for the ``whole`` table."""
        index = None if whole else await self._usable_index(table)
        if index is not None:
            return await self._by_index(table, query, index)
        await self._check_scan(table, query, "it has no usable index")
        return await self._exactly(table, query)

    def reading(
        self,
        handle: TableHandle,
        queries: Sequence[VectorQuery],
        *,
        whole: bool,
        beside: Callable[[Opened], Awaitable[int]] | None = None,
    ) -> AbstractAsyncContextManager[Opened]:
        """Open the table with memory for a scan of all rows, or of the rows that no index covers.

        ``beside`` returns the bytes that the read may hold in addition.
        """

        async def scanned(table: Opened) -> int:
            index = None if whole else await self._usable_index(table)
            rows = await table.rows() if index is None else index.rows_unindexed
            more = 0 if beside is None else await beside(table)
            return scan_bytes(rows, table.schema.dim) + more

        limit = max(query.limit for query in queries)
        columns = replace(queries[0].columns, vector=True)
        return self._table.reading(
            handle, limit, columns, times=len(queries), beside=scanned
        )  # fmt: skip

    async def _usable_index(self, table: Opened) -> InUse | None:
        index = await vector_index(table)
        if index is not None and index.tuned.is_usable(index.tuned.target or self._target):
            return index
        return None

    async def _by_index(self, table: Opened, query: VectorQuery, index: InUse) -> Found | None:
        """Return the nearest rows that the index finds; None if every row has to be measured."""
        condition = await condition_of(query.where)
        effort = named_effort(query.tuning)
        if effort is None:
            recall = query.tuning.recall if query.tuning is not None else None
            target = recall or index.tuned.target or self._target
            rung = index.tuned.rung(target)
            if recall is not None and (recall == 1 or rung is None or rung.recall < target):
                reason = f"no effort of its index is known to find a share of {recall:g}"
                await self._check_scan(table, query, reason)
                return None
            effort = index.effort(target).for_limit(query.limit)
            # A graph is walked until it has found enough rows of the filter, wherever they are.
            if condition is not None and not index.kind.graph:
                effort = effort.under_filter(query.limit)
        more: float = effort.margin(query.limit, fine=index.kind.fine)
        if query.tuning is not None and query.tuning.oversample is not None:
            more = min(query.limit * (query.tuning.oversample - 1), MOST_CANDIDATES)
        requested = query.limit + math.ceil(more)
        if requested * table.schema.dim * 4 > _CANDIDATE_BYTES:
            reason = f"an index search cannot return as many as {query.limit:,} rows"
            await self._check_scan(table, query, reason)
            return None
        built = _lance_query(table, query, query.vector, requested)
        built = with_effort(built, effort.bounded(requested))
        candidates = await self._session.fetch(built, requested, condition)
        if len(candidates) < query.limit:
            # A filter is counted only now, because counting takes about as long as the search.
            selected = await table.rows(condition)
            if len(candidates) < selected:  # too few in the partitions that were searched
                if selected <= max(_FEW, query.limit):
                    return await self._by_scan(table, query)
                reason = f"its index finds fewer than {query.limit:,} rows"
                await self._check_scan(table, query, reason)
                return None
        answer, _ = await hop(weight(candidates), _ranked, table, query, candidates, requested)
        return answer

    async def _check_scan(self, table: Opened, query: VectorQuery, reason: str) -> None:
        """Raise UnsupportedError if a search without ``exact`` would read too many vectors."""
        most, row = self._session.settings.scan_bytes(), 4 * table.schema.dim
        if query.exact or await table.rows() * row <= most:
            return
        condition = await _with_vector(table, query)
        size = await table.rows(condition) * row
        if size > most:
            hint = (
                f"{reason}, so this search would read {size:,} bytes of vectors, and scan_limit is "
                f"{most:,}; bring the index up to date with optimize(), or pass exact=True"
            )
            raise UnsupportedError("search", "lancedb", hint, table=table.name)

    async def _exactly(self, table: Opened, query: VectorQuery) -> Found:
        """Return the true nearest rows."""
        requested = query.limit + _NEAR_TIES
        if requested * table.schema.dim * 4 <= _CANDIDATE_BYTES:
            vector = _scaled(query.vector) if table.schema.metric == "dot" else query.vector
            built = _lance_query(table, query, vector, requested).bypass_vector_index()
            condition = await condition_of(query.where)
            candidates = await self._session.fetch(built, requested, condition)
            answer, settled = await hop(
                weight(candidates), _ranked, table, query, candidates, requested
            )
            if settled:
                return answer
        return await self._by_scan(table, query)

    async def _by_scan(self, table: Opened, query: VectorQuery) -> Found:
        """Measure every selected row, in constant memory."""
        vector = table.schema.vector
        scan = table.lance.query().select(["id", vector])
        condition = await _with_vector(table, query)
        best: list[tuple[float, str]] = []
        async for batch in await self._session.batches(scan, SCAN_BATCH, condition):
            effort = weight(batch) + len(best)
            best = await hop(effort, partial(_nearer, best, batch, table, query))
        measures = {id: measure for measure, id in best}
        rows = await get(table, list(measures), query.columns)
        return Found(rows, [measures[id] for id in rows.ids])


async def _with_vector(table: Opened, query: VectorQuery) -> str | None:
    """Return the condition of the rows that have a vector and match the filter."""
    condition = await condition_of(query.where)
    if not table.schema.vector_nullable:
        return condition
    present = f"`{table.schema.vector}` IS NOT NULL"
    return present if condition is None else f"({condition}) AND {present}"


def _lance_query(
    table: Opened, query: VectorQuery, vector: Float32Array, limit: int
) -> AsyncVectorQuery:
    names = column_names(table.schema, replace(query.columns, vector=True))
    built = table.lance.query().nearest_to(vector).column(table.schema.vector)
    return built.distance_type(table.schema.metric).select([*names, "_distance"]).limit(limit)


def _scaled(vector: Float32Array) -> Float32Array:
    """Return the vector scaled to the range that Lance can measure. Index codes have no such
    range."""
    largest = float(np.abs(vector).max(initial=0.0))
    if not largest:
        return vector
    exponent = np.floor(np.log2(_LARGEST_COMPONENT / largest))
    return (vector * np.float32(2.0**exponent)).astype(np.float32)


def _ranked(
    table: Opened, query: VectorQuery, candidates: pa.Table, requested: int
) -> tuple[Found, bool]:
    """Return the best candidates, and whether no other row can be among them."""
    vectors = to_matrix(candidates.column(table.schema.vector))
    measured = distances(vectors, query.vector, table.schema.metric)
    best = nearest_first(measured, query.limit)
    taken, kept = candidates, measured
    if len(measured) - len(best) > _FEW_MORE:
        taken, kept = candidates.take(pa.array(best)), measured[best]
    answer = Found(rows_of(taken, query.columns, table.schema.vector), kept.tolist())
    if candidates.num_rows < requested:
        return answer, True
    last, worst = float(measured[best[-1]]), float(measured.max())
    return answer, worst - last > 2 * _error(table, query, vectors, worst)


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


def _nearer(
    best: list[tuple[float, str]], batch: pa.RecordBatch, table: Opened, query: VectorQuery
) -> list[tuple[float, str]]:
    vectors = to_matrix(batch.column(table.schema.vector))
    measured = distances(vectors, query.vector, table.schema.metric)
    kept = nearest_first(measured, query.limit)
    ids = batch.column("id").take(pa.array(kept)).to_pylist()
    return heapq.nsmallest(query.limit, [*best, *zip(measured[kept].tolist(), ids, strict=True)])
