"""A watch does not disturb the app's own transactions."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.harness.waiting import until

import aiovec

from .apps import App

pytestmark = pytest.mark.arrow

MODES = ("wal", "delete")


async def followed(app: App, transactions: Callable[[], Any], until: Callable[[], str]) -> None:
    """Run the app's transactions while its table is watched, and check that the last arrived."""
    async with (
        aiovec.connect(app.path.parent / "s.db", embedder="demo") as store,
        aiovec.watch(store, app.source, embed="body") as watching,
    ):
        await watching.caught_up()
        await asyncio.to_thread(transactions)
        await watching.caught_up()
        assert (await store.get("articles", ["1"]))[0]["body"] == until()


@pytest.mark.parametrize("mode", MODES)
async def test_transactions_that_read_and_then_write_never_fail(mode: str, tmp_path: Path) -> None:
    """With a second writer, some would fail with SQLITE_BUSY_SNAPSHOT, or because of a deadlock."""
    with closing(App(tmp_path, journal=mode)) as app:

        def transactions() -> None:
            with closing(sqlite3.connect(app.path, isolation_level=None)) as db:
                version = db.execute("PRAGMA data_version").fetchone()
                for number in range(400):
                    db.execute("BEGIN")
                    db.execute("SELECT count(*) FROM articles").fetchone()
                    time.sleep(0.001)  # a second writer would commit now
                    db.execute("UPDATE articles SET body = ? WHERE id = 1", (f"{number}",))
                    db.execute("COMMIT")
                assert db.execute("PRAGMA data_version").fetchone() == version

        await followed(app, transactions, lambda: "399")


@pytest.mark.parametrize("mode", MODES)
async def test_a_database_at_rest_is_neither_open_nor_opened(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes a lock that, with a rollback journal, keeps the app from committing."""
    looks = 0
    connect = sqlite3.connect

    def counted(*args: Any, **options: Any) -> sqlite3.Connection:
        nonlocal looks
        looks += "app.db" in str(args[0])
        return connect(*args, **options)

    async def rests() -> bool:
        before = looks
        await asyncio.sleep(0.5)
        return looks == before > 0

    with closing(App(tmp_path, journal=mode)) as app:
        async with (
            aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
            aiovec.watch(store, app.source, embed="body") as watching,
        ):
            monkeypatch.setattr("sqlite3.connect", counted)
            app.upsert(1, "a change")
            await watching.caught_up()
            app.close()
            await until(rests, 30)
            files = psutil.Process().open_files()
            assert not [file.path for file in files if file.path.startswith(str(app.path))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("begins", [True, False], ids=["autocommit=False", "default"])
async def test_sessions_of_sqlalchemy_never_fail(mode: str, begins: bool, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from sqlalchemy import create_engine, event, text

    with closing(App(tmp_path, journal=mode)) as app:
        engine = create_engine(f"sqlite:///{app.path}")
        if begins:  # like sqlite3.connect(autocommit=False) in Python 3.12

            @event.listens_for(engine, "connect")
            def connected(connection: Any, _: object) -> None:
                connection.isolation_level = None

            @event.listens_for(engine, "begin")
            def began(connection: Any) -> None:
                connection.exec_driver_sql("BEGIN")

        def transactions() -> None:
            read = text("SELECT body FROM articles WHERE id = 1")
            write = text("UPDATE articles SET body = :body WHERE id = 1")
            for number in range(400):
                with engine.begin() as connection:
                    connection.execute(read).all()
                    connection.execute(write, {"body": f"{number}"})
            engine.dispose()

        await followed(app, transactions, lambda: "399")


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_django_never_fail(mode: str, tmp_path: Path) -> None:
    """The app runs in a separate process, because Django's settings are global."""
    pytest.importorskip("django")
    program = Path(__file__).with_name("django_app.py")
    command = [sys.executable, str(program), str(tmp_path), mode]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ})
    assert done.stdout.split() == ["30", "changed", "gone", "11", "399"], done.stderr
