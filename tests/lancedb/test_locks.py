"""The files by which processes keep each other off: of a fork, of a removed folder, in number."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.sqlite.support import backend_of

from aiovec import DuplicateIdError
from aiovec.backend import moves_of
from aiovec_lancedb.locks.local import FOLDER, LockedFile, WriteLock

from .support import ROOT, SMALL, ids_in, numbered, opened, run_code
from .test_once import keyed

# Holds a lock, and forks a child that lives on.
HOLD = """
import os, pathlib, sys, time
from aiovec_lancedb.locks.local import WriteLock

lock = WriteLock("a place of this test", pathlib.Path(sys.argv[1]))
assert lock.acquire(5)
child = os.fork()
if child:
    print(child, flush=True)
else:
    os.close(1)  # or whoever waits for the parent would wait for it
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    """B17: nor while the parent lives, nor after its end, however that comes."""
    path = tmp_path / FOLDER / "notes.lock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    try:
        lock = WriteLock("another place of this test", path)
        assert not await asyncio.to_thread(lock.acquire, 0.05)
        process.kill()
        await process.wait()
        assert await asyncio.to_thread(lock.acquire, 5)
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
async def test_a_forked_child_that_lets_go_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    """The number of a file that the child closed may be that of another one by then."""
    code = """
import os, pathlib, sys
from aiovec_lancedb.locks.local import LockedFile

held = LockedFile.at(pathlib.Path(sys.argv[1], "a.lock"))
child = os.fork()
if not child:
    others = [open(os.devnull) for _ in range(3)]
    held.close()
    for other in others:
        other.read()
    os._exit(0)
_, status = os.waitpid(child, 0)
print(status, LockedFile.at(pathlib.Path(sys.argv[1], "a.lock")) is None)
"""
    assert await run_code(code, str(tmp_path)) == "0 True\n"


# Writes a row, waits for a line, and inserts ids of which some are there; prints those that it won.
RACE = """
import asyncio, json, sys
from aiovec import DuplicateIdError
from tests.lancedb.support import numbered, opened

async def main():
    async with opened(sys.argv[1]) as store:
        await store.insert("notes", numbered(1, start=90_001))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        won = []
        for n in range(int(sys.argv[2])):
            try:
                await store.insert("notes", numbered(1, start=n))
                won.append(n)
            except DuplicateIdError:
                pass
        print(json.dumps(won), flush=True)

asyncio.run(main())
"""


async def test_ids_stay_unique_when_the_folder_of_locks_is_removed(tmp_path: Path) -> None:
    """B19: a store that has locked a file before locks the new one, as everybody else does."""
    count = 30
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RACE, str(tmp_path / "s"), str(count), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"ready\n"
    await asyncio.to_thread(shutil.rmtree, tmp_path / "s" / FOLDER)
    async with opened(tmp_path / "s") as store:
        await store.insert("notes", numbered(1, start=90_002))
        process.stdin.write(b"\n")
        won = []
        for n in range(count):
            try:
                await store.insert("notes", numbered(1, start=n))
                won.append(n)
            except DuplicateIdError:
                pass
        others = json.loads(await process.stdout.readline())
        await process.wait()
        assert sorted([*won, *others]) == list(range(count))
        ids = await ids_in(store)
        assert [id for id, times in Counter(ids).items() if times > 1] == []
        assert len(ids) == count + 2


def test_a_lock_is_of_the_file_that_is_at_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    old = LockedFile.at(path)
    assert old is not None
    assert LockedFile.at(path) is None
    path.unlink()
    new = LockedFile.at(path)
    assert new is not None
    assert LockedFile.at(path) is None
    old.close()
    old.close()
    assert LockedFile.at(path) is None
    new.close()
    again = LockedFile.at(path)
    assert again is not None
    again.close()


# Writes to many tables with few open files allowed, reads them all, and prints how many were open
# at most and how many there were.
MANY_TABLES = """
import asyncio, os, resource, sys
from tests.lancedb.support import SMALL, numbered, opened

TABLES = 120
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))

def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

async def main():
    async with opened(sys.argv[1]) as store:
        most = 0
        for n in range(TABLES):
            name = f"notes{n}"
            await store.create_table(name, SMALL)
            await store.insert(name, numbered(2))
            most = max(most, open_files())
        await store.optimize("notes0")
        rows = 0
        for n in range(TABLES):
            rows += await store.count(f"notes{n}")
            assert len(await store.search(f"notes{n}", [1, 2, 3, 4])) == 2
            most = max(most, open_files())
        print(rows, most)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no such limit")
async def test_open_files_do_not_grow_with_the_tables(tmp_path: Path) -> None:
    """B17"""
    rows, most = map(int, (await run_code(MANY_TABLES, str(tmp_path / "s"))).split())
    assert rows == 240
    assert most < 96


def modes_in(folder: Path) -> dict[str, int]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.name: file.stat().st_mode & 0o777 for file in files}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
async def test_files_of_ours_have_the_permissions_of_the_tables_files(tmp_path: Path) -> None:
    """Who may write to the tables has to read the mark of a migration before each write, and to
    write down the key of one that has a key."""
    before = os.umask(0o002)
    try:
        async with opened(tmp_path) as store:
            await store.create_table("t", SMALL)
            with keyed("a-key"):
                await store.insert("t", [{"id": "a", "embedding": [1, 2, 3, 4]}])
            moves = moves_of(backend_of(store))
            assert moves is not None
            await moves.begin_move("a-run")
    finally:
        os.umask(before)
    modes = await asyncio.to_thread(modes_in, tmp_path)
    assert {"_move.json", "_writes.sqlite"} <= modes.keys()
    assert set(modes.values()) == {0o664}, modes
