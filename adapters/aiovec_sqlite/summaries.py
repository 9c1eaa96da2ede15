"""Counts of each value, and the least and the greatest, of a field, the id or a payload key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from aiovec.backend import Expr, Kind, Ref, Value
from aiovec.backend.contract import TableHandle

from .layout import TableLayout, current_table, quoted
from .reads import condition_of
from .sql.filters import sorted_value
from .sql.values import from_sql

_MOST = 2**63 - 1


def value_counts(
    db: sqlite3.Connection, handle: TableHandle, ref: Ref, where: Expr | None, limit: int | None
) -> list[tuple[Value, int]]:
    table = current_table(db, handle)
    condition, bound = condition_of(where)
    most = _MOST if limit is None else min(limit, _MOST)
    field = table.schema.fields.get(ref.name)
    if field is not None and field.is_list:
        items = f"json_each(r.{quoted(ref.name)}) AS listed"
        rows = db.execute(
            "SELECT v, count(*) AS n FROM (SELECT DISTINCT r._rowid, listed.value AS v "
            f"FROM {table.rows} AS r, {items} WHERE {condition}) "
            "GROUP BY v ORDER BY n DESC, v LIMIT ?",
            (*bound, most),
        ).fetchall()
    else:
        value, keys = sorted_value(ref)
        rows = db.execute(
            "SELECT v, count(*) AS n, max(typeof(v) = 'integer') FROM "
            f"(SELECT {value} AS v FROM {table.rows} AS r WHERE {condition}) "
            "WHERE v IS NOT NULL GROUP BY v ORDER BY n DESC, v LIMIT ?",
            (*keys, *bound, most),
        ).fetchall()
    if ref.path:
        return [(_of_payload(value, is_int=bool(is_int)), n) for value, n, is_int in rows]
    counts = [row[1] for row in rows]
    return list(zip(_of_column([row[0] for row in rows], ref, table), counts, strict=True))


def bounds(
    db: sqlite3.Connection, handle: TableHandle, ref: Ref, where: Expr | None
) -> tuple[Value, Value] | None:
    table = current_table(db, handle)
    condition, bound = condition_of(where)
    value, keys = sorted_value(ref)
    # Each end by itself: an index over the field then leads to it at once.
    ends = [
        f"(SELECT v FROM (SELECT {value} AS v FROM {table.rows} AS r WHERE {condition}) "
        f"WHERE v IS NOT NULL ORDER BY v {way} LIMIT 1)"
        for way in ("ASC", "DESC")
    ]
    parameters = (*keys, *bound)
    found = db.execute(f"SELECT {', '.join(ends)}", (*parameters, *parameters)).fetchone()
    if found[0] is None:
        return None
    least, greatest = map(_of_payload, found) if ref.path else _of_column(list(found), ref, table)
    return least, greatest


def _of_column(values: Sequence[Any], ref: Ref, table: TableLayout) -> Sequence[Value]:
    field = table.schema.fields.get(ref.name)
    kind: Kind = "text" if field is None else field.item_kind
    return from_sql(values, kind)


def _of_payload(value: Any, *, is_int: bool = False) -> Value:
    """The value as it was written: see ``sorted_value`` for booleans."""
    if isinstance(value, bytes):
        return value == b"\x01"
    # Of 1 and 1.0, which are one value, either may stand for both.
    return int(value) if is_int else value
