"""The SQL of filters on SQLite: which index serves it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from tests.contract.base import case
from tests.filters.cases import SCHEMA

from aiovec.backend import Ref, bind
from aiovec_sqlite.sql.filters import condition_sql, indexed_value, register

INDEXED = {
    "\"select\" = 'a'": "t.select",
    "\"select\" LIKE 'a%'": "t.select",
    "\"select\" LIKE 'a%b_c'": "t.select",
    "\"select\" STARTSWITH 'a'": "t.select",
    "\"select\" IN ('a', 'b')": "t.select",
    "\"select\" = 'a' OR \"select\" = 'b'": "t.select",
    "NOT order >= 5": "t.order",
    "\"like\" BETWEEN 1 AND 2 AND body LIKE '%a'": "t.like",
    "id = 'a'": "sqlite_autoindex",
    "payload.a.b = 'x'": "payload.a.b",
    "NOT payload.a.b >= 5": "payload.a.b",
    "payload.a.b IN ('x', 'y', 'z')": "payload.a.b",
    "payload.a.b STARTSWITH 'x'": "payload.a.b",
    "payload.a.b = TRUE OR payload.a.b = 'x'": "payload.a.b",
}
PATH = ("a", "b")


def sql_of(where: str) -> tuple[str, Any]:
    expr = bind(where, SCHEMA)
    assert expr is not None
    return condition_sql(expr, {Ref("payload", PATH): indexed_value(PATH, "r.payload")})


def test_each_filter_on_an_indexed_field_uses_its_index() -> None:
    columns = "".join(f', "{name}"' for name in SCHEMA.fields)
    with closing(sqlite3.connect(":memory:")) as connection:
        register(connection)
        connection.execute(
            f'CREATE TABLE "t.rows" (_rowid INTEGER PRIMARY KEY, id TEXT UNIQUE{columns}, payload)'
        )
        for name, field in SCHEMA.fields.items():
            if field.index:
                connection.execute(f'CREATE INDEX "t.{name}" ON "t.rows"("{name}")')
        connection.execute(
            f'CREATE INDEX "payload.a.b" ON "t.rows" ({indexed_value(PATH, "payload")})'
        )
        for where, index in INDEXED.items():
            sql, parameters = sql_of(where)
            plan = connection.execute(
                f'EXPLAIN QUERY PLAN SELECT _rowid FROM "t.rows" AS r WHERE {sql}', parameters
            ).fetchall()
            with case(where):
                assert any("SEARCH" in step[3] and index in step[3] for step in plan), plan
