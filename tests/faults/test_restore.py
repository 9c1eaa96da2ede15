"""B4: a backup that is put in the place of a store, by ``aiovec.restore`` and by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # a fixture
from tests.sqlite.support import check_file, names_in, opened, python, sql

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    Field,
    InvalidArgumentError,
    Schema,
    StoreBusyError,
    StoreReplacedError,
    UnsupportedError,
    VectorStore,
)
from aiovec.backend import ChangeFeed
from aiovec_lancedb import backup as backup_module
from aiovec_sqlite import backup as sqlite_backup
from aiovec_sqlite import layout, opening, upkeep
from aiovec_sqlite.settings import SqliteSettings

SCHEMA = Schema(4, fields={"source_id": str})


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, 2.0, 3.0, 4.0], "source_id": "x" * 500} for id in ids]


async def backed_up(path: Path) -> Path:
    """A store of a and b with a backup of it, and c written since; closed."""
    async with aiovec.connect(path) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a", "b"))
        backup = path.with_name("backup.db")
        await store.backup(backup)
        await store.insert("t", rows("c"))
    return backup


STALE = r"notes\.db-wal.*aiovec restore"


async def brought_back(way: str, backup: Path, path: Path) -> None:
    """The backup in the place of a store that is closed."""
    if way == "restored":
        await aiovec.restore(backup, path, overwrite=True)
    else:
        await to_thread(shutil.copy, backup, path)


async def check_cured(backup: Path, path: Path) -> None:
    """By what the error says."""
    await aiovec.restore(backup, path)
    assert await ids_in(path) == ["a", "b"]
    assert await to_thread(check_file, path) == {"t": 2}


async def ids_in(target: Path | str) -> list[str]:
    async with aiovec.connect(target) as store:
        return [record.id for record in await store.find("t", limit=10**6)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_nobody_else_reads_a_backup_or_what_was_restored(tmp_path: Path) -> None:
    """They were readable for all, as new files are, whatever the store was."""
    path = tmp_path / "notes.db"
    async with aiovec.connect(path) as store:
        await store.create_table("t", SCHEMA)
        await to_thread(path.chmod, 0o600)
        await store.backup(tmp_path / "backup.db")
    await aiovec.restore(tmp_path / "backup.db", path)
    await aiovec.restore(tmp_path / "backup.db", tmp_path / "new.db")
    files = [file for file in await names_in(tmp_path) if ".db" in file]
    assert len(files) == 4  # with the one that was there before
    modes = await to_thread(lambda: {os.stat(tmp_path / file).st_mode & 0o777 for file in files})
    assert modes == {0o600}
    folder = tmp_path / "lance"
    for mode in (0o700, 0o555):
        async with aiovec.connect(f"lancedb://{folder}") as store:
            await store.create_table("t", SCHEMA, exist_ok=True)
            await to_thread(folder.chmod, mode)
            await store.backup(tmp_path / f"lance-{mode}")
        found = await to_thread(os.stat, tmp_path / f"lance-{mode}")
        assert found.st_mode & 0o777 == mode | 0o700


COPIES = """
import asyncio, os, sys
import aiovec
async def main():
    os.umask(0o077)
    async with aiovec.connect(sys.argv[1]) as store:
        await store.backup(sys.argv[2])
asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_a_copy_is_no_more_open_than_a_new_file(tmp_path: Path) -> None:
    for name, target in (("notes.db", tmp_path / "notes.db"), ("lance", f"lancedb://{tmp_path}/l")):
        async with aiovec.connect(target) as store:
            await store.create_table("t", SCHEMA)
        process = python("-c", COPIES, str(target), str(tmp_path / f"copy-{name}"))
        assert await to_thread(process.wait, 60) == 0
        found = await to_thread(os.stat, tmp_path / f"copy-{name}")
        assert found.st_mode & 0o077 == 0


