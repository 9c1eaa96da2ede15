"""Shared code of the SQLite backend's tests: stores, rows with predictable values, and checks of
the file without aiovec."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import unicodedata
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tests.harness import vec0
from tests.harness.processes import python
from tests.harness.waiting import until

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec.backend.plugin import plugin_of

DIM = 16

FIELDS: dict[str, Any] = {"version": int, "vector_version": int, "name": str, "tags": list[str]}
SCHEMAS = {
    "plain": Schema(DIM, fields={**FIELDS, "owner": str}),
    "partitioned": Schema(
        DIM, metric="l2", fields={**FIELDS, "owner": Field(str, partition=True)}, quantized="bit"
    ),
    "indexed": Schema(
        DIM, metric="dot", fields={**FIELDS, "owner": Field(str, index="btree", nullable=False)}
    ),
}


def vector(id: str, version: int, dim: int = DIM) -> np.ndarray:
    """Return the vector that a row must have; it differs for each id and version."""
    seed = int.from_bytes(hashlib.blake2b(f"{id}\0{version}".encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(dim, dtype=np.float32)


@dataclass(frozen=True)
class State:
    """The expected versions of a row: of its vector, and of its fields."""

    vector_version: int
    version: int

    def fields(self, id: str, owner: str | None) -> dict[str, Any]:
        name = f"{id}:{self.version}"
        return {
            "version": self.version,
            "vector_version": self.vector_version,
            "name": name if self.version % 5 else None,
            "tags": [name, f"t{self.version % 3}"],
            "owner": owner,
            "note": {"of": name, "n": [self.version, None, "ü"]},
        }

    def row(self, id: str, owner: str | None) -> dict[str, Any]:
        made = vector(id, self.vector_version)
        return {"id": id, "embedding": made, **self.fields(id, owner)}

    def problems(self, record: aiovec.Record, owner: str | None) -> list[str]:
        """Return the differences between a record and this state."""
        wanted = self.fields(record.id, owner)
        stored = {k: v for k, v in record.fields.items() if v is not None or k in wanted}
        wrong = []
        if stored != wanted:
            wrong.append(f"{record.id}: {stored} instead of {wanted}")
        if record.vector.tobytes() != vector(record.id, self.vector_version).tobytes():
            wrong.append(f"{record.id}: other vector bits")
        return wrong


@asynccontextmanager
async def opened(target: Path | str, **settings: Any) -> AsyncIterator[VectorStore]:
    """Open a store with these settings, and close it after the block."""
    store = await open_store(target, **settings)
    try:
        yield store
    finally:
        await store.close()


async def open_store(target: Path | str, **settings: Any) -> VectorStore:
    """Open a store with these settings."""
    name = "AIOVEC_RETRIEVAL__SQLITE__{}"
    before = {name.format(key.upper()): str(value) for key, value in settings.items()}
    kept = {key: os.environ.get(key) for key in before}
    os.environ.update(before)
    try:
        return await aiovec.connect(target)
    finally:
        for key, value in kept.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def memory_for_copies(nbytes: int) -> Iterator[None]:
    """Let stores opened in the block see a machine with four times ``nbytes`` of memory."""
    values, known = {"SC_PHYS_PAGES": 4 * nbytes, "SC_PAGE_SIZE": 1}, os.sysconf
    with mock.patch.object(os, "sysconf", lambda name: values.get(name) or known(name)):
        yield


@asynccontextmanager
async def backend_on(path: Path) -> AsyncIterator[Any]:
    """Open another backend on a store's file, for calls of migrations and servers."""
    plugin = await asyncio.to_thread(plugin_of, "sqlite")
    backend = await asyncio.to_thread(plugin.create, str(path), plugin.settings())
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def ready(store: VectorStore, table: str) -> None:
    """Search until the table is searched in memory."""
    schema = await store.schema(table)

    async def in_memory() -> bool:
        await store.search(table, [1.0] * schema.dim, limit=1)
        return (await store.stats(table)).details["searched"] == "in memory"

    await until(in_memory)


async def whole_table(store: VectorStore, table: str) -> dict[str, dict[str, Any]]:
    return await rows_of([batch async for batch in store.export(table)])


async def rows_of(batches: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of batches by id; in a thread, because Arrow may read time-zone files."""
    return await asyncio.to_thread(
        lambda: {row["id"]: row for batch in batches for row in batch.to_pylist()}
    )


# Plain SQL on the file, without aiovec


def sql(path: Path) -> closing[sqlite3.Connection]:
    """Open a plain connection with sqlite-vec and the function that text indexes call, which is
    closed after the block."""
    db = vec0.connect(path)
    db.create_function("aiovec_letters", 2, _letters, deterministic=True)
    return closing(db)


def _letters(_: str, text: bytes | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFKC", text.decode(errors="replace"))


def check_file(path: Path) -> dict[str, int]:
    """Run integrity_check, compare ordinary tables with vec0 tables, and return the row counts."""
    counts = {}
    with sql(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (change,) = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
        for name, schema_text in db.execute("SELECT name, schema FROM aiovec_tables").fetchall():
            counts[name] = _check_table(db, name, Schema.from_json(schema_text), change)
    return counts


def _check_table(db: sqlite3.Connection, name: str, schema: Schema, change: int) -> int:
    parts = [field for field, options in schema.fields.items() if options.partition]
    ordinary = db.execute(
        f'SELECT _rowid, _seq{"".join(f", {p}" for p in parts)} FROM "{name}.rows"'
    ).fetchall()
    keys = "".join(f", p{i}" for i in range(1, len(parts) + 1))
    bits = ", vector_bit, vec_quantize_binary(vector)" if schema.quantized else ""
    vectors = db.execute(f'SELECT rowid, vector{keys}{bits} FROM "{name}.vec"').fetchall()
    stored = {row[0]: row for row in vectors}
    assert len(stored) == len(vectors), "a rowid twice in the vec0 table"
    assert set(stored) == {row[0] for row in ordinary}, "the two tables have other rows"
    for rowid, _, *values in ordinary:
        _, blob, *rest = stored[rowid]
        assert len(blob) == 4 * schema.dim
        assert rest[: len(parts)] == ["" if v is None else f"={v}" for v in values]
        if schema.quantized:
            assert rest[-2] == rest[-1], "the bit vector is another vector's"
        # And the row as it is found by its rowid, which is another way through vec0.
    looked_up = db.execute(
        f'SELECT count(*) FROM json_each(?) AS j CROSS JOIN "{name}.vec" AS v ON v.rowid = j.value',
        (json.dumps(list(stored)),),
    ).fetchone()
    assert looked_up == (len(stored),)
    numbers = [row[1] for row in ordinary]
    numbers += [
        seq for (seq,) in db.execute("SELECT seq FROM aiovec_deleted WHERE name = ?", (name,))
    ]
    assert len(set(numbers)) == len(numbers), "a change number was used twice"
    assert max([0, *numbers, *(row[0] for row in ordinary)]) <= change
    return len(ordinary)


# Other processes


HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
db.execute("ROLLBACK")
db.close()
print("free", flush=True)
"""


class LockHolder:
    """Another process that holds the write lock of a file until it is told to release it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _start(self) -> None:
        self._process = python(
            "-c", HOLD_LOCK, str(self._path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "locked\n"

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.communicate("\n", timeout=60)

    async def free(self) -> None:
        await asyncio.to_thread(self._end)

    async def __aenter__(self) -> LockHolder:
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.free()


async def names_in(folder: Path) -> list[str]:
    return await asyncio.to_thread(lambda: sorted(file.name for file in folder.iterdir()))
