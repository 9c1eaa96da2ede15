"""A backup is a snapshot. A restore replaces a store completely or not at all, and never while a
process uses the store."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from asyncio import to_thread
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness.scripts import KINDS, SCHEMA, TABLE, path_of, row, target_in

import aiovec
from aiovec import AiovecError, CorruptStoreError, InvalidArgumentError, UnsupportedError


async def backed_up(target: str, backup: Path) -> None:
    """Create a store with the rows a and b, back it up, add c, and close it."""
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row("a", 1), row("b", 2)])
        await store.backup(backup)
        await store.insert(TABLE, [row("c", 3)])


async def ids_in(target: Path | str) -> list[str]:
    async with aiovec.connect(target) as store:
        return [record.id for record in await store.find(TABLE, limit=10**6)]


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_backup_is_of_one_moment(tmp_path: Path, kind: str) -> None:
    """It may lack only the last row that a writer was inserting into both tables."""
    async with aiovec.connect(target_in(tmp_path, kind)) as store:
        await store.create_table("one", SCHEMA)
        await store.create_table("two", SCHEMA)
        done = [asyncio.Event() for _ in range(3)]
        over = False

        async def write(writer: int) -> None:
            for n in range(10**6):
                for table in ("one", "two"):
                    await store.insert(table, [row(f"{writer}-{n}", n)])
                if n == 3:
                    done[writer].set()
                if over:
                    return

        async with asyncio.TaskGroup() as tasks:
            for writer in range(3):
                tasks.create_task(write(writer))
            for event in done:
                await event.wait()
            for n in range(2):
                await store.backup(tmp_path / f"copy{n}")
            over = True
    for n in range(2):
        copy = str(tmp_path / f"copy{n}") if kind == "sqlite" else f"lancedb://{tmp_path}/copy{n}"
        async with aiovec.connect(copy) as saved:
            first, second = [
                {record.id for record in await saved.find(table, limit=10**6)}
                for table in ("one", "two")
            ]
        assert second <= first
        assert len(first - second) <= 3
        for writer in range(3):
            rows = [id for id in first if id.startswith(f"{writer}-")]
            assert len(rows) >= 3
            assert sorted(rows) == sorted(f"{writer}-{n}" for n in range(len(rows)))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_restore_replaces_a_store_or_creates_one(tmp_path: Path, kind: str) -> None:
    """The old store is kept, unless ``overwrite`` is true."""
    target, backup = target_in(tmp_path, kind), tmp_path / "backup"
    await backed_up(target, backup)
    kept = await aiovec.restore(backup, target)
    assert kept is not None
    assert await ids_in(target) == ["a", "b"]
    old = str(kept) if kind == "sqlite" else f"lancedb://{kept}"
    assert await ids_in(old) == ["a", "b", "c"]
    files = sorted(["backup", path_of(target).name, kept.name])
    assert await to_thread(names_in, tmp_path) == files
    async with aiovec.connect(target) as store:
        await store.insert(TABLE, [row("d", 4)])
    assert await aiovec.restore(backup, target, overwrite=True) is None
    assert await to_thread(names_in, tmp_path) == files
    new = target_in(tmp_path / "folder" / "deep", kind)
    assert await aiovec.restore(backup, new) is None
    assert await ids_in(target) == await ids_in(new) == ["a", "b"]


async def test_a_cursor_from_before_a_restore_skips_no_new_row(tmp_path: Path) -> None:
    """The restored store continues the numbers of the replaced one."""
    target, backup = target_in(tmp_path, "sqlite"), tmp_path / "backup.db"
    await backed_up(target, backup)

    async def read(after: bytes | None) -> tuple[list[str], bytes | None]:
        ids: list[str] = []
        async with aiovec.connect(target) as store:
            async for batch in store.export(TABLE, after=after):
                ids += batch.column("id").to_pylist()
                after = batch.schema.metadata[b"aiovec.cursor"]
        return ids, after

    async with aiovec.connect(target) as store:
        await store.insert(TABLE, [row(f"gone{n}", n) for n in range(50)])
    _, cursor = await read(None)
    await aiovec.restore(backup, target)
    async with aiovec.connect(target) as store:
        await store.insert(TABLE, [row(f"new{n}", n) for n in range(20)])
    ids, _ = await read(cursor)
    assert set(ids) >= {f"new{n}" for n in range(20)}


HOLD = {
    "another process": """
import sys
from aiovec import sync
store = sync.connect(sys.argv[1])
store.count("notes")
print("ready", flush=True); sys.stdin.read(); store.close()
""",
    "another library": """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT * FROM aiovec_state").fetchall()
