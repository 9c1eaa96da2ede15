"""Backups that do not come to their end leave nothing that is in the way of the next."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import lancedb
import pytest

from aiovec import AiovecError, Schema
from aiovec_lancedb import LancedbBackend, backup
from aiovec_lancedb.layout import is_moving
from aiovec_lancedb.settings import LancedbSettings

from .support import ROOT, SMALL, ids_in, numbered, opened

BACKUP = """
import asyncio, sys
from tests.lancedb.support import opened

async def main():
    async with opened(sys.argv[1]) as store:
        await store.backup(sys.argv[2])
        print("done", flush=True)

asyncio.run(main())
"""


def found(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


async def test_a_cancelled_backup_leaves_nothing(tmp_path: Path) -> None:
    """B19: by asyncio once and twice, and by a scope of anyio."""
    async with opened(tmp_path / "s") as store:
        for name in ("notes", "other"):
            await store.create_table(name, SMALL)
            await store.insert(name, numbered(2000))
        for n in range(12):
            task = asyncio.ensure_future(store.backup(tmp_path / "copy"))
            await asyncio.sleep(0.003 * n)
            task.cancel()
            if n % 2:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                assert await asyncio.to_thread(listed, tmp_path) == ["s"]
            else:
                await asyncio.to_thread((tmp_path / "copy").rename, tmp_path / f"copy{n}")
                break
        with anyio.move_on_after(0.002):
            await store.backup(tmp_path / "last")
        if "last" not in await asyncio.to_thread(listed, tmp_path):
            await store.backup(tmp_path / "last")
        names = await asyncio.to_thread(listed, tmp_path)
        assert not [name for name in names if "partial" in name]
    async with opened(tmp_path / "last") as store:
        assert await store.tables() == ["notes", "other"]
        assert len(await ids_in(store)) == 2000


async def test_a_backup_that_is_cancelled_while_lance_makes_its_folder_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance's threads went on to make it, behind its removal."""
    plain = lancedb.connect_async
    begun = asyncio.Event()

    def late(uri: str) -> None:
        time.sleep(0.3)
        Path(uri).mkdir(parents=True, exist_ok=True)

    async def connect(uri: Path, **options: Any) -> Any:
        begun.set()
        await asyncio.shield(asyncio.to_thread(late, str(uri)))
        return await plain(uri, **options)

    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        monkeypatch.setattr(lancedb, "connect_async", connect)
        task = asyncio.ensure_future(store.backup(tmp_path / "copy"))
        await begun.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(listed, tmp_path) == ["s"]


async def test_rows_that_grow_are_copied_in_blocks_of_some_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has as many rows as its share was taken for, at the size of those before."""
    count, sizes = 3000, []
    plain = backup._add

    async def add(target: Any, blocks: list[Any], path: str) -> None:
        sizes.append(max(block.nbytes for block in blocks))
        await plain(target, blocks, path)

    monkeypatch.setattr(backup, "_add", add)
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", Schema(4, fields={"text": str}))
        for start in range(0, count, 1000):
            text = "x" * (50_000 if start else 1)
            await store.insert(
                "notes",
                [{**row, "text": text} for row in numbered_ids(start, start + 1000)],
            )
        await store.delete("notes", ["r00001", "r02999"])
        await store.backup(tmp_path / "copy")
    assert max(sizes) < 40 * 2**20
    async with opened(tmp_path / "copy") as store:
        assert await ids_in(store) == [f"r{n:05}" for n in range(count) if n not in (1, 2999)]


def numbered_ids(start: int, end: int) -> list[dict[str, Any]]:
    return [{"id": f"r{n:05}", "embedding": [1.0, n, 2.0, 3.0]} for n in range(start, end)]


async def test_a_killed_backup_is_in_nobodys_way(tmp_path: Path) -> None:
    """B19: whatever process it was of."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(5000))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BACKUP, str(tmp_path / "s"), str(tmp_path / "copy"), cwd=ROOT
    )
    async with asyncio.timeout(60):
        while len(await asyncio.to_thread(listed, tmp_path)) == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    process.kill()
    await process.wait()
    async with opened(tmp_path / "s") as store:
        copy = tmp_path / (
            "copy2" if await asyncio.to_thread((tmp_path / "copy").exists) else "copy"
        )
        await store.backup(copy)
    async with opened(copy) as store:
        assert len(await ids_in(store)) == 5000


async def test_a_table_that_is_renamed_or_dropped_meanwhile(tmp_path: Path) -> None:
    """It was told as damage of the store, or was left out without a word."""
    async with opened(tmp_path / "s") as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, SMALL)
            await store.insert(name, numbered(3000))
        for number, (old, new) in enumerate([("c", "x"), ("x", "y"), ("y", None)]):
            backup = asyncio.ensure_future(store.backup(tmp_path / f"copy{number}"))
            begun = f"copy{number}.partial-*/a.lance"
            while not backup.done() and not await asyncio.to_thread(found, tmp_path, begun):
                pass
            if new is None:
                await store.drop_table(old)
            else:
                await store.rename_table(old, new)
            await backup
            names = await store.tables()
            async with opened(tmp_path / f"copy{number}") as copy:
                assert await copy.tables() in (names, sorted({*names, old} - {new}))
                for name in await copy.tables():
                    assert len(await ids_in(copy, name)) == 3000


async def test_a_listing_has_a_table_that_is_renamed_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        await store.create_table("a", SMALL)

        async def rename() -> None:
            for _ in range(15):
                await other.rename_table("a", "b")
                await other.rename_table("b", "a")

        renaming = asyncio.ensure_future(rename())
        while not renaming.done():
            assert len(await store.tables()) == 1
        await renaming


async def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """B19: a table that is damaged, and a place that cannot be written."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(100))
        await asyncio.to_thread((tmp_path / "file").touch)
        for path in (tmp_path / "file" / "copy", tmp_path / "file", tmp_path / "s"):
            with pytest.raises(AiovecError, match=r"[Nn]ot a directory|already exists"):
                await store.backup(path)
        [data] = await asyncio.to_thread(lambda: list(tmp_path.glob("s/notes.lance/data/*")))
        await asyncio.to_thread(data.unlink)
    async with opened(tmp_path / "s") as store:
        with pytest.raises(AiovecError):
            await store.backup(tmp_path / "copy")
    assert await asyncio.to_thread(listed, tmp_path) == ["file", "s"]


async def test_a_backup_during_a_migration_carries_no_sign_of_it(tmp_path: Path) -> None:
    """C9: by the sign every read of the copy would look for a mark."""
    moves, copy = (
        LancedbBackend(str(tmp_path / name), LancedbSettings()) for name in ("s", "copy")
    )
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(10))
        await moves.open()
        await moves.begin_move("r1")
        _, before = await moves._session.open_any("notes")
        await store.backup(tmp_path / "copy")
        await moves.close()
    await copy.open()
    _, after = await copy._session.open_any("notes")
    await copy.close()
    assert is_moving(before)
    assert not is_moving(after)
    assert after.equals(before)
    assert after.metadata == before.metadata
    async with opened(tmp_path / "copy") as store:
        assert len(await ids_in(store)) == 10
        await store.insert("notes", numbered(10, 10))
