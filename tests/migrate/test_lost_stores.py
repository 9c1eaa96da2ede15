"""What a store has lost, somebody else's tables in the target, and calls that name the wrong store:
no command makes it worse, and each state has one that ends it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from tests.sqlite.support import State, backend_of

import aiovec
import aiovec_migrate
from aiovec import ConfigError, CorruptStoreError, MigrationError
from aiovec.backend import moves_of
from aiovec_migrate import Event, Options

from .support import (
    FILES,
    Contents,
    contents,
    contents_at,
    differences,
    fill,
    migrated,
    rolled_back,
    row,
    write_toml,
)
from .test_ends import WAYS, a_store, check_use, place_of, stopped_at
from .test_resume import Stop, StoppedError, remove

SWITCH = Options(switch=True, index=False)


async def switched(folder: Path) -> Path:
    """A TOML whose stores have moved from SQLite to LanceDB."""
    config = await asyncio.to_thread(write_toml, folder, "sqlite")
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60, "others": 20})
    await migrated(None, "lancedb", config=config, options=SWITCH)
    return config


async def test_a_rollback_keeps_the_copies_of_tables_that_the_new_store_has_lost(
    tmp_path: Path,
) -> None:
    config = await switched(tmp_path)
    wanted = await contents_at(config=config)
    await asyncio.to_thread(shutil.rmtree, tmp_path / "notes.lance" / "notes.lance")
    told: list[Event] = []
    await rolled_back(config=config, listener=told.append)
    assert differences(wanted, await contents_at(config=config)) == []
    [warning] = [event.text for event in told if event.kind == "warning"]
    assert "'notes' is missing in" in warning
    assert f"{len(wanted['notes'][1])} rows from before the switch stay in" in warning
    await aiovec_migrate.abort(config=config)
    assert differences(wanted, await contents_at(config=config)) == []


async def test_a_table_made_anew_replaces_the_old_one_only_where_it_can_be_read(
    tmp_path: Path,
) -> None:
    config = await switched(tmp_path)
    wanted = await contents_at(config=config)
    async with aiovec.connect(config=config) as store:
        await store.drop_table("notes")
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", [{"id": "one", "embedding": [1.0, 2.0]}])
    data = tmp_path / "notes.lance" / "notes.lance" / "data"
    kept = tmp_path / "kept"
    await asyncio.to_thread(shutil.move, data, kept)
    with pytest.raises(CorruptStoreError):
        await rolled_back(config=config)
    async with aiovec.connect(tmp_path / "notes.db", read_only=True) as old:
        moves = moves_of(backend_of(old))
        assert moves is not None
        mark = await moves.move_mark()
        assert mark is not None
        moves.act_for(mark.run)
        assert differences(wanted, await contents(old)) == []
    await asyncio.to_thread(shutil.move, kept, data)
    await rolled_back(config=config)
    found = await contents_at(config=config)
    assert list(found["notes"][1]) == ["one"]


# Somebody else's tables in the target


async def two_sources(folder: Path) -> tuple[Path, Path, str]:
    """The TOMLs of two stores with a table of one name, and a target for both."""
    configs = []
    for name, rows in (("one", 200), ("other", 20)):
        (folder / name).mkdir()
        config = await asyncio.to_thread(write_toml, folder / name, "sqlite")
        async with aiovec.connect(config=config) as store:
            await fill(store, {"notes": rows})
        configs.append(config)
    return configs[0], configs[1], f"lancedb://{folder / 'both.lance'}"


async def of_others(target: str) -> Contents:
    """A table in the target that others use, so that no run keeps them from writing there."""
    async with aiovec.connect(target) as store:
        await fill(store, {"others": 3})
    return await contents_at(target)


@pytest.mark.parametrize("killed", [False, True])
async def test_an_abort_leaves_a_table_that_another_run_made_meanwhile(
    tmp_path: Path, killed: bool
) -> None:
    one, other, target = await two_sources(tmp_path)
    wanted = await contents_at(config=one) | await of_others(target)

    async def meanwhile(step: str) -> None:
        if step == "table:noted":
            await migrated("sqlite", target, config=one)
            if killed:
                raise StoppedError(step)

    with pytest.raises(StoppedError if killed else MigrationError):
        await migrated("sqlite", target, config=other, step=meanwhile)
    for _ in range(2):
        with pytest.raises(MigrationError, match="somebody else created the table 'notes'"):
            await migrated("sqlite", target, config=other)
    told: list[Event] = []
    await aiovec_migrate.abort(config=other, listener=told.append)
    assert [event.table for event in told if event.kind == "warning"] == ["notes"]
    assert differences(wanted, await contents_at(target)) == []
    assert await aiovec_migrate.status(config=other) is None


@pytest.mark.parametrize("made", [False, True])
async def test_an_abort_that_comes_at_once_leaves_it_too(tmp_path: Path, made: bool) -> None:
    """Without another try of the run, and where the table was there before, and empty."""
    one, other, target = await two_sources(tmp_path)
    wanted = await contents_at(config=one) | await of_others(target)
    if not made:
        async with aiovec.connect(target) as store:
            await fill(store, {"notes": 0})

    async def meanwhile(step: str) -> None:
        if step == "table:noted":
            await migrated("sqlite", target, config=one)
            raise StoppedError(step)

    with pytest.raises(StoppedError):
        await migrated("sqlite", target, config=other, step=meanwhile)
    await aiovec_migrate.abort(config=other)
    assert differences(wanted, await contents_at(target)) == []


@pytest.mark.parametrize("step", ["table:noted", "table:created", "copy:written"])
@pytest.mark.parametrize("made", [False, True])
async def test_an_abort_removes_what_is_its_own(tmp_path: Path, step: str, made: bool) -> None:
    one, _, target = await two_sources(tmp_path)
    if not made:
        async with aiovec.connect(target) as store:
            await fill(store, {"notes": 0})
        step = step.replace("created", "noted")
    with pytest.raises(StoppedError):
        await migrated("sqlite", target, config=one, step=Stop(step))
    await aiovec_migrate.abort(config=one)
    async with aiovec.connect(target) as store:
        assert await store.tables() == ([] if made else ["notes"])
        assert made or await store.count("notes") == 0


# A rollback that cannot be


async def test_an_abort_behind_a_rollback_drops_what_apps_made_since_the_switch(
    tmp_path: Path,
) -> None:
    """It was carried back, and stayed in the target as an empty table: the next run led apps to it,
    though the source had dropped it by then."""
    config = await switched(tmp_path)
    async with aiovec.connect(config=config) as store:
        await store.create_table("young", aiovec.Schema(2))
        await store.insert("young", [{"id": "one", "embedding": [1.0, 2.0]}])
        await rolled_back(config=config)
        await aiovec_migrate.abort(config=config)
        assert await store.count("young") == 1
        await store.drop_table("young")
        await migrated(None, "lancedb", config=config, options=SWITCH)
        assert await store.tables() == ["notes", "others"]


async def check_in_use(config: Path) -> None:
    """The new store is in use, and no mark holds it."""
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "lancedb"
        await store.create_table("young", aiovec.Schema(2))
        await store.drop_table("young")


async def phase_of(config: Path) -> str:
    state = await aiovec_migrate.status(config=config)
    assert state is not None
    return state.phase


async def test_a_rollback_from_a_damaged_table_is_refused_before_it_begins(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    data = tmp_path / "notes.lance" / "others.lance" / "data"
    await asyncio.to_thread(shutil.move, data, tmp_path / "kept")
    with pytest.raises(CorruptStoreError):
        await rolled_back(config=config)
    assert await phase_of(config) == "done"
    await check_in_use(config)
    await asyncio.to_thread(shutil.move, tmp_path / "kept", data)
    await rolled_back(config=config)


async def test_a_rollback_that_fails_midway_is_called_off(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    wanted = await contents_at(config=config)
    data = tmp_path / "notes.lance" / "others.lance" / "data"

    async def damage(step: str) -> None:
        if step == "phase:rolling-back":
            await asyncio.to_thread(shutil.move, data, tmp_path / "kept")

    with pytest.raises(CorruptStoreError):
        await rolled_back(config=config, step=damage)
    for command in (aiovec_migrate.finish, aiovec_migrate.run):
        with pytest.raises(MigrationError, match=r"migrate rollback.*cancel it.*migrate abort"):
            await command(config=config)
    state = await aiovec_migrate.abort(config=config)
    assert state is not None
    assert (state.phase, state.switched) == ("done", True)
    await check_in_use(config)
    await asyncio.to_thread(shutil.move, tmp_path / "kept", data)
    await rolled_back(config=config)
    assert differences(wanted, await contents_at(tmp_path / "notes.db")) == []


async def damage_manifests(table: Path) -> None:
    for manifest in await asyncio.to_thread(lambda: [*table.glob("_versions/*.manifest")]):
        await asyncio.to_thread(os.truncate, manifest, manifest.stat().st_size // 2)


@pytest.mark.parametrize("journal", ["kept", "lost"])
async def test_a_damaged_table_keeps_no_run_from_its_end(tmp_path: Path, journal: str) -> None:
    config = await asyncio.to_thread(write_toml, tmp_path, "lancedb")
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60, "others": 20})
    with pytest.raises(StoppedError):
        await migrated(None, "sqlite", config=config, options=SWITCH, step=Stop("copy:read"))
    await damage_manifests(tmp_path / "notes.lance" / "others.lance")
    if journal == "lost":
        await asyncio.to_thread(shutil.rmtree, tmp_path / ".aiovec")
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", [row("since", State(1, 1), "app")])
        await store.create_table("young", aiovec.Schema(2))


async def test_a_rollback_from_a_damaged_store_is_called_off(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:ready"))
    await damage_manifests(tmp_path / "notes.lance" / "others.lance")
    state = await aiovec_migrate.abort(config=config)
    assert state is not None
    assert state.phase == "done"
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", [row("since", State(1, 1), "app")])


@pytest.mark.slow
@pytest.mark.parametrize("step", ["phase:rolling-back", "rollback:marked", "cut-over:paused"])
async def test_a_rollback_that_was_called_off_loses_nothing(tmp_path: Path, step: str) -> None:
    config = await switched(tmp_path)
    async with aiovec.connect(config=config) as store:
        await store.delete("notes", ["r/20"])
        with pytest.raises(StoppedError):
            await rolled_back(config=config, step=Stop(step))
        await aiovec_migrate.abort(config=config)
        await store.delete("notes", ["r/21"])
        wanted = await contents_at(config=config)
        await check_in_use(config)
        await rolled_back(config=config)
        assert await store.count("notes") == len(wanted["notes"][1])
        assert store.backend_name == "sqlite"
    assert differences(wanted, await contents_at(tmp_path / "notes.db")) == []


async def test_a_rollback_that_has_turned_is_not_called_off(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:moved"))
    with pytest.raises(MigrationError, match="last steps of the rollback are missing"):
        await aiovec_migrate.abort(config=config)
    await rolled_back(config=config)


async def test_an_old_store_that_is_gone_is_not_made_by_a_rollback(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    await asyncio.to_thread(remove, tmp_path, "notes.db")
    with pytest.raises(ConfigError, match=r"no store at .*notes\.db"):
        await rolled_back(config=config)
    assert await phase_of(config) == "done"
    await check_in_use(config)
    await aiovec_migrate.finish(config=config)
    assert await aiovec_migrate.status(config=config) is None
    assert not (tmp_path / "notes.db").exists()


async def test_an_old_store_that_goes_midway_is_not_made_by_an_abort(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("rollback:marked"))
    await asyncio.to_thread(remove, tmp_path, "notes.db")
    await aiovec_migrate.abort(config=config)
    await check_in_use(config)
    await aiovec_migrate.finish(config=config)
    assert not (tmp_path / "notes.db").exists()


async def test_a_new_store_that_is_gone_leaves_the_old_one(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    wanted = await contents_at(config=config)
    await asyncio.to_thread(shutil.rmtree, tmp_path / "notes.lance")
    with pytest.raises(ConfigError, match="no store at"):
        await rolled_back(config=config)
    await aiovec_migrate.finish(config=config)
    assert not (tmp_path / "notes.lance").exists()
    await aiovec_migrate.forget(tmp_path / "notes.db")
    assert differences(wanted, await contents_at(tmp_path / "notes.db")) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["removed", "emptied"])
async def test_nobody_goes_on_in_what_is_not_the_store_that_was_filled(
    tmp_path: Path, way: str, how: str
) -> None:
    """A disk that is missing, between the mark and the arrival: apps began in an empty store, and
    a rollback then made the old one equal to it."""
    _, target = WAYS[way]
    config, wanted = await stopped_at(tmp_path, way, "cut-over:moved")
    store = tmp_path / FILES[target]
    kept = tmp_path / "kept"
    await asyncio.to_thread(shutil.move, store, kept)
    if how == "emptied":
        async with aiovec.connect(place_of(config, target)) as empty:
            assert await empty.tables() == []
    async with aiovec.connect(config=config) as app:
        for _ in range(2):
            with pytest.raises(MigrationError, match="not the store to which its rows were carri"):
                await app.count("notes")
        if how == "removed":
            assert not store.exists()
        with pytest.raises(MigrationError, match=r"Put it back .*migrate finish.*migrate forget"):
            await migrated(config=config, options=SWITCH)
        with pytest.raises(MigrationError, match=r"too late .*migrate finish` ends"):
            await aiovec_migrate.abort(config=config)
        await asyncio.to_thread(remove, tmp_path, store.name)
        await asyncio.to_thread(shutil.move, kept, store)
        await migrated(config=config, options=SWITCH)
        assert await app.count("notes") == len(wanted["notes"][1])
    await check_use(config, target, wanted)


async def written_since(folder: Path, way: str) -> tuple[Path, Path, Contents]:
    """Apps have moved and written since: their TOML, a backup of the old store, and all rows."""
    source, target = WAYS[way]
    config = await a_store(folder, source)
    backup = folder / "backup"
    async with aiovec.connect(config=config) as app:
        await app.backup(backup)
        await migrated(None, target, config=config, options=SWITCH)
        await app.insert("notes", [row("r/99", State(99, 99), "me")])
    return config, backup, await contents_at(config=config)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["restored", "removed"])
async def test_a_rollback_whose_old_store_is_lost_is_called_off(
    tmp_path: Path, way: str, how: str
) -> None:
    """The store that apps had been led from had all rows, and no command put it into use again."""
    source, target = WAYS[way]
    config, backup, wanted = await written_since(tmp_path, way)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop("cut-over:moved"))
    await asyncio.to_thread(remove, tmp_path, FILES[source])
    if how == "restored":
        await aiovec.restore(backup, place_of(config, source))
    async with aiovec.connect(config=config) as app:
        with pytest.raises(MigrationError, match="a rollback: abort"):
            await app.count("notes")
    refused = "no store at" if how == "removed" else r"lost, call the rollback off .*migrate abort"
    with pytest.raises((MigrationError, ConfigError), match=refused):
        await rolled_back(config=config)
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    assert await phase_of(config) == "done"
    [warning] = [event.text for event in told if event.kind == "warning"]
    assert "let no app use it, should it come back" in warning
    await aiovec_migrate.finish(config=config)
    await check_use(config, target, wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", ["cut-over:flipped", "rollback:released"])
async def test_a_rollback_that_is_called_off_leads_new_apps_to_the_store_in_use(
    tmp_path: Path, way: str, step: str
) -> None:
    """The TOML named the lost store already: the next app began an empty one there."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await migrated(None, target, config=config, options=SWITCH)
    wanted = await contents_at(config=config)
    with pytest.raises(StoppedError):
        await rolled_back(config=config, step=Stop(step))
    await asyncio.to_thread(remove, tmp_path, FILES[source])
    await aiovec_migrate.abort(config=config)
    await check_use(config, target, wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["restored", "begun anew"])