KILLED = """
import asyncio, os, signal, sys
import aiovec
async def main():
    store = await aiovec.connect(sys.argv[1])
    for n in range(200):
        await store.upsert("t", [
            {"id": f"n{n}-{i}", "embedding": [n, 2, 3, 4], "source_id": "y" * 800}
            for i in range(20)])
    await store.delete("t", [f"n{n}-{i}" for n in range(0, 200, 2) for i in range(20)])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def leave_wal(path: Path) -> None:
    """Write to the store in a process that is killed, so that its WAL stays."""
    process = python("-c", KILLED, str(path))
    assert process.wait(120) == -signal.SIGKILL
    assert path.with_name(f"{path.name}-wal").stat().st_size


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_a_restored_folder_has_the_permissions_of_the_one_before(tmp_path: Path) -> None:
    """It had the backup's, which has what the process keeps from new files taken off: other users
    of the group could write no more. And those of root, where root restored an app's store."""
    folder, backup = tmp_path / "s", tmp_path / "copy"
    group = 54321 if os.geteuid() == 0 else os.getegid()

    def share() -> None:
        for at, _, files in os.walk(folder):
            os.chown(at, -1, group)
            os.chmod(at, 0o2770)
            for name in files:
                os.chown(os.path.join(at, name), -1, group)
                os.chmod(os.path.join(at, name), 0o660)

    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a", "b"))
        await to_thread(share)
        await store.backup(backup)
    assert not (await to_thread(backup.stat)).st_mode & 0o020
    await aiovec.restore(backup, f"lancedb://{folder}", overwrite=True)

    def found() -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        folders, files = set(), set()
        for at, _, names in os.walk(folder):
            status = os.stat(at)
            folders.add((status.st_mode & 0o7777, status.st_gid))
            for name in names:
                status = os.stat(os.path.join(at, name))
                files.add((status.st_mode & 0o7777, status.st_gid))
        return folders, files

    assert await to_thread(found) == ({(0o2770, group)}, {(0o660, group)})
    assert await ids_in(f"lancedb://{folder}") == ["a", "b"]


def modes_in(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o7777
        for path in [folder, *folder.rglob("*")]
    }


async def folder_and_backup(folder: Path) -> tuple[str, Path]:
    target, backup = f"lancedb://{folder}", folder.with_name("copy")
    async with aiovec.connect(target) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a", "b"))
        await store.backup(backup)
    return target, backup


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("over", [False, True])
async def test_a_backup_that_is_kept_read_only_becomes_a_store_that_its_owner_writes(
    tmp_path: Path, over: bool
) -> None:
    folder = tmp_path / "s"
    target, backup = await folder_and_backup(folder)

    def kept() -> None:
        for path in [backup, *backup.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        if not over:
            shutil.rmtree(folder)

    await to_thread(kept)
    await aiovec.restore(backup, target, overwrite=True)
    for path, mode in (await to_thread(modes_in, folder)).items():
        assert mode & 0o200, path
    async with aiovec.connect(target) as store:
        await store.insert("t", rows("c"))
        await store.drop_table("t")
    await to_thread(lambda: [path.chmod(0o700) for path in [backup, *backup.rglob("*")]])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_a_group_can_lock_what_a_careful_process_restored(tmp_path: Path) -> None:
    """The folder of the locks had what that process takes off its new files."""
    folder = tmp_path / "s"
    target, backup = await folder_and_backup(folder)
    await to_thread(folder.chmod, 0o770)
    before = os.umask(0o077)
    try:
        await aiovec.restore(backup, target, overwrite=True)
    finally:
        os.umask(before)
    found = await to_thread(modes_in, folder)
    assert found[".aiovec"] == found["."] == 0o770


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_where_each_changes_only_what_is_his_own_no_file_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    target, backup = await folder_and_backup(folder)
    await to_thread(folder.chmod, 0o1777)
    await aiovec.restore(backup, target, overwrite=True)
    found = await to_thread(modes_in, folder)
    assert found.pop(".") == 0o1777
    for path, mode in found.items():
        assert not mode & 0o022, path


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="only Linux has lists of users here")
async def test_what_is_restored_has_the_folders_list_of_users(tmp_path: Path) -> None:
    """Beside it the mode's bits of the group are the most that any of them may: the group could
    write then, which it could not before, and the user of the list could not."""
    folder = tmp_path / "s"
    target, backup = await folder_and_backup(folder)
    anybody = 0xFFFFFFFF
    users = [(1, 7, anybody), (2, 7, 65534), (4, 5, anybody), (16, 7, anybody), (32, 0, anybody)]
    given = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in users)
    try:
        for name in ("system.posix_acl_default", "system.posix_acl_access"):
            await to_thread(os.setxattr, folder, name, given)
    except OSError as exc:
        pytest.skip(f"this file system keeps no lists of users: {exc}")
    await aiovec.restore(backup, target, overwrite=True)

    def rights(path: Path) -> dict[int, int]:
        found = os.getxattr(path, "system.posix_acl_access")
        listed = {tag: right for tag, right, _ in struct.iter_unpack("<HHI", found[4:])}
        return {tag: listed[tag] & (listed[16] if tag in (2, 4) else 7) for tag in listed}

    for path in await to_thread(lambda: [folder, *folder.rglob("*")]):
        own = 7 if await to_thread(path.is_dir) else 6
        found = await to_thread(rights, path)
        assert (found[2], found[4], found[32]) == (own, own & 5, 0), path


ANYBODY = 0xFFFFFFFF


