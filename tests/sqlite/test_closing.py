"""Calls that meet the close of their store."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.sqlite.support import open_store, sql

import aiovec
from aiovec import Schema, StoreClosedError


async def test_reads_whose_connections_are_being_opened(tmp_path: Path) -> None:
    """Closing interrupts the opening too; the calls are told what any other is told."""
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as store:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 2]}])
    for turn in range(40):
        store = await aiovec.connect(path)
        reads = [asyncio.ensure_future(store.count("notes")) for _ in range(8)]
        await asyncio.sleep(turn * 0.0002)
        await store.close()
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            assert outcome == 1 or isinstance(outcome, StoreClosedError), repr(outcome)


async def test_a_close_brings_the_wal_in(tmp_path: Path) -> None:
    """The driver would do it with the GIL held, where nobody else has the file open."""
    path = tmp_path / "notes.db"
    store = await aiovec.connect(path)
    await store.create_table("t", Schema(4))
    with sql(path) as db:  # keeps what lies beside the file
        db.execute("SELECT count(*) FROM aiovec_tables").fetchone()
        await store.insert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
        wal = path.with_name("notes.db-wal")
        assert wal.stat().st_size > 0
        await store.close()
        assert wal.stat().st_size == 0
    async with aiovec.connect(path) as again:
        assert await again.count("t") == 1


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
async def test_a_close_waits_for_nobody_who_reads_or_writes(tmp_path: Path, begin: str) -> None:
    """Bringing the WAL in is left to whoever closes last."""
    path = tmp_path / "notes.db"
    store = await open_store(path, busy_timeout=300.0)
    await store.create_table("t", Schema(4))
    await store.insert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(begin)
        other.execute("SELECT count(*) FROM aiovec_tables").fetchone()
        async with asyncio.timeout(60):
            await store.close()
        other.execute("ROLLBACK")
    async with aiovec.connect(path) as again:
        assert await again.count("t") == 1


async def test_a_close_cancelled_twice_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as store:
        await store.create_table("t", Schema(4))
    for steps in range(16):
        store = await aiovec.connect(path)
        await store.insert("t", [{"id": f"{steps}", "embedding": [1, 2, 3, 4]}])
        task = asyncio.ensure_future(store.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await store.close()
    async with aiovec.connect(path) as store:
        assert await store.count("t") == 16
