"""Watches of tables in stores that a migration filled or left: no row stays outdated."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.watch.apps import App

import aiovec
import aiovec_migrate
from aiovec import AiovecError

from .support import WAYS, StoppedError, place_of, stopped_at, switched, write_toml

pytestmark = pytest.mark.arrow


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with closing(App(tmp_path, journal="delete")) as made:
        yield made


async def follow(target: Path | str | None, app: App, config: Path | None = None) -> None:
    """Watch the app's table until no change waits, and check every row."""
    async with aiovec.connect(target, config=config, embedder="demo") as store:
        async with aiovec.watch(store, app.source, embed="body", text=["title"]) as watching:
            async with asyncio.timeout(60):
                await watching.caught_up()
        rows = {row.id: row["body"] async for row in store.rows("articles")}
    query = "SELECT id, body FROM articles"
    sources = await asyncio.to_thread(lambda: app.db.execute(query).fetchall())
    assert rows == {str(id): body for id, body in sources}


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as db, closing(sqlite3.connect(target)) as other:
        db.backup(other)


def change(app: App) -> None:
    for number in range(10):
        app.upsert(number)


async def test_a_copy_is_followed_after_a_run_that_failed(app: App, tmp_path: Path) -> None:
    source, target = tmp_path / "s.db", tmp_path / "copy.db"
    await follow(source, app)
    await aiovec_migrate.run(source, target)
    change(app)
    await follow(source, app)
    await stopped_at("compared", lambda at: aiovec_migrate.run(source, target, _step=at))
    await aiovec_migrate.abort(source, target)
    await follow(target, app)


async def test_a_table_that_was_empty_is_followed_after_a_run_that_failed(
    app: App, tmp_path: Path
) -> None:
    source, target = tmp_path / "s.db", tmp_path / "copy.db"
    app.db.execute("DELETE FROM articles")
    await follow(source, app)
    await aiovec_migrate.run(source, target)
    change(app)
    await follow(source, app)
    await stopped_at("copy:read", lambda at: aiovec_migrate.run(source, target, _step=at))
    await aiovec_migrate.abort(source, target)
    await follow(target, app)


@pytest.mark.parametrize("way", ["there", pytest.param("back", marks=pytest.mark.slow)])
async def test_the_old_store_is_followed_after_a_way_back_that_failed(
    way: str, app: App, tmp_path: Path
) -> None:
    source, target = WAYS[way]
    config = await asyncio.to_thread(write_toml, tmp_path, source)
    await follow(None, app, config)
    await switched(config, target)
    change(app)
    await follow(None, app, config)
    await stopped_at("compared", lambda at: switched(config, source, step=at))
    await aiovec_migrate.abort(config=config)
    await aiovec_migrate.forget(source, config=config)
    await follow(place_of(config, source), app)


async def test_a_copy_is_followed_after_a_switch_that_was_called_off(
    app: App, tmp_path: Path
) -> None:
    """Before the second attempt, rows arrive that the app's restored database does not have."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    await follow(None, app, config)
    await aiovec_migrate.run(None, "lancedb", config=config)
    backup, busy = tmp_path / "backup.db", False

    async def step(name: str) -> None:
        nonlocal busy
        if name == "cut-over:checked":
            busy = True
            raise AiovecError("the source is busy")
        if busy and name == "cut-over:ready":
            await asyncio.to_thread(copy, app.path, backup)
            await asyncio.to_thread(change, app)
            await follow(None, app, config)
        if busy and name == "catch-up:applied":
            raise StoppedError

    with pytest.raises(StoppedError):
        await switched(config, "lancedb", step=step)
    await aiovec_migrate.abort(config=config)
    await asyncio.to_thread(copy, backup, app.path)
    await follow(place_of(config, "lancedb"), app)