def list_of_users(path: Path) -> None:
    """Let one user read and write, and the group nothing: the mode shows the user's rights for the
    group's."""
    own = 7 if path.is_dir() else 6
    entries = ((1, own, ANYBODY), (2, own, 65534), (4, 0, ANYBODY), (16, own, ANYBODY))
    packed = b"".join(struct.pack("<HHI", *entry) for entry in (*entries, (32, 0, ANYBODY)))
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except OSError as exc:
        pytest.skip(f"this file system keeps no lists of users: {exc}")
    assert path.stat().st_mode & 0o070 == own << 3


def rights_of_group(path: Path) -> int:
    try:
        found = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return path.stat().st_mode >> 3 & 7
    listed = {tag: right for tag, right, _ in struct.iter_unpack("<HHI", found[4:])}
    return listed[4] & listed[16]


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="only Linux has lists of users here")
@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_no_copy_of_what_has_a_list_of_users_is_opened_to_the_group(
    tmp_path: Path, kind: str
) -> None:
    """The rights of the list's users passed for the group's: in a backup, and in what was restored
    over a file, or from a backup with such a list to a new place."""
    names = [tmp_path / name for name in ("s.db", "backup.db", "new.db")]
    one, backup, new = names
    scheme = "" if kind == "sqlite" else "lancedb://"
    target, other = (f"{scheme}{path}" for path in (one, new))
    async with aiovec.connect(target) as store:
        await store.create_table("t", SCHEMA)
        await to_thread(list_of_users, one)
        await store.backup(backup)
    assert await to_thread(rights_of_group, backup) == 0
    await aiovec.restore(backup, target, overwrite=True)
    await to_thread(list_of_users, backup)
    await aiovec.restore(backup, other)
    for path in names:
        assert await to_thread(rights_of_group, path) == 0
        assert await to_thread(lambda path=path: os.listxattr(path))  # the user may go on


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_what_is_restored_over_a_folder_is_never_more_open_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while it is made, nor for what within was closed; and no link leads elsewhere."""
    folder, copy = tmp_path / "s", tmp_path / "copy"
    victim = tmp_path / "victim"
    await to_thread(victim.write_text, "x")
    await to_thread(victim.chmod, 0o600)
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a"))
        await store.backup(copy)

    def closed() -> None:
        copy.chmod(0o755)
        folder.chmod(0o755)
        (copy / "t.lance").chmod(0o700)

    await to_thread(closed)
    seen: list[int] = []
    plain = backup_module._give_permissions

    def looked(made: Path, before: Path) -> None:
        seen.append(made.stat().st_mode & 0o777)
        (made / "t.lance" / "link").symlink_to(victim)
        with pytest.raises(OSError, match="link"):
            plain(made, before)
        assert made.stat().st_mode & 0o777 == 0o700
        (made / "t.lance" / "link").unlink()
        plain(made, before)

    monkeypatch.setattr(backup_module, "_give_permissions", looked)
    await aiovec.restore(copy, f"lancedb://{folder}", overwrite=True)
    assert seen == [0o700]
    modes = await to_thread(
        lambda: [path.stat().st_mode & 0o777 for path in (folder, folder / "t.lance", victim)]
    )
    assert modes == [0o755, 0o700, 0o600]


@pytest.mark.parametrize("memory", [False, True])
async def test_a_backup_that_was_cancelled_appears_at_no_later_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    """The call was over, and the file came all the same: a second try met it."""
    reached, go_on = threading.Event(), threading.Event()
    plain = sqlite_backup._settle_copy

    def held(path: Path) -> None:
        plain(path)
        reached.set()
        assert go_on.wait(60)

    monkeypatch.setattr(sqlite_backup, "_settle_copy", held)
    path = tmp_path / "backup.db"
    async with aiovec.connect(":memory:" if memory else tmp_path / "notes.db") as store:
        await store.create_table("t", SCHEMA)
        call = asyncio.ensure_future(store.backup(path))
        assert await to_thread(reached.wait, 60)
        for _ in range(2):
            call.cancel()
            await asyncio.sleep(0.05)
            assert not call.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [name for name in await names_in(tmp_path) if "backup" in name] == []
        await store.backup(path)


async def test_over_a_store(tmp_path: Path) -> None:
    """B4: the backup's rows are there, the old store is kept, no file of it stays beside."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    kept = await aiovec.restore(backup, path)
    assert kept is not None
    assert await ids_in(path) == ["a", "b"]
    assert await ids_in(kept) == ["a", "b", "c"]
    assert await names_in(tmp_path) == sorted(["backup.db", "notes.db", kept.name])
    assert await aiovec.restore(backup, path, overwrite=True) is None
    assert await names_in(tmp_path) == sorted(["backup.db", "notes.db", kept.name])
    async with opened(path) as store:
        await store.insert("t", rows("d"))
    assert await to_thread(check_file, path) == {"t": 3}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
