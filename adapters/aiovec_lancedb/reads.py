"""Read rows by id, by number or by filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Expr, payload_texts
from aiovec.backend.context import FEW_ROWS, Meter, values_in
from aiovec.backend.contract import Columns, Find, FromRows, stored_rows
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop

from .driver import ColumnOrdering
from .layout import PAYLOAD, ROW, column_names
from .memory import SCAN_BATCH
from .session import Snapshot
from .sorting import key_columns, sorted_numbers
from .sql.filters import condition_sql, ids_to_sql

ADDRESS = "_rowaddr"
"""Lance's column of row addresses. Rewriting a row changes its address."""

_K = TypeVar("_K", str, int)
_T = TypeVar("_T")

# The most ids in one query, and the most bytes of its rows. If a meter counts the bytes, the first
# query reads few rows, and their size determines how many rows the next query reads.
_BLOCK, _BLOCK_BYTES = 10_000, 8 * 2**20
# The largest limit or offset that Lance accepts; no fragment can have nearly that many rows.
MOST = 2**31 - 1
# For ``hop``: turning a literal into SQL, especially one for the payload, takes as long as copying
# this many values of a record.
_COST = 16


async def condition_of(where: Expr | None) -> str | None:
    """Return a filter as SQL for Lance. This takes a while if the filter has many literals."""
    if where is None:
        return None
    return await hop(_COST * where.literals, condition_sql, where)


async def rows_by_id(
    table: Snapshot, ids: Sequence[str], columns: Columns, *, address: bool = False
) -> pa.Table:
    """Return the rows with these ids, in any order; with ``address``, also their addresses."""
    return await _rows_by(table, ids, ids_to_sql, columns, ADDRESS if address else None)


async def rows_by_number(table: Snapshot, numbers: Sequence[int], columns: Columns) -> pa.Table:
    """Return the rows with these numbers, together with the numbers, in any order.

    This uses no index, so it takes two thirds of the time of a read by ids.
    """
    return await _rows_by(table, numbers, _numbers_to_sql, columns, ROW)


def _numbers_to_sql(numbers: Sequence[int]) -> str:
    return f"{ROW} IN ({', '.join(map(str, numbers))})"


async def _rows_by(
    table: Snapshot,
    keys: Sequence[_K],
    condition_for: Callable[[Sequence[_K]], str],
    columns: Columns,
    beside: str | None,
) -> pa.Table:
    """Return the rows with these keys, and Lance's column ``beside`` if it is given."""
    names = column_names(table.schema, columns)
    layout = table.schema.to_arrow()
    if beside is not None:
        names.append(beside)
        layout = layout.append(pa.field(beside, pa.uint64()))
    if not keys:
        return pa.schema([layout.field(name) for name in names]).empty_table()
    blocks, start, size, nbytes = [], 0, _BLOCK if columns.meter is None else FEW_ROWS, 0
    while start < len(keys):
        block = keys[start : start + size]
        condition = await hop(len(block), condition_for, block)
        query = table.lance.query().select(names)
        blocks.append(await table.session.fetch(query, len(block), condition))
        start += size
        if columns.meter is not None:
            nbytes += await hop(cost_of(blocks[-1]), _count, blocks[-1], columns, columns.meter)
            size = max(FEW_ROWS, min(8 * size, _BLOCK, _BLOCK_BYTES * start // max(1, nbytes)))
    return pa.concat_tables(blocks)


def _count(rows: pa.Table, columns: Columns, meter: Meter) -> int:
    """Count the rows' bytes and payload values with the meter; return the number of bytes."""
    texts = payload_texts(rows.column(PAYLOAD)) if columns.payload else ()
    meter.add(rows.nbytes, sum(values_in(text or "") for text in texts))
    return int(rows.nbytes)


async def get(table: Snapshot, ids: Sequence[str], columns: Columns, finish: FromRows[_T]) -> _T:
    """Read the rows with these ids, in any order, and return the result of ``finish``."""
    return await _finished(table, await rows_by_id(table, ids, columns), columns, finish)


async def get_by_number(
    table: Snapshot, numbers: Sequence[int], columns: Columns, finish: FromRows[_T]
) -> _T:
    """Read the rows with these numbers, in the order of ``numbers``; return the result of
    ``finish``."""
    rows = await rows_by_number(table, numbers, columns)
    return await _finished(table, rows, columns, finish, numbers)


async def _finished(
    table: Snapshot,
    rows: pa.Table,
    columns: Columns,
    finish: FromRows[_T],
    numbers: Sequence[int] | None = None,
) -> _T:
    """Return the result of ``finish`` for these rows, in the order of ``numbers`` if given."""

    def finished() -> _T:
        ordered = rows
        if numbers is not None:
            places = pc.index_in(pa.array(numbers, pa.uint64()), value_set=rows.column(ROW))
            ordered = rows.take(places)
        return finish(stored_rows(ordered, table.schema, columns))

    return await hop(cost_of(rows), finished)


async def find(table: Snapshot, read: Find[_T]) -> _T:
    """Read the rows that match a filter, sorted, and return the result of ``finish`` for them."""
    where, order_by, columns, finish = read.where, read.order_by, read.columns, read.finish
    limit, offset = read.limit, read.offset
    if any(order.ref.path for order in order_by):
        query = table.lance.query().select(key_columns(order_by))
        batches = await table.session.batches(query, SCAN_BATCH, await condition_of(where))
        numbers = await sorted_numbers(batches, order_by, limit, offset)
        return await get_by_number(table, numbers, columns, finish)
    # Lance sorts only by columns that it also reads: without them, an unfiltered or indexed query
    # fails. Vectors are read afterwards, for the matches only: a sort would hold all vectors of the
    # table in memory.
    later = columns.meter is not None or (columns.vector and limit <= _BLOCK)
    sorted_by = tuple(order.ref.name for order in order_by)
    first = Columns(sorted_by) if later else columns
    names = column_names(table.schema, replace(first, fields=(*first.fields, *sorted_by)))
    order = [
        ColumnOrdering(
            column_name=order.ref.name, ascending=not order.descending, nulls_first=False
        )
        for order in order_by
    ]
    limit, offset = min(limit, MOST), min(offset, MOST)
    query = table.lance.query().select([*names, ROW]).order_by(order).limit(limit).offset(offset)
    rows = await table.session.fetch(query, limit, await condition_of(where))
    if later:
        numbers = await hop(rows.num_rows, rows.column(ROW).to_pylist)
        return await get_by_number(table, numbers, columns, finish)
    return await _finished(table, rows, columns, finish)


async def count(table: Snapshot, where: Expr | None) -> int:
    return int(await table.session.run(table.lance.count_rows(await condition_of(where))))
