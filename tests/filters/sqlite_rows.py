"""The rows as SQLite holds them, and the answers that its SQL gives."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from aiovec.backend import Expr
from aiovec_sqlite.sql.filters import register, to_sql

from .cases import EPOCH, SCHEMA

try:
    from pysqlite3 import dbapi2 as driver
except ImportError:  # no wheel for this platform
    import sqlite3 as driver

_TYPES = {"float": "REAL", "int": "INTEGER", "bool": "INTEGER", "datetime": "INTEGER"}


def create_sql() -> list[str]:
    columns = "".join(
        f', "{name}" {_TYPES.get(field.kind, "TEXT")}' for name, field in SCHEMA.fields.items()
    )
    table = (
        f'CREATE TABLE "t.rows" (_rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE{columns}, '
        "payload TEXT, _seq INTEGER NOT NULL) STRICT"
    )
    return [
        table,
        *(
            f'CREATE INDEX "t.{name}" ON "t.rows"("{name}")'
            for name, field in SCHEMA.fields.items()
            if field.index
        ),
    ]


def insert_sql() -> str:
    return f'INSERT INTO "t.rows" VALUES ({", ".join("?" * (len(SCHEMA.fields) + 4))})'


def stored(row: dict[str, Any], number: int, *, ascii_only: bool) -> tuple[Any, ...]:
    def column(name: str, kind: str) -> Any:
        value = row[name]
        if value is None:
            return None
        if kind.startswith("list["):
            return json.dumps(value, ensure_ascii=ascii_only)
        if kind == "datetime":
            return (value - EPOCH) // timedelta(microseconds=1)
        return value

    payload = row["payload"]
    return (
        number,
        row["id"],
        *(column(name, field.kind) for name, field in SCHEMA.fields.items()),
        None if payload is None else json.dumps(payload, ensure_ascii=ascii_only),
        number,
    )


def open_with(rows: list[dict[str, Any]], *, ascii_only: bool = False) -> Any:
    connection = driver.connect(":memory:")
    register(connection)
    for statement in create_sql():
        connection.execute(statement)
    connection.executemany(
        insert_sql(),
        [stored(row, number, ascii_only=ascii_only) for number, row in enumerate(rows)],
    )
    return connection


def truths(connection: Any, expr: Expr) -> list[bool | None]:
    """What the condition is for each row."""
    sql, parameters = to_sql(expr, SCHEMA)
    found = connection.execute(f'SELECT {sql} FROM "t.rows" AS r ORDER BY _rowid', parameters)
    return [None if value is None else bool(value) for (value,) in found]


def selected(connection: Any, expr: Expr) -> list[int]:
    """The numbers of the rows that a WHERE with the condition selects."""
    sql, parameters = to_sql(expr, SCHEMA)
    found = connection.execute(f'SELECT _rowid FROM "t.rows" AS r WHERE {sql}', parameters)
    return sorted(number for (number,) in found)