async def test_over_a_store_whose_process_was_killed(tmp_path: Path) -> None:
    """B4: its WAL goes, after its rows went to the old file."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    await to_thread(leave_wal, path)
    kept = await aiovec.restore(backup, path)
    assert await names_in(tmp_path) == sorted(["backup.db", "notes.db", kept.name])
    assert await ids_in(path) == ["a", "b"]
    assert await to_thread(check_file, path) == {"t": 2}
    assert await to_thread(check_file, kept) == {"t": 2003}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_backup_copied_by_hand_beside_a_stale_wal(tmp_path: Path, read_only: bool) -> None:
    """B4: it opened, showed old rows and then was malformed. Now it is refused with the cure."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    await to_thread(leave_wal, path)
    await to_thread(shutil.copy, backup, path)
    before = await names_in(tmp_path)
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=STALE):
            await aiovec.connect(path, read_only=read_only)
    assert set(before) <= set(await names_in(tmp_path))
    await check_cured(backup, path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize("way", ["restored", "copied by hand"])
async def test_a_backup_copied_by_hand_over_a_store_that_came_from_it(
    tmp_path: Path, way: str
) -> None:
    """B4: both had one name for themselves, so it opened beside the stale WAL and was malformed."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    await brought_back(way, backup, path)
    assert await ids_in(path) == ["a", "b"]
    await to_thread(leave_wal, path)
    await to_thread(shutil.copy, backup, path)
    with pytest.raises(CorruptStoreError, match=STALE):
        await aiovec.connect(path)
    await check_cured(backup, path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize("rows_written", [5, 300])
async def test_what_a_restore_put_aside_moved_back_by_hand_beside_a_stale_wal(
    tmp_path: Path, rows_written: int
) -> None:
    """B4: it was never a backup, so nothing told that the WAL is another file's: it opened without
    its newest rows, and was malformed; or it was said to be damaged itself."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    async with aiovec.connect(path) as store:
        await store.insert("t", rows(*(f"late{n}" for n in range(2000))))
    kept = await aiovec.restore(backup, path)
    assert kept is not None
    process = python("-c", FEW_KILLED, str(path), str(rows_written))
    assert await to_thread(process.wait, 120) == -signal.SIGKILL
    await to_thread(os.replace, kept, path)
    with pytest.raises(CorruptStoreError, match=STALE):
        await aiovec.connect(path)
    await to_thread(path.with_name("notes.db-wal").unlink)
    assert len(await ids_in(path)) == 2003


FEW_KILLED = """
import asyncio, os, signal, sys
import aiovec
async def main():
    store = await aiovec.connect(sys.argv[1])
    await store.insert("t", [
        {"id": f"n{n}", "embedding": [n, 2, 3, 4], "source_id": "y" * 50}
        for n in range(int(sys.argv[2]))])
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_backup_that_two_processes_put_into_use_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one gave it another name, in the WAL: whoever came then was told that this belongs
    to another file, and to delete it."""
    backup = await backed_up(tmp_path / "notes.db")
    plain = opening._copy_id
    asked = 0

    def meanwhile(db: sqlite3.Connection) -> object:
        nonlocal asked
        found = plain(db)
        asked += 1
        if asked == 1:
            faster.append(opening.open_writer(backup, SqliteSettings()))
        return found

    faster: list[sqlite3.Connection] = []
    monkeypatch.setattr(opening, "_copy_id", meanwhile)
    async with aiovec.connect(backup) as store:
        assert faster
        await store.insert("t", rows("c"))
        async with aiovec.connect(backup) as other:
            assert await other.count("t") == 3
    faster[0].close()


@pytest.mark.parametrize("ends", [True, False])
async def test_who_only_reads_waits_until_a_backup_is_put_into_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """It was told that there is no store."""
    backup = await backed_up(tmp_path / "notes.db")
    monkeypatch.setattr(layout, "_LOOKS", 100 if ends else 3)
    with sql(backup) as db:
        db.isolation_level = None
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE aiovec_state SET value = 'another' WHERE key = 'copy'")
        assert "backup.db-journal" in await names_in(tmp_path)
        if ends:
            asyncio.get_running_loop().call_later(0.3, db.execute, "COMMIT")
            async with aiovec.connect(backup, read_only=True) as store:
                assert await store.count("t") == 2
            return
        for call in (
            aiovec.connect(backup, read_only=True),
            aiovec.restore(backup, tmp_path / "new.db"),
        ):
            with pytest.raises(AiovecError, match=r"put into use .* open it once for writing"):
                await call


@pytest.mark.parametrize("first", ["", "restored", "copied by hand"])
@pytest.mark.parametrize("way", ["restored", "copied by hand", "undone", "undone by hand", "copy"])
async def test_a_cursor_from_before_a_restore_passes_over_no_new_row(
    tmp_path: Path, first: str, way: str
) -> None:
    """The restored store counted on from the backup, and new rows lay before the cursor; also where
    a backup is put into use a second time, or what a restore has put aside."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    plain = tmp_path / "copy.db"
    await to_thread(shutil.copy, path, plain)
    kept = await aiovec.restore(backup, path) if "undone" in way else backup
    if first:
        await brought_back(first, backup, path)

    async def read(after: bytes | None) -> tuple[list[str], bytes | None]:
        found: list[str] = []
        async with aiovec.connect(path) as store:
            async for batch in store.export("t", after=after):
                found += batch.column("id").to_pylist()
                after = batch.schema.metadata[b"aiovec.cursor"]
        return found, after

    async with aiovec.connect(path) as store:
        await store.insert("t", rows(*(f"gone{n}" for n in range(100))))
        backend = store._follower.engine.backend
        assert isinstance(backend, ChangeFeed)
        since = await backend.change_number(await backend.open_table("t"))
    _, cursor = await read(None)
    assert kept is not None
    found = plain if way == "copy" else kept
    await brought_back("copied by hand" if "by hand" in way else "restored", found, path)
    async with aiovec.connect(path) as store:
        backend = store._follower.engine.backend
        assert isinstance(backend, ChangeFeed)
        new = [f"new{n}" for n in range(50)]
        await store.insert("t", rows(*new))
        told = await backend.changes(await backend.open_table("t"), since)
        assert told.upserted.column("id").to_pylist() == new
    assert await read(cursor) == (new, (await read(None))[1])


@pytest.mark.parametrize("clock", [-3600, 3600])
async def test_a_restore_counts_on_from_what_it_replaces_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """Set back between two restores, it had the second one's changes lie before the cursor."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    now = opening.time.time()
    for seconds, ids in ((now + max(clock, 0), ["one"]), (now + min(clock, 0), ["two"])):
        monkeypatch.setattr(opening.time, "time", lambda seconds=seconds: seconds)
        await aiovec.restore(backup, path, overwrite=True)
        async with aiovec.connect(path) as store:
            await store.insert("t", rows(*ids))
            backend = store._follower.engine.backend
            assert isinstance(backend, ChangeFeed)
            table = await backend.open_table("t")
            if ids == ["one"]:
                since = await backend.change_number(table)
            else:
                told = await backend.changes(table, since)
                assert told.upserted.column("id").to_pylist() == ids


@pytest.mark.parametrize(
    "number", ["2305843009213693951", "4611686018427387903", "-1", "'x'", "NULL"]
)
async def test_a_restore_counts_on_from_no_number_that_no_store_reaches(
    tmp_path: Path, number: str
) -> None:
    """What is replaced may be damaged, and what takes its place must be able to count."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    with sql(path) as db:
        db.execute(f"UPDATE aiovec_state SET value = {number} WHERE key = 'change'")
        db.commit()
    await aiovec.restore(backup, path, overwrite=True)
    async with aiovec.connect(path) as store:
        await store.insert("t", rows("new"))
    assert await ids_in(path) == ["a", "b", "new"]


async def test_every_commit_tells_whose_wal_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B4: what a killed ``optimize`` had left did not, and passed for the WAL of any copy."""
    monkeypatch.setattr(upkeep, "checkpoint", lambda db, ticket: None)
    path = tmp_path / "notes.db"
    schema = Schema(4, fields={"source_id": Field(str, text=True)})
    calls: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
        "create": lambda store: store.create_table("t", schema),
        "insert": lambda store: store.insert("t", rows(*map(str, range(3000)))),
        "upsert": lambda store: store.upsert("t", rows("1", "new")),
        "update": lambda store: store.update("t", {"more": 1}, where="source_id IS NOT NULL"),
        "delete": lambda store: store.delete("t", [str(n) for n in range(2900)]),
        "add a field": lambda store: store.add_field("t", "young", int),
        "optimize": lambda store: store.optimize("t"),
        "optimize again": lambda store: store.optimize("t"),
        "drop a field": lambda store: store.drop_field("t", "young"),
        "drop": lambda store: store.drop_table("t"),
    }
    for name, call in calls.items():
        async with aiovec.connect(path) as store:
            assert not await to_thread(commits_in, path)
            await call(store)
            commits = await to_thread(commits_in, path)
        assert commits, name
        assert all(state_page(path) in pages for pages in commits), name


