"""A write without rows, which a backend's caller may send, harms no other write in its commit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.sqlite.support import backend_on

from aiovec import Schema
from aiovec.backend.changes import Delete, Insert, Upsert
from aiovec.backend.contract import Count
from aiovec.backend.rows import Batch

SCHEMA = Schema(2)


def rows(*ids: str) -> Batch:
    made: list[dict[str, Any]] = [{"id": id, "embedding": [1.0, 2.0]} for id in ids]
    return Batch.of_table(pa.Table.from_pylist(made, schema=SCHEMA.to_arrow()), SCHEMA)


async def test_an_empty_write_harms_no_other_in_its_commit(tmp_path: Path) -> None:
    async with backend_on(tmp_path / "notes.db") as backend:
        await backend.create_table("notes", SCHEMA)
        table = await backend.open_table("notes")
        await backend.write(table, Insert(rows("a", "b")))
        done = await asyncio.gather(
            backend.write(table, Delete(["a"])),
            backend.write(table, Delete(["b"])),
            backend.write(table, Upsert(rows())),
            backend.write(table, Upsert(rows("c"))),
            backend.write(table, Insert(rows())),
        )
        assert done == [1, 1, 0, 1, 0]
        assert await backend.read(table, Count(None)) == 1
