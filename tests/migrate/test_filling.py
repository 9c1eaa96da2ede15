"""Whom a migration keeps from the store that it fills, and what becomes of what others do there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec import MigrationError
from aiovec_migrate import Event

from .support import (
    THERE_FIRST,
    WAYS,
    a_store,
    assert_same,
    contents_at,
    fill,
    migrated,
    place_of,
    rows,
    stopped_at,
    switched,
    write_toml,
)

CLOSED = r"copies the rows of .* into this store, .* nobody else writes here"


@THERE_FIRST
async def test_nobody_else_writes_until_the_run_is_over(tmp_path: Path, way: str) -> None:
    """An app that somebody leads there by hand too early reads, and cannot write; nor can one that
    had the store open before."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    async with aiovec.connect(place_of(config, target)) as early:
        assert await early.tables() == []
        await stopped_at("indexed", lambda at: switched(config, target, step=at))
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


async def test_a_second_run_into_that_store_is_refused(tmp_path: Path) -> None:
    """Two apps move to one place."""
    configs = [await a_store(tmp_path / name, "sqlite") for name in ("one", "other")]
    target = f"lancedb://{tmp_path / 'both.lance'}"
    await stopped_at("indexed", lambda at: migrated("sqlite", target, config=configs[0], step=at))
    with pytest.raises(MigrationError, match="the target carries the mark of another migra"):
        await migrated("sqlite", target, config=configs[1])
    await aiovec_migrate.abort(config=configs[0])
    await migrated("sqlite", target, config=configs[1])
    with pytest.raises(MigrationError, match="notes"):
        await migrated("sqlite", target, config=configs[0])
    assert_same(await contents_at(config=configs[1]), await contents_at(target))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_an_abort_keeps_what_others_wrote_beside_the_run(tmp_path: Path, way: str) -> None:
    """Into a target that has tables, which stays open to its users."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    async with aiovec.connect(place_of(config, target)) as other:
        await fill(other, "others")
        for wrote in (True, False):
            await stopped_at("indexed", lambda at: migrated(None, target, config=config, step=at))
            await other.insert("others", rows("more", 1))
            if wrote:
                await other.insert("notes", rows("other", 2))
            told: list[Event] = []
            await aiovec_migrate.abort(config=config, listener=told.append)
            warned = any("'notes'" in event.text and "is kept" in event.text for event in told)
            assert warned == wrote
            if wrote:
                assert await other.count("notes") == 40
                await other.drop_table("notes")
            assert await other.tables() == ["others"]
            assert await other.delete("others", "more/0") == 1


@pytest.mark.slow
async def test_an_abort_keeps_what_may_be_the_only_copy(tmp_path: Path) -> None:
    """The source was lost, and an app that started since has made an empty one in its place."""
    config = await a_store(tmp_path, "sqlite")
    await stopped_at("cut-over:ready", lambda at: switched(config, "lancedb", step=at))
    wanted = await contents_at(place_of(config, "lancedb"))
    for file in await asyncio.to_thread(lambda: list(tmp_path.glob("notes.db*"))):
        await asyncio.to_thread(file.unlink)
    async with aiovec.connect(config=config) as app:
        assert await app.tables() == []
    with pytest.raises(MigrationError, match=r"replaced or restored.* migrate abort"):
        await switched(config, "lancedb")
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    assert any("the copies in the target are kept" in event.text for event in told)
    assert_same(wanted, await contents_at(place_of(config, "lancedb")))
