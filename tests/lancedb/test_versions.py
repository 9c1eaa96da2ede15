"""Versions of a table, and restoring one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.values import SMALL, small_rows

from aiovec import Field, InvalidArgumentError, VectorStore

from .support import ids_in, opened


async def newest(store: VectorStore) -> int:
    return int((await store.versions("notes"))[-1]["version"])


async def test_a_version_is_restored(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    await store.insert("notes", small_rows(5))
    ids = [row["id"] for row in small_rows(5)]
    before = await store.get("notes", ids)
    good = (await store.versions("notes"))[-1]
    age = datetime.now(UTC) - good["created"]
    assert timedelta(0) <= age < timedelta(minutes=30)
    await store.update("notes", {"name": "someone", "key": 1}, where="TRUE")
    await store.delete("notes", ["r0001"])
    await store.insert("notes", small_rows(3, start=10))
    await store.revert("notes", good["version"])
    assert await store.get("notes", ids) == before
    assert await ids_in(store) == ids
    # Restoring is one more version, and writing goes on behind it.
    numbers = [version["version"] for version in await store.versions("notes")]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > good["version"]
    rows = small_rows(2, start=10)
    assert await store.insert("notes", rows) == 2
    (hit,) = await store.search("notes", rows[1]["embedding"], limit=1)
    assert hit.id == "r0011"


async def test_a_version_before_a_field_was_added(store: VectorStore, tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as other:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(5))
        version = await newest(store)
        await store.add_field("notes", "late", Field(str))
        await store.update("notes", {"late": "x"}, where="TRUE")
        assert await other.count("notes", "late = 'x'") == 5
        await store.revert("notes", version)
        for each in (store, other):
            assert await each.schema("notes") == SMALL
            assert await each.count("notes", "year >= 0") == 5


@pytest.mark.parametrize("part", ["data", "_indices", "_deletions"])
async def test_a_version_whose_files_are_gone_is_not_restored(tmp_path: Path, part: str) -> None:
    """As when upkeep was killed that had removed some of them."""
    fields = {**SMALL.fields, "kind": Field(str, index="bitmap")}
    async with opened(tmp_path / "s", index="none") as store:
        await store.create_table("notes", replace(SMALL, fields=fields))
        await store.insert("notes", small_rows(5))
        await store.optimize("notes")
        await store.delete("notes", ["r0001"])
        version = await newest(store)
        old = set((tmp_path / "s" / "notes.lance" / part).iterdir())
        await store.upsert("notes", small_rows(5))
        await store.optimize("notes")
        for path in old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    async with opened(tmp_path / "s", index="none") as store:
        with pytest.raises(InvalidArgumentError, match="whose files all exist"):
            await store.revert("notes", version)
        assert await ids_in(store) == [row["id"] for row in small_rows(5)]
        assert await store.upsert("notes", small_rows(6)) == 6


async def test_a_version_that_does_not_exist(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    for version in (-1, 0, 99, 2**63):
        with pytest.raises(InvalidArgumentError, match="version"):
            await store.revert("notes", version)
    await store.insert("notes", small_rows(1))
