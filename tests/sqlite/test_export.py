"""export: one snapshot, constant memory, and a cursor that goes on behind each batch."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.harness.waiting import until
from tests.sqlite.support import SCHEMAS, State, names_in, opened, sql, whole_table

from aiovec import AiovecError, Schema, StoreClosedError, VectorStore


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


@pytest.mark.parametrize("target", ["notes.db", ":memory:"])
async def test_a_snapshot_while_writers_go_on(tmp_path: Path, target: str) -> None:
    async with opened(target if target == ":memory:" else tmp_path / target) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 300))
        before = await whole_table(store, "notes")
        seen: dict[str, dict[str, object]] = {}
        step = 0
        async for batch in store.export("notes", batch_size=20):
            seen |= {row["id"]: row for row in batch.to_pylist()}
            step += 1
            await store.insert("notes", rows(f"b{step}/", 10))
            await store.upsert("notes", rows("a", 280, version=step + 1)[step::7])
            await store.update("notes", {"name": f"{step}"}, where="TRUE")
            await store.delete("notes", [f"a{299 - step}"])
            if step == 8:
                await store.optimize("notes")
        assert seen == before
        assert step == 15
        assert await store.count("notes") == 300 + 150 - 15


async def test_slow_exports_block_neither_searches_nor_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db", readers=1) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 100))
        exports = [store.export("notes", batch_size=10) for _ in range(8)]
        for export in exports:
            assert (await anext(export)).num_rows == 10
        for n in range(20):
            assert len(await store.search("notes", [1.0] * 16)) == 10
            await store.insert("notes", rows(f"b{n}/", 1))
            assert (await store.get("notes", f"b{n}/0"))[0]["owner"] == "me"
        for export in exports:
            assert sum([batch.num_rows async for batch in export]) == 90


async def test_an_export_that_is_left_lets_go_of_its_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"

    def look() -> int:
        with sql(path) as db:
            db.execute("PRAGMA busy_timeout = 0")
            _, log, done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return int(log - done)

    async def held() -> int:
        """WAL frames that a checkpoint cannot bring into the file, for a reader needs others."""
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
        for _ in range(20):  # more than may be open at once
            async with aclosing(store.export("notes", batch_size=10)) as export:
                await anext(export)
                await store.upsert("notes", rows("c", 10))
            assert await free()
        left = store.export("notes", batch_size=10)
        await anext(left)
    # The last connection has gone, so SQLite has removed its WAL, and the file may be moved.
    assert await names_in(path.parent) == ["notes.db"]
    with pytest.raises(StoreClosedError):
        await anext(left)
    await left.aclose()


async def test_an_export_that_holds_a_gibibyte_of_wal_ends(tmp_path: Path) -> None:
    """A cursor goes on behind the last batch. The WAL only looks so large here."""
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        async with aclosing(store.export("notes", batch_size=10)) as export:
            batch = await anext(export)
            wal = path.with_name("notes.db-wal")
            os.truncate(wal, wal.stat().st_size + 2**30 + 1)
            with pytest.raises(AiovecError, match="go on behind the last batch"):
                await anext(export)
        cursor = batch.schema.metadata[b"aiovec.cursor"]
        rest = [batch.num_rows async for batch in store.export("notes", after=cursor)]
        assert rest == [20]


async def walk(store: VectorStore, chance: random.Random, dance: bool) -> list[str]:
    """All ids as they come, with a new export after every batch, and changes between."""
    ids: list[str] = []
    cursor = None
    while True:
        async with aclosing(store.export("notes", batch_size=17, after=cursor)) as export:
            batch = await anext(export, None)
        if batch is None:
            return ids
        ids += batch.column("id").to_pylist()
        cursor = batch.schema.metadata[b"aiovec.cursor"]
        if dance and len(ids) < 150:
            old = [f"stays{n}" for n in chance.sample(range(80), 10)]
            found = await store.get("notes", old)
            await store.upsert("notes", [State(2, 2).row(one.id, one["owner"]) for one in found])
            await store.update("notes", {"owner": chance.choice("xyz")}, ids=old[:5])
            await store.delete("notes", [f"goes{n}" for n in chance.sample(range(80), 10)])
            await store.insert("notes", rows(f"comes{chance.random()}", 3))
            if chance.random() < 0.5:
                await store.optimize("notes")


async def test_a_cursor_gives_each_row_that_stays_exactly_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "notes.db", chunk_size=8) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        pairs = zip(rows("stays", 80), rows("goes", 80), strict=True)
        both = [row for pair in pairs for row in pair]
        await store.insert("notes", both)
        still = await walk(store, random.Random(1), dance=False)
        assert sorted(still) == sorted(row["id"] for row in both)
        ids = await walk(store, random.Random(2), dance=True)
        assert len(ids) == len(set(ids))
        assert {f"stays{n}" for n in range(80)} <= set(ids)
