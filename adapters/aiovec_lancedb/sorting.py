"""Sort rows by keys of the payload, which Lance cannot do.

The keys of all rows that match a filter are read batch by batch, and only the first ``offset +
limit`` rows are kept.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend.contract import Order
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop

from .layout import ROW
from .sql.values import PayloadValue, name

# The number of additional rows collected before a sort. They take a few megabytes, and save sorts.
_MOST_WAITING = 65_536
# For ``hop``: sorting a row by one key costs as much as copying this many values.
_COST_A_KEY = 8


def kind_of(value: Any) -> int | None:
    """Return the rank of a JSON value's type in aiovec's order of types; None for null, lists and
    objects."""
    match value:
        case bool():
            return 2
        case str():
            return 1
        case int() | float():
            return 0
        case _:
            return None


def key_columns(order_by: Sequence[Order]) -> dict[str, str]:
    """Return the SQL of each column that ``sorted_numbers`` needs, by the column's name."""
    keys = {
        f"key{n}": PayloadValue(order.ref.path).as_scalar
        if order.ref.path
        else name(order.ref.name)
        for n, order in enumerate(order_by)
    }
    return {ROW: ROW, **keys}


async def sorted_numbers(
    batches: AsyncIterable[pa.RecordBatch], order_by: Sequence[Order], limit: int, offset: int
) -> list[int]:
    """Return the row numbers of up to ``limit`` rows in sorted order, from ``offset`` on.

    The batches must have the columns of ``key_columns``.
    """
    most = offset + limit
    kept: list[pa.Table] = []
    rows = 0
    async for batch in batches:
        cost = batch.num_rows * _COST_A_KEY * len(order_by) + cost_of(batch)
        kept.append(await hop(cost, _sortable, batch, order_by))
        rows += batch.num_rows
        if rows > most + _MOST_WAITING:
            cost = sum(map(cost_of, kept))
            kept = [await hop(cost, _first, kept, order_by, most)]
            rows = kept[0].num_rows
    if not kept:
        return []
    cost = sum(map(cost_of, kept))
    first = await hop(cost, _first, kept, order_by, most)
    wanted: list[int] = first.column(ROW).slice(min(offset, rows)).to_pylist()
    return wanted


def _first(tables: Sequence[pa.Table], order_by: Sequence[Order], most: int) -> pa.Table:
    """Return the first ``most`` rows of all tables together, sorted."""
    table = pa.concat_tables(tables)
    keys = [
        (column, "descending" if order.descending else "ascending")
        for n, order in enumerate(order_by)
        for column in (_parts(n) if order.ref.path else [f"key{n}"])
    ]
    places = pc.sort_indices(table, sort_keys=keys)  # nulls come last
    return table.take(places.slice(0, min(most, len(places))))


def _sortable(batch: pa.RecordBatch, order_by: Sequence[Order]) -> pa.Table:
    """Return the batch with each JSON value replaced by columns that Arrow sorts as aiovec does."""
    columns: dict[str, Any] = {ROW: batch.column(ROW)}
    for n, order in enumerate(order_by):
        column = batch.column(f"key{n}")
        if order.ref.path:
            columns.update(zip(_parts(n), _columns_of(column.to_pylist()), strict=True))
        else:
            columns[f"key{n}"] = column
    return pa.table(columns)


def _parts(n: int) -> list[str]:
    return [f"key{n}.{part}" for part in ("type", "number", "rest", "text")]


def _columns_of(texts: Iterable[str | None]) -> list[pa.Array]:
    """Return columns with each scalar's type, nearest float, difference from this float, and
    text."""
    values = json.loads(f"[{','.join(text or 'null' for text in texts)}]")
    rows = [_parts_of(value) for value in values]
    return [pa.array([row[n] for row in rows], type) for n, type in enumerate(_PART_TYPES)]


_PART_TYPES = pa.int8(), pa.float64(), pa.int64(), pa.utf8()


def _parts_of(value: Any) -> tuple[int | None, float | None, int | None, str | None]:
    kind = kind_of(value)
    if kind is None or isinstance(value, str):
        return kind, None, None, value
    number = value + 0.0  # -0.0 becomes 0.0; Arrow sorts -0.0 first
    return kind, number, value - int(number) if isinstance(value, int) else 0, None
