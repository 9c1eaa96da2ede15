"""Scan files: processes share them, and no row is read from another table's file."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.command import run
from tests.harness.processes import python
from tests.harness.waiting import until
from tests.sqlite.support import memory_for_copies, open_store, opened, ready, sql

import aiovec
from aiovec import Schema, VectorStore
from aiovec.backend.context import CallContext, calling
from aiovec.backend.files import try_lock
from aiovec.errors import StoreClosedError

# 600 KiB of vectors and codes; in these tests, tables of 300 KiB and more get a scan file.
ROWS, DIM, TABLE = 1_800, 64, "notes"
NAME = "a.db"
# The end of the name of another program's file.
FOREIGN = "0" * 32


pytestmark = pytest.mark.usefixtures("small_scan_files")


def vectors_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)


def rows_of(count: int, seed: int, *, first: int = 0) -> dict[str, Any]:
    ids = [f"r{seed}-{n}" for n in range(first, first + count)]
    return {"id": ids, "embedding": vectors_of(count, seed), "n": list(range(count))}


async def create(store: VectorStore, name: str = TABLE, *, seed: int = 0) -> None:
    await store.create_table(name, Schema(DIM, fields={"n": int}))
    await store.insert(name, rows_of(ROWS, seed))


def scan_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-scan-*"))


async def kept(store: VectorStore, folder: Path, count: int = 1) -> None:
    """Search until the folder has ``count`` scan files that the store uses."""

    async def is_there() -> bool:
        for name in await store.tables():
            await store.search(name, [1.0] * DIM, limit=1)
        return await asyncio.to_thread(lambda: _counted(folder)) == count

    await until(is_there)


def _counted(folder: Path) -> int:
    with sql(folder / NAME) as db:
        result = db.execute("SELECT value FROM aiovec_state WHERE key LIKE 'scan:%'").fetchall()
    names = {str(value)[:32] for (value,) in result}
    files = {file.name[-32:] for file in scan_files(folder)} - {FOREIGN}
    return len(files) if names == files else -1


async def searched(store: VectorStore, table: str = TABLE) -> dict[str, Any]:
    return dict((await store.stats(table)).details)


async def check(store: VectorStore, table: str = TABLE) -> None:
    """Check that searches find the same rows as a scan of an export, with the same fields."""
    ids: list[str] = []
    numbers: list[int] = []
    blocks = []
    async for batch in store.export(table):
        ids += batch.column("id").to_pylist()
        numbers += batch.column("n").to_pylist()
        blocks.append(batch.column("embedding").flatten().to_numpy().reshape(-1, DIM))
    vectors = np.concatenate(blocks).astype("f8")
    lengths = np.linalg.norm(vectors, axis=1)
    for query in vectors_of(4, 99).astype("f8"):
        far = 1 - vectors @ query / lengths / np.linalg.norm(query)
        best = np.argsort(far)[:10]
        hits = await store.search(table, query, limit=10)
        assert [hit.id for hit in hits] == [ids[place] for place in best]
        assert [hit["n"] for hit in hits] == [numbers[place] for place in best]
        assert np.allclose([hit.distance for hit in hits], far[best], rtol=1e-9)


@pytest.fixture(scope="module")
def made(small_scan_files: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store with a scan file, for tests to copy."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with opened(folder / NAME) as store:
            await create(store)
            await kept(store, folder)

    asyncio.run(make())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


async def test_a_process_searches_in_memory_with_its_first_call(folder: Path) -> None:
    async with opened(folder / NAME) as store:
        await store.search(TABLE, [1.0] * DIM, limit=1)
        details = await searched(store)
        assert details["searched"] == "in memory"
        assert details["scan_file"] == ROWS * (5 * DIM + 20)
        assert (await store.stats(TABLE)).scan_memory == 0  # nothing is private
        await check(store)
        before = scan_files(folder)
        await store.upsert(TABLE, rows_of(20, 0) | {"embedding": vectors_of(20, 3)})
        await store.delete(TABLE, ids=[f"r0-{n}" for n in range(10, 30)])
        await check(store)
        assert (await store.stats(TABLE)).scan_memory > 0
        assert (await searched(store))["searched"] == "in memory"
    assert scan_files(folder) == before  # too little has changed for a new one
    async with opened(folder / NAME) as store:
        await check(store)
        assert (await searched(store))["searches"]["searches"] == 4


async def test_a_scan_file_is_replaced_when_an_eighth_of_the_rows_has_changed(folder: Path) -> None:
    before = scan_files(folder)
    async with opened(folder / NAME) as store, opened(folder / NAME) as other:
        await ready(other, TABLE)
        await store.insert(TABLE, rows_of(ROWS // 4, 1))

        async def is_new() -> bool:
            await check(store)
            await check(other)
            size = (ROWS + ROWS // 4) * (5 * DIM + 20)
            sizes = [(await searched(each))["scan_file"] for each in (store, other)]
            return sizes == [size, size]

        await until(is_new, seconds=60)
        await kept(store, folder)
    assert scan_files(folder) != before


async def test_private_memory_alone_is_bounded(folder: Path) -> None:
    with memory_for_copies(64 * 2**10):
        store = await open_store(folder / NAME)
    async with store:
        await check(store)
        assert (await searched(store))["searched"] == "in memory"
        for number in range(10):  # the masks of filters get a sixteenth of the memory
            await store.search(TABLE, [1.0] * DIM, where=f"n > {number}")
            assert 0 < (await store.stats(TABLE)).scan_memory <= 4 * 2**10
        await store.insert(TABLE, rows_of(200, 4))  # 66 KiB: what is private is too much
        await check(store)
        assert (await store.stats(TABLE)).scan_memory <= 64 * 2**10

        async def is_new() -> bool:
            await check(store)
            return bool((await searched(store))["scan_file"] == (ROWS + 200) * (5 * DIM + 20))

        await until(is_new)


async def test_tables_too_small_for_a_file_share_the_memory_and_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table leaves the memory if it was not searched for a minute, or if it grows too large."""

    async def memory() -> list[bool]:
        return [(await store.stats(name)).scan_memory > 0 for name in ("red", "blue")]

    with memory_for_copies(64 * 2**10):
        store = await open_store(tmp_path / NAME)
    async with store:
        for name in ("red", "blue"):
            await store.create_table(name, Schema(DIM, fields={"n": int}))
            await store.insert(name, rows_of(100, 0))  # 33 KiB
        await ready(store, "red")
        for _ in range(2):
            await check(store, "blue")
        assert await memory() == [True, False]
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 100)
        await ready(store, "blue")
        assert await memory() == [False, True]
        await store.insert("blue", rows_of(150, 1))
        await check(store, "blue")
        assert await memory() == [False, False]
        await check(store, "blue")


