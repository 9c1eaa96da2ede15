"""The nearest rows: by sqlite-vec where it can rank them, by a streamed scan where it cannot.

Both give candidates, a few more than are wanted, and so do a scan of a prefix of the vectors and
one of their bits where the caller or the settings asked for one. The candidates' order and
distances are then settled in float64 from the stored vectors, so that hits rank the same whatever
found them.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from aiovec.backend import (
    Float32Array,
    Float64Array,
    Int64Array,
    Metric,
    Schema,
    distances,
    nearest_first,
)
from aiovec.backend.contract import Found, TableHandle, VectorQuery

from .connection import Ticket
from .errors import DamageError
from .layout import TableLayout, current_table, partition_value
from .reads import by_rowids, condition_of, rowids_where, transposed
from .sql.filters import fixed_values
from .vectors import VectorReader

# Rows measured with whole vectors, for each one wanted, where a prefix ranks the others
# (``python -m bench search``).
PREFIX_OVERSAMPLE = 4.0
# Likewise where bits do, of which more rows have the same distance.
BIT_OVERSAMPLE = 16.0


def prefix_of(query: VectorQuery, dim: int) -> int | None:
    """Return the number of components that rank the rows; None where all of them do."""
    dims = None if query.tuning is None else query.tuning.dims
    return None if query.exact or dims is None or dims >= dim else dims


def is_approximate(query: VectorQuery, schema: Schema, *, by_bits: bool) -> bool:
    """Return whether parts of the vectors choose the rows that are measured."""
    return not query.exact and (by_bits or prefix_of(query, schema.dim) is not None)


def oversampled(query: VectorQuery, default: float, rows: int) -> int:
    """Return the number of rows that are measured with whole vectors."""
    told = None if query.tuning is None else query.tuning.oversample
    factor = default if told is None else told
    return min(rows, max(query.limit, math.ceil(min(rows, query.limit * factor))))


_BLOCK = 4096


def _condition(query: VectorQuery, table: TableLayout) -> tuple[str, Sequence[Any]]:
    """The condition for the rows among which the nearest are sought."""
    condition, values = condition_of(query.where, table)
    if table.schema.vector_nullable:
        condition = f"({condition}) AND r._rowid IN (SELECT rowid FROM {table.shadow('rowids')})"
    return condition, values


def likeliest_by_prefix(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: VectorQuery,
    dims: int,
) -> Int64Array:
    """The rows whose first ``dims`` components are nearest to the query's."""
    selected = rowids_where(db, table, *_condition(query, table))
    wanted = oversampled(query, PREFIX_OVERSAMPLE, len(selected))
    if wanted == len(selected):
        return selected
    far = np.empty(len(selected), dtype=np.float64)
    for start in range(0, len(selected), _BLOCK):
        ticket.check()
        block = slice(start, start + _BLOCK)
        rows = vectors.read(selected[block], ticket)
        far[block] = _distances(rows[:, :dims], query.vector[:dims], table.schema.metric)
    return selected[np.argpartition(far, wanted - 1)[:wanted]]


def _distances(rows: Float32Array, point: Float32Array, metric: Metric) -> Float64Array:
    """Distances that rank rows; a row of zeros has no direction and so a cosine of 0."""
    wide, query = rows.astype(np.float64), point.astype(np.float64)
    if metric == "l2":
        squares: Float64Array = np.square(wide - query).sum(axis=1)
        return squares
    products: Float64Array = wide @ query
    if metric == "cosine":
        lengths = np.sqrt(np.square(wide).sum(axis=1))
        products /= np.where(lengths > 0, lengths, 1.0)
    return -products


# sqlite-vec refuses a larger k.
_LARGEST_K = 4096
# Candidates beyond the limit, and a quarter of it: up to the last of them distances have to rise by
# more than float32's error, or all rows are measured again, which takes far longer.
_MARGIN = 16
# Differences below this vanish when float32 squares them.
_SMALLEST_DISTANCE = 1e-17
# Where a filter leaves no more rows than this, reading them is quicker than a scan of all.
_FEW = 2000


def search(
    db: sqlite3.Connection,
    ticket: Ticket,
    handle: TableHandle,
    queries: Sequence[VectorQuery],
    *,
    by_bits: bool,
) -> list[Found]:
    """Answer from the file. ``by_bits`` has the table's bits choose the rows that are measured."""
    table = current_table(db, handle)
    vectors = VectorReader(db, table)
    return [_search_one(db, ticket, table, vectors, query, by_bits) for query in queries]


def _search_one(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: VectorQuery,
    by_bits: bool,
) -> Found:
    ticket.check()
    rowids, candidates, measured = _candidates(db, ticket, table, vectors, query, by_bits)
    best = nearest_first(measured, query.limit)
    kept = candidates[best] if query.columns.vector else None
    rows = by_rowids(db, ticket, table, rowids[best], query.columns, kept)
    return Found(rows, measured[best].tolist())


