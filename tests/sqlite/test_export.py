"""Exports: one snapshot, constant memory, and a cursor to continue after each batch."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.waiting import until
from tests.sqlite.support import SCHEMAS, State, names_in, opened, sql

from aiovec import AiovecError, Schema, StoreClosedError


def rows(prefix: str, count: int, version: int = 1) -> list[dict[str, object]]:
    return [State(version, version).row(f"{prefix}{n}", "me") for n in range(count)]


@pytest.mark.slow
async def test_memory_of_an_export_is_a_few_batches(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", Schema(256))
        vectors = np.random.default_rng(1).standard_normal((8_000, 256), dtype=np.float32)
        await store.insert("notes", {"id": [f"{n}" for n in range(8_000)], "embedding": vectors})
        gc.collect()
        before = pa.total_allocated_bytes()
        most = 0
        async for batch in store.export("notes", batch_size=250):
            most = max(most, pa.total_allocated_bytes() - before)
            del batch
        assert most < vectors.nbytes / 10


async def test_an_export_that_is_left_lets_go_of_its_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"

    def look() -> int:
        with sql(path) as db:
            db.execute("PRAGMA busy_timeout = 0")
            _, log, done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return int(log - done)

    async def held() -> int:
        """Return the WAL frames that a checkpoint cannot copy, because a reader is in its way."""
        return await asyncio.to_thread(look)

    async def free() -> bool:
        return not await held()

    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 100))
        async for _ in store.export("notes", batch_size=10):
            await store.insert("notes", rows("b", 100))
            assert await held() > 0
            break
        gc.collect()
        await until(free)
        for _ in range(20):  # more than can be open at the same time
            async with aclosing(store.export("notes", batch_size=10)) as export:
                await anext(export)
                await store.upsert("notes", rows("c", 10))
            assert await free()
        left = store.export("notes", batch_size=10)
        await anext(left)
    # The last connection is closed, so SQLite has removed its WAL, and the file can be moved.
    assert await names_in(path.parent) == ["notes.db"]
    with pytest.raises(StoreClosedError):
        await anext(left)
    await left.aclose()


async def test_an_export_that_holds_a_gibibyte_of_wal_ends(tmp_path: Path) -> None:
    """A cursor continues after the last batch. The test only simulates the size of the WAL."""
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        async with aclosing(store.export("notes", batch_size=10)) as export:
            batch = await anext(export)
            wal = path.with_name("notes.db-wal")
            os.truncate(wal, wal.stat().st_size + 2**30 + 1)
            with pytest.raises(AiovecError, match="continue an export with after="):
                await anext(export)
        cursor = batch.schema.metadata[b"aiovec.cursor"]
        rest = [batch.num_rows async for batch in store.export("notes", after=cursor)]
        assert rest == [20]
