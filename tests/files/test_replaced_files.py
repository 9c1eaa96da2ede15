"""An open store notices if its files are replaced or removed: it acknowledges no write to unlinked
files, and creates no empty store in their place."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio import to_thread
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.files.calls import READS, WRITES, exported
from tests.harness.cases import case
from tests.harness.scripts import SCHEMA, TABLE, path_of, row, target_in
from tests.harness.waiting import until

import aiovec
from aiovec import ConfigError, StoreReplacedError, UnsupportedError, VectorStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")


async def filled(target: str) -> VectorStore:
    store = await aiovec.connect(target)
    await store.create_table(TABLE, SCHEMA)
    await store.insert(TABLE, [row("a", 1), row("b", 2)])
    assert len(await store.search(TABLE, [1, 2, 3, 4])) == 2
    # The search loads the table on its own connection. SQLite would create the WAL again if it is
    # removed just between that connection's check of the files and its first read.
    await until(partial(is_loaded, store))
    return store


async def is_loaded(store: VectorStore) -> bool:
    return "being loaded" not in str((await store.stats(TABLE)).details.get("searched"))


def removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replaced(path: Path) -> None:
    """Replace the store with a copy of it."""
    renamed(path)
    elsewhere = path.with_name("elsewhere")
    (shutil.copytree if elsewhere.is_dir() else shutil.copy)(elsewhere, path)


def replaced_by_nothing(path: Path) -> None:
    renamed(path)
    path.mkdir() if path.with_name("elsewhere").is_dir() else path.touch()


def in_another_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


def without_its_wal(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


WAYS: dict[str, list[Callable[[Path], None]]] = {
    "sqlite": [removed, renamed, replaced, replaced_by_nothing, in_another_folder, without_its_wal],
    "lancedb": [removed, renamed, replaced, replaced_by_nothing],
}
CALLS = READS | {
    name: WRITES[name]
    for name in ("insert", "upsert", "update", "delete", "create_table", "optimize")
}


@pytest.mark.parametrize("kind", WAYS)
async def test_calls_on_a_replaced_store_fail_and_create_nothing(tmp_path: Path, kind: str) -> None:
    for way in WAYS[kind]:
        folder = tmp_path / way.__name__ / "folder"
        await to_thread(folder.mkdir, parents=True)
        target = target_in(folder, kind)
        store = await filled(target)
        try:
            await to_thread(way, path_of(target))
            before = await to_thread(os.listdir, folder)
            for name, call in CALLS.items():
                with case(name):
                    with pytest.raises(StoreReplacedError) as caught:
                        await asyncio.wait_for(call(store), 120)
                    assert caught.value.target == str(path_of(target)), (way, name)
            assert await to_thread(os.listdir, folder) == before, way
            if kind == "sqlite":  # acknowledged rows can still be saved
                await store.backup(tmp_path / f"{way.__name__}.db")
        finally:
            await store.close()
        if kind == "sqlite":
            async with aiovec.connect(tmp_path / f"{way.__name__}.db") as saved:
                assert await saved.count(TABLE) == 2


@pytest.mark.parametrize("kind", WAYS)
async def test_a_reader_follows_newer_copies(tmp_path: Path, kind: str) -> None:
    served, target = tmp_path / "served", target_in(tmp_path, kind)
    copy_target = str(served) if kind == "sqlite" else f"lancedb://{served}"
    async with await filled(target) as store:
        await store.backup(served)
        async with aiovec.connect(copy_target, read_only=True, follow=True) as reader:
            assert await reader.count(TABLE) == 2
            for count in (3, 4):
                await store.insert(TABLE, [row(str(count), count)])
                await store.backup(tmp_path / "next")
                if served.is_dir():
                    await to_thread(served.rename, tmp_path / f"old{count}")
                    with pytest.raises(StoreReplacedError):
                        await reader.count(TABLE)  # there is no store at the moment
                await to_thread(os.replace, tmp_path / "next", served)
                counts = await asyncio.gather(*(reader.count(TABLE) for _ in range(5)))
                assert counts == [count] * 5
                assert len(await reader.search(TABLE, [1, 2, 3, 4])) == count
                assert sum(batch.num_rows for batch in await exported(reader)) == count
            with pytest.raises(UnsupportedError):
                await reader.insert(TABLE, [row("x", 9)])
    with pytest.raises(ConfigError, match="read_only=True"):
        await aiovec.connect(target, follow=True)


async def test_a_link_that_was_switched_is_noticed(tmp_path: Path) -> None:
    """Deployments switch links in this way."""
    for name in ("one.db", "two.db"):
        await (await filled(str(tmp_path / name))).close()
    link = tmp_path / "notes.db"
    await to_thread(link.symlink_to, tmp_path / "one.db")
    async with aiovec.connect(link) as store:
        assert await store.count(TABLE) == 2
        await to_thread((tmp_path / "new").symlink_to, tmp_path / "two.db")
        await to_thread(os.replace, tmp_path / "new", link)
        with pytest.raises(StoreReplacedError):
            await store.insert(TABLE, [row("c", 3)])


async def test_writes_while_the_file_is_replaced_are_refused_or_kept(tmp_path: Path) -> None:
    """Each acknowledged write is in the file that was at the path at that time."""
    path = tmp_path / "notes.db"
    await (await filled(str(path))).close()
    await to_thread(shutil.copy, path, tmp_path / "other.db")
    store = await aiovec.connect(path)
    acknowledged: list[str] = []
    many = asyncio.Event()

    async def write(name: str) -> None:
        for n in range(10**6):
            try:
                await store.insert(TABLE, [row(f"{name}-{n}", n)])
            except StoreReplacedError:
                return
            acknowledged.append(f"{name}-{n}")
            if n == 20:
                many.set()

    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(write(name))
        await many.wait()
        await to_thread(os.link, path, tmp_path / "old.db")
        await to_thread(os.link, tmp_path / "notes.db-wal", tmp_path / "old.db-wal")
        await to_thread(os.replace, tmp_path / "other.db", path)
    await store.close()
    async with aiovec.connect(tmp_path / "old.db") as old:
        assert set(acknowledged) <= {record.id for record in await old.find(TABLE, limit=10**6)}


async def test_another_store_in_the_folder_may_be_removed(tmp_path: Path) -> None:
    store = await filled(str(tmp_path / "notes.db"))
    await (await filled(str(tmp_path / "other.db"))).close()
    await to_thread((tmp_path / "other.db").unlink)
    await store.insert(TABLE, [row("c", 3)])
    assert await store.count(TABLE) == 3
    await store.close()