def commits_in(path: Path) -> list[set[int]]:
    """The pages that each commit in the WAL has written."""
    wal = path.with_name(f"{path.name}-wal")
    data = wal.read_bytes() if wal.exists() else b""
    found: list[set[int]] = []
    pages: set[int] = set()
    size = int.from_bytes(data[8:12])
    for frame in range(32, len(data), size + 24):
        number, committed = struct.unpack_from(">II", data, frame)
        if data[frame + 8 : frame + 16] != data[16:24]:
            break  # of an earlier round
        pages.add(number)
        if committed:
            found.append(pages)
            pages = set()
    return found


def state_page(path: Path) -> int:
    with sql(path) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'aiovec_state'"
        ).fetchone()
    return int(page)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
async def test_the_wal_of_a_restored_store_is_its_own(tmp_path: Path) -> None:
    """B4: what was written to it before a kill is there."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    await aiovec.restore(backup, path)
    await to_thread(leave_wal, path)
    assert len(await ids_in(path)) == 2002


async def test_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    for target in (tmp_path / "new.db", tmp_path / "folder" / "deep" / "new.db"):
        assert await aiovec.restore(backup, target) is None
        assert await ids_in(target) == ["a", "b"]


OTHER_WAYS_TO_USE_IT = ["a store here", "a reader here", "another process", "another library"]


@pytest.mark.parametrize("way", OTHER_WAYS_TO_USE_IT)
async def test_while_it_is_in_use(tmp_path: Path, way: str) -> None:
    """B4: refused, and everything is as it was."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)

    async def refused() -> None:
        before = await names_in(tmp_path)
        for overwrite in (False, True):
            with pytest.raises(StoreBusyError, match="in use"):
                await aiovec.restore(backup, path, overwrite=overwrite)
        assert await names_in(tmp_path) == before

    if way == "a store here":
        async with aiovec.connect(path) as store:
            await refused()
            await store.insert("t", rows("d"))
    elif way == "a reader here":
        async with aiovec.connect(path, read_only=True) as store:
            await store.count("t")
            await refused()
            assert await store.count("t") == 3
    else:
        code = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
            "db.execute('SELECT * FROM aiovec_state').fetchall(); print('ready', flush=True);"
            "sys.stdin.read()"
            if way == "another library"
            else "import sys; from aiovec import sync; store = sync.connect(sys.argv[1]);"
            "print('ready', flush=True); sys.stdin.read(); store.close()"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), stdin=-1, stdout=-1
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await refused()
        await process.communicate(b"")
    assert len(await ids_in(path)) == (4 if way == "a store here" else 3)