async def test_an_abort_behind_a_rollback_keeps_the_copies_where_the_old_store_was_lost(
    tmp_path: Path, way: str, how: str
) -> None:
    """They were the last ones of what was written since, and were dropped without a word."""
    source, target = WAYS[way]
    config, backup, wanted = await written_since(tmp_path, way)
    await rolled_back(config=config)
    await asyncio.to_thread(remove, tmp_path, FILES[source])
    if how == "restored":
        await aiovec.restore(backup, place_of(config, source))
    else:
        async with aiovec.connect(config=config) as app:
            await app.create_table("notes", aiovec.Schema(2))
    told: list[Event] = []
    await aiovec_migrate.abort(config=config, listener=told.append)
    [warning] = [event.text for event in told if event.kind == "warning"]
    assert "replaced or restored, so the copies in the target are kept" in warning
    assert "make it independent (aiovec migrate forget)" in warning
    await aiovec_migrate.forget(target, config=config)
    assert differences(wanted, await contents_at(place_of(config, target))) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flipped", [True, False])
async def test_apps_find_a_new_store_that_was_restored_from_its_backup(
    tmp_path: Path, way: str, flipped: bool
) -> None:
    """A LanceDB backup did not know that a switch had led there, so it passed for another store."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    with nullcontext() if flipped else pytest.raises(StoppedError):
        step = Stop("" if flipped else "cut-over:arrived")
        await migrated(None, target, config=config, options=SWITCH, step=step)
    async with aiovec.connect(place_of(config, target)) as store:
        wanted = await contents(store)
        await store.backup(tmp_path / "backup")
    await aiovec.restore(tmp_path / "backup", place_of(config, target), overwrite=True)
    if flipped:  # by hand, back
        await aiovec_migrate.finish(config=config)
        await asyncio.to_thread(write_toml, tmp_path, source)
    await check_use(config, target, wanted)


@pytest.mark.parametrize("way", WAYS)
async def test_a_store_that_was_lost_before_anybody_went_there_leaves_the_old_one(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config, wanted = await stopped_at(tmp_path, way, "cut-over:moved")
    await asyncio.to_thread(remove, tmp_path, FILES[target])
    told: list[Event] = []
    await aiovec_migrate.finish(config=config, listener=told.append)
    assert "has the rows from before the switch" in told[0].text
    await aiovec_migrate.forget(source, config=config)
    await check_use(config, source, wanted)


@pytest.mark.parametrize("way", WAYS)
async def test_an_app_that_wakes_makes_no_other_store_the_one_that_was_filled(
    tmp_path: Path, way: str
) -> None:
    """The new store was lost, and another one made; a rollback took its rows for the newest."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    async with aiovec.connect(config=config) as idle:
        assert await idle.count("notes")
        await migrated(None, target, config=config, options=SWITCH)
        await asyncio.to_thread(remove, tmp_path, FILES[target])
        async with aiovec.connect(config=config) as young:
            await fill(young, {"notes": 2})
        assert await idle.insert("notes", [row("r/99", State(99, 99), "me")]) == 1
    with pytest.raises(MigrationError, match="was replaced, restored or emptied since"):
        await rolled_back(config=config)
    await aiovec_migrate.finish(config=config)
    await aiovec_migrate.forget(source, config=config)
    assert differences(wanted, await contents_at(place_of(config, source))) == []


