"""Fill and search stores with the same rows: with aiovec, and by hand without it."""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import sqlite_vec
from tests.harness.waiting import until

from aiovec import VectorStore
from aiovec_sqlite.driver import load_driver

from .data import COLUMNS, LIMIT, TABLE, Data, Float32Array, row_number
from .measure import Ask, Way

_LOADED = "in memory"

# aiovec


async def fill(store: VectorStore, data: Data, table: str = TABLE, *, text: bool = False) -> None:
    await store.create_table(table, data.schema(text=text))
    for batch in data.batches():
        await store.insert(table, batch)
    await store.optimize(table)


def by_aiovec(
    store: VectorStore, data: Data, tables: Sequence[str] = (TABLE,), **options: Any
) -> Ask:
    """Search like an app, which wants the rows' fields; each search takes a random table."""
    chosen = np.random.default_rng(2).integers(len(tables), size=1009)

    async def ask(query: int) -> list[int]:
        table, vector = tables[chosen[query % len(chosen)]], data.queries[query % len(data.queries)]
        hits = await store.search(table, vector, **{"limit": LIMIT, **options})
        return [row_number(hit.id) for hit in hits]

    return ask


async def drained(batches: AsyncIterator[pa.RecordBatch], data: Data) -> None:
    """Read all batches, and check that they have as many rows as the data."""
    assert sum([batch.num_rows async for batch in batches]) == len(data)


def exporting(store: VectorStore, data: Data) -> Way:
    """Return a way that measures the rows per second of a complete export."""

    async def measure() -> float:
        began = time.perf_counter()
        await drained(store.export(TABLE), data)
        return len(data) / (time.perf_counter() - began)

    return measure


async def until_loaded(store: VectorStore, query: Float32Array, table: str = TABLE) -> float:
    """Search until the table is in memory; return the seconds since the first search."""
    began = time.perf_counter()
    await store.search(table, query, limit=1)

    async def loaded() -> bool:
        return bool((await store.stats(table)).details.get("searched", _LOADED) == _LOADED)

    await until(loaded)
    return time.perf_counter() - began


# SQLite by hand, with aiovec's driver and settings


def connect(path: Path) -> sqlite3.Connection:
    """Open a file with sqlite-vec; a commit is durable when it returns."""
    db = load_driver().connect(str(path), isolation_level=None, check_same_thread=False)
    db.enable_load_extension(True)
    sqlite_vec.load(db)
    db.enable_load_extension(False)
    for pragma in ("page_size = 8192", "journal_mode = WAL", "synchronous = FULL",
                   "cache_size = -65536"):  # fmt: skip
        db.execute(f"PRAGMA {pragma}").fetchall()
    return cast("sqlite3.Connection", db)


def create(db: sqlite3.Connection, dim: int) -> None:
    """Create a table for the fields and a vec0 table for the vectors, joined by rowid."""
    db.execute(
        "CREATE TABLE rows (rowid INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, pick INTEGER, "
        "place INTEGER, text TEXT)"
    )
    db.execute(
        f"CREATE VIRTUAL TABLE vec USING vec0(vector float[{dim}] distance_metric=cosine, "
        "chunk_size=256)"
    )


INSERT_ROW = "INSERT INTO rows (rowid, id, pick, place, text) VALUES (?, ?, ?, ?, ?)"
INSERT_VECTOR = "INSERT INTO vec (rowid, vector) VALUES (?, ?)"
JOIN = "SELECT r.id, r.pick, r.place, r.text, v.vector FROM rows AS r JOIN vec AS v USING (rowid)"


def insert(db: sqlite3.Connection, first: int, batch: pa.RecordBatch) -> None:
    """Insert a batch, numbered from ``first``, in one durable transaction."""
    numbers = range(first, first + batch.num_rows)
    vectors = batch.column("embedding").flatten().to_numpy().reshape(len(numbers), -1)
    columns = [batch.column(name).to_pylist() for name in COLUMNS]
    db.execute("BEGIN IMMEDIATE")
    db.executemany(INSERT_ROW, zip(numbers, *columns, strict=True))
    db.executemany(INSERT_VECTOR, zip(numbers, map(bytes, vectors), strict=True))
    db.execute("COMMIT")


def fill_by_hand(path: Path, data: Data) -> None:
    db = connect(path)
    create(db, data.dim)
    first = 0
    for batch in data.batches():
        insert(db, first, batch)
        first += batch.num_rows
    db.close()


def by_sqlite_vec(db: sqlite3.Connection, data: Data) -> Ask:
    """Search with sqlite-vec's own scan, and read the rows' fields. It blocks the event loop."""
    sql = (
        "SELECT r.id, r.pick, r.place, r.text, distance FROM vec JOIN rows AS r "
        "ON r.rowid = vec.rowid WHERE vector MATCH ? AND k = ? ORDER BY distance"
    )

    async def ask(query: int) -> list[int]:
        vector = data.queries[query % len(data.queries)].tobytes()
        return [row_number(row[0]) for row in db.execute(sql, (vector, LIMIT))]

    return ask


# LanceDB by hand


@asynccontextmanager
async def lance(folder: Path) -> AsyncIterator[Any]:
    """Open a folder with lancedb's own client. Raises ImportError if lancedb is missing."""
    lancedb = await asyncio.to_thread(importlib.import_module, "lancedb")
    connection = await lancedb.connect_async(folder)
    try:
        yield connection
    finally:
        connection.close()


async def fill_lance(connection: Any, data: Data) -> Any:
    """Create the table and return it."""
    batches = list(data.batches())
    table = await connection.create_table(TABLE, schema=batches[0].schema)
    for batch in batches:
        await table.add(batch)
    return table


def by_lance(table: Any, data: Data, **effort: int) -> Ask:
    """Search with lancedb's client, and read the same fields; ``effort`` sets query parameters."""

    async def ask(query: int) -> list[int]:
        built = table.query().nearest_to(data.queries[query % len(data.queries)])
        built = built.distance_type("cosine")
        for name, value in effort.items():
            built = getattr(built, name)(value)
        rows = await built.select([*COLUMNS, "_distance"]).limit(LIMIT).to_arrow()
        return [row_number(id) for id in rows.column("id").to_pylist()]

    return ask


async def upsert_lance(table: Any, batch: pa.RecordBatch) -> None:
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    await merge.execute(pa.Table.from_batches([batch]))
