"""Files that a full or failing disk cuts short: no commit that refers to one is acknowledged, and a
table with a damaged file can be reverted."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.harness import syscalls
from tests.harness.command import run
from tests.harness.processes import output_of

import aiovec
from aiovec import CorruptStoreError, Field, Schema, VectorStore

# More than 5,000 deleted rows of one file are stored as a bitmap, fewer as a list.
MANY = 6_000

# Each call is tried once for each of these numbers, of the write to a kind of file that fails.
# Tells what came of it, and what the table answers afterwards to a store that knows nothing of it.
CALLS = """
import asyncio, errno, json, os, sys
from pathlib import Path
import aiovec
from aiovec import AiovecError
from tests.harness import syscalls
from tests.lancedb.test_cut_files import answers, filled, large, row

async def optimized(store):
    await store.upsert("notes", [row(n) for n in range(600)])
    await store.optimize("notes")

async def main(folder):
    target = f"lancedb://{folder}"
    await filled(folder)
    faults = syscalls.Faults(Path(os.environ[syscalls.VARIABLE]))
    store = await aiovec.connect(target)
    calls = {
        "insert": ([0], "data", lambda: store.insert("notes", [{**row(1), "id": "new"}])),
        "insert much": (range(3), "data", lambda: store.insert("notes", large())),
        "delete": ([0], "_deletions", lambda: store.delete("notes", ["r1"])),
        "delete many": ([0], "_deletions", lambda: store.delete("notes", where="year < 5500")),
        "update": ([0], "_deletions", lambda: store.update("notes", {"year": -1}, ids=["r2"])),
        "btree": (range(2), "_indices", lambda: store.create_field_index("notes", "size", "btree")),
        "optimize": (range(2), "_indices", lambda: optimized(store)),
        "ivf_flat": (range(2), "_indices", lambda: store.create_index("notes", "ivf_flat")),
    }
    [*_, newest] = await store.versions("notes")
    for name, (tries, path, call) in calls.items():
        for skip in tries:
            for kind in (syscalls.WRITE, syscalls.RENAME):
                await store.optimize("notes")  # upkeep has nothing left to write meanwhile
                faults.arm(kind, path, skip=skip, error=errno.ENOSPC)
                try:
                    await call()
                    came = "done"
                except AiovecError as exc:
                    came = str(exc)
                failed = faults.disarm()
                async with aiovec.connect(target) as other:
                    print(json.dumps([name, failed, came, await answers(other)]), flush=True)
                await store.revert("notes", newest["version"])
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def row(n: int) -> dict[str, Any]:
    return {"id": f"r{n}", "embedding": [1.0, n, 2.0, 3.0], "year": n, "size": n, "body": "some"}


def large() -> list[dict[str, Any]]:
    """Return rows so large that they are written in several parts."""
    return [{**row(-n), "body": random.Random(n).randbytes(2**19).hex()} for n in range(1, 20)]


async def filled(folder: Path | str, count: int = MANY) -> None:
    async with aiovec.connect(f"lancedb://{folder}") as store:
        schema = Schema(4, fields={"year": Field(int, index="btree"), "size": int, "body": str})
        await store.create_table("notes", schema)
        await store.insert("notes", [row(n) for n in range(count)])


async def answers(store: VectorStore) -> list[Any]:
    """Return the table's answer to each kind of read, of the rows that ``filled`` made."""
    hits = await store.search("notes", [1.0, 7.0, 2.0, 3.0], limit=1)
    return [
        len(await store.find("notes", "year >= 0", limit=2 * MANY)),
        len(await store.find("notes", "size < 100", limit=200)),
        len(await store.get("notes", ["r1", "r2"])),
        [hit.id for hit in hits],
    ]


@pytest.mark.slow
def test_no_commit_is_acknowledged_whose_file_was_cut_short(tmp_path: Path) -> None:
    environment = syscalls.environment(tmp_path, tmp_path / "control")
    printed = output_of("-c", CALLS, tmp_path / "store", env=environment)
    output = [json.loads(line) for line in printed.splitlines()]
    for name, failed, came, result in output:
        assert (came != "done") == bool(failed), (name, came)
        assert not failed or result == [MANY, 100, 2, ["r7"]], (name, came)
    assert {name for name, failed, *_ in output if failed} == {name for name, *_ in output}
    assert sum(bool(failed) for _, failed, *_ in output) > 15


