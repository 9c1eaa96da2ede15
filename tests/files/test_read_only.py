"""Read-only stores, including stores on read-only media."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from asyncio import to_thread
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import contents
from tests.files.calls import QUERY, WRITES, exported
from tests.harness.scripts import DIM, KINDS, SCHEMA, TABLE, row, target_in

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    StorePermissionError,
    StoreReplacedError,
    UnsupportedError,
    VectorStore,
    sync,
)
from aiovec.asgi import lifespan


async def fill(folder: Path, kind: str) -> str:
    """Create and close a store with two rows; return its target."""
    target = target_in(folder, kind)
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row("a", 1), row("b", 2)])
    return target


@pytest.fixture
def sealed() -> Iterator[Callable[[Path, Path], None]]:
    """Return a function that mounts a folder where not even root can write."""
    mounted: list[Path] = []

    def seal(folder: Path, place: Path) -> None:
        place.mkdir(exist_ok=True)
        for command in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
            done = subprocess.run(["mount", *command, str(place)], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("this user cannot mount")
            if place not in mounted:
                mounted.append(place)

    if shutil.which("mount") is None:
        pytest.skip("this system has no mount")
    yield seal
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


async def check_reads(store: VectorStore, copy: Path) -> None:
    """Make every read call, and back up the store."""
    assert store.read_only
    assert store.supports("read-only")
    await store.ping()
    assert await store.tables() == [TABLE]
    assert (await store.schema(TABLE)).dim == DIM
    assert await store.count(TABLE) == 2
    assert [record.id for record in await store.get(TABLE, ["b", "a"])] == ["b", "a"]
    assert [record.id for record in await store.find(TABLE, "year = 1")] == ["a"]
    assert {hit.id for hit in await store.search(TABLE, QUERY)} == {"a", "b"}
    assert len(await store.search_many(TABLE, [QUERY, QUERY])) == 2
    assert sum(map(len, await exported(store))) == 2
    assert (await store.stats(TABLE)).rows == 2
    await store.create_table(TABLE, SCHEMA, exist_ok=True)
    await store.backup(copy)


async def check_refusals(store: VectorStore) -> None:
    for name, call in WRITES.items():
        with pytest.raises(UnsupportedError, match="read_only=True") as caught:
            await call(store)
        assert caught.value.ability in name


@pytest.mark.parametrize("kind", KINDS)
async def test_a_read_only_store_reads_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    """Its files do not change."""
    target = await fill(tmp_path, kind)
    before = await to_thread(contents, tmp_path)
    async with aiovec.connect(target, read_only=True) as store:
        await check_reads(store, tmp_path / "copy")
        await check_refusals(store)
    after = await to_thread(contents, tmp_path)
    assert {name: after.get(name) for name in before} == before
    # SQLite needs these files to read while other processes may write.
    others = {name for name in after.keys() - before.keys() if not name.startswith("copy")}
    assert others <= {"store.db-shm", "store.db-wal"}
    async with aiovec.connect(target) as store:
        assert not store.read_only


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_on_a_read_only_medium_is_read(
    tmp_path: Path, kind: str, sealed: Callable[[Path, Path], None]
) -> None:
    folder, medium = tmp_path / "folder", tmp_path / "medium"
    await to_thread(folder.mkdir)
    await fill(folder, kind)
    before = await to_thread(contents, folder)
    await to_thread(sealed, folder, medium)
    async with aiovec.connect(target_in(medium, kind), read_only=True) as store:
        await check_reads(store, tmp_path / "copy")
        await check_refusals(store)
    assert await to_thread(contents, folder) == before
    if kind == "sqlite":
        with pytest.raises(StorePermissionError, match="read_only=True"):
            await aiovec.connect(target_in(medium, kind))
        return
    async with aiovec.connect(target_in(medium, kind)) as store:
        assert await store.count(TABLE) == 2  # reading needs no write permission
        assert {hit.id for hit in await store.search(TABLE, QUERY)} == {"a", "b"}
        with pytest.raises(StorePermissionError, match="Read-only"):
            await store.insert(TABLE, [row("c", 3)])


LONG = {"id": "", "embedding": QUERY, "name": "x" * 20_000, "year": 0}


@pytest.mark.parametrize("sealing", [False, True])
async def test_a_long_read_beside_a_writer_ends_or_names_keep_versions(
    tmp_path: Path, sealed: Callable[[Path, Path], None], sealing: bool
) -> None:
    """The version that is read is kept, or the error names the setting that would keep it."""
    folder = tmp_path / "folder"
    await to_thread(folder.mkdir)
    target = place = target_in(folder, "lancedb")
    if sealing:
        await fill(folder, "lancedb")
        await to_thread(sealed, folder, tmp_path / "medium")
        place = target_in(tmp_path / "medium", "lancedb")
    config = tmp_path / "aiovec.toml"
    keys = 'keep_versions = "0 seconds"\nmax_versions = 1\n'
    await to_thread(config.write_text, f"[retrieval.lancedb]\n{keys}")
    async with aiovec.connect(target, config=config) as store:
        await store.create_table("long", SCHEMA)
        for n in range(10):
            rows = [{**LONG, "id": f"{n}-{m}"} for m in range(400)]
            await store.insert("long", rows)
        async with aiovec.connect(place, read_only=True) as reader:
            exporting = reader.export("long", batch_size=100)
            read = len(await anext(exporting))
            await store.delete("long", where="TRUE")
            await store.optimize("long")
            if sealing:
                with pytest.raises(AiovecError, match="raise keep_versions") as caught:
                    async for _ in exporting:
                        pass
                assert type(caught.value) is AiovecError
            else:
                read += sum([len(batch) async for batch in exporting])
                assert read == 4000


async def test_a_wal_on_a_read_only_medium_is_read_or_refused(
    tmp_path: Path, sealed: Callable[[Path, Path], None]
) -> None:
    """This holds even if some rows are only in the WAL."""
    source = Path(await fill(tmp_path, "sqlite"))
    for ends in (("", "-wal", "-shm"), ("", "-wal")):
        folder = tmp_path / f"{len(ends)} files"
        await to_thread(folder.mkdir)
        async with aiovec.connect(source) as store:
            await store.upsert(TABLE, [row("c", 3)])
            for end in ends:
                await to_thread(shutil.copy, f"{source}{end}", folder)
        medium = folder.with_name(f"medium of {len(ends)}")
        await to_thread(sealed, folder, medium)
        if "-shm" in ends:
            async with aiovec.connect(medium / source.name, read_only=True) as store:
                assert await store.count(TABLE) == 3
        else:
            with pytest.raises(AiovecError, match="can only be read in a writable folder"):
                await aiovec.connect(medium / source.name, read_only=True)


async def test_a_reader_beside_a_writer_sees_each_acknowledged_write(tmp_path: Path) -> None:
    """The reader blocks no write."""
    target = await fill(tmp_path, "sqlite")
    async with aiovec.connect(target, read_only=True) as reader, aiovec.connect(target) as store:
        for n in range(10):
            await store.insert(TABLE, [row(f"n{n}", n)])
            assert await reader.count(TABLE) == n + 3
            assert len(await reader.search(TABLE, QUERY, limit=100)) == n + 3


async def test_a_reader_notices_a_writer_that_it_cannot_lock_out(
    tmp_path: Path, sealed: Callable[[Path, Path], None]
) -> None:
    """The file was opened as immutable, but no answer may be wrong."""
    folder, medium = tmp_path / "folder", tmp_path / "medium"
    await to_thread(folder.mkdir)
    target = await fill(folder, "sqlite")
    await to_thread(sealed, folder, medium)
    async with aiovec.connect(target_in(medium, "sqlite"), read_only=True) as reader:
        assert await reader.count(TABLE) == 2
        async with aiovec.connect(target) as store:
            await store.insert(TABLE, [row("c", 3)])
            with pytest.raises(StoreReplacedError, match="another process writes to it"):
                await reader.count(TABLE)


async def test_read_only_creates_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the target."""
    monkeypatch.chdir(tmp_path)
    for target in ("absent.db", "absent/notes.db", "folder", "lancedb://absent"):
        with pytest.raises(ConfigError, match="there is no store at"):
            await aiovec.connect(target, read_only=True)
    for target in (":memory:", "memory://"):
        with pytest.raises(ConfigError):
            await aiovec.connect(target, read_only=True)
    for target in ("file:x.db?mode=ro", "FILE:///tmp/x.db"):
        with pytest.raises(ConfigError, match="read_only=True"):
            await aiovec.connect(target)
    assert await to_thread(os.listdir, tmp_path) == []


def test_sync_lifespan_and_toml_open_for_reading_only(tmp_path: Path) -> None:
    target = asyncio.run(fill(tmp_path, "sqlite"))
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "store.db"\n')
    with sync.connect(target, read_only=True) as store:
        assert store.count(TABLE) == 2
        with pytest.raises(UnsupportedError, match="read_only=True"):
            store.insert(TABLE, [row("c", 3)])

    async def others() -> None:
        async with lifespan(target, read_only=True)(object()) as state:
            assert state["aiovec_store"].read_only
        async with aiovec.connect(config=config, read_only=True) as store:
            with pytest.raises(UnsupportedError):
                await store.insert(TABLE, [row("c", 3)])

    asyncio.run(others())
