"""Find the nearest rows by scanning the store's file: read all vectors, and compute their distances
in float64.

If the caller or the settings request it, the first components of the vectors, or their bits,
preselect rows, and distances are computed from complete vectors only for these rows.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from aiovec.backend import (
    Expr,
    Int64Array,
    Schema,
    nearest_first,
)
from aiovec.backend.contract import Found, Query, TableHandle

from ..connection import Ticket
from ..keyword_search import found_by_both, hybrid_hits
from ..layout import TableLayout, current_table, partition_value
from ..reads import by_rowids, condition_of, rowids_where
from ..sql.filters import fixed_values
from ..vectors import VectorReader
from .kernel.library import measured

# Rows to measure with complete vectors per requested row, if the first components preselect rows
# (``python -m bench search``).
PREFIX_OVERSAMPLE = 4.0
# The same, if the vectors' bits preselect rows: more rows tie, so more rows must be measured.
BIT_OVERSAMPLE = 16.0


def is_exact(query: Query, schema: Schema, scan: str) -> bool:
    """Return whether all rows are measured with complete vectors, without a preselection.

    ``scan`` is the store's ``scan`` setting.
    """
    if query.exact:
        return True
    if scan == "bit" and schema.quantized == "bit":
        return False
    return query.tuning is None or query.tuning.dims is None or query.tuning.dims >= schema.dim


def oversampled(query: Query, default: float, rows: int) -> int:
    """Return the number of rows to measure with complete vectors."""
    chosen = None if query.tuning is None else query.tuning.oversample
    factor = default if chosen is None else chosen
    return min(rows, max(query.limit, math.ceil(min(rows, query.limit * factor))))


_BLOCK = 4096


def _condition(query: Query, table: TableLayout) -> tuple[str, Sequence[Any]]:
    """Return the SQL condition for the rows to search, and its values."""
    condition, values = condition_of(query.where, table)
    if table.schema.vector_nullable:
        condition = f"({condition}) AND r._rowid IN (SELECT rowid FROM {table.shadow('rowids')})"
    return condition, values


# sqlite-vec refuses a larger k.
_LARGEST_K = 4096
# If a filter selects at most this many rows, all of them are measured.
_FEW = 2000


def search(
    db: sqlite3.Connection,
    ticket: Ticket,
    handle: TableHandle,
    queries: Sequence[Query],
    *,
    scan: str,
) -> list[Found]:
    """Answer queries from the file. With ``scan="bit"``, the vectors' bits can preselect rows.

    Exact queries with the same filter share a scan.
    """
    table = current_table(db, handle)
    vectors = VectorReader(db, table)
    answers: dict[int, Found] = {}
    scans: dict[Expr | None, list[int]] = {}
    for place, query in enumerate(queries):
        rowids = None
        if not is_exact(query, table.schema, scan):
            rowids = _likeliest(db, ticket, table, vectors, query)
        if rowids is None:
            scans.setdefault(query.where, []).append(place)
        else:
            answers[place] = _settled(db, ticket, table, vectors, query, rowids)
    for places in scans.values():
        group = [queries[place] for place in places]
        nearest = _nearest_by_scan(db, ticket, table, vectors, group)
        for place, query, rowids in zip(places, group, nearest, strict=True):
            answers[place] = _settled(db, ticket, table, vectors, query, rowids)
    return [answers[place] for place in range(len(queries))]


def _settled(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: Query,
    rowids: Int64Array,
) -> Found:
    """Return the nearest of these rows, including ties. Every row must have a vector."""
    candidates = vectors.read(rowids, ticket, present=True)
    far = measured(candidates, query.vector, table.schema.metric)
    best = nearest_first(far, query.limit)
    if query.by_both:
        near = rowids[best].tolist(), far[best].tolist()
        both = hybrid_hits(db, ticket, table, query, *near)
        read = partial(vectors.read, ticket=ticket)
        return found_by_both(db, ticket, table, [both], read, measured)[0]
    kept = candidates[best] if query.columns.vector else None
    rows = by_rowids(db, ticket, table, rowids[best], query.columns, kept)
    return Found(rows, far[best].tolist())


def _likeliest(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: Query,
) -> Int64Array | None:
    """Return the rows to measure, preselected by the filter, the first components or the bits.

    Returns None if the query requests too many rows to preselect them by bits.
    """
    if query.where is not None and (few := _few_selected(db, table, query)) is not None:
        return few
    dims = None if query.tuning is None else query.tuning.dims
    if dims is not None and dims < table.schema.dim:
        return _nearest_by_scan(db, ticket, table, vectors, [query], dims)[0]
    wanted = oversampled(query, BIT_OVERSAMPLE, _LARGEST_K)
    return _nearest_by_bits(db, table, query, wanted) if wanted > query.limit else None


def _few_selected(db: sqlite3.Connection, table: TableLayout, query: Query) -> Int64Array | None:
    condition, values = _condition(query, table)
    rows = db.execute(
        f"SELECT r._rowid FROM {table.rows} AS r WHERE {condition} LIMIT {_FEW + 1}", values
    ).fetchall()
    return None if len(rows) > _FEW else np.array(rows, dtype=np.int64).reshape(-1)


def _nearest_by_bits(
    db: sqlite3.Connection, table: TableLayout, query: Query, wanted: int
) -> Int64Array:
    """Return the rows that sqlite-vec ranks nearest by their vectors' bits."""
    # ``rowid IN`` filters before sqlite-vec selects the nearest rows; a JOIN would filter later.
    match = "vector_bit MATCH vec_quantize_binary(?)"
    sql = f"SELECT rowid FROM {table.vec} WHERE {match} AND k = ?"
    values = [query.vector.tobytes(), wanted]
    if query.where is not None:
        for name, value in fixed_values(query.where, table.schema).items():
            sql += f" AND {table.partition_column(name)} = ?"
            values.append(partition_value(value))
        condition, bound = condition_of(query.where, table)
        sql += f" AND rowid IN (SELECT r._rowid FROM {table.rows} AS r WHERE {condition})"
        values += bound
    return np.array(db.execute(sql, values).fetchall(), dtype=np.int64).reshape(-1)


def _nearest_by_scan(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    queries: Sequence[Query],
    dims: int | None = None,
) -> list[Int64Array]:
    """Return each query's nearest rows, including ties. All queries must have the same filter.

    With ``dims``, rank the rows by their first ``dims`` components, and return more rows than the
    queries request.
    """
    vectors.check_rows()
    selected = rowids_where(db, table, *_condition(queries[0], table))
    nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    nearest = [nothing] * len(queries)
    for start in range(0, len(selected), _BLOCK):
        ticket.check()
        block = selected[start : start + _BLOCK]
        rows = vectors.read(block, ticket, present=True)[:, :dims]
        for number, query in enumerate(queries):
            wanted = query.limit
            if dims is not None:
                wanted = oversampled(query, PREFIX_OVERSAMPLE, len(selected))
            rowids, far = nearest[number]
            new = measured(rows, query.vector[:dims], table.schema.metric)
            if dims is not None:  # only zeros: treat them as orthogonal
                new[np.isnan(new)] = 1.0
            reaching = new <= far[-1] if len(far) >= wanted else slice(None)
            rowids = np.concatenate([rowids, block[reaching]])
            far = np.concatenate([far, new[reaching]])
            best = nearest_first(far, wanted)
            nearest[number] = rowids[best], far[best]
    return [rowids for rowids, _ in nearest]
