"""The mark of a migration in a SQLite file: tests besides those of the contract suite."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case
from tests.harness.marks import begin_move, end_move, forget_move, pause_writers, resume_writers
from tests.sqlite.support import backend_on, opened, sql

import aiovec
from aiovec import CorruptStoreError, Schema, StoreMovedError
from aiovec.errors import ChangesPrunedError

SCHEMA = Schema(4, fields={"n": int})


def row(id: str, n: int = 0) -> dict[str, Any]:
    return {"id": id, "embedding": [float(n + 1)] * 4, "n": n}


def write_state(path: Path, key: str, value: str | None) -> None:
    """Write a value like another program, or another version of aiovec."""
    with sql(path) as db:
        db.execute("INSERT OR REPLACE INTO aiovec_state VALUES (?, ?)", (key, value))


async def test_while_it_is_open_no_deletion_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db", keep_deletes=10) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row("first")])
        async with backend_on(tmp_path / "a.db") as moves:
            handle = await moves.open_table("notes")
            await begin_move(moves, "r1")
            start = await moves.change_number(handle)
            await store.insert("notes", [row(f"{n}") for n in range(50)])
            await store.delete("notes", where="TRUE")
            await store.optimize("notes")
            assert len((await moves.changes(handle, start)).deleted) == 51
            await end_move(moves, "r1")
            await store.optimize("notes")
            with pytest.raises(ChangesPrunedError):
                await moves.changes(handle, start)


async def test_a_pause_is_no_part_of_the_time_for_a_turn_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path, busy_timeout=0.5, write_queue=2) as store, backend_on(path) as moves:
        await store.create_table("notes", SCHEMA)
        await begin_move(moves, "r1")
        await pause_writers(moves, "r1", 60.0)
        writes = [asyncio.ensure_future(store.upsert("notes", [row(f"w{n}", n)])) for n in range(6)]
        await asyncio.sleep(1.0)
        assert not any(write.done() for write in writes)
        assert await resume_writers(moves, "r1")
        assert await asyncio.gather(*writes) == [1] * 6


async def test_a_file_with_a_mark_of_an_earlier_version_is_heeded(tmp_path: Path) -> None:
    """The mark has no generation, which counts as the lowest one."""
    path = tmp_path / "a.db"
    async with aiovec.connect(path) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [row("a")])
        old = {
            "run": "r1", "state": "moved", "moved_to": "lancedb:///x", "backend": "lancedb",
            "config": "/c.toml", "pause": "p", "limit": 5.0,
        }  # fmt: skip
        write_state(path, "move", json.dumps(old))
        with pytest.raises(StoreMovedError, match="lancedb:///x") as caught:
            await store.insert("notes", [row("b")])
        assert caught.value.generation == 0
        async with backend_on(path) as moves:
            await moves.arrive("r1", 1)
        assert await store.count("notes") == 1


MARKS = (
    "",
    "{}",
    '{"run": "r", "state": "resting"}',
    '{"run": "r", "state": "paused", "limit": NaN}',
    '{"run": "r", "state": "paused", "limit": "5"}',
    "[" * 100_000,
)


async def test_an_unreadable_mark_is_reported_and_can_be_removed(tmp_path: Path) -> None:
    """With a malformed pause, writers would wait forever."""
    path = tmp_path / "a.db"
    async with aiovec.connect(path) as store, backend_on(path) as moves:
        await store.create_table("notes", SCHEMA)
        for text in MARKS:
            with case(text[:80]):
                write_state(path, "move", text)
                async with asyncio.timeout(60):
                    for call in (store.insert("notes", [row("a")]), store.tables(), store.ping()):
                        with pytest.raises(CorruptStoreError, match="aiovec migrate forget"):
                            await call
                    with pytest.raises(CorruptStoreError):
                        await begin_move(moves, "r1")
                    await forget_move(moves)
                    assert await store.upsert("notes", [row("a")]) == 1
