"""Errors of runs that cannot finish, after which the same command can continue."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from tests.contract.remote_server import server, url
from tests.harness.disk import small_disk
from tests.harness.values import SMALL

import aiovec
import aiovec_migrate
from aiovec import MigrationError

from .support import (
    SWITCH,
    At,
    a_store,
    assert_same,
    contents_at,
    fill,
    named,
    place_of,
    rows,
    switched,
)

__all__ = ["server", "small_disk", "url"]  # fixtures


async def test_changes_that_another_program_removed(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "lancedb")

    async def clean() -> None:
        await app.upsert("notes", [{**rows("r", 4)[3], "name": "later"}])
        table = await (await lancedb.connect_async(tmp_path / "notes.lance")).open_table("notes")
        await table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)

    async with aiovec.connect(config=config) as app:
        with pytest.raises(MigrationError, match=r"changes of table 'notes' since the copy are no"):
            await switched(config, "sqlite", step=At("optimized", clean))
        wanted = await contents_at(config=config)
        await switched(config, "sqlite")
        assert_same(wanted, await contents_at(config=config))


@pytest.mark.slow
async def test_more_different_rows_than_can_be_named(tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")

    async def add() -> None:
        table = await (await lancedb.connect_async(tmp_path / "notes.lance")).open_table("notes")
        [first] = await table.query().limit(1).to_list()
        count = 250_000
        columns = {name: [value] * count for name, value in first.items()}
        columns["id"] = [f"theirs/{n}" for n in range(count)]
        await table.add(pa.table(columns, schema=await table.schema()))

    with pytest.raises(MigrationError, match="too many rows of table 'notes' differ"):
        await switched(config, "lancedb", step=At("optimized", add))
    assert named(config) == "sqlite"


@pytest.mark.slow
async def test_a_source_without_marks_is_moved_only_at_rest(url: str, tmp_path: Path) -> None:
    """The source has no change feed, so the rows are compared until no app writes."""
    target, number = str(tmp_path / "copy.db"), 0

    async def write(step: str) -> None:
        nonlocal number
        if step in ("copy:written", "compared"):
            number += 1
            await app.insert("notes", rows(f"late{number}", 1))

    async with aiovec.connect(url) as app:
        await fill(app, "notes")
        with pytest.raises(MigrationError, match="'notes' is written to continuously"):
            await aiovec_migrate.run(url, target, _step=write)
        assert number > 5
        await aiovec_migrate.run(url, target)
    assert_same(await contents_at(url), await contents_at(target))


@pytest.mark.slow
async def test_a_source_whose_table_is_made_anew_all_the_time(url: str, tmp_path: Path) -> None:
    target, number = str(tmp_path / "copy.db"), 0

    async def make_anew(step: str) -> None:
        nonlocal number
        if step in ("copy:read", "compared"):
            number += 1
            await app.drop_table("notes")
            await app.create_table("notes", SMALL)
            await app.insert("notes", [*rows("kept", 1), *rows(f"{number}", 1)])

    async with aiovec.connect(url) as app:
        await fill(app, "notes")
        with pytest.raises(MigrationError, match="table 'notes' keeps changing"):
            await aiovec_migrate.run(url, target, _step=make_anew)
        await aiovec_migrate.run(url, target)
    assert_same(await contents_at(url), await contents_at(target))


async def test_a_source_without_marks_leads_no_app_away(url: str, tmp_path: Path) -> None:
    config = await a_store(tmp_path, "sqlite")
    async with aiovec.connect(url) as app:
        await fill(app, "notes")
    for options in (SWITCH, None):
        plan = await aiovec_migrate.plan(url, "lancedb", config=config, options=options)
        said = plan.notes if options is None else plan.problems
        assert [text for text in said if "only while nobody writes to it" in text], said
    with pytest.raises(MigrationError, match="stop its writers, and leave out --switch"):
        await aiovec_migrate.run(url, "lancedb", config=config, options=SWITCH)
    assert named(config) == "sqlite"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["copy.db", "copy.lance"])
async def test_a_disk_that_just_fits_is_too_small(
    small_disk: Path, tmp_path: Path, target: str
) -> None:
    """Otherwise the app would be switched to a store to which it cannot write."""
    source = place_of(await a_store(tmp_path, "sqlite"), "sqlite")
    place = f"lancedb://{small_disk}/{target}" if "lance" in target else str(small_disk / target)
    plan = await aiovec_migrate.plan(source, place)
    assert 32 * 2**20 < plan.needed < 33 * 2**20
    assert "for the next writes" in plan.problems[0]
    with pytest.raises(
        MigrationError, match=r"about 32\.\d MiB .* next writes .*16\.0 MiB are free"
    ):
        await aiovec_migrate.run(source, place)
    assert not await asyncio.to_thread(lambda: list(small_disk.iterdir()))
    assert await aiovec_migrate.status(source, place) is None