print("ready", flush=True); sys.stdin.read()
""",
}


async def refused(target: str, backup: Path) -> None:
    """Check that the restore is refused and changes nothing."""
    before = await to_thread(names_in, backup.parent)
    for overwrite in (False, True):
        with pytest.raises(aiovec.StoreBusyError, match="in use"):
            await aiovec.restore(backup, target, overwrite=overwrite)
    assert await to_thread(names_in, backup.parent) == before


async def test_a_restore_is_refused_while_this_process_uses_the_store(tmp_path: Path) -> None:
    target, backup = target_in(tmp_path, "sqlite"), tmp_path / "backup.db"
    await backed_up(target, backup)
    async with aiovec.connect(target) as store:
        await refused(target, backup)
        await store.insert(TABLE, [row("d", 4)])
    async with aiovec.connect(target, read_only=True) as store:
        await store.count(TABLE)
        await refused(target, backup)
        assert await store.count(TABLE) == 4


@pytest.mark.slow
@pytest.mark.parametrize("way", HOLD)
async def test_a_restore_is_refused_while_another_process_uses_the_store(
    tmp_path: Path, way: str
) -> None:
    target, backup = target_in(tmp_path, "sqlite"), tmp_path / "backup.db"
    await backed_up(target, backup)
    process = await to_thread(
        subprocess.Popen, [sys.executable, "-c", HOLD[way], target],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await to_thread(process.stdout.readline) == b"ready\n"
        await refused(target, backup)
    finally:
        await to_thread(process.communicate, b"")
    assert len(await ids_in(target)) == 3


async def test_a_restore_is_refused_while_a_lancedb_version_is_read(tmp_path: Path) -> None:
    """A store that is merely open notices the restore at its next call."""
    target, backup = target_in(tmp_path, "lancedb"), tmp_path / "backup"
    await backed_up(target, backup)
    async with aiovec.connect(target) as store:
        exporting = store.export(TABLE, batch_size=1)
        await anext(exporting)
        await refused(target, backup)
        await exporting.aclose()
        await aiovec.restore(backup, target)
        with pytest.raises(aiovec.StoreReplacedError):
            await store.insert(TABLE, [row("d", 4)])
    assert await ids_in(target) == ["a", "b"]


def tear(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 40_000)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")


async def test_a_restore_checks_the_backup_and_the_target_first(tmp_path: Path) -> None:
    """Therefore a mistyped target is not replaced."""
    path, backup = tmp_path / "notes.db", tmp_path / "backup.db"
    await backed_up(str(path), backup)
    torn = Path(await to_thread(shutil.copy, backup, tmp_path / "torn.db"))
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    await to_thread(tear, torn)
    await to_thread(text.write_text, "no database " * 50)
    await to_thread(foreign, other)
    before = await to_thread(names_in, tmp_path)
    for wrong in (torn, text, other):
        with pytest.raises(CorruptStoreError) as caught:
            await aiovec.restore(wrong, path)
        assert caught.value.target == str(wrong)
    with pytest.raises(CorruptStoreError, match=r"one of LanceDB to an address .* lancedb://PATH"):
        await aiovec.restore(tmp_path, path)
    with pytest.raises(CorruptStoreError, match="a file is a backup of SQLite"):
        await aiovec.restore(backup, f"lancedb://{tmp_path}/n.lance")
    with pytest.raises(aiovec.ConfigError, match="there is no backup"):
        await aiovec.restore(tmp_path / "absent.db", path)
    with pytest.raises(InvalidArgumentError):
        await aiovec.restore(path, path)
    with pytest.raises(UnsupportedError):
        await aiovec.restore(backup, ":memory:")
    for target in (text, other):
        with pytest.raises(CorruptStoreError, match="overwrite=True"):
            await aiovec.restore(backup, target)
    assert await to_thread(names_in, tmp_path) == before
    assert await ids_in(path) == ["a", "b", "c"]
    await aiovec.restore(backup, text, overwrite=True)
    await to_thread(tear, path)  # a damaged store may be replaced
    await aiovec.restore(backup, path)
    assert await ids_in(text) == await ids_in(path) == ["a", "b"]


async def test_a_restore_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, backup = tmp_path / "notes.db", tmp_path / "backup.db"
    await backed_up(str(path), backup)
    before = await to_thread(names_in, tmp_path)

    def fail(*paths: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(AiovecError, match="Input/output error"):
            await aiovec.restore(backup, path, overwrite=True)
    assert await to_thread(names_in, tmp_path) == before
    assert await ids_in(path) == ["a", "b", "c"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions, and links need some")
@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_else_reads_a_backup_or_what_was_restored(tmp_path: Path, kind: str) -> None:
    """The umask and the file's permissions apply; a link leads to the restored store."""
    target, backup = target_in(tmp_path, kind), tmp_path / "backup"
    private = 0o600 if kind == "sqlite" else 0o700
    umask = os.umask(0o077)
    try:
        async with aiovec.connect(target) as store:
            await store.create_table(TABLE, SCHEMA)
            if kind == "sqlite":
                os.umask(umask)
            await store.backup(backup)
        link = tmp_path / "link"
        await to_thread(link.symlink_to, path_of(target))
        new = target_in(tmp_path, kind, "new")
        await aiovec.restore(backup, new)
        to = link if kind == "sqlite" else f"lancedb://{link}"
        await aiovec.restore(backup, to, overwrite=True)
    finally:
        os.umask(umask)
    assert await to_thread(link.is_symlink)
    for path in (path_of(target), backup, path_of(new)):
        assert (await to_thread(path.stat)).st_mode & 0o777 == private, path
