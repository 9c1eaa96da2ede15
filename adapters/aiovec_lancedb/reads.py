"""Reading rows: by id, by filter, how many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from aiovec.backend import Columns, Rows
from aiovec.filters import Expr

from .driver import ColumnOrdering
from .filters import ids_to_sql, to_sql
from .layout import column_names
from .rows import off_loop, rows_of
from .session import Opened, Session

# Ids in one query.
_BLOCK = 10_000
# Lance takes no larger limit or offset; it is far above the rows that a fragment may have.
MOST = 2**31 - 1


async def condition_of(where: Expr | None) -> str | None:
    """A filter as Lance's SQL. One with many literals takes a while."""
    return None if where is None else await off_loop(where.literals, partial(to_sql, where))


async def rows_by_id(
    session: Session, table: Opened, ids: Sequence[str], columns: Columns
) -> pa.Table:
    """The rows with these ids, in any order."""
    names = column_names(table.schema, columns)
    blocks = [
        await session.fetch(
            table.lance.query().where(ids_to_sql(ids[start : start + _BLOCK])).select(names)
        )
        for start in range(0, len(ids), _BLOCK)
    ]
    return pa.concat_tables(blocks)


async def get(session: Session, table: Opened, ids: Sequence[str], columns: Columns) -> Rows:
    found = await rows_by_id(session, table, ids, columns)
    return await off_loop(found.num_rows, lambda: rows_of(found, columns, table.schema.vector))


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
    order = [ColumnOrdering(column_name=order_by, ascending=not descending, nulls_first=False)]
    if order_by != "id":
        order.append(ColumnOrdering(column_name="id", ascending=True, nulls_first=False))
    query = table.lance.query().select(column_names(table.schema, columns)).order_by(order)
    condition = await condition_of(where)
    if condition is not None:
        query = query.where(condition)
    found = await session.fetch(query.limit(min(limit, MOST)).offset(min(offset, MOST)))
    return await off_loop(found.num_rows, lambda: rows_of(found, columns, table.schema.vector))


async def count(session: Session, table: Opened, where: Expr | None) -> int:
    return int(await session.run(table.lance.count_rows(await condition_of(where))))