async def test_a_scan_file_is_removed_with_its_table(folder: Path) -> None:
    async with opened(folder / NAME) as store:
        await create(store, "others", seed=5)
        await kept(store, folder, 2)
        await store.drop_table(TABLE)
        await kept(store, folder, 1)
        await store.rename_table("others", "mine")
        await check(store, "mine")
        await kept(store, folder, 1)
        await store.drop_table("mine")
        await until(lambda: _none_left(folder))
        await create(store, "mine", seed=6)
        await check(store, "mine")


async def _none_left(folder: Path) -> bool:
    return not await asyncio.to_thread(scan_files, folder)


async def test_a_copy_of_a_table_that_another_process_dropped_is_let_go(tmp_path: Path) -> None:
    async with opened(tmp_path / NAME) as store, opened(tmp_path / NAME) as other:
        for name in ("red", "blue"):
            await store.create_table(name, Schema(8))
            await store.insert(name, {"id": ["a"], "embedding": np.ones((1, 8), "f4")})
            await ready(other, name)
        taken = (await other.stats("red")).scan_memory
        await store.drop_table("red")
        await store.create_table("red", Schema(8))

        async def is_let_go() -> bool:
            await store.upsert("blue", {"id": ["a"], "embedding": np.ones((1, 8), "f4")})
            await other.search("blue", [1.0] * 8)
            return (await other.stats("red")).scan_memory == 0

        assert taken
        await until(is_let_go)


@dataclass(frozen=True)
class Attack:
    """A change to a closed store with a scan file, and whether the file is still valid."""

    name: str
    act: Callable[[Path], Awaitable[None]]
    counts: bool = False


async def _changed(path: Path, **settings: Any) -> None:
    """Change rows in a store that uses no scan file."""
    async with opened(path, scan="disk", **settings) as store:
        await store.delete(TABLE, where="n < 5")
        await store.upsert(TABLE, rows_of(5, 0, first=20) | {"embedding": vectors_of(5, 7)})


