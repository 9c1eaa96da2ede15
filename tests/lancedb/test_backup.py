"""A backup is of one moment, and leaves nothing where it does not come to its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.harness.values import SMALL, small_rows

import aiovec
from aiovec import AiovecError

from .support import backend_on, listed, opened


async def test_a_cancelled_backup_is_whole_or_leaves_nothing(tmp_path: Path) -> None:
    """It is there or not when the call returns, and appears at no later time."""
    async with opened(tmp_path / "s") as store:
        for name in ("notes", "other"):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(1000))
        for n in range(8):
            with case(n):
                task = asyncio.ensure_future(store.backup(tmp_path / "copy"))
                await asyncio.sleep(0.004 * n)
                task.cancel()
                if n % 2:
                    await asyncio.sleep(0)
                    task.cancel()
                await asyncio.wait({task})
                there = await listed(tmp_path)
                assert there in (["s"], ["copy", "s"])
                if "copy" in there:
                    break
        else:
            await store.backup(tmp_path / "copy")
    async with opened(tmp_path / "copy") as copy:
        assert await copy.tables() == ["notes", "other"]
        assert await copy.count("notes") == 1000


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(100))
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "file" / "copy", tmp_path / "file", tmp_path / "s"):
            with pytest.raises(
                AiovecError, match=r"[Nn]ot a directory|a path that does not exist yet"
            ):
                await store.backup(path)
    [data] = (tmp_path / "s").glob("notes.lance/data/*")
    data.unlink()
    async with opened(tmp_path / "s") as store:
        with pytest.raises(AiovecError):
            await store.backup(tmp_path / "copy")
    assert await listed(tmp_path) == ["file", "s"]
    assert (tmp_path / "file").read_text() == "x"


async def test_tables_that_are_renamed_or_dropped_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, SMALL)
            await store.insert(name, small_rows(1000))
        for number, (old, new) in enumerate([("c", "x"), ("x", "y"), ("y", None)]):
            with case((old, new)):
                before = await store.tables()
                backup = asyncio.ensure_future(store.backup(tmp_path / f"copy{number}"))
                await asyncio.sleep(0.005 * number)
                await (store.drop_table(old) if new is None else store.rename_table(old, new))
                await backup
                async with opened(tmp_path / f"copy{number}") as copy:
                    assert await copy.tables() in (before, await store.tables())
                    for name in await copy.tables():
                        assert await copy.count(name) == 1000


async def test_a_backup_during_a_migration_is_a_store_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, backend_on(tmp_path / "s") as moving:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(10))
        await moving.begin_move("run")
        await store.backup(tmp_path / "copy")
    async with backend_on(tmp_path / "copy") as copied:
        assert await copied.move_mark() is None
    async with aiovec.connect(f"lancedb://{tmp_path / 'copy'}") as store:
        assert await store.insert("notes", small_rows(1, start=10)) == 1
        assert await store.count("notes") == 11
