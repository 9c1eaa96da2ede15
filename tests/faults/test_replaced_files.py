"""B5: a file that is replaced or removed under an open store is noticed; nothing is acknowledged
into a file that no name leads to, and no empty file is made in its place."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sqlite.support import backend_of, check_file, names_in, opened, ready

import aiovec
from aiovec import (
    AiovecError,
    CorruptStoreError,
    OutcomeUnknownError,
    Schema,
    StoreReplacedError,
    VectorStore,
)
from aiovec_sqlite.opening import OpenFile

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, 2.0, 3.0, 4.0]} for id in ids]


async def filled(path: Path) -> VectorStore:
    store = await aiovec.connect(path)
    await store.create_table("t", Schema(4))
    await store.insert("t", rows("a", "b"))
    assert len(await store.search("t", [1, 2, 3, 4])) == 2
    return store


def removed(path: Path) -> None:
    path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    other = path.with_name("new.db")
    shutil.copy(path, other)
    os.replace(other, path)


def without_wal(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def with_another_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


def with_a_link_to_itself(path: Path) -> None:
    renamed(path)
    path.symlink_to(path)


WAYS = [removed, renamed, replaced, without_wal, with_another_folder, with_a_link_to_itself]

CALLS: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
    "insert": lambda store: store.insert("t", rows("c")),
    "upsert": lambda store: store.upsert("t", rows("a")),
    "update": lambda store: store.update("t", {"source_id": "x"}, ids="a"),
    "delete": lambda store: store.delete("t", "a"),
    "create_table": lambda store: store.create_table("u", Schema(4)),
    "get": lambda store: store.get("t", "a"),
    "find": lambda store: store.find("t"),
    "count": lambda store: store.count("t"),
    "search": lambda store: store.search("t", [1, 2, 3, 4]),
    "tables": lambda store: store.tables(),
    "ping": lambda store: store.ping(),
    "optimize": lambda store: store.optimize("t"),
    "export": lambda store: exported(store),
}


async def exported(store: VectorStore) -> list[Any]:
    return [batch async for batch in store.export("t")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_every_call_tells_and_none_makes_a_file(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    """B5."""
    path = tmp_path / "folder" / "notes.db"
    await to_thread(path.parent.mkdir)
    store = await filled(path)
    try:
        # Loading opens a connection, and one that the file is removed under may make a WAL.
        await ready(store, "t")
        await to_thread(way, path)
        before = await names_in(path.parent)
        for name, call in CALLS.items():
            with pytest.raises(StoreReplacedError) as caught:
                await asyncio.wait_for(call(store), 60)
            assert caught.value.target == str(path), name
            assert str(path) in str(caught.value)
        # The acknowledged rows can still be had.
        await store.backup(tmp_path / "saved.db")
        assert await names_in(path.parent) == before
    finally:
        await store.close()
    assert await to_thread(check_file, tmp_path / "saved.db") == {"t": 2}


async def test_a_wal_that_is_removed_while_a_connection_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says "disk I/O error" of what it finds then."""
    path = tmp_path / "notes.db"
    store = await filled(path)
    try:
        check, looks = OpenFile.check, [0]

        def look(file: OpenFile) -> None:
            check(file)
            if threading.current_thread().name != "test":
                return  # the search's, which load the table behind its answer
            looks[0] += 1
            if looks[0] == 1:
                without_wal(path)

        monkeypatch.setattr(OpenFile, "check", look)
        with pytest.raises(StoreReplacedError, match=r"WAL .* was removed"):
            await backend_of(store)._new_reader("test")
        assert looks == [1]
    finally:
        await store.close()


