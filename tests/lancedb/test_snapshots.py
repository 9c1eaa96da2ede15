"""Versions, restoring one, and backups."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aiovec import AiovecError, Field, InvalidArgumentError, Schema
from aiovec_lancedb.limits import ExportLimits, Limits
from aiovec_lancedb.locks.local import FOLDER, LockedFile

from .support import SMALL, ids_in, numbered, opened


async def test_a_version_is_restored(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(5))
        before = await store.get("notes", [f"r{n:05}" for n in range(5)])
        good = (await store.versions("notes"))[-1]
        age = datetime.now(UTC) - good["created"]
        assert timedelta(0) <= age < timedelta(minutes=5)
        await store.update("notes", {"owner": "someone", "key": 1}, where="TRUE")
        await store.delete("notes", ["r00001"])
        await store.insert("notes", numbered(3, start=10))
        await store.restore("notes", good["version"])
        assert await store.get("notes", [f"r{n:05}" for n in range(5)]) == before
        assert await ids_in(store) == [record.id for record in before]
        # Restoring is one more version, and writing goes on behind it.
        numbers = [version["version"] for version in await store.versions("notes")]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] > good["version"]
        assert await store.insert("notes", numbered(2, start=10)) == 2
        (hit,) = await store.search("notes", [1, 11, 2, 3], limit=1)
        assert hit.id == "r00011"


async def test_a_version_before_a_field_was_added(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, opened(tmp_path / "s") as other:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(5))
        version = (await store.versions("notes"))[-1]["version"]
        await store.add_field("notes", "late", Field(str))
        await store.update("notes", {"late": "x"}, where="TRUE")
        assert await other.count("notes", "late = 'x'") == 5
        await store.restore("notes", version)
        for one in (store, other):
            assert await one.schema("notes") == SMALL
            assert await one.count("notes", "year >= 0") == 5


@pytest.mark.parametrize("part", ["data", "_indices", "_deletions"])
async def test_a_version_whose_files_are_gone_is_not_restored(tmp_path: Path, part: str) -> None:
    """Upkeep that was killed had removed some of them: the restore broke the table."""
    async with opened(tmp_path / "s", index="none") as store:
        fields = {**SMALL.fields, "kind": Field(str, index="bitmap")}
        await store.create_table("notes", replace(SMALL, fields=fields))
        await store.insert("notes", numbered(5))
        await store.optimize("notes")
        await store.delete("notes", ["r00001"])
        version = (await store.versions("notes"))[-1]["version"]
        old = set((tmp_path / "s" / "notes.lance" / part).iterdir())
        await store.upsert("notes", numbered(5))
        await store.optimize("notes")
        for path in old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    async with opened(tmp_path / "s", index="none") as store:
        with pytest.raises(InvalidArgumentError, match="whose files all exist"):
            await store.restore("notes", version)
        assert await ids_in(store) == [f"r{n:05}" for n in range(5)]
        assert await store.upsert("notes", numbered(6)) == 6


async def test_a_version_that_there_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        for version in (-1, 0, 99, 2**63):
            with pytest.raises(InvalidArgumentError, match="from 1 to "):
                await store.restore("notes", version)
        await store.insert("notes", numbered(1))


async def test_optimize_removes_versions_that_are_old_enough(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", keep_versions="0 seconds") as store:
        await store.create_table("notes", SMALL)
        for n in range(10):
            await store.insert("notes", numbered(3, start=10 * n))
        assert len(await store.versions("notes")) > 10
        await asyncio.sleep(1)  # versions made shortly before the oldest that is kept may stay too
        await store.insert("notes", numbered(3, start=100))
        for _ in range(100):  # what somebody may just be reading is kept for a moment
            await store.optimize("notes")
            if len(await store.versions("notes")) < 5:
                break
            await asyncio.sleep(0.1)
        assert len(await store.versions("notes")) < 5
        stats = await store.stats("notes")
        assert (stats.rows, stats.details["fragments"]) == (33, 1)
    async with opened(tmp_path / "s") as store:
        await store.insert("notes", numbered(3, start=500))
        kept = await store.versions("notes")
        await store.optimize("notes")
        assert [v["version"] for v in kept] == [
            v["version"] for v in (await store.versions("notes"))[: len(kept)]
        ]


AT_ONCE = Limits(export=ExportLimits(one_moment=0))


async def locked(folder: Path, table: str) -> LockedFile | None:
    """The lock that a process takes to write to a table; None where another has it."""
    return await asyncio.to_thread(LockedFile.at, folder / FOLDER / f"{table}.lock")


@pytest.mark.parametrize("seconds", [600, 0])  # found on a busy machine too, or made at once
async def test_a_backup_is_of_one_moment(
    tmp_path: Path, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Writes go on meanwhile; the copy is as the store was at a moment between two of them."""
    schema = Schema(4, metric="dot", model="m", fields={"year": int})
    limits = Limits(export=ExportLimits(one_moment=seconds))
    async with opened(tmp_path / "s", limits, busy_timeout=60) as store:
        for name in ("a", "b-c"):
            await store.create_table(name, schema)
            await store.insert(name, numbered(500))
        others = [f"a{n:02}" for n in range(20)]  # so that a while passes between these two
        for name in others:
            await store.create_table(name, SMALL)

        async def write() -> None:
            for n in range(1000, 1020):
                await store.insert("a", numbered(1, start=n))
                await store.delete("b-c", f"r{n - 1000:05}")

        _, _ = await asyncio.gather(store.backup(tmp_path / "copy"), write())
        assert not caplog.records
        assert await store.count("a") == 520
    async with opened(tmp_path / "copy") as copy:
        assert await copy.tables() == ["a", *others, "b-c"]
        assert await copy.schema("a") == schema
        assert await copy.schema("a00") == SMALL
        ids = await ids_in(copy, "a")
        assert ids[:500] == [f"r{n:05}" for n in range(500)]
        assert ids[500:] == [f"r{n:05}" for n in range(1000, 1000 + len(ids) - 500)]
        left = await ids_in(copy, "b-c")
        assert len(ids) - 500 - (500 - len(left)) in {0, 1}
        assert left == [f"r{n:05}" for n in range(500 - len(left), 500)]
        assert await copy.insert("a", numbered(1, start=9000)) == 1


