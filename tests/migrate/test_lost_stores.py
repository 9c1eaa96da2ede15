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
from aiovec import AiovecError

from .support import (
    BACK_FIRST,
    FILES,
    THERE_FIRST,
    WAYS,
    At,
    Scene,
    a_store,
    assert_same,
    contents_at,
    fill,
    place_of,
    rows,
    switched,
)


@BACK_FIRST
@pytest.mark.parametrize("how", ["emptied", pytest.param("removed", marks=pytest.mark.slow)])
async def test_nobody_goes_on_in_what_is_not_the_store_that_was_filled(
    tmp_path: Path, way: str, how: str
) -> None:
    """A disk that is missing between the mark and the arrival."""
    scene = Scene(tmp_path, way)
    target, config = scene.target, scene.config
    await scene.begin("cut-over:moved")
    await scene.lose(target)
    if how == "emptied":
        async with aiovec.connect(place_of(config, target)) as empty:
            assert await empty.tables() == []
    async with aiovec.connect(config=config) as app:
        words = "not the one that got its rows"
        await scene.refused(words, app.count("notes"))
        assert (tmp_path / FILES[target]).exists() == (how == "emptied")
        await scene.refused("Put it back")
        await scene.refused("too late", aiovec_migrate.abort(config=config))
        await scene.find_again(target)
        await switched(config, target)
        assert await app.count("notes") == 38
        assert app.backend_name == target
    await scene.is_whole(target)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_a_target_that_is_lost_for_good_leaves_the_old_store(
    tmp_path: Path, way: str
) -> None:
    scene = Scene(tmp_path, way)
    await scene.begin("cut-over:moved")
    await scene.lose(scene.target)
    await scene.refused("migrate forget")
    assert await aiovec_migrate.forget(scene.source, config=scene.config) == []
    await scene.is_whole(scene.source)


async def test_a_target_that_is_lost_behind_the_switch_leaves_the_old_store(
    tmp_path: Path,
) -> None:
    """The TOML file names it: the same command, and the one that it names, say what to do."""
    scene = Scene(tmp_path)
    await scene.begin()
    await scene.lose("lancedb")
    await scene.refused(r"there is no store; .* put the store back .* forget")
    async with aiovec.connect(config=scene.config) as store:
        await store.create_table("young", SMALL)
    await scene.refused("no switch has led to the store that is there now")
    [warning] = await aiovec_migrate.forget("sqlite", config=scene.config)
    assert 'write backend = "sqlite" under [retrieval]' in warning
    assert_same(scene.wanted, await contents_at(place_of(scene.config, "sqlite")))


@THERE_FIRST
@pytest.mark.parametrize("lost", ["source", pytest.param("target", marks=pytest.mark.slow)])
async def test_a_store_that_was_replaced_midway_is_refused(
    tmp_path: Path, way: str, lost: str
) -> None:
    """And left as it is; put back, it goes on."""
    scene = Scene(tmp_path, way)
    await scene.begin("copy:written")
    other = scene.source if lost == "source" else scene.target
    await scene.lose(other)
    place = place_of(scene.config, other)
    async with aiovec.connect(place) as store:
        await fill(store, "notes", count=7)
    before = await contents_at(place)
    await scene.refused("was replaced or restored" if lost == "source" else "already holds 6 rows")
    assert_same(before, await contents_at(place))
    await scene.find_again(other)
    await switched(scene.config, scene.target)
    await scene.is_whole(scene.target)


@pytest.mark.slow
async def test_a_damaged_source_is_told_and_a_run_can_be_aborted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "back")
    config = await a_store(tmp_path, "lancedb", "notes", "others")
    data, kept = tmp_path / "notes.lance" / "others.lance" / "data", tmp_path / "kept"
    at = At("created", lambda: asyncio.to_thread(shutil.move, data, kept))
    for step in (at, At("never", at)):
        damaged = switched(config, "sqlite", step=step)
        await scene.refused(r"notes\.lance", damaged, error=AiovecError)
    async with aiovec.connect(config=config) as app:
        await app.insert("notes", rows("since", 1))
    await aiovec_migrate.abort(config=config)
    async with aiovec.connect(config=config) as app:
        await app.create_table("young", aiovec.Schema(2))
    await asyncio.to_thread(shutil.move, kept, data)
    scene.wanted = await contents_at(config=config)
    await switched(config, "sqlite")
    await scene.is_whole("sqlite")


@pytest.mark.slow
async def test_the_way_back_is_open_though_the_old_store_is_gone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.begin()
    await scene.lose("sqlite")
    async with aiovec.connect(config=scene.config) as app:
        await switched(scene.config, "sqlite")
        assert await app.count("notes") == 38
        assert app.backend_name == "sqlite"
    await scene.is_whole("sqlite")


@pytest.mark.parametrize("made", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_a_source_that_is_empty_since_costs_nothing(tmp_path: Path, made: bool) -> None:
    """The source was lost, and an app that started since has made one with an empty table, or
    without tables: the copy, which may be the only one, is kept."""
    scene = Scene(tmp_path)
    await scene.begin("cut-over:ready")
    copy = place_of(scene.config, "lancedb")
    await scene.lose("sqlite")
    async with aiovec.connect(config=scene.config) as app:
        assert await app.tables() == []
        if made:
            await app.create_table("notes", SMALL)
    if made:
        await scene.refused(r"replaced or restored.* migrate\s+abort")
        [warning] = await aiovec_migrate.abort(config=scene.config)
        assert "are kept" in warning
    else:
        await scene.refused(r"tables that the source does not have.*: notes")
    assert_same(scene.wanted, await contents_at(copy))


@BACK_FIRST
async def test_an_abort_leads_out_where_the_stores_lie_elsewhere_since(
    tmp_path: Path, way: str
) -> None:
    scene = Scene(tmp_path / "one", way)
    await scene.begin("optimized")
    scene.config = (await asyncio.to_thread(scene.folder.rename, tmp_path / "two")) / "aiovec.toml"
    await scene.refused("another migration")
    [warning] = await aiovec_migrate.abort(config=scene.config)
    assert "lay elsewhere" in warning
    assert await aiovec_migrate.status(config=scene.config) is None
    await scene.is_whole(scene.source)
    async with aiovec.connect(config=scene.config) as app:
        await app.create_table("young", SMALL)
    assert_same(scene.wanted, await contents_at(place_of(scene.config, scene.target)))