async def test_a_file_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system says of a network drive for a while. A call tells what became of it."""
    path, thread = str(tmp_path / "notes.db"), None
    plain, looks = os.stat, [0]

    def stat(name: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        # Work in the background looks too, whenever its turn comes.
        if name == path and (thread is None or threading.current_thread().name == thread):
            looks[0] -= 1
            if looks[0] < 0:
                raise PermissionError(errno.EACCES, "Permission denied", name)
        return plain(name, *args, **kwargs)

    store = await filled(tmp_path / "notes.db")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", stat)
            for call in (CALLS["get"], CALLS["insert"], CALLS["count"]):
                with pytest.raises(AiovecError, match=r"cannot be seen.*nothing of this call"):
                    await call(store)
            looks[0], thread = 1, "aiovec-sqlite-writer"  # the one before the write
            with pytest.raises(OutcomeUnknownError, match="Permission denied"):
                await store.insert("t", rows("c"))
        assert [record.id for record in await store.find("t")] == ["a", "b", "c"]
    finally:
        await store.close()


async def test_a_folder_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of LanceDB: it was a plain PermissionError, and also behind the commit."""
    pytest.importorskip("lancedb")
    folder, plain, looks = tmp_path / "notes.lance", os.stat, [0]

    def stat(name: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(name) == str(folder):
            looks[0] -= 1
            if looks[0] < 0:
                raise PermissionError(errno.EACCES, "Permission denied", name)
        return plain(name, *args, **kwargs)

    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table("t", Schema(4))
        await store.insert("t", rows("a", "b"))
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", stat)
            with pytest.raises(AiovecError, match="Permission denied"):
                await store.tables()
            for n in range(9):
                looks[0] = n
                with pytest.raises(AiovecError, match="Permission denied") as caught:
                    await store.insert("t", rows("c"))
                if isinstance(caught.value, OutcomeUnknownError):
                    break
        assert isinstance(caught.value, OutcomeUnknownError)
        assert [record.id for record in await store.find("t")] == ["a", "b", "c"]


async def test_what_is_there_now_can_be_opened(tmp_path: Path) -> None:
    """B5: the error says what to do, and doing it helps."""
    path = tmp_path / "notes.db"
    store = await filled(path)
    await store.backup(tmp_path / "copy.db")
    await to_thread(os.replace, tmp_path / "copy.db", path)
    with pytest.raises(StoreReplacedError, match="replaced by another one"):
        await store.insert("t", rows("lost"))
    await store.close()
    # B4: the WAL of the file that was replaced lies there still, and its name says so.
    with pytest.raises(CorruptStoreError, match=r"notes\.db-wal, belongs to another file"):
        await aiovec.connect(path)
    await to_thread(os.remove, f"{path}-wal")
    async with opened(path) as again:
        await again.insert("t", rows("kept"))
        assert [record.id for record in await again.find("t")] == ["a", "b", "kept"]


async def test_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    """B5: as deployments do that switch a link."""
    for name in ("one.db", "two.db"):
        await (await filled(tmp_path / name)).close()
    link = tmp_path / "notes.db"
    await to_thread(os.symlink, tmp_path / "one.db", link)
    async with opened(link) as store:
        assert await store.count("t") == 2
        await to_thread(os.symlink, tmp_path / "two.db", tmp_path / "new")
        await to_thread(os.replace, tmp_path / "new", link)
        with pytest.raises(StoreReplacedError):
            await store.insert("t", rows("c"))


async def test_writes_while_the_file_is_replaced_are_refused_or_kept(tmp_path: Path) -> None:
    """B5: whatever was acknowledged is in the file that the name led to at that time."""
    path = tmp_path / "notes.db"
    store = await filled(path)
    await store.close()
    await to_thread(shutil.copy, path, tmp_path / "other.db")
    store = await aiovec.connect(path)
    acknowledged: list[str] = []
    refused = 0

    async def write(name: str) -> None:
        nonlocal refused
        for n in range(10**6):
            try:
                await store.insert("t", rows(f"{name}-{n}"))
            except StoreReplacedError:
                refused += 1
                return
            acknowledged.append(f"{name}-{n}")

    async with asyncio.TaskGroup() as tasks:
        for name in "abcd":
            tasks.create_task(write(name))
        await asyncio.sleep(0.3)
        await to_thread(os.link, path, tmp_path / "old.db")
        await to_thread(os.link, tmp_path / "notes.db-wal", tmp_path / "old.db-wal")
        await to_thread(os.replace, tmp_path / "other.db", path)
    assert refused == 4
    await store.close()
    assert acknowledged
    async with opened(tmp_path / "old.db") as old:
        assert set(acknowledged) <= {r.id for r in await old.find("t", limit=10**6)}


async def test_a_store_of_another_file_is_not_disturbed(tmp_path: Path) -> None:
    """B5: neighbours in one folder may come and go."""
    store = await filled(tmp_path / "notes.db")
    other = await filled(tmp_path / "other.db")
    await other.close()
    await to_thread((tmp_path / "other.db").unlink)
    await store.insert("t", rows("c"))
    assert await store.count("t") == 3
    await store.close()


LANCE_CALLS = {name: CALLS[name] for name in ("insert", "create_table", "tables", "ping", "get")}


@pytest.mark.parametrize("way", ["removed", "renamed", "replaced"])
async def test_a_folder_of_lancedb(tmp_path: Path, way: str) -> None:
    """B5: Lance would make a folder that is missing anew, and begin an empty store there."""
    pytest.importorskip("lancedb")
    folder = tmp_path / "notes"
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table("t", Schema(4))
        await store.insert("t", rows("a", "b"))
        assert await store.count("t") == 2
        await to_thread(shutil.rmtree if way == "removed" else _put_aside, folder)
        if way == "replaced":
            await to_thread(folder.mkdir)
        for name, call in LANCE_CALLS.items():
            with pytest.raises(StoreReplacedError) as caught:
                await asyncio.wait_for(call(store), 60)
            assert caught.value.target == str(folder), name
    assert await names_in(tmp_path) == {
        "removed": [], "renamed": ["aside"], "replaced": ["aside", "notes"]
    }[way]  # fmt: skip


@pytest.mark.parametrize("what", ["another store", "another schema", "a copy"])
async def test_a_folder_with_another_store_in_it(tmp_path: Path, what: str) -> None:
    """B5: reads answered from the other folder, without a word."""
    pytest.importorskip("lancedb")
    folder = tmp_path / "notes"
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table("t", Schema(4))
        await store.insert("t", rows("a", "b"))
        await store.backup(tmp_path / "saved")
        for _ in range(3):  # until it is known, and read without being opened
            assert await store.count("t") == 2
        await to_thread(_put_aside, folder)
        if what == "a copy":
            await to_thread((tmp_path / "saved").rename, folder)
        else:
            async with aiovec.connect(f"lancedb://{folder}") as other:
                await other.create_table("t", Schema(4 if what == "another store" else 3))
        for name, call in CALLS.items():
            with pytest.raises(StoreReplacedError, match="folder was replaced") as caught:
                await asyncio.wait_for(call(store), 60)
            assert "backup" not in str(caught.value), name


def _put_aside(folder: Path) -> None:
    folder.rename(folder.with_name("aside"))
