"""Only committed rows of a source are read."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command import run
from tests.harness.waiting import until

import aiovec

pytestmark = pytest.mark.arrow

# This program writes pages of a transaction to the file, and is killed before it commits.
KILLED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 5")
db.execute("BEGIN")
db.execute("UPDATE articles SET body = 'never committed', vector = x'00000000'")
os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = 2000


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY, body TEXT, vector BLOB)")
        db.execute("CREATE VIEW short AS SELECT id, body FROM articles")
        rows = ((number, f"text {number}", b"\0\0\x80?") for number in range(ROWS))
        db.executemany("INSERT INTO articles VALUES (?, ?, ?)", rows)
    return path


@pytest.fixture
def killed(made: Path) -> Path:
    """Return a database whose app was killed in a transaction after it had written to the file."""
    return kill_in(made)


def kill_in(path: Path) -> Path:
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert b"never committed" in path.read_bytes()
    assert path.with_name("app.db-journal").stat().st_size
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["--embed", "body", "--embedder", "demo"],
        ["--vector-column", "vector", "--dtype", "float32"],
    ],
    ids=["texts", "BLOBs"],
)
async def test_an_import_stores_nothing_that_was_not_committed(
    options: list[str], killed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.db"
    done = await asyncio.to_thread(run, "import", f"{killed}#articles", *options, "-s", store)
    assert done.code == 0, done.err
    await check(store, "articles")


@pytest.mark.parametrize("table", ["articles", "short"])
async def test_a_watch_stores_nothing_that_was_not_committed(
    table: str, killed: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"embed": "body", "id_column": "id"}
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, f"{killed}#{table}", **options) as watching,
    ):
        await watching.caught_up()
    await check(tmp_path / "s.db", table)


async def test_a_running_watch_leaves_the_rollback_to_the_app(made: Path, tmp_path: Path) -> None:
    """The app may be alive, in this process, with a library whose locks Python's does not see."""
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, f"{made}#articles", embed="body") as watching,
    ):
        await watching.caught_up()
        await asyncio.to_thread(kill_in, made)

        async def tells() -> bool:
            return "unfinished transaction" in (await watching.state()).error

        await until(tells, 30)
        assert (await watching.state()).waiting is None
        assert made.with_name("app.db-journal").stat().st_size
        with closing(sqlite3.connect(made)) as app:
            assert app.execute("SELECT count(*) FROM articles").fetchone() == (ROWS,)
        await watching.caught_up()
    await check(tmp_path / "s.db", "articles")


async def check(path: Path, table: str) -> None:
    async with aiovec.connect(path, embedder="demo") as store:
        rows = await store.find(table, limit=None, include_vector=True)
        assert {row.id: row["body"] for row in rows} == {str(n): f"text {n}" for n in range(ROWS)}
