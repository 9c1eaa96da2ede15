"""The store in use, and what a repair or a sync may do to it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec import ConfigError, MigrationError

from .support import (
    At,
    a_store,
    assert_same,
    contents_at,
    fill,
    migrated,
    named,
    place_of,
    rows,
    stopped_at,
    switched,
    write_toml,
)

IN_USE = "is the store in use"


async def test_the_store_in_use_is_never_written_over(tmp_path: Path) -> None:
    """Behind a switch it is the target, whose newer rows rightly differ. The refusal says how the
    rows of the store in use get into the other one."""
    config = await a_store(tmp_path, "sqlite")
    await switched(config, "lancedb")
    async with aiovec.connect(config=config) as store:
        await store.upsert("notes", rows("r", 3, name="since"))
        await store.delete("notes", ["r/7"])
    kept = await contents_at(config=config)
    old, new = place_of(config, "sqlite"), place_of(config, "lancedb")
    with pytest.raises(MigrationError, match=f"{IN_USE}.*exchange them: --from .* --to {old}"):
        await aiovec_migrate.verify(config=config, repair=True)
    report = await aiovec_migrate.verify(config=config)
    assert not report.equal
    assert "as expected" in report.to_text()
    with pytest.raises(MigrationError, match=IN_USE):
        await aiovec_migrate.sync("sqlite", "lancedb", config=config)
    await aiovec_migrate.finish(config=config)  # also when the run is forgotten
    with pytest.raises(MigrationError, match=IN_USE):
        await aiovec_migrate.verify("sqlite", "lancedb", config=config, repair=True)
    assert_same(kept, await contents_at(config=config))
    await aiovec_migrate.forget(old)
    assert (await aiovec_migrate.verify(new, old, config=config, repair=True)).equal
    assert_same(kept, await contents_at(old))


async def test_a_toml_says_which_store_is_in_use(tmp_path: Path) -> None:
    """Also without a run."""
    config = await a_store(tmp_path, "sqlite")
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        await fill(store, "notes", count=5)
    before = await contents_at(config=config)
    with pytest.raises(MigrationError, match=IN_USE):
        await aiovec_migrate.sync("lancedb", "sqlite", config=config)
    assert_same(before, await contents_at(config=config))
    await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    await aiovec_migrate.sync("lancedb", "sqlite", config=config)
    assert_same(await contents_at(config=config), await contents_at(tmp_path / "notes.db"))


@pytest.mark.slow
async def test_a_repair_before_the_switch_is_what_it_is_for(tmp_path: Path) -> None:
    """Behind a copy, whose target others may write to; a run that goes on compares again."""
    config = await a_store(tmp_path, "sqlite")
    await migrated("sqlite", "lancedb", config=config)
    async with aiovec.connect(place_of(config, "lancedb")) as store:
        await store.delete("notes", "r/1")
        await store.insert("notes", rows("extra", 1))
    assert (await aiovec_migrate.verify(config=config, repair=True)).equal
    assert_same(await contents_at(config=config), await contents_at(place_of(config, "lancedb")))


@pytest.mark.slow
async def test_a_run_and_a_repair_keep_each_other_out(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")

    async def repair() -> None:
        with pytest.raises(MigrationError, match="another migrator is at work"):
            await aiovec_migrate.verify(config=config, repair=True)
        assert (await aiovec_migrate.verify(config=config)).equal

    async def switch() -> None:
        with pytest.raises(MigrationError, match="another migrator is at work"):
            await switched(config, "lancedb")

    ready, overwriting = At("cut-over:ready", repair), At("overwriting", switch)
    await stopped_at(
        "cut-over:paused", lambda at: switched(config, "lancedb", step=_both(ready, at))
    )
    await aiovec_migrate.verify(config=config, repair=True, step=overwriting)
    # Neither writes over the source of an open run, nor from a third store into its target.
    old, new = place_of(config, "sqlite"), place_of(config, "lancedb")
    with pytest.raises(MigrationError, match=IN_USE):
        await aiovec_migrate.verify(new, old, config=config, repair=True)
    async with aiovec.connect(config=config) as store:
        await store.backup(tmp_path / "third.db")
    with pytest.raises(MigrationError, match="is open on"):
        await aiovec_migrate.sync(tmp_path / "third.db", new, config=config)
    await switched(config, "lancedb")
    assert ready.met
    assert overwriting.met
    assert named(config) == "lancedb"


def _both(*steps):
    async def step(name: str) -> None:
        for one in steps:
            await one(name)

    return step


@pytest.mark.slow
async def test_what_overwrites_stops_where_a_migration_begins(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    await migrated("sqlite", "lancedb", config=config)
    await aiovec_migrate.finish(config=config)
    new = place_of(config, "lancedb")
    async with aiovec.connect(new) as store:
        await store.delete("notes", ["r/1", "r/3"])
    looks = 0

    async def second_look(step: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            async with aiovec.connect(new) as store:
                await store.drop_table("notes")
            await switched(config, "lancedb", journal=tmp_path / "other.db")
            async with aiovec.connect(config=config) as app:
                await app.upsert("notes", rows("r", 3, name="since"))

    with pytest.raises(MigrationError, match=IN_USE):
        await aiovec_migrate.verify(
            "sqlite", "lancedb", config=config, repair=True, step=second_look
        )
    async with aiovec.connect(config=config) as app:
        assert await app.count("notes", "name = 'since'") == 3


async def test_no_command_makes_a_store_for_a_name_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no store"):
        await aiovec_migrate.forget(tmp_path / "nope.db")
    with pytest.raises(ConfigError, match="there is no store"):
        await aiovec_migrate.sync(tmp_path / "nope.db", tmp_path / "b.db")
    with pytest.raises(ConfigError, match="there is no store"):
        await migrated(tmp_path / "nope.db", tmp_path / "b.db", journal=tmp_path / ".j")
    names = await asyncio.to_thread(os.listdir, tmp_path)
    assert not [name for name in names if name.endswith(".db")]
