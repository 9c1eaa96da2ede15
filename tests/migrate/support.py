"""What the tests of the migration share: stores with rows that tell what they must be, their TOML,
and what is in a store, whichever it is."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.sqlite.support import State

import aiovec
import aiovec_migrate
from aiovec import Field, Schema, VectorStore
from aiovec.backend import moves_of
from aiovec_migrate import Outcome, RunState
from aiovec_migrate.host import Host, RealHost
from aiovec_migrate.limits import Limits

DIM = 16
FIELDS: dict[str, Any] = {
    "version": int,
    "vector_version": int,
    "name": str,
    "tags": list[str],
    "owner": Field(str, index="bitmap"),
}
SCHEMAS = {
    "notes": Schema(DIM, model="model-a", fields={**FIELDS, "made": datetime, "score": float}),
    "others": Schema(DIM, metric="l2", fields={**FIELDS, "live": bool}),
}
BEGINNING = datetime(2024, 2, 29, 12, tzinfo=UTC)

FILES = {"sqlite": "notes.db", "lancedb": "notes.lance"}
"""What ``write_toml`` names each backend's store."""

Contents = dict[str, tuple[str, dict[str, dict[str, Any]]]]
"""Of each table its schema as JSON, and its rows by their ids."""


def at_once() -> Host:
    """For stores that are not open elsewhere, and so need no time to load what they are led to."""
    return RealHost(Limits(notice=0.0))


async def migrated(*ends: Any, host: Host | None = None, **options: Any) -> Outcome:
    """``aiovec_migrate.run`` that switches at once."""
    return await aiovec_migrate.run(*ends, host=host or at_once(), **options)


async def rolled_back(*, host: Host | None = None, **options: Any) -> RunState:
    """``aiovec_migrate.rollback`` that switches at once."""
    return await aiovec_migrate.rollback(host=host or at_once(), **options)


async def past_the_mark(store: VectorStore) -> None:
    """Let a store write where a run is open, as another program does that heeds no mark."""
    moves = moves_of(store._follower.engine.backend)
    assert moves is not None
    mark = await moves.move_mark()
    assert mark is not None
    moves.act_for(mark.run)


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who may read hardly a file; only root can become one."""
    # What cannot be imported as such a user, Python takes for missing ever after.
    codecs.lookup("utf-8-sig")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def write_toml(folder: Path, backend: str, *, lancedb: str = "notes.lance", more: str = "") -> Path:
    """A TOML that knows a SQLite file and a LanceDB folder beside it."""
    config = folder / "aiovec.toml"
    config.write_text(
        "# where the app's vectors are\n"
        "[retrieval]\n"
        f'backend = "{backend}"  # the present one\n'
        'sqlite_path = "notes.db"\n'
        f'lancedb_url = "{lancedb}"\n' + more,
        encoding="utf-8",
    )
    return config


def row(id: str, state: State, owner: str | None, table: str = "notes") -> dict[str, Any]:
    """A row that tells what it must be, with every kind of field."""
    made = state.row(id, owner)
    if table == "notes":
        n = state.version
        made["made"] = None if n % 7 == 0 else BEGINNING + timedelta(hours=n, microseconds=n)
        made["score"] = None if n % 4 == 0 else n / 3
    else:
        made["live"] = state.version % 2 == 0
    if state.version % 3 == 0:
        del made["note"]  # the row has no payload then
    return made


def some_rows(prefix: str, count: int, table: str, *, owner: str = "me") -> list[dict[str, Any]]:
    return [row(f"{prefix}/{n}", State(n, n), owner, table) for n in range(count)]


async def fill(store: VectorStore, counts: Mapping[str, int]) -> None:
    for table, count in counts.items():
        await store.create_table(table, SCHEMAS[table])
        if count:
            await store.insert(table, some_rows("r", count, table))
            # Gaps, and rows that stand elsewhere than they were inserted.
            await store.delete(table, [f"r/{n}" for n in range(0, count, 17)])
            again = [row(f"r/{n}", State(n + 1, n + 1), "me", table) for n in range(1, count, 13)]
            await store.upsert(table, again)


async def contents(store: VectorStore) -> Contents:
    """All that is in a store, vectors bit by bit and payloads as JSON values."""
    found: Contents = {}
    for table in await store.tables():
        schema = await store.schema(table)
        rows: dict[str, dict[str, Any]] = {}
        async for batch in store.export(table):
            for one in await asyncio.to_thread(_comparable, batch, schema):
                assert one["id"] not in rows, f"{one['id']} stands twice in {table}"
                rows[one["id"]] = one
        found[table] = (schema.to_json(), rows)
    return found


def _comparable(batch: Any, schema: Schema) -> list[dict[str, Any]]:
    # Here, for with the contract suite come pytest and hypothesis: half of what a process of an
    # app under test would take to begin.
    from tests.harness.values import python_rows

    rows = python_rows(batch)
    at = batch.schema.get_field_index(schema.vector)
    column = batch.column(at)
    bits = column.values.slice(column.offset * schema.dim).to_numpy().tobytes()
    size = 4 * schema.dim
    for n, one in enumerate(rows):
        one[schema.vector] = bits[n * size : (n + 1) * size]
        if one.get("payload") is not None:
            one["payload"] = json.loads(one["payload"])
    return rows


async def contents_at(target: Path | str | None = None, *, config: Path | None = None) -> Contents:
    async with aiovec.connect(target, config=config) as store:
        return await contents(store)


def differences(one: Contents, other: Contents) -> list[str]:
    """Where two stores differ, in words; empty where they are the same."""
    found = []
    if one.keys() != other.keys():
        found.append(f"tables {sorted(one)} and {sorted(other)}")
    for table in one.keys() & other.keys():
        (schema, rows), (other_schema, other_rows) = one[table], other[table]
        if schema != other_schema:
            found.append(f"{table}: schema {schema} and {other_schema}")
        found += [
            f"{table}: {rows.get(id)} and {other_rows.get(id)}"
            for id in sorted(rows.keys() | other_rows.keys())
            if rows.get(id) != other_rows.get(id)
        ]
    return found[:20]