async def _an_older_store(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk") as store:
        await store.backup(folder / "older.db")
        await store.delete(TABLE, where="n < 100")
    for file in scan_files(folder):
        file.unlink()
    async with opened(folder / NAME) as store:
        await kept(store, folder)
    os.replace(folder / "older.db", folder / NAME)


async def _an_older_store_that_goes_on(folder: Path) -> None:
    await _an_older_store(folder)
    await _changed(folder / NAME)


async def _restored(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk") as store:
        await store.backup(folder / "b.db")
    await _changed(folder / NAME)
    await aiovec.restore(folder / "b.db", folder / NAME, overwrite=True)


async def _another_store(folder: Path) -> None:
    (folder / "sub").mkdir()
    async with opened(folder / "sub" / NAME) as store:
        await create(store, seed=8)
    for end in ("", "-wal", "-shm"):
        if (folder / f"sub/{NAME}{end}").exists():
            os.replace(folder / f"sub/{NAME}{end}", folder / f"{NAME}{end}")
    for file in scan_files(folder / "sub"):
        file.unlink()


async def _recreated(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk") as store:
        with sql(folder / NAME) as db:
            (token,) = db.execute(
                "SELECT value FROM aiovec_state WHERE key GLOB 'scan:*'"
            ).fetchone()
        await store.drop_table(TABLE)
        await create(store, seed=9)
    with sql(folder / NAME) as db:  # like an earlier version
        db.execute("INSERT INTO aiovec_state VALUES (?, ?)", (f"scan:{TABLE}", token))
        db.commit()


async def _pruned(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk", keep_deletes=0) as store:
        await store.delete(TABLE, where="n < 20")
        await store.optimize(TABLE)


async def _altered(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk") as store:
        await store.add_field(TABLE, "more", aiovec.Field(int))


async def _vacuumed(folder: Path) -> None:
    with sql(folder / NAME) as db:
        db.execute("VACUUM")


async def _of_another_table(folder: Path) -> None:
    """Swap the scan files of two tables by their tokens."""
    async with opened(folder / NAME) as store:
        await create(store, "others", seed=5)
        await kept(store, folder, 2)
    with sql(folder / NAME) as db:
        tokens = db.execute(
            "SELECT key, value FROM aiovec_state WHERE key GLOB 'scan:*'"
        ).fetchall()
        (key, first), (other_key, second) = tokens
        db.execute("UPDATE aiovec_state SET value = ? WHERE key = ?", (second, key))
        db.execute("UPDATE aiovec_state SET value = ? WHERE key = ?", (first, other_key))
        db.commit()


def _edited(edit: Callable[[Any, int], None]) -> Callable[[Path], Awaitable[None]]:
    async def act(folder: Path) -> None:
        (path,) = scan_files(folder)
        with path.open("r+b") as file:
            edit(file, path.stat().st_size)

    return act


def _flipped(place: int) -> Callable[[Any, int], None]:
    def flip(file: Any, _: int) -> None:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 64]))

    return flip


def _told(facts: dict[str, Any]) -> Callable[[Path], Awaitable[None]]:
    """Return an attack that changes the facts in the file's head, with a matching token."""

    async def act(folder: Path) -> None:
        (path,) = scan_files(folder)
        with path.open("r+b") as file:
            magic, head = file.read(16), file.read(4096 - 16)
            told = {**json.loads(head.rstrip(b"\0")), **facts}
            head = (magic + json.dumps(told).encode()).ljust(4096, b"\0")
            file.seek(0)
            file.write(head)
        with sql(folder / NAME) as db:
            digest = hashlib.blake2b(head, digest_size=32).hexdigest()
            changed = "UPDATE aiovec_state SET value = substr(value, 1, 32) || ? WHERE key = ?"
            db.execute(changed, (digest, f"scan:{TABLE}"))
            db.commit()

    return act


ATTACKS = (
    Attack("rows come and go", lambda folder: _changed(folder / NAME), counts=True),
    Attack("VACUUM", _vacuumed, counts=True),
    Attack("an older store in its place", _an_older_store),
    Attack("an older store that goes on", _an_older_store_that_goes_on),
    Attack("restored", _restored),
    Attack("another store in its place", _another_store),
    Attack("dropped and made anew", _recreated),
    Attack("deletes are forgotten", _pruned),
    Attack("altered", _altered),
    Attack("the file of another table", _of_another_table),
    Attack("cut", _edited(lambda file, size: file.truncate(size - 1))),
    Attack("cut to its head", _edited(lambda file, _: file.truncate(4096))),
    Attack("cut within its head", _edited(lambda file, _: file.truncate(100))),
    Attack("empty", _edited(lambda file, _: file.truncate(0))),
    Attack("longer", _edited(lambda file, size: file.truncate(size + 1))),
    Attack("the head flipped", _edited(_flipped(40))),
    Attack("the layout flipped", _edited(_flipped(28))),
    Attack("a bound flipped", _edited(_flipped(65_536 + 7))),
    Attack("a rowid flipped", _edited(_flipped(131_072 + 8))),
    Attack("more rows than a number has", _told({"rows": 1e308})),
    Attack("rows as a text", _told({"rows": "9"})),
    Attack("a change as a text", _told({"change": "9"})),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_scan_file_that_is_not_tables_is_never_used(folder: Path, attack: Attack) -> None:
    await attack.act(folder)
    before = set(scan_files(folder))
    async with opened(folder / NAME) as store:
        await store.search(TABLE, [1.0] * DIM, limit=1)
        if attack.counts:
            assert (await searched(store))["searched"] == "in memory"
        for name in await store.tables():
            await check(store, name)
            await ready(store, name)
            await check(store, name)
        await kept(store, folder, len(await store.tables()))
        assert (before <= set(scan_files(folder))) is attack.counts
        assert before.isdisjoint(scan_files(folder)) is not attack.counts


async def test_rows_whose_deletes_are_forgotten_are_found_no_more(folder: Path) -> None:
    async with opened(folder / NAME) as store:
        await ready(store, TABLE)
        await _pruned(folder)
        hits = await store.search(TABLE, vectors_of(ROWS, 0)[7], limit=1)
        assert hits[0].id != "r0-7"


async def test_a_store_is_copied_and_moved_with_its_file(folder: Path) -> None:
    (file,) = scan_files(folder)
    (folder / "sub").mkdir()
    shutil.copy(folder / NAME, folder / "sub/b.db")
    shutil.copy(file, folder / "sub" / file.name.replace(NAME, "b.db"))
    async with opened(folder / "sub/b.db") as copy:
        await copy.search(TABLE, [1.0] * DIM, limit=1)
        assert (await searched(copy))["searched"] == "in memory"
        await copy.delete(TABLE, where="n < 100")
        await check(copy)
    async with opened(folder / NAME) as store:
        await check(store)
        assert (await searched(store))["searched"] == "in memory"


async def test_a_store_opened_by_a_link_uses_the_same_scan_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/link.db").symlink_to(folder / NAME)
    async with opened(folder / "sub/link.db") as store:
        await store.search(TABLE, [1.0] * DIM, limit=1)
        assert (await searched(store))["searched"] == "in memory"
    assert [file.name for file in (folder / "sub").iterdir()] == ["link.db"]


async def test_read_only_stores_use_a_scan_file_and_write_none(folder: Path) -> None:
    for has_file in (True, False):
        async with aiovec.connect(folder / NAME, read_only=True) as store:
            await store.search(TABLE, [1.0] * DIM, limit=1)
            assert ((await searched(store))["scan_file"] > 0) is has_file
            await ready(store, TABLE)
            await check(store)
        assert bool(scan_files(folder)) is has_file
        for file in scan_files(folder):
            file.unlink()


async def test_a_backup_has_no_scan_file_and_a_deleted_one_is_written_again(folder: Path) -> None:
    (folder / "sub").mkdir()
    async with opened(folder / NAME) as store:
        await ready(store, TABLE)
        await store.backup(folder / "sub" / NAME)
        scan_files(folder)[0].unlink()
        await check(store)
    assert [file.name for file in (folder / "sub").iterdir()] == [NAME]
    async with opened(folder / NAME) as store:
        await kept(store, folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
async def test_scan_file_has_stores_permissions_and_foreign_files_stay(tmp_path: Path) -> None:
    foreign = tmp_path / f"{NAME}-scan-{FOREIGN}"
    foreign.write_bytes(b"another program's")
    async with opened(tmp_path / NAME) as store:
        os.chmod(tmp_path / NAME, 0o640)
        await create(store)

        await kept(store, tmp_path)
    (file,) = (file for file in scan_files(tmp_path) if file != foreign)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    os.chmod(tmp_path / NAME, 0o600)
    async with opened(tmp_path / NAME) as store:
        await store.search(TABLE, [1.0] * DIM)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert foreign.read_bytes() == b"another program's"


@contextmanager
def written_elsewhere(folder: Path) -> Iterator[None]:
    """Simulate a scan file that another process is writing, so that loads wait for it."""
    path = folder / f"{NAME}-scan-{'1' * 32}"
    with path.open("w+b") as file:
        file.write(b"aiovec scan file")
        file.flush()
        assert try_lock(file.fileno())
        yield
    path.unlink(missing_ok=True)


async def test_searches_that_wait_for_a_load_are_answered_by_the_file(folder: Path) -> None:
    scan_files(folder)[0].unlink()
    async with opened(folder / NAME, busy_timeout=1) as store:
        with written_elsewhere(folder):
            calls = (store.search(TABLE, query, limit=3) for query in vectors_of(24, 3))
            matches = await asyncio.gather(*calls)
            assert all(len(hits) == 3 for hits in matches)
            details = await searched(store)
            assert details["searched"] == "from the file"
        await check(store)
        await kept(store, folder)  # the file of a killed process was removed


async def test_close_fails_the_searches_that_wait_for_a_load(folder: Path) -> None:
    scan_files(folder)[0].unlink()
    with written_elsewhere(folder):
        store = await open_store(folder / NAME)
        await store.search(TABLE, [1.0] * DIM)
        waiting = [asyncio.create_task(store.search(TABLE, [1.0] * DIM)) for _ in range(8)]
        await asyncio.sleep(0)
        await store.close()
        result = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, StoreClosedError) for outcome in result)


async def test_searches_do_not_wait_for_a_writer_that_has_stopped(folder: Path) -> None:
    """Nor do they wait for a lock that a killed writer's child has inherited."""
    scan_files(folder)[0].unlink()
    with written_elsewhere(folder):
        async with opened(folder / NAME, busy_timeout=1) as store:
            await ready(store, TABLE)
            await check(store)


async def _left(store: VectorStore) -> None:
    """Search until the table is in private memory."""

    async def is_private() -> bool:
        await check(store)
        details = await searched(store)
        return details["searched"] == "in memory" and not details["scan_file"]

    await until(is_private)


async def test_a_table_that_shrank_leaves_its_file(folder: Path) -> None:
    async with opened(folder / NAME, scan="disk") as store:
        await store.delete(TABLE, where="n >= 20")
    async with aiovec.connect(folder / NAME, read_only=True) as store:
        await _left(store)
    assert scan_files(folder)
    async with opened(folder / NAME) as store:
        await _left(store)
        await until(lambda: _none_left(folder))
    async with opened(folder / NAME) as store:
        await check(store)
        assert not (await searched(store))["scan_file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
async def test_a_pipe_in_place_of_the_scan_file_stays(folder: Path) -> None:
    (file,) = scan_files(folder)
    file.unlink()
    os.mkfifo(file)
    async with opened(folder / NAME) as store:
        await ready(store, TABLE)
        await check(store)
    assert file.is_fifo()


async def test_a_store_restored_over_another_removes_its_files(folder: Path) -> None:
    async with opened(folder / "small.db") as store:
        await store.create_table(TABLE, Schema(DIM, fields={"n": int}))
        await store.insert(TABLE, rows_of(20, 0))
        await store.backup(folder / "backup.db")
    await aiovec.restore(folder / "backup.db", folder / NAME, overwrite=True)
    async with opened(folder / NAME) as store:
        await ready(store, TABLE)
        await until(lambda: _none_left(folder))


# Disks that fail


def _zeroed(file: Any, size: int) -> None:
    """Overwrite the vectors, which are at the end, with zeros."""
    length = 4 * DIM * ROWS
    file.seek(size - length)
    file.write(bytes(length))


async def test_a_mapping_whose_flush_failed_is_not_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system drops pages that it could not write, so the mapping may lose rows."""
    scan_files(folder)[0].unlink()
    fsync, failed = os.fsync, []

    def fail(number: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        if "-scan-" not in path.name:
            return fsync(number)
        with path.open("r+b") as file:
            _zeroed(file, path.stat().st_size)
        failed.append(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if not sys.platform.startswith("linux"):
        pytest.skip("the file of a descriptor is known on Linux")
    monkeypatch.setattr(os, "fsync", fail)
    async with opened(folder / NAME) as store:
        await until(lambda: _searched_until(store, failed))
        await _left(store)
    assert not scan_files(folder)


async def _searched_until(store: VectorStore, done: list[Any]) -> bool:
    await store.search(TABLE, [1.0] * DIM, limit=1)
    return bool(done)


async def test_impossible_distances_show_that_the_file_is_damaged(folder: Path) -> None:
    await _edited(_zeroed)(folder)
    async with opened(folder / NAME) as store:
        await check(store)
        await _left(store)
        await until(lambda: _none_left(folder))


async def test_rows_that_are_read_again_after_a_damage_are_counted_again(folder: Path) -> None:
    """The first 32 queries are answered, then one finds a damaged vector."""

    def zero_one(file: Any, size: int) -> None:
        file.seek(size - 4 * DIM * (ROWS - 1_000))
        file.write(bytes(4 * DIM))

    queries = [*vectors_of(ROWS, 0)[:40], vectors_of(ROWS, 0)[1_000]]
    counted: list[int] = []

    async def total() -> int:
        counted.clear()
        async with opened(folder / NAME) as store:
            with calling(CallContext(check_bytes=counted.append)):
                matches = await store.search_many(TABLE, queries, limit=1)
            assert [hits[0].id for hits in matches] == [f"r0-{n}" for n in (*range(40), 1_000)]
        return max(counted)

    whole = await total()
    await _edited(zero_one)(folder)
    assert await total() == whole


async def test_a_scan_file_is_written_again_some_time_after_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    scan_files(folder)[0].unlink()
    async with opened(folder / NAME) as store:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (800_000, before[1]))  # half of its bytes
        try:
            await _left(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not scan_files(folder)
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 1_000)
        await kept(store, folder)


async def test_a_table_is_private_where_the_disk_has_no_room_for_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_files(folder)[0].unlink()
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    async with opened(folder / NAME) as store:
        async with asyncio.timeout(30):
            await _left(store)
    assert not scan_files(folder)


def test_doctor_finds_a_damaged_byte_in_any_part_of_a_scan_file(folder: Path) -> None:
    (file,) = scan_files(folder)
    sound = run("doctor", "-s", folder / NAME)
    assert sound.code == 0, sound.out
    assert f"{file.name}: sound" in sound.out
    size = file.stat().st_size
    codes = size - 5 * DIM * ROWS
    for name, place in (("upper halves", codes), ("lower halves", codes + ROWS * DIM // 2),
                        ("vectors", size - 1), ("head", 20)):  # fmt: skip
        with case(name), file.open("r+b") as opened_file:
            _flipped(place)(opened_file, size)
            opened_file.flush()
            damaged = run("doctor", "-s", folder / NAME)
            assert damaged.code == 1
            assert f"delete {file}" in damaged.out
            _flipped(place)(opened_file, size)


WRITER = """
import asyncio, sys
import aiovec

async def main(path, table, dim):
    async with aiovec.connect(path) as store:
        print("open", flush=True)
        while not (await store.stats(table)).details["scan_file"]:
            await store.search(table, [1.0] * dim, limit=1)
        while len(sys.argv) > 4:
            await asyncio.sleep(0.01)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_processes_write_one_scan_file_at_the_same_time(folder: Path) -> None:
    for file in scan_files(folder):
        file.unlink()
    writers = [python("-c", WRITER, str(folder / NAME), TABLE, str(DIM)) for _ in range(2)]
    for writer in writers:
        assert await asyncio.to_thread(writer.wait, 120) == 0
    async with opened(folder / NAME) as store:
        await check(store)
        await kept(store, folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_process_killed_while_it_writes_scan_file_leaves_nothing_behind(folder: Path) -> None:
    for file in scan_files(folder):
        file.unlink()
    store = await open_store(folder / NAME, scan="disk")  # so that the WAL stays
    for seconds in (0.0, 0.05):
        writer = python(
            "-c", WRITER, str(folder / NAME), TABLE, str(DIM), "on", stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        await asyncio.to_thread(writer.stdout.readline)
        await asyncio.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        await asyncio.to_thread(writer.communicate)
        async with opened(folder / NAME) as other:
            await check(other)
    await store.close()
    async with opened(folder / NAME) as store:
        await ready(store, TABLE)
        await check(store)
        await store.insert(TABLE, rows_of(ROWS // 4, 2))
        await check(store)
        await kept(store, folder)
