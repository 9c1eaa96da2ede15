"""Reading rows: by id, by filter, how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from aiovec.backend import Columns, Expr, Rows, off_loop

from .driver import ColumnOrdering
from .filters import ids_to_sql, to_sql
from .layout import column_names
from .rows import effort_of, rows_of
from .session import Opened, Session

if TYPE_CHECKING:
    from lancedb.query import AsyncStandardQuery

_Query = TypeVar("_Query", bound="AsyncStandardQuery")

# Ids in one query.
_BLOCK = 10_000
# Lance takes no larger limit or offset; it is far above the rows that a fragment may have.
MOST = 2**31 - 1
# For ``off_loop``: a literal, most of all one of the payload, takes as long to turn into SQL as so
# many values of a record; so much SQL takes lancedb as long to parse as one.
_EFFORT = 16
_CHARACTERS_A_VALUE = 8


async def condition_of(where: Expr | None) -> str | None:
    """A filter as Lance's SQL. One with many literals takes a while."""
    if where is None:
        return None
    return await off_loop(_EFFORT * where.literals, partial(to_sql, where))


async def filtered(query: _Query, condition: str | None) -> _Query:
    """The query with a condition, which lancedb parses at once."""
    if condition is None:
        return query
    return await off_loop(len(condition) // _CHARACTERS_A_VALUE, query.where, condition)


async def rows_by_id(
    session: Session, table: Opened, ids: Sequence[str], columns: Columns
) -> pa.Table:
    """The rows with these ids, in any order."""
    names = column_names(table.schema, columns)
    if not ids:
        layout = table.schema.to_arrow()
        return pa.schema([layout.field(name) for name in names]).empty_table()
    blocks = []
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        condition = await off_loop(len(block), ids_to_sql, block)
        query = await filtered(table.lance.query().select(names), condition)
        blocks.append(await session.fetch(query))
    return pa.concat_tables(blocks)


async def get(
    session: Session,
    table: Opened,
    ids: Sequence[str],
    columns: Columns,
    *,
    ordered: bool = False,
) -> Rows:
    """The rows with these ids, in any order, or ``ordered`` in that of the ids."""
    found = await rows_by_id(session, table, ids, columns)

    def rows() -> Rows:
        taken = found
        if ordered:
            place = {id: n for n, id in enumerate(found.column("id").to_pylist())}
            taken = found.take(pa.array([place[id] for id in ids if id in place], pa.int64()))
        return rows_of(taken, columns, table.schema.vector)

    return await off_loop(effort_of(found), rows)


async def find(
    session: Session,
    table: Opened,
    where: Expr | None,
    order_by: str,
    descending: bool,
    limit: int,
    offset: int,
    columns: Columns,
) -> Rows:
    # Lance sorts only by what it also reads: with a column that is not selected, an unfiltered or
    # an indexed query fails. Vectors are read for the rows that were found: to sort with them is
    # to hold those of the whole table.
    later = columns.vector and limit <= _BLOCK
    first = Columns((order_by,)) if later else columns
    names = column_names(table.schema, replace(first, fields=(*first.fields, order_by)))
    order = [ColumnOrdering(column_name=order_by, ascending=not descending, nulls_first=False)]
    if order_by != "id":
        order.append(ColumnOrdering(column_name="id", ascending=True, nulls_first=False))
    query = table.lance.query().select(names).order_by(order)
    query = await filtered(query, await condition_of(where))
    found = await session.fetch(query.limit(min(limit, MOST)).offset(min(offset, MOST)))
    if later:
        ids = await off_loop(found.num_rows, found.column("id").to_pylist)
        return await get(session, table, ids, columns, ordered=True)
    return await off_loop(effort_of(found), lambda: rows_of(found, columns, table.schema.vector))


async def count(session: Session, table: Opened, where: Expr | None) -> int:
    return int(await session.run(table.lance.count_rows(await condition_of(where))))