async def test_a_backup_says_where_writers_cannot_be_held_off(tmp_path: Path) -> None:
    """In a log that may be a file, which must not hold the event loop."""
    log, logger = logging.FileHandler(tmp_path / "log"), logging.getLogger("aiovec")
    logger.addHandler(log)
    try:
        async with opened(tmp_path / "s", AT_ONCE, busy_timeout=0.1) as store:
            await store.create_table("notes", SMALL)
            await store.insert("notes", numbered(3))
            another = await locked(tmp_path / "s", "notes")
            await store.backup(tmp_path / "copy")
            assert another is not None
            another.close()
    finally:
        logger.removeHandler(log)
        log.close()
    assert "written to without a pause" in (tmp_path / "log").read_text()
    async with opened(tmp_path / "copy") as copy:
        assert await copy.count("notes") == 3


async def test_writers_are_not_refused_because_a_backup_waits_for_other_tables(
    tmp_path: Path,
) -> None:
    """Other processes write to the second and third table for long, while the first one is held
    off."""
    async with opened(tmp_path / "s", AT_ONCE, busy_timeout=4) as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, SMALL)
        second, third = [await locked(tmp_path / "s", name) for name in ("b", "c")]
        assert second is not None
        assert third is not None
        backup = asyncio.ensure_future(store.backup(tmp_path / "copy"))

        async def free_the_second() -> None:
            await asyncio.sleep(3)
            second.close()

        freeing = asyncio.ensure_future(free_the_second())
        while not (backup.done() and freeing.done()):
            await asyncio.sleep(0.05)
            assert await store.insert("a", [{"embedding": [1.0, 2.0, 3.0, 4.0]}]) == 1
        await backup
        third.close()


async def test_a_backup_that_is_cancelled_twice_lets_the_writers_in_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", AT_ONCE, busy_timeout=60) as store:
        for name in ("a", "b"):
            await store.create_table(name, SMALL)
        another = await locked(tmp_path / "s", "b")
        assert another is not None
        backup = asyncio.ensure_future(store.backup(tmp_path / "copy"))
        # Until it holds the lock of the first table.
        while (first := await locked(tmp_path / "s", "a")) is not None:
            first.close()
            await asyncio.sleep(0.01)
        for _ in range(2):
            backup.cancel()
            await asyncio.sleep(0.01)
        another.close()
        with pytest.raises(asyncio.CancelledError):
            await backup
        for name in ("a", "b"):
            assert await store.insert(name, numbered(1)) == 1
        assert await asyncio.to_thread(os.listdir, tmp_path) == ["s"]


async def test_a_backup_that_fails_leaves_nothing_at_its_path(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(3))
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "file" / "below", tmp_path / "file"):
            with pytest.raises(AiovecError):
                await store.backup(path)
        assert (tmp_path / "file").read_text() == "x"
