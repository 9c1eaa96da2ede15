"""Tests of which writers a migration keeps out of the store that it fills."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec import MigrationError

from .support import (
    THERE_FIRST,
    WAYS,
    a_store,
    assert_same,
    contents_at,
    fill,
    place_of,
    rows,
    stopped_at,
    switched,
    write_toml,
)

CLOSED = r"copies the rows of .* into this store, .* no one else can write here"


@THERE_FIRST
async def test_nobody_else_writes_until_the_run_is_over(tmp_path: Path, way: str) -> None:
    """An app that is switched by hand too early can read but not write, and so can an app that had
    the store open before."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    async with aiovec.connect(place_of(config, target)) as early:
        assert await early.tables() == []
        await stopped_at("optimized", lambda at: switched(config, target, step=at))
        await asyncio.to_thread(write_toml, tmp_path, target)
        async with aiovec.connect(config=config) as led:
            assert await led.count("notes") == 38
            for store in (early, led):
                for write in (
                    store.insert("notes", rows("lost", 1)),
                    store.drop_table("notes"),
                    store.create_table("mine", aiovec.Schema(2)),
                ):
                    with pytest.raises(MigrationError, match=CLOSED):
                        await write
        await asyncio.to_thread(write_toml, tmp_path, source)
        await switched(config, target)
        assert_same(wanted, await contents_at(config=config))
        await early.insert("notes", rows("kept", 1))
        await early.create_table("mine", aiovec.Schema(2))
    async with aiovec.connect(config=config) as app:
        assert await app.tables() == ["mine", "notes"]
        assert await app.count("notes") == 39


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_an_abort_keeps_a_target_that_had_tables(tmp_path: Path, way: str) -> None:
    """Its users wait for the end of the run, and must drop the copied tables themselves."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with aiovec.connect(place_of(config, target)) as other:
        await fill(other, "others")
        await stopped_at(
            "optimized", lambda at: aiovec_migrate.run(None, target, config=config, _step=at)
        )
        with pytest.raises(MigrationError, match=CLOSED):
            await other.insert("others", rows("more", 1))
        [warning] = await aiovec_migrate.abort(config=config)
        assert "are kept" in warning
        await other.insert("others", rows("more", 1))
        assert await other.tables() == ["notes", "others"]
        with pytest.raises(MigrationError, match="already has 38 rows"):
            await aiovec_migrate.run(None, target, config=config)
        await other.drop_table("notes")
    await aiovec_migrate.run(None, target, config=config)
    assert (await contents_at(place_of(config, target))).keys() == {"notes", "others"}