def cut(folder: Path, pattern: str) -> Path:
    """Cut the newest of these files of the table short, as a full disk does."""
    file = max((folder / "notes.lance").glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    os.truncate(file, file.stat().st_size // 2)
    return file


def doctor(folder: Path) -> dict[str, Any]:
    """Return the finding of ``aiovec doctor`` about the table."""
    findings = run("doctor", "-s", f"lancedb://{folder}", "--json").json["findings"]
    [result] = [finding for finding in findings if finding["subject"] == "table notes"]
    return dict(result)


@pytest.mark.parametrize("part", ["_deletions/*", "_indices/*/page_data.lance"])
def test_the_doctor_finds_a_damaged_file(tmp_path: Path, part: str) -> None:
    """The disk damaged it later. An earlier version can be read, or the index can be rebuilt."""

    async def damage() -> int:
        await filled(tmp_path, 200)
        async with aiovec.connect(f"lancedb://{tmp_path}") as store:
            await store.optimize("notes")
            version = int((await store.versions("notes"))[-1]["version"])
            await store.delete("notes", where="id = 'r0'")
        cut(tmp_path, part)
        return version

    async def mend(version: int) -> None:
        async with aiovec.connect(f"lancedb://{tmp_path}") as store:
            with pytest.raises(CorruptStoreError):
                await store.find("notes", "year >= 0", limit=10)
            if "_deletions" in part:
                await store.revert("notes", version)
            else:
                await store.drop_field_index("notes", "year", "btree")
                await store.create_field_index("notes", "year", "btree")
            rows = 200 if "_deletions" in part else 199
            assert await answers(store) == [rows, rows - 100, 2, ["r7"]]
            await store.insert("notes", [row(300)])

    version = asyncio.run(damage())
    result = doctor(tmp_path)
    assert not result["ok"]
    assert "damaged" in result["value"]
    assert ("revert()" if "_deletions" in part else "create it again") in result["fix"]
    asyncio.run(mend(version))
    assert doctor(tmp_path)["ok"]


def test_an_empty_manifest_is_reported_with_its_fix(tmp_path: Path) -> None:
    async def damage() -> Path:
        await filled(tmp_path, 10)
        async with aiovec.connect(f"lancedb://{tmp_path}") as store:
            await store.delete("notes", ["r0"])
        manifest = min((tmp_path / "notes.lance/_versions").glob("*.manifest"))
        os.truncate(manifest, 0)
        async with aiovec.connect(f"lancedb://{tmp_path}") as store:
            for call in (store.count("notes"), store.insert("notes", [row(99)])):
                with pytest.raises(CorruptStoreError, match=f"remove .*{manifest.name} to return"):
                    await call
        return manifest

    async def count() -> int:
        async with aiovec.connect(f"lancedb://{tmp_path}") as store:
            await store.insert("notes", [row(99)])
            return await store.count("notes")

    manifest = asyncio.run(damage())
    assert str(manifest) in doctor(tmp_path)["fix"]
    manifest.unlink()
    assert asyncio.run(count()) == 11
    assert doctor(tmp_path)["ok"]


async def test_a_damaged_table_can_be_dropped(tmp_path: Path) -> None:
    await filled(tmp_path, 10)
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.delete("notes", ["r0"])
    cut(tmp_path, "_deletions/*")
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.drop_table("notes")
        assert await store.tables() == []


async def test_old_partial_files_are_removed_and_young_ones_stay(tmp_path: Path) -> None:
    """Another process may still be writing a young file."""
    await filled(tmp_path, 10)
    old, young = (tmp_path / "notes.lance/data" / f"{name}.lance#1" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"some")
    os.utime(old, (0, 0))
    async with aiovec.connect(f"lancedb://{tmp_path}") as store:
        await store.optimize("notes")
        assert len(await store.find("notes", limit=20)) == 10
    assert (old.exists(), young.exists()) == (False, True)
