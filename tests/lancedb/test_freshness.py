"""Every read sees all writes acknowledged before it began, whichever store made them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.base import case
from tests.harness.values import SMALL, small_rows

from aiovec import CorruptStoreError, ModelMismatchError, Schema, TableNotFoundError, VectorStore

from .support import lance_calls, opened


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[VectorStore, VectorStore]]:
    """Yield a store that reads and a store that writes."""
    async with opened(tmp_path / "s") as reader, opened(tmp_path / "s") as writer:
        await writer.create_table("notes", SMALL)
        yield reader, writer


async def settle(reader: VectorStore) -> None:
    """Read until the reader may keep a version."""
    for _ in range(4):
        await reader.count("notes")


async def test_each_write_of_another_store_is_seen_by_the_next_read(
    two: tuple[VectorStore, VectorStore],
) -> None:
    reader, writer = two
    for n in range(8):
        with case(n):
            [row] = small_rows(1, start=n)
            await settle(reader)
            await writer.insert("notes", [row])
            assert await reader.count("notes") == n + 1
            await settle(reader)
            await writer.update("notes", {"year": 9000 + n}, ids=[row["id"]])
            (hit,) = await reader.search("notes", row["embedding"], limit=1)
            assert (hit.id, hit["year"]) == (row["id"], 9000 + n)
            await settle(reader)
            await writer.upsert("notes", [{**row, "name": "me"}])
            (record,) = await reader.get("notes", row["id"])
            assert record["name"] == "me"
    await settle(reader)
    await writer.optimize("notes")
    await settle(reader)
    await writer.delete("notes", where="year >= 0")
    assert await reader.search("notes", [1.0, 2.0, 2.0, 3.0]) == []


async def test_a_table_of_the_same_name_and_version_is_another(
    two: tuple[VectorStore, VectorStore],
) -> None:
    reader, writer = two
    for n in range(4):
        with case(n):
            await settle(reader)
            await writer.drop_table("notes")
            await writer.create_table("notes", Schema(4, model=f"m{n}", fields={f"f{n}": int}))
            with pytest.raises(ModelMismatchError):
                await reader.search("notes", [1, 2, 3, 4], model="other")
            assert list((await reader.schema("notes")).fields) == [f"f{n}"]
            assert await reader.find("notes", f"f{n} > 1") == []
    await settle(reader)
    await writer.drop_table("notes")
    with pytest.raises(TableNotFoundError):
        await reader.count("notes")


async def test_read_freshness_hides_only_writes_of_other_stores(tmp_path: Path) -> None:
    async with (
        opened(tmp_path / "s", read_freshness=3600.0) as reader,
        opened(tmp_path / "s") as other,
    ):
        await reader.create_table("notes", SMALL)
        await settle(reader)
        await other.insert("notes", small_rows(3))
        assert await reader.count("notes") == 0
        await reader.insert("notes", small_rows(1, start=7))
        assert await reader.count("notes") == 4
        await other.drop_table("notes")
        await other.create_table("notes", SMALL)
        await reader.insert("notes", small_rows(2))
        assert await reader.count("notes") == 2


async def test_a_read_that_failed_lets_the_next_ones_be_fresh(tmp_path: Path) -> None:
    """They do not each open the table again until the time is over."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(3))
    [file] = (tmp_path / "s/notes.lance/data").iterdir()
    async with opened(tmp_path / "s", read_freshness=3600.0, upkeep="elsewhere") as store:
        await settle(store)
        file.rename(tmp_path / "away")
        with pytest.raises(CorruptStoreError):
            await store.find("notes")
        (tmp_path / "away").rename(file)
        assert len(await store.find("notes")) == 3
        with lance_calls() as calls:
            assert len(await store.find("notes")) == 3
        assert calls["schema"] == 0
