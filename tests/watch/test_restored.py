"""Watches of databases that are emptied, restored, or replaced by a backup with other changes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness.waiting import until

import aiovec
from aiovec import AiovecError, VectorStore

from .apps import App, follower

pytestmark = pytest.mark.arrow


def emptied(app: App) -> None:
    """Empty all tables, including the queue, like test fixtures and reset commands."""
    tables = app.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    app.db.execute("BEGIN")
    for (name,) in tables:
        app.db.execute(f'DELETE FROM "{name}"')
    app.db.execute("COMMIT")


def emptied_and_filled(app: App) -> None:
    emptied(app)
    for number in range(40):  # in the original order
        app.upsert(number)


def emptied_twice(app: App) -> None:
    emptied_and_filled(app)
    emptied_and_filled(app)


def copied_over(app: App) -> None:
    app.close()
    subprocess.run(["cp", backup_of(app), app.path], check=True)
    app.open()


def moved_over(app: App) -> None:
    app.close()
    os.replace(backup_of(app), app.path)
    app.open()


def restored(app: App) -> None:
    with closing(sqlite3.connect(backup_of(app))) as backup:
        backup.backup(app.db)


def overtaken(app: App) -> None:
    """Make as many changes to the backup as the watch has seen, and replace the database."""
    with closing(sqlite3.connect(backup_of(app), isolation_level=None)) as backup:
        for number in range(20, 40):
            backup.execute("UPDATE articles SET body = 'other' WHERE id = ?", (number,))
    moved_over(app)


def run_again(app: App) -> None:
    """Restore the backup, and run the job that made the latest changes again, corrected."""
    restored(app)
    for number in range(20):
        app.upsert(number, "corrected")


def of_an_earlier_layout(app: App) -> None:
    app.db.execute("ALTER TABLE aiovec_queue_articles DROP COLUMN r")
    app.upsert(3)


def more_than_the_queue_keeps(app: App) -> None:
    app.db.execute("BEGIN")
    app.db.execute("DELETE FROM articles WHERE id = 3")
    for number in range(300):
        app.upsert(10 + number % 20)
    app.db.execute("COMMIT")


def backup_of(app: App) -> Path:
    return app.path.with_name("backup.db")


EVENTS = [
    emptied, emptied_and_filled, emptied_twice, copied_over, moved_over, restored, overtaken,
    more_than_the_queue_keeps, run_again, of_an_earlier_layout,
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "followed"),
    [
        pytest.param(event, followed, marks=() if (number + turn) % 2 else pytest.mark.slow)
        for number, event in enumerate(EVENTS)
        for turn, followed in enumerate((True, False))
    ],
)
async def test_a_store_is_as_its_source_again(
    event: Callable[[App], None], followed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiovec_import.stores.queue._KEPT", 100)
    monkeypatch.setattr("aiovec_import.stores.queue._TAIL", 16)
    with closing(App(tmp_path, journal="delete")) as app:
        async with opened(tmp_path) as store:
            async with watch(store, app) as watching:
                await watching.caught_up()
                with closing(sqlite3.connect(backup_of(app))) as backup:
                    app.db.backup(backup)
                for number in range(20):
                    app.upsert(number)
                await watching.caught_up()
                if followed:
                    await asyncio.to_thread(event, app)
                    await check(watching, store, app)
            if not followed:
                event(app)
            async with watch(store, app) as watching:
                await check(watching, store, app)
                app.upsert(7)
                await check(watching, store, app)


async def test_a_backup_copied_over_the_database_of_a_stopped_app_is_what_it_reads(
    tmp_path: Path,
) -> None:
    """The last process that closes a database removes its WAL, even if that one only reads."""
    with closing(App(tmp_path)) as app:
        with closing(sqlite3.connect(backup_of(app))) as backup:
            app.db.backup(backup)
        kept = app.db.execute("SELECT * FROM articles").fetchall()
        process = follower(app, tmp_path / "s.db")
        try:
            assert process.stderr is not None
            await asyncio.to_thread(next, (at for at in process.stderr if b"up to date" in at))
            for turn in range(5):
                for number in range(20):
                    app.upsert(number, f"turn {turn}")
                app.close()
                await until(lambda: not app.path.with_name("app.db-wal").exists(), 30)
                await asyncio.to_thread(copied_over, app)
                assert app.db.execute("SELECT * FROM articles").fetchall() == kept
        finally:
            process.terminate()
            await asyncio.to_thread(process.communicate)
        async with opened(tmp_path) as store, watch(store, app) as watching:
            await check(watching, store, app)


def opened(folder: Path) -> Any:
    return aiovec.connect(folder / "s.db", embedder="demo")


def watch(store: VectorStore, app: App) -> aiovec.Watching:
    return aiovec.watch(store, app.source, embed="body")


async def check(watching: aiovec.Watching, store: VectorStore, app: App) -> None:
    """Check that the watch reports no success too early, and that the rows are equal in the end."""
    rows = {str(id): body for id, body in app.db.execute("SELECT id, body FROM articles")}
    for wait in (False, True):
        if wait:
            async with asyncio.timeout(60):
                await watching.caught_up()
        if wait or (await watching.state()).waiting == 0:
            assert {row.id: row["body"] async for row in store.rows("articles")} == rows


async def test_a_commit_that_a_power_cut_took_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch is killed before it could record that it had applied the commit."""
    with closing(App(tmp_path, journal="delete")) as app:
        async with opened(tmp_path) as store:
            async with watch(store, app) as watching:
                await watching.caught_up()
            with closing(sqlite3.connect(backup_of(app))) as backup:
                app.db.backup(backup)
            app.upsert(5, "lost")
            store_internals = sys.modules["aiovec._internals"].StoreInternals
            notes = store_internals.notes

            async def killed(self: Any, table: str, change: Any = None) -> Any:
                if change is not None and await _has(store, "lost"):
                    raise AiovecError("killed")
                return await notes(self, table, change)

            with monkeypatch.context() as patch:
                patch.setattr(store_internals, "notes", killed)
                async with watch(store, app):
                    await until(lambda: _has(store, "lost"))
            moved_over(app)
            app.upsert(6)
            async with watch(store, app) as watching:
                await check(watching, store, app)


async def _has(store: VectorStore, word: str) -> bool:
    return word in (await store.get("articles", ["5"]))[0]["body"]
