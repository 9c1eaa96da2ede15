"""LanceDB's untyped errors become specific errors of aiovec."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from tests.contract.base import case
from tests.harness.marks import begin_move, forget_move
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import CorruptStoreError, Field, FilterError, OutcomeUnknownError, VectorStore

from .buckets import s3_server
from .support import backend_on, opened


async def exported(store: VectorStore) -> list[Any]:
    return [batch async for batch in store.export("notes")]


CALLS: dict[str, Callable[[VectorStore], Awaitable[Any]]] = {
    "get": lambda store: store.get("notes", ["r0001"]),
    "find": lambda store: store.find("notes"),
    "search": lambda store: store.search("notes", [1, 2, 3, 4]),
    "export": exported,
    "insert": lambda store: store.insert("notes", small_rows(1, start=900)),
    "update": lambda store: store.update("notes", {"key": 1}, ids="r0001"),
}


async def filled(folder: Path, count: int = 300) -> None:
    async with opened(folder, index="none") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(count))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def garble(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def newer(file: Path) -> None:
    """Damage the format version in the file's footer."""
    content = bytearray(file.read_bytes())
    content[-6] ^= 64
    file.write_bytes(content)


def shift(file: Path) -> None:
    """Damage the offset of a column's metadata, in the table to which the footer points."""
    content = bytearray(file.read_bytes())
    content[int.from_bytes(content[-32:-24], "little") + 4] ^= 64
    file.write_bytes(content)


def crash(file: Path) -> None:
    """Damage a file so that Lance's threads panic, for which lancedb has a separate error class."""
    file.write_bytes(file.read_bytes().replace(b"fixed_size_list", b"fixed_size_lzst"))


@pytest.mark.slow
async def test_a_damaged_file_is_an_error_for_every_call(tmp_path: Path) -> None:
    await filled(tmp_path / "sound")
    for part, harms in (
        ("data/*", (cut, garble, Path.unlink, newer, shift)),
        ("_versions/*.manifest", (cut, garble, Path.unlink, crash)),
    ):
        for harm in harms:
            with case((part, harm.__name__)):
                folder = tmp_path / f"{part[:4]}-{harm.__name__}"
                await to_thread(shutil.copytree, tmp_path / "sound", folder)
                for file in (folder / "notes.lance").glob(part):
                    harm(file)
                async with opened(folder, index="none") as store:
                    assert await store.tables() == ["notes"]
                    for name, call in CALLS.items():
                        with case(name), pytest.raises(aiovec.AiovecError) as caught:
                            await call(store)
                        error = caught.value
                        if harm is crash:
                            assert "crashed" in str(error)
                        else:
                            assert isinstance(error, CorruptStoreError)
                            assert error.target == str(folder)
                            if "data" in part:
                                assert "'aiovec doctor'" in error.reason
                                assert "store.revert()" in error.reason
                        assert ".rs:" not in str(error)


async def test_a_table_of_another_program_is_listed_and_refused(tmp_path: Path) -> None:
    database = await lancedb.connect_async(tmp_path / "s")
    await database.create_table("foreign", pa.table({"a": [1, 2]}))
    await database.create_table("No.Name-of-ours", pa.table({"a": [1, 2]}))
    database.close()  # type: ignore[no-untyped-call]
    async with opened(tmp_path / "s") as store:
        assert await store.tables() == ["foreign"]
        with pytest.raises(CorruptStoreError, match=r"'foreign'.*no aiovec schema"):
            await store.count("foreign")
        with pytest.raises(aiovec.TableExistsError):
            await store.create_table("foreign", SMALL)


async def test_a_table_that_is_just_being_created(tmp_path: Path) -> None:
    """Lance writes the folder, and so the table's name, before the first version."""
    await filled(tmp_path / "s", 3)
    versions = tmp_path / "s" / "notes.lance" / "_versions"
    versions.rename(tmp_path / "later")
    async with opened(tmp_path / "s") as store:
        counting = asyncio.ensure_future(store.count("notes"))
        await asyncio.sleep(0.05)
        (tmp_path / "later").rename(versions)
        assert await counting == 3
        versions.rename(tmp_path / "gone")
    async with opened(tmp_path / "s") as store:
        with pytest.raises(CorruptStoreError, match="no version of table 'notes' can be read"):
            await store.count("notes")


