"""A store that was lost, replaced or damaged in the middle of a migration: nobody is led astray,
and a command leads out."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.harness.values import SMALL

import aiovec
import aiovec_migrate
from aiovec import AiovecError, MigrationError

from .support import (
    BACK_FIRST,
    FILES,
    THERE_FIRST,
    WAYS,
    At,
    a_store,
    assert_same,
    contents_at,
    fill,
    named,
    place_of,
    rows,
    stopped_at,
    switched,
)


def put_away(folder: Path, backend: str, aside: Path) -> None:
    """Move a store with all its files."""
    aside.mkdir()
    for found in folder.glob(FILES[backend] + "*"):
        shutil.move(found, aside / found.name)


def put_back(folder: Path, backend: str, aside: Path) -> None:
    for found in folder.glob(FILES[backend] + "*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    for found in aside.iterdir():
        shutil.move(found, folder / found.name)


@BACK_FIRST
@pytest.mark.parametrize("how", ["emptied", pytest.param("removed", marks=pytest.mark.slow)])
async def test_nobody_goes_on_in_what_is_not_the_store_that_was_filled(
    tmp_path: Path, way: str, how: str
) -> None:
    """A disk that is missing between the mark and the arrival."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    await stopped_at("cut-over:moved", lambda at: switched(config, target, step=at))
    aside = tmp_path / "aside"
    await asyncio.to_thread(put_away, tmp_path, target, aside)
    if how == "emptied":
        async with aiovec.connect(place_of(config, target)) as empty:
            assert await empty.tables() == []
    async with aiovec.connect(config=config) as app:
        with pytest.raises(MigrationError, match="not the store to which its rows were carri"):
            await app.count("notes")
        assert (tmp_path / FILES[target]).exists() == (how == "emptied")
        with pytest.raises(MigrationError, match="Put it back"):
            await switched(config, target)
        with pytest.raises(MigrationError, match="too late"):
            await aiovec_migrate.abort(config=config)
        await asyncio.to_thread(put_back, tmp_path, target, aside)
        await switched(config, target)
        assert await app.count("notes") == 38
        assert app.backend_name == target
    assert_same(wanted, await contents_at(config=config))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_target_that_is_lost_for_good_leaves_the_old_store(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    wanted = await contents_at(config=config)
    await stopped_at("cut-over:moved", lambda at: switched(config, target, step=at))
    await asyncio.to_thread(put_away, tmp_path, target, tmp_path / "aside")
    with pytest.raises(MigrationError, match="migrate forget"):
        await switched(config, target)
    assert await aiovec_migrate.forget(source, config=config) == []
    assert named(config) == source
    assert_same(wanted, await contents_at(config=config))


async def test_a_target_that_is_lost_behind_the_switch_leaves_the_old_store(
    tmp_path: Path,
) -> None:
    """The TOML file names it: the same command, and the one that it names, say what to do."""
    config = await a_store(tmp_path, "sqlite")
    wanted = await contents_at(config=config)
    await switched(config, "lancedb")
    await asyncio.to_thread(put_away, tmp_path, "lancedb", tmp_path / "aside")
    with pytest.raises(MigrationError, match=r"there is no store; .* put the store back .* forget"):
        await switched(config, "lancedb")
    async with aiovec.connect(config=config) as store:
        await store.create_table("young", SMALL)
    with pytest.raises(MigrationError, match="no switch has led to the store that is there now"):
        await switched(config, "lancedb")
    [warning] = await aiovec_migrate.forget("sqlite", config=config)
    assert 'write backend = "sqlite" under [retrieval]' in warning
    assert_same(wanted, await contents_at(place_of(config, "sqlite")))


@THERE_FIRST
@pytest.mark.parametrize("lost", ["source", pytest.param("target", marks=pytest.mark.slow)])
async def test_a_store_that_was_replaced_midway_is_refused(
    tmp_path: Path, way: str, lost: str
) -> None:
    """And left as it is; put back, it goes on."""
    source, target = WAYS[way]
    config = await a_store(tmp_path, source)
    await stopped_at("copy:written", lambda at: switched(config, target, step=at))
    other = source if lost == "source" else target
    aside = tmp_path / "aside"
    await asyncio.to_thread(put_away, tmp_path, other, aside)
    async with aiovec.connect(place_of(config, other)) as store:
        await fill(store, "notes", count=7)
    before = await contents_at(place_of(config, other))
    refused = "was replaced or restored" if lost == "source" else "already holds 6 rows"
    with pytest.raises(MigrationError, match=refused):
        await switched(config, target)
    assert_same(before, await contents_at(place_of(config, other)))
    await asyncio.to_thread(put_back, tmp_path, other, aside)
    wanted = await contents_at(config=config)
    await switched(config, target)
    assert_same(wanted, await contents_at(config=config))


@pytest.mark.slow
async def test_a_damaged_source_is_told_and_a_run_can_be_aborted(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "lancedb", "notes", "others")
    data, kept = tmp_path / "notes.lance" / "others.lance" / "data", tmp_path / "kept"
    at = At("created", lambda: asyncio.to_thread(shutil.move, data, kept))
    for step in (at, At("never", at)):
        with pytest.raises(AiovecError, match=r"notes\.lance"):
            await switched(config, "sqlite", step=step)
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", rows("since", 1))
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as app:
        await app.create_table("young", aiovec.Schema(2))
    await asyncio.to_thread(shutil.move, kept, data)
    wanted = await contents_at(config=config)
    await switched(config, "sqlite")
    assert_same(wanted, await contents_at(config=config))


@pytest.mark.slow
async def test_the_way_back_is_open_though_the_old_store_is_gone(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    await switched(config, "lancedb")
    wanted = await contents_at(config=config)
    await asyncio.to_thread(put_away, tmp_path, "sqlite", tmp_path / "aside")
    async with aiovec.connect(config=config) as app:
        await switched(config, "sqlite")
        assert await app.count("notes") == 38
        assert app.backend_name == "sqlite"
    assert_same(wanted, await contents_at(config=config))


@pytest.mark.slow
async def test_an_abort_keeps_what_may_be_the_only_copy(tmp_path: Path) -> None:
    """The source was lost, and an app that started since has made an empty one in its place."""
    config = await a_store(tmp_path, "sqlite")
    await stopped_at("cut-over:ready", lambda at: switched(config, "lancedb", step=at))
    wanted = await contents_at(place_of(config, "lancedb"))
    await asyncio.to_thread(put_away, tmp_path, "sqlite", tmp_path / "aside")
    async with aiovec.connect(config=config) as app:
        await app.create_table("notes", SMALL)
    with pytest.raises(MigrationError, match=r"replaced or restored.* migrate\s+abort"):
        await switched(config, "lancedb")
    [warning] = await aiovec_migrate.abort(config=config)
    assert "are kept" in warning
    assert_same(wanted, await contents_at(place_of(config, "lancedb")))


async def test_a_switch_drops_nothing_for_a_source_that_is_empty_since(tmp_path: Path) -> None:
    """The source was lost, and an app that started since has made one without tables."""
    config = await a_store(tmp_path, "sqlite")
    await stopped_at("cut-over:ready", lambda at: switched(config, "lancedb", step=at))
    wanted = await contents_at(place_of(config, "lancedb"))
    await asyncio.to_thread(put_away, tmp_path, "sqlite", tmp_path / "aside")
    async with aiovec.connect(config=config) as app:
        assert await app.tables() == []
    with pytest.raises(MigrationError, match=r"tables that the source does not have.*: notes"):
        await switched(config, "lancedb")
    assert_same(wanted, await contents_at(place_of(config, "lancedb")))


@BACK_FIRST
async def test_an_abort_leads_out_where_the_stores_lie_elsewhere_since(
    tmp_path: Path, way: str
) -> None:
    source, target = WAYS[way]
    config = await a_store(tmp_path / "one", source)
    await stopped_at("optimized", lambda at: switched(config, target, step=at))
    config = (await asyncio.to_thread(config.parent.rename, tmp_path / "two")) / config.name
    with pytest.raises(MigrationError, match="another migration"):
        await switched(config, target)
    [warning] = await aiovec_migrate.abort(config=config)
    assert "lay elsewhere" in warning
    assert await aiovec_migrate.status(config=config) is None
    async with aiovec.connect(config=config) as app:
        await app.create_table("young", SMALL)
        assert await app.count("notes") == 38
    assert_same({"notes": (await contents_at(config=config))["notes"]},
                await contents_at(place_of(config, target)))  # fmt: skip
