"""optimize, backup and stats."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.harness.waiting import until
from tests.sqlite.support import (
    SCHEMAS,
    LockHolder,
    State,
    check_file,
    names_in,
    opened,
    whole_table,
)

from aiovec import InvalidArgumentError, Schema, VectorStore


def rows(prefix: str, count: int, owner: str = "me") -> list[dict[str, object]]:
    return [State(1, 1).row(f"{prefix}{n}", owner) for n in range(count)]


async def churn(store: VectorStore, count: int) -> int:
    """Fill, and delete nine in ten in no order, several times; the rows that are left."""
    chance = random.Random(1)
    for turn in range(4):
        await store.insert("notes", rows(f"{turn}/", count, owner=f"o{turn % 2}"))
        gone = [f"{turn}/{n}" for n in chance.sample(range(count), count * 9 // 10)]
        await store.delete("notes", gone)
    return 4 * (count - count * 9 // 10)


async def answers(store: VectorStore) -> object:
    query = State(3, 3).row("query", "me")["embedding"]
    hits = await store.search("notes", query, limit=200)
    hits += await store.search("notes", query, limit=100, where="owner = 'o1'")
    return [(hit.id, hit.distance) for hit in hits], await whole_table(store, "notes")


async def test_optimize_gives_room_back_and_changes_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path, keep_deletes=100) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        left = await churn(store, 600)
        before, stats = await answers(store), await store.stats("notes")
        assert stats.last_optimize is None
        large, chunks = stats.details["file_bytes"], stats.details["vector_chunks"]
        await store.optimize("notes")
        stats = await store.stats("notes")
        assert stats.last_optimize is not None
        assert stats.rows == left
        # A chunk is at least three quarters full, but for the newest of each partition.
        assert stats.details["vector_chunks"] <= left / 48 + 2 < chunks / 2
        assert stats.details["free_bytes"] == 0
        length = (await asyncio.to_thread(os.stat, path)).st_size
        assert length == stats.details["file_bytes"] < large * 0.8
        assert await answers(store) == before
    assert await asyncio.to_thread(check_file, path) == {"notes": left}


# Backup


async def test_a_backup_needs_no_lock_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    (tmp_path / "there").write_text("mine")
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        async with LockHolder(path):
            await store.backup(tmp_path / "copy.db")
        for taken in (tmp_path / "there", path, tmp_path):
            with pytest.raises(InvalidArgumentError, match="exist"):
                await store.backup(taken)
    async with opened(":memory:") as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", rows("a", 30))
        await store.backup(tmp_path / "memory.db")
    for copy in ("copy.db", "memory.db"):
        assert await asyncio.to_thread(check_file, tmp_path / copy) == {"notes": 30}
    assert await names_in(tmp_path) == ["copy.db", "memory.db", "notes.db", "there"]


async def test_a_cancelled_backup_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    async with opened(tmp_path / "notes.db") as store:
        await store.create_table("notes", Schema(512))
        data = [{"id": f"a{n}", "embedding": [float(n + 1)] * 512} for n in range(3_000)]
        await store.insert("notes", data)
        for n in range(8):
            copying = asyncio.ensure_future(store.backup(folder / f"{n}.db"))
            for _ in range(4**n % 1_000):
                await asyncio.sleep(0)
            copying.cancel()
            await asyncio.wait([copying])

        async def none_in_part() -> bool:
            return not any("partial" in name for name in await names_in(folder))

        await until(none_in_part)
        await store.backup(folder / "last.db")
    for name in await names_in(folder):
        assert await asyncio.to_thread(check_file, folder / name) == {"notes": 3_000}