async def test_calls_to_a_removed_table_say_that_it_does_not_exist(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    async with opened(tmp_path / "s") as store:
        assert await store.count("notes") == 300
        await to_thread(shutil.rmtree, tmp_path / "s" / "notes.lance")
        for name, call in CALLS.items():
            with case(name), pytest.raises(aiovec.TableNotFoundError) as caught:
                await call(store)
            assert caught.value.table == "notes"
        await store.create_table("notes", SMALL)
        assert await store.insert("notes", small_rows(3)) == 3


@pytest.mark.slow
async def test_a_table_dropped_by_another_store_while_it_is_read(tmp_path: Path) -> None:
    """The table's files disappear while they are read, which is not reported as damage."""
    async with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        for turn in range(5):
            await store.create_table("notes", SMALL)
            await store.insert("notes", small_rows(400))
            calls = [call(other) for call in CALLS.values() for _ in range(3)]
            drop = asyncio.ensure_future(store.drop_table("notes"))
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    allowed = (aiovec.TableNotFoundError, aiovec.DuplicateIdError)
                    assert isinstance(outcome, allowed), f"turn {turn}: {outcome!r}"
            await drop


async def test_remains_of_dropped_tables_are_removed_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "s"
    await filled(place)
    left = place / f".notes.{'0123456789abcdef' * 2}.dropped"
    others = [place / ".photos.dropped", place / f".Photos.{'0' * 32}.dropped", place / "0.dropped"]
    for folder in (left, *others, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "file").write_text("x")
    if os.name != "nt":  # links need a privilege on Windows
        link = place / f".link.{'f' * 32}.dropped"
        link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    async with opened(place) as store:
        assert await store.tables() == ["notes"]
        assert await store.count("notes") == 300
    assert not left.exists()
    for folder in (*others, tmp_path / "elsewhere"):
        assert (folder / "file").read_text() == "x"


async def test_filters_that_are_too_much_for_lancedb(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    await store.insert("notes", small_rows(20))
    deep = "year >= 4"
    for n in range(5, 35):
        deep = f"({deep} OR year = 0) AND year != {n}"
    assert await store.count("notes", deep) == 2
    key = "payload." + ".".join(["k"] * 60)
    with pytest.raises(FilterError, match="LanceDB"):
        await store.count("notes", f"{key} = 1")
    with pytest.raises(FilterError, match="LIKE pattern is too long"):
        await store.count("notes", f"name LIKE '{'a%b_' * 60_000}'")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="this user may write everywhere"
)
async def test_a_write_protected_folder(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    (tmp_path / "s" / "notes.lance" / "data").chmod(0o500)
    async with opened(tmp_path / "s") as store:
        with pytest.raises(aiovec.AiovecError, match="cannot be read or written"):
            await store.insert("notes", small_rows(1, start=900))


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked in another way there")
async def test_a_write_gives_up_after_busy_timeout(tmp_path: Path) -> None:
    """The test locks the folder's files like another process."""
    import fcntl

    await filled(tmp_path / "s", 10)
    async with opened(tmp_path / "s", busy_timeout=0.2) as store:
        with ExitStack() as held:
            for path in (tmp_path / "s" / ".aiovec").glob("*.lock"):
                file = held.enter_context(path.open("rb+"))
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            with pytest.raises(aiovec.StoreBusyError) as caught:
                await store.insert("notes", small_rows(1, start=900))
            assert caught.value.waited >= 0.2
            assert await store.count("notes") == 10
        assert await store.insert("notes", small_rows(1, start=900)) == 1


async def test_an_unreadable_mark_of_a_migration_is_reported(tmp_path: Path) -> None:
    await filled(tmp_path / "s", 10)
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as moving:
        await begin_move(moving, "run")
        path = tmp_path / "s" / ".aiovec" / "_move.json"
        for text in ('{"mark": {"run": "r", "state": "paused", "limit": NaN}}', "{", ""):
            path.write_text(text)
            with case(text), pytest.raises(CorruptStoreError, match="aiovec migrate forget"):
                await store.insert("notes", small_rows(1, start=900))
        await forget_move(moving)
        await store.insert("notes", small_rows(1, start=900))


@pytest.mark.parametrize("place", ["folder", pytest.param("bucket", marks=pytest.mark.slow)])
async def test_nobody_knows_if_a_migration_copies_a_table_made_while_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """After its commit, the creation reads the mark of the migration, or an unreadable mark. Later
    changes are refused."""
    create = lancedb.AsyncConnection.create_table
    with s3_server() if place == "bucket" else nullcontext() as bucket:
        target = tmp_path / "s" if bucket is None else bucket.new_url()
        for name, value in ({} if bucket is None else bucket.environment).items():
            monkeypatch.setenv(name, value)
        async with opened(target) as store, backend_on(target) as mover:

            def damage() -> None:
                if bucket is None:
                    (tmp_path / "s" / ".aiovec" / "_move.json").write_text("{")
                else:
                    bucket.put(str(target), ".aiovec/_move.json", b"{")

            async def overtaken(connection: Any, name: str, **options: Any) -> Any:
                await (to_thread(damage) if name == "first" else begin_move(mover, "r1"))
                return await create(connection, name, **options)

            monkeypatch.setattr(lancedb.AsyncConnection, "create_table", overtaken)
            unreadable = "could not be read after the commit"
            with pytest.raises(OutcomeUnknownError, match=unreadable) as caught:
                await store.create_table("first", SMALL)
            assert caught.value.target == store.target
            await forget_move(mover)
            with pytest.raises(OutcomeUnknownError, match="run r1 of a migration"):
                await store.create_table("notes", SMALL)
            for change in (
                lambda other: other.drop_table("notes"),
                lambda other: other.add_field("notes", "extra", Field(int)),
            ):
                async with opened(target) as other:
                    with pytest.raises(aiovec.MigrationError, match="run r1"):
                        await change(other)
            assert await store.schema("notes") == SMALL


async def test_a_write_that_other_commits_overtake_is_repeated_until_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is repeated at least five times."""
    await filled(tmp_path / "s", 10)
    delete, conflicts = lancedb.AsyncTable.delete, 0

    async def overtaken(*args: Any) -> Any:
        nonlocal conflicts
        conflicts -= 1
        if conflicts >= 0:
            await asyncio.sleep(0.1)
            raise RuntimeError("lance error: Commit conflict for version 7")
        return await delete(*args)

    monkeypatch.setattr(lancedb.AsyncTable, "delete", overtaken)
    for timeout, conflicts, done in ((0.0, 4, True), (0.0, 5, False), (60.0, 7, True)):
        async with opened(tmp_path / "s", busy_timeout=timeout) as store:
            with case((timeout, conflicts)):
                if done:
                    assert await store.delete("notes", "r0001") == 1
                    await store.insert("notes", small_rows(1, start=1))
                else:
                    with pytest.raises(aiovec.StoreBusyError, match="other writers changed"):
                        await store.delete("notes", "r0001")
                    assert conflicts == 0