async def test_a_store_in_use_that_was_restored_is_refused_before_it_begins(tmp_path: Path) -> None:
    config = await switched(tmp_path)
    async with aiovec.connect(config=config) as store:
        await store.backup(tmp_path / "backup")
    await aiovec.restore(tmp_path / "backup", config=config)
    with pytest.raises(MigrationError, match="restored or emptied since"):
        await rolled_back(config=config)
    assert await phase_of(config) == "done"
    await check_in_use(config)
    await aiovec_migrate.finish(config=config)


async def test_an_abort_keeps_the_copies_of_a_source_that_is_gone(tmp_path: Path) -> None:
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60})
    wanted = await contents_at(config=config)
    with pytest.raises(StoppedError):
        await migrated(None, "lancedb", config=config, options=SWITCH, step=Stop("phase:verifying"))
    await asyncio.to_thread(remove, tmp_path, "notes.db")
    await aiovec_migrate.abort(config=config)
    assert differences(wanted, await contents_at(f"lancedb://{tmp_path / 'notes.lance'}")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "step"),
    [
        ("backup", "cut-over:moved"),
        ("copy", "cut-over:arrived"),
        ("backup", "phase:moved"),
        pytest.param("copy", "cut-over:moved", marks=pytest.mark.soak),
        pytest.param("backup", "cut-over:arrived", marks=pytest.mark.soak),
        pytest.param("copy", "phase:moved", marks=pytest.mark.soak),
    ],
)
async def test_a_source_that_was_restored_since_the_switch_gives_the_target_to_nobody(
    tmp_path: Path, step: str, how: str
) -> None:
    """A backup carries no mark, and a copy that of a run that has not switched."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    kept = tmp_path / "kept"
    async with aiovec.connect(config=config) as store:
        await fill(store, {"notes": 60})
    with pytest.raises(StoppedError):
        await migrated(None, "lancedb", config=config, options=SWITCH, step=Stop("cut-over:ready"))
    if how == "copy":
        await asyncio.to_thread(shutil.copy, tmp_path / "notes.db", kept)
    async with aiovec.connect(config=config) as store:
        if how == "backup":
            await store.backup(kept)
        with pytest.raises(StoppedError):
            await migrated(config=config, options=SWITCH, step=Stop(step))
        await store.delete("notes", ["r/20"])
        wanted = await contents(store)
        assert store.backend_name == "lancedb"
    if how == "backup":
        await aiovec.restore(kept, tmp_path / "notes.db", overwrite=True)
    else:
        await asyncio.to_thread(remove, tmp_path, "notes.db")
        await asyncio.to_thread(shutil.copy, kept, tmp_path / "notes.db")
    same = {"options": SWITCH}
    commands: tuple[tuple[Callable[..., Awaitable[object]], str], ...] = (
        (aiovec_migrate.run, r"replaced or restored; apps were switched to .*migrate finish"),
        (aiovec_migrate.abort, r"too late.*restored.*migrate finish"),
        (aiovec_migrate.rollback, "migrate run"),
    )
    for command, told in commands:
        with pytest.raises(MigrationError, match=told):
            await command(config=config, **same if command is aiovec_migrate.run else {})
    warnings: list[Event] = []
    await aiovec_migrate.finish(config=config, listener=warnings.append)
    assert [event.kind for event in warnings] == ["warning"]
    assert await aiovec_migrate.status(config=config) is None
    place = f"lancedb://{tmp_path / 'notes.lance'}"
    assert differences(wanted, await contents_at(place)) == []


# Calls that name a store


@pytest.mark.parametrize("command", [aiovec_migrate.abort, aiovec_migrate.finish])
async def test_a_run_is_not_ended_in_the_name_of_another_store(
    tmp_path: Path, command: Callable[..., Awaitable[object]]
) -> None:
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    for place in (tmp_path / "notes.db", tmp_path / "other.db"):
        async with aiovec.connect(place) as store:
            await fill(store, {"notes": 20})
    step = Stop("copy:journalled" if command is aiovec_migrate.abort else "")
    with suppress(StoppedError):
        await migrated("sqlite", "lancedb", config=config, step=step)
    before = await phase_of(config)
    with pytest.raises(MigrationError, match=r"other\.db has no part.*notes\.db.*notes\.lance"):
        await command(tmp_path / "other.db", config=config)
    assert await phase_of(config) == before
    await command(tmp_path / "notes.db", config=config)
    assert await aiovec_migrate.status(config=config) is None
