"""Programs open and close a store's file with ``sqlite3`` while processes use it by aiovec.

Another process may do so with any SQLite, and the process that has the store open with the library
that aiovec uses: Python's own where that can open stores.

SQLite before 3.51 deletes the WAL when it closes the file as the last process, and knows only from
the file's locks whether another process has it open. POSIX drops all locks that a process has on a
file when the process closes any descriptor of the file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from asyncio import to_thread
from pathlib import Path

import pytest
from tests.harness import vec0
from tests.harness.processes import output_of, start_code
from tests.harness.scripts import DIM, SCHEMA, TABLE, row

import aiovec
from aiovec import AiovecError, sync

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no POSIX locks")

STATEMENTS = (
    "SELECT count(*) FROM aiovec_state",
    "INSERT INTO aiovec_state VALUES ('other', 1) ON CONFLICT DO UPDATE SET value = value + 1",
)
PYTHON = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute(sys.argv[2]).fetchall()
db.commit()
db.close()
"""


def touched_by_others(path: Path) -> None:
    """Let other processes open the file, run a statement, and close it."""
    ways = [[sys.executable, "-c", PYTHON]]
    if command := shutil.which("sqlite3"):
        ways.append([command])
    for way in ways:
        for statement in STATEMENTS:
            command_line = [*way, str(path), statement]
            subprocess.run(command_line, check=True, capture_output=True, timeout=120)


@pytest.mark.slow
async def test_rows_survive_another_library_beside_us(tmp_path: Path) -> None:
    """Whatever this process does with the file, it keeps its locks, and the WAL stays."""
    path = tmp_path / "notes.db"
    store = await aiovec.connect(path)
    await store.create_table(TABLE, SCHEMA)
    ids: list[str] = []

    async def written() -> None:
        ids.append(f"r{len(ids)}")
        await store.insert(TABLE, [row(ids[-1], len(ids))])

    async def second_store() -> None:
        async with aiovec.connect(path) as other, aiovec.connect(path, read_only=True) as reader:
            assert await other.count(TABLE) == await reader.count(TABLE)

    def without_asyncio() -> None:
        with sync.connect(path) as other:
            other.count(TABLE)

    async def export() -> None:
        async for _ in store.export(TABLE):
            pass

    async def refused_restore() -> None:
        with pytest.raises(AiovecError, match="in use"):
            await aiovec.restore(tmp_path / "copy.db", path)

    await written()
    wal = (await to_thread(os.stat, f"{path}-wal")).st_ino
    for touch in (
        lambda: store.search(TABLE, [1.0] * DIM), second_store, lambda: to_thread(without_asyncio),
        lambda: store.backup(tmp_path / "copy.db"), refused_restore, export,
        lambda: store.optimize(TABLE),
    ):  # fmt: skip
        await touch()
        await to_thread(touched_by_others, path)
        assert (await to_thread(os.stat, f"{path}-wal")).st_ino == wal
        await written()
        await asyncio.gather(*(store.search(TABLE, [1.0] * DIM) for _ in range(20)))
    await store.close()
    async with aiovec.connect(path) as again:
        assert {record.id for record in await again.find(TABLE, limit=1000)} == set(ids)


WRITER = """
import asyncio, sys, aiovec
async def main():
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    number = 0
    while not ended.done():
        async with aiovec.connect(sys.argv[1]) as store:
            for _ in range(10):
                await store.upsert("t", [{"id": f"other{number}", "embedding": [1, number]}])
                number += 1
                print(number, flush=True)
asyncio.run(main())
"""
# Looks as pandas.read_sql does: opens the file read-only, reads a table, and closes it.
LOOKING = """
import asyncio, sqlite3, sys, aiovec
def look(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute("SELECT count(*) FROM 't.rows'").fetchone()[0]
    finally:
        db.close()
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        for number in range(int(sys.argv[2])):
            await store.upsert("t", [{"id": f"own{number}", "embedding": [number, 1]}])
            rows = await asyncio.to_thread(look, sys.argv[1])
            assert rows > number, (rows, number)
            await store.search("t", [1, 1])
asyncio.run(main())
"""


@pytest.mark.skipif(
    not vec0.OWN, reason="this Python's sqlite3 loads no extensions, so stores use another library"
)
async def test_an_app_may_look_into_its_open_store_with_sqlite3(tmp_path: Path) -> None:
    """Another process opens, writes and closes the store. Nothing fails, and no row is lost."""
    path, count = str(tmp_path / "notes.db"), 100
    async with aiovec.connect(path) as store:
        await store.create_table("t", aiovec.Schema(2))
    other = await start_code(WRITER, path)
    await to_thread(output_of, "-c", LOOKING, path, count)
    output, _ = await other.communicate(b"\n")
    assert other.returncode == 0
    ids = {f"own{number}" for number in range(count)}
    ids |= {f"other{number}" for number in range(int(output.split()[-1]))}
    async with aiovec.connect(path) as store:
        assert {record.id for record in await store.find("t", limit=None)} == ids
