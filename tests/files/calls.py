"""Read and write calls on the table of ``tests.harness.scripts``, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pyarrow as pa
from tests.harness.scripts import SCHEMA, TABLE, row

from aiovec import VectorStore

Calls = dict[str, Callable[[VectorStore], Awaitable[object]]]
QUERY = [1.0, 2.0, 2.0, 3.0]


async def exported(store: VectorStore) -> list[pa.RecordBatch]:
    return [batch async for batch in store.export(TABLE)]


READS: Calls = {
    "tables": lambda store: store.tables(),
    "schema": lambda store: store.schema(TABLE),
    "count": lambda store: store.count(TABLE),
    "get": lambda store: store.get(TABLE, ["a", *(f"r{n}" for n in range(150))]),
    "find": lambda store: store.find(TABLE, "year > 5", order_by="name", include_vector=True),
    "search": lambda store: store.search(TABLE, QUERY, limit=200),
    "export": exported,
    "stats": lambda store: store.stats(TABLE),
    "ping": lambda store: store.ping(),
}
WRITES: Calls = {
    "insert": lambda store: store.insert(TABLE, [row("c", 3)]),
    "upsert": lambda store: store.upsert(TABLE, [row("a", 3), row("new", 2)]),
    "set_vectors": lambda store: store.set_vectors(TABLE, ["a"], [QUERY]),
    "update": lambda store: store.update(TABLE, {"name": "x", "k": 1}, where="year < 50"),
    "delete": lambda store: store.delete(TABLE, ["a", "r7"]),
    "delete_where": lambda store: store.delete(TABLE, where="year = 1"),
    "create_table": lambda store: store.create_table("u", SCHEMA),
    "create_table that may exist": lambda store: store.create_table("u", SCHEMA, exist_ok=True),
    "add_field": lambda store: store.add_field(TABLE, "late", int),
    "create_field_index": lambda store: store.create_field_index(TABLE, "year", "btree"),
    "drop_field_index": lambda store: store.drop_field_index(TABLE, "year"),
    "drop_field": lambda store: store.drop_field(TABLE, "year"),
    "rename_field": lambda store: store.rename_field(TABLE, "year", "x"),
    "rename_table": lambda store: store.rename_table(TABLE, "x"),
    "drop_table": lambda store: store.drop_table(TABLE),
    "optimize": lambda store: store.optimize(TABLE),
    "create_index": lambda store: store.create_index(TABLE),
    "revert": lambda store: store.revert(TABLE, 1),
}