def _candidates(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: VectorQuery,
    by_bits: bool,
) -> tuple[Int64Array, Float32Array, Float64Array]:
    """Rows among which are the nearest, or likely ones, with their vectors and distances."""

    def measured(rowids: Int64Array) -> tuple[Int64Array, Float32Array, Float64Array]:
        found = vectors.read(rowids, ticket)
        return rowids, found, distances(found, query.vector, table.schema.metric)

    if query.where is not None:
        few = _few_selected(db, table, query)
        if few is not None:
            return measured(few)
    if (dims := prefix_of(query, table.schema.dim)) is not None:
        return measured(likeliest_by_prefix(db, ticket, table, vectors, query, dims))
    if by_bits and not query.exact:
        wanted = oversampled(query, BIT_OVERSAMPLE, _LARGEST_K)
        if wanted > query.limit:
            return measured(_nearest_by_vec0(db, table, query, wanted, by_bits=True)[0])
    wanted = query.limit + _MARGIN + query.limit // 4
    plain = table.schema.metric != "dot" and wanted <= _LARGEST_K
    if plain and not table.extreme:
        vectors.check_rows()
        rowids, told = _nearest_by_vec0(db, table, query, wanted)
        candidates = measured(rowids)
        if len(rowids) < wanted:
            _check_all_found(db, table, query, len(rowids))
            return candidates
        if _none_left_out(table.schema, query.limit, candidates[2], told):
            return candidates
    return measured(_nearest_by_scan(db, ticket, table, vectors, query))


def _none_left_out(schema: Schema, limit: int, measured: Float64Array, told: Float64Array) -> bool:
    """Return whether no row beyond sqlite-vec's candidates can be nearer than the last wanted.

    It adds up float32 products one after the other. The bounds are the usual ones for a sum of n
    terms in any order, with a part for products that are smaller than float32 can tell.
    """
    reached = float(np.partition(measured, limit - 1)[limit - 1])
    unit = 2.0**-24
    error = (2.5 * schema.dim + 16) * unit / (1 - 2 * schema.dim * unit)
    farthest = float(told.max())
    if schema.metric == "l2":
        least = farthest / (1 + error) - _SMALLEST_DISTANCE
    else:
        least = farthest - error
    return reached <= max(least, 0.0)  # nothing is nearer than rows that equal the query


def _check_all_found(
    db: sqlite3.Connection, table: TableLayout, query: VectorQuery, found: int
) -> None:
    """Raise DamageError where the filter selects more rows than vec0 has."""
    condition, values = _condition(query, table)
    (rows,) = db.execute(
        f"SELECT count(*) FROM {table.rows} AS r WHERE {condition}", values
    ).fetchone()
    if rows != found:
        raise DamageError(
            f"table {table.name!r}: the filter selects {rows} rows, but vec0 has {found} of them"
        )


def _few_selected(
    db: sqlite3.Connection, table: TableLayout, query: VectorQuery
) -> Int64Array | None:
    condition, values = _condition(query, table)
    rows = db.execute(
        f"SELECT r._rowid FROM {table.rows} AS r WHERE {condition} LIMIT {_FEW + 1}", values
    ).fetchall()
    return None if len(rows) > _FEW else np.array(rows, dtype=np.int64).reshape(-1)


def _nearest_by_vec0(
    db: sqlite3.Connection,
    table: TableLayout,
    query: VectorQuery,
    wanted: int,
    *,
    by_bits: bool = False,
) -> tuple[Int64Array, Float64Array]:
    """The nearest rows as sqlite-vec ranks them, and the distances it told."""
    # Selecting by ``rowid IN`` comes before the nearest are taken; a JOIN would come after.
    match = "vector_bit MATCH vec_quantize_binary(?)" if by_bits else "vector MATCH ?"
    sql = f"SELECT rowid, distance FROM {table.vec} WHERE {match} AND k = ?"
    values = [query.vector.tobytes(), wanted]
    if query.where is not None:
        for name, value in fixed_values(query.where, table.schema).items():
            sql += f" AND {table.partition_column(name)} = ?"
            values.append(partition_value(value))
        condition, bound = condition_of(query.where, table)
        sql += f" AND rowid IN (SELECT r._rowid FROM {table.rows} AS r WHERE {condition})"
        values += bound
    rowids, told = transposed(db.execute(sql, values).fetchall(), 2)
    return np.array(rowids, dtype=np.int64), np.array(told, dtype=np.float64)


def _nearest_by_scan(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: VectorQuery,
) -> Int64Array:
    """Return the nearest rows where sqlite-vec cannot rank them.

    It cannot rank dot products, more than 4,096 rows, extreme vectors, and rows so nearly equal
    that float32 cannot tell which is nearer.
    """
    wanted = query.limit
    selected = rowids_where(db, table, *_condition(query, table))
    if len(selected) <= wanted:
        return selected
    rowids = np.empty(0, dtype=np.int64)
    measured = np.empty(0, dtype=np.float64)
    for start in range(0, len(selected), _BLOCK):
        ticket.check()
        block = selected[start : start + _BLOCK]
        found = distances(vectors.read(block, ticket), query.vector, table.schema.metric)
        rowids = np.concatenate([rowids, block])
        measured = np.concatenate([measured, found])
        if len(rowids) > 2 * wanted + _BLOCK or start + _BLOCK >= len(selected):
            kept = np.argpartition(measured, min(wanted, len(measured) - 1))[:wanted]
            rowids, measured = rowids[kept], measured[kept]
    return rowids
