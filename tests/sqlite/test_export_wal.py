"""B10: an export that stays open does not keep the WAL growing."""

from __future__ import annotations

import asyncio
import os
from asyncio import to_thread
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import check_file, names_in, opened

from aiovec import Schema, VectorStore
from aiovec_sqlite.reads import ExportLimits

MIB = 2**20
WRITES = 90


def rows(count: int, version: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{n}", "embedding": [version + 1.0, n], "source_id": f"{version}-" + "x" * 1000}
        for n in range(count)
    ]


def wal_of(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


async def write_much(store: VectorStore, path: Path) -> float:
    """Rewrite all rows many times; how long the WAL got, as a part of all that was written."""
    longest = first = 0
    for version in range(1, WRITES + 1):
        await store.upsert("t", rows(500, version))
        longest = max(longest, await to_thread(wal_of, path))
        if version == 3:
            # Here the export still holds all of it.
            first = longest
        await asyncio.sleep(0.02)
    return longest / (first / 3 * WRITES)


@pytest.mark.slow
@pytest.mark.parametrize("idle", [True, False])
async def test_an_open_export_does_not_keep_the_wal_growing(tmp_path: Path, idle: bool) -> None:
    """B10: whether its reader rests or reads, it stays one snapshot, whole and in order."""
    limits = {"exports": ExportLimits(most_wal=8 * MIB, look_every=0.02)}
    path = tmp_path / "notes.db"
    async with opened(path, limits=limits) as store:
        await store.create_table("t", Schema(2, fields={"source_id": str}))
        await store.insert("t", rows(500, 0))
        async with aclosing(store.export("t", batch_size=5)) as batches:
            seen = (await anext(batches))["source_id"].to_pylist()
            if idle:
                share = await write_much(store, path)
            else:
                writing = asyncio.ensure_future(write_much(store, path))
                for _ in range(60):
                    seen += (await anext(batches))["source_id"].to_pylist()
                    await asyncio.sleep(0.05)
                share = await writing
            # The copy has no name, and nothing is left of it.
            assert set(await names_in(tmp_path)) <= {"notes.db", "notes.db-wal", "notes.db-shm"}
            async for batch in batches:
                seen += batch["source_id"].to_pylist()
        assert share < 0.4
        assert len(seen) == 500
        assert all(text.startswith("0-") for text in seen)
    assert await names_in(tmp_path) == ["notes.db"]
    assert await to_thread(check_file, path) == {"t": 500}


async def test_an_export_left_in_its_copy(tmp_path: Path) -> None:
    """B10: cancelled, left early, or its store closed: nothing of the copy stays."""
    limits = {"exports": ExportLimits(most_wal=0, look_every=0.01)}
    path = tmp_path / "notes.db"
    async with opened(path, limits=limits) as store:
        await store.create_table("t", Schema(2, fields={"source_id": str}))
        await store.insert("t", rows(2000, 0))
        for _ in range(10):
            async with aclosing(store.export("t", batch_size=100)) as batches:
                await anext(batches)
                await asyncio.sleep(0.02)
                await anext(batches)
        left = store.export("t", batch_size=100)
        await anext(left)
        await asyncio.sleep(0.1)
    await left.aclose()
    assert await names_in(tmp_path) == ["notes.db"]