async def test_backups_that_are_none(tmp_path: Path) -> None:
    """B4: the backup is checked before anything is changed."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    torn = Path(await to_thread(shutil.copy, backup, tmp_path / "torn.db"))
    await to_thread(_tear, torn)
    text = tmp_path / "text.db"
    await to_thread(text.write_text, "no database " * 50)
    foreign = tmp_path / "foreign.db"
    await to_thread(_foreign, foreign)
    before = await names_in(tmp_path)
    for wrong in (torn, text, foreign):
        with pytest.raises(CorruptStoreError) as caught:
            await aiovec.restore(wrong, path)
        assert caught.value.target == str(wrong)
    with pytest.raises(ConfigError, match="there is no backup"):
        await aiovec.restore(tmp_path / "absent.db", path)
    with pytest.raises(InvalidArgumentError):
        await aiovec.restore(path, path)
    with pytest.raises(UnsupportedError):
        await aiovec.restore(backup, ":memory:")
    assert await names_in(tmp_path) == before
    assert await ids_in(path) == ["a", "b", "c"]


def _tear(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(os.stat(path).st_size // 2)
        file.write(b"\xa5" * 40_000)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")


async def test_targets_that_are_no_store(tmp_path: Path) -> None:
    """B4: a mistyped target is not replaced, unless that is asked for."""
    backup = await backed_up(tmp_path / "notes.db")
    text, foreign = tmp_path / "text.db", tmp_path / "foreign.db"
    await to_thread(text.write_text, "something else " * 50)
    await to_thread(_foreign, foreign)
    for target in (text, foreign):
        with pytest.raises(CorruptStoreError, match="overwrite=True"):
            await aiovec.restore(backup, target)
        await aiovec.restore(backup, target, overwrite=True)
        assert await ids_in(target) == ["a", "b"]


async def test_over_a_damaged_store(tmp_path: Path) -> None:
    """B4: that is what backups are for."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    await to_thread(_tear, path)
    kept = await aiovec.restore(backup, path)
    assert kept is not None
    assert await ids_in(path) == ["a", "b"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
async def test_a_restore_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left the file with two names, and such a file is not opened."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    before = await names_in(tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail_once(os.replace))
        with pytest.raises(AiovecError, match="cannot be written: Input/output error"):
            await aiovec.restore(backup, path)
    assert await names_in(tmp_path) == before
    assert await ids_in(path) == ["a", "b", "c"]


def fail_once(plain: Callable[..., None]) -> Callable[..., None]:
    left = [1]

    def call(*args: Any) -> None:
        if left:
            left.pop()
            raise OSError(errno.EIO, "Input/output error")
        plain(*args)

    return call


async def test_what_killed_processes_have_left_is_removed(tmp_path: Path) -> None:
    """Each may be as large as the store."""
    path = tmp_path / "notes.db"
    backup = await backed_up(path)
    old, new = tmp_path / ".notes.db.0123456789ab.partial", tmp_path / ".notes.db.ab.partial"
    for file in (old, new, tmp_path / ".copy.db.1-2.partial", tmp_path / ".other.db.1-2.partial"):
        file.write_bytes(b"x")
        if file != new:
            os.utime(file, (1e9, 1e9))
    await aiovec.restore(backup, path, overwrite=True)
    async with aiovec.connect(path) as store:
        await store.backup(tmp_path / "copy.db")
    left = [name for name in await names_in(tmp_path) if name.endswith(".partial")]
    assert left == [".notes.db.ab.partial", ".other.db.1-2.partial"]


async def test_through_a_link(tmp_path: Path) -> None:
    """The link stays, and what it leads to is replaced."""
    real = tmp_path / "elsewhere"
    await to_thread(real.mkdir)
    backup = await backed_up(real / "notes.db")
    link = tmp_path / "notes.db"
    await to_thread(os.symlink, real / "notes.db", link)
    await aiovec.restore(backup, link, overwrite=True)
    assert await to_thread(link.is_symlink)
    assert await ids_in(link) == ["a", "b"]


def test_the_command(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "notes.db"
    backup = asyncio.run(backed_up(path))
    done = run("restore", backup, path)
    assert done.code == 0
    assert "before-restore" in done.out
    assert asyncio.run(ids_in(path)) == ["a", "b"]
    assert run("restore", tmp_path / "absent.db", path).code == 1
    assert run("restore", backup, path, "--overwrite", "--json").code == 0


async def test_a_folder_of_lancedb(tmp_path: Path) -> None:
    """B4: a folder is replaced likewise; stores that have it open notice."""
    pytest.importorskip("lancedb")
    folder, backup = tmp_path / "notes", tmp_path / "backup"
    target = f"lancedb://{folder}"
    async with aiovec.connect(target) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a", "b"))
        await store.backup(backup)
        await store.insert("t", rows("c"))
        async with asyncio.timeout(60):
            exporting = store.export("t", batch_size=1)
            await anext(exporting)
            with pytest.raises(StoreBusyError, match="in use"):
                await aiovec.restore(backup, target)
            await exporting.aclose()
        kept = await aiovec.restore(backup, target)
        with pytest.raises(StoreReplacedError):
            await store.insert("t", rows("d"))
    assert kept is not None
    assert await ids_in(target) == ["a", "b"]
    assert await ids_in(f"lancedb://{kept}") == ["a", "b", "c"]
    assert await names_in(tmp_path) == sorted(["backup", kept.name, "notes"])
    assert await aiovec.restore(backup, target, overwrite=True) is None
    (data,) = await to_thread(lambda: list(backup.glob("t.lance/data/*")))
    await to_thread(os.truncate, data, 100)
    with pytest.raises(AiovecError):
        await aiovec.restore(backup, target)
    with pytest.raises(CorruptStoreError, match="not a LanceDB backup"):
        await aiovec.restore(kept / "t.lance", target)
    assert await names_in(tmp_path) == sorted(["backup", kept.name, "notes"])
    assert await ids_in(target) == ["a", "b"]


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[]", b'{"generation": -1}', b"[" * 100_000])
async def test_a_backup_whose_record_of_migrations_cannot_be_read(
    tmp_path: Path, text: bytes
) -> None:
    """Its rows can, and the store has no record then."""
    folder = tmp_path / "s"
    target, backup = await folder_and_backup(folder)
    await to_thread((backup / ".aiovec" / "_move.json").write_bytes, text)
    await aiovec.restore(backup, target, overwrite=True)
    assert await ids_in(target) == ["a", "b"]
    assert not (folder / ".aiovec" / "_move.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("what", ["a pipe", "a link", "too much"])
async def test_a_backup_whose_record_of_migrations_is_none(tmp_path: Path, what: str) -> None:
    """A restore waited for ever for what a pipe would bring."""
    target, backup = await folder_and_backup(tmp_path / "s")
    record, elsewhere = backup / ".aiovec" / "_move.json", tmp_path / "elsewhere"
    await to_thread(elsewhere.write_bytes, b'{"generation": 7}' + b" " * 2**20)
    if what == "a pipe":
        await to_thread(os.mkfifo, record)
    elif what == "a link":
        await to_thread(record.symlink_to, elsewhere)
    else:
        await to_thread(shutil.copy, elsewhere, record)
    async with asyncio.timeout(60):
        await aiovec.restore(backup, target, overwrite=True)
    assert await ids_in(target) == ["a", "b"]
    assert not (tmp_path / "s" / ".aiovec" / "_move.json").exists()


async def test_over_a_store_without_tables(tmp_path: Path) -> None:
    """As after the accident that the backup was made for."""
    pytest.importorskip("lancedb")
    for target in (str(tmp_path / "a.db"), f"lancedb://{tmp_path}/a"):
        backup, empty = tmp_path / f"copy{len(target)}", tmp_path / f"empty{len(target)}"
        async with aiovec.connect(target) as store:
            await store.create_table("t", SCHEMA)
            await store.insert("t", rows("a"))
            await store.backup(backup)
            await store.drop_table("t")
            await store.backup(empty)
        assert await aiovec.restore(backup, target) is not None
        assert await ids_in(target) == ["a"]
        assert await aiovec.restore(empty, target, overwrite=True) is None
        async with aiovec.connect(target) as store:
            assert await store.tables() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two renames have to do")
async def test_a_restore_that_is_killed_leaves_a_store_in_its_place(tmp_path: Path) -> None:
    """Between two renames there was none, and whoever opened it began an empty one."""
    pytest.importorskip("lancedb")
    target, backup = f"lancedb://{tmp_path}/notes", tmp_path / "backup"
    async with aiovec.connect(target) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a"))
        await store.backup(backup)
    for renames in range(3):
        code = (
            "import asyncio, os, pathlib, sys\n"
            "import aiovec\n"
            "plain, left = pathlib.Path.rename, [int(sys.argv[1])]\n"
            "def rename(*args):\n"
            "    if not left[0]:\n"
            "        os.kill(os.getpid(), 9)\n"
            "    left[0] -= 1\n"
            "    return plain(*args)\n"
            "pathlib.Path.rename = rename\n"
            "asyncio.run(aiovec.restore(sys.argv[2], sys.argv[3]))\n"
        )
        command = [sys.executable, "-c", code, str(renames), str(backup), target]
        await to_thread(subprocess.run, command, timeout=60)
        assert await ids_in(target) == ["a"], renames


async def test_what_a_killed_copy_of_a_folder_left_is_removed(tmp_path: Path) -> None:
    """Not one that may still be written, and nothing that a user has named alike."""
    pytest.importorskip("lancedb")
    target, end = f"lancedb://{tmp_path}/notes", "0123456789ab"
    async with aiovec.connect(target) as store:
        await store.create_table("t", SCHEMA)
    old = [f".notes.{end}.partial", f"copy.partial-{end}"]
    kept = [".notes.mine.partial", "copy.partial-mine", f"copy.partial-{end[::-1]}"]
    for name in old + kept:
        await to_thread((tmp_path / name / "t.lance").mkdir, parents=True)
        for path in (tmp_path / name / "t.lance", tmp_path / name):
            await to_thread(os.utime, path, (1e9, 1e9))
    await to_thread((tmp_path / kept[-1] / "new").touch)
    async with aiovec.connect(target) as store:
        await store.backup(tmp_path / "copy")
    await aiovec.restore(tmp_path / "copy", target, overwrite=True)
    assert await names_in(tmp_path) == sorted(["copy", "notes", *kept])


@pytest.mark.parametrize("scheme", ["sqlite", "lancedb"])
async def test_a_backup_may_be_named_as_the_target_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """And where nothing can be put, no folder of that name is made here."""
    if scheme == "lancedb":
        pytest.importorskip("lancedb")
    await to_thread(monkeypatch.chdir, tmp_path)
    source, copy, target = (f"{scheme}://{tmp_path}/{name}.db" for name in ("a", "b", "c"))
    async with aiovec.connect(source) as store:
        await store.create_table("t", SCHEMA)
        await store.insert("t", rows("a", "b"))
        await store.backup(copy)
        for elsewhere in ("s3://bucket/copy", "http://127.0.0.1:1/", "memory://"):
            with pytest.raises(InvalidArgumentError, match="a path on this machine"):
                await store.backup(elsewhere)
        with pytest.raises(ConfigError, match="no backend here answers to nosuch://"):
            await store.backup("nosuch://copy")
    await aiovec.restore(copy, target)
    with pytest.raises(InvalidArgumentError, match="a path on this machine"):
        await aiovec.restore("s3://bucket/copy", target, overwrite=True)
    assert await ids_in(target) == ["a", "b"]
    assert await names_in(tmp_path) == ["a.db", "b.db", "c.db"]
