"""Calls that arrive together share a commit, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from tests.harness.values import python_rows

from aiovec import DuplicateIdError, VectorStore

from .support import SMALL, numbered, opened, rows


async def commits(store: VectorStore) -> int:
    return len(await store.versions("notes"))


async def test_many_small_inserts_are_few_commits(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        before = await commits(store)
        calls = [store.insert("notes", numbered(1, start=n)) for n in range(500)]
        assert await asyncio.gather(*calls) == [1] * 500
        assert await commits(store) - before <= 5
        assert await store.count("notes") == 500


async def test_so_are_upserts_and_deletes(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(100))
        before = await commits(store)
        upserts = [store.upsert("notes", rows([f"r{n % 100:05}"], year=n)) for n in range(300)]
        assert await asyncio.gather(*upserts) == [1] * 300
        assert await store.count("notes", "year >= 200") == 100, "the last of an id counts"
        deletes = [store.delete("notes", f"r{n // 2:05}") for n in range(200)]
        assert await asyncio.gather(*deletes) == [1, 0] * 100
        assert await commits(store) - before <= 10


async def test_a_bad_insert_harms_no_other(tmp_path: Path) -> None:
    """Which of the same ids wins is told by the order of the calls."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", rows(["there"]))
        given = [["a", "b"], ["c", "there"], ["b", "d"], ["c"], ["d"], ["a"], ["e"]]
        calls = [store.insert("notes", rows(ids)) for ids in given]
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        assert [o if isinstance(o, int) else o.ids for o in outcomes] == [
            2, ["there"], ["b"], 1, 1, ["a"], 1,
        ]  # fmt: skip
        assert all(isinstance(o, (int, DuplicateIdError)) for o in outcomes)
        found = {record.id for record in await store.find("notes")}
        assert found == {"there", "a", "b", "c", "d", "e"}


async def test_the_order_of_calls_is_kept(tmp_path: Path) -> None:
    """Kinds that cannot share a commit do not overtake one another."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.count("notes")  # else each call opens the table first, and may be overtaken
        outcomes = await asyncio.gather(
            store.insert("notes", rows(["a"])),
            store.insert("notes", rows(["b"])),
            store.delete("notes", "a"),
            store.insert("notes", rows(["a"], year=2)),
            store.update("notes", {"year": 3}, where="year = 2"),
            store.upsert("notes", rows(["b"], year=4)),
            store.delete_where("notes", "year = 3"),
            store.insert("notes", rows(["a"], year=5)),
        )
        assert outcomes == [1, 1, 1, 1, 1, 1, 1, 1]
        years = {record.id: record["year"] for record in await store.find("notes")}
        assert years == {"a": 5, "b": 4}


async def test_vectors_of_calls_that_were_joined(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        calls = [
            store.insert("notes", {"id": [f"{n:03}"], "embedding": vectors[n : n + 1]})
            for n in range(200)
        ]
        await asyncio.gather(*calls)
        found = [row async for batch in store.export("notes") for row in python_rows(batch)]
        found.sort(key=lambda row: row["id"])
        assert [row["id"] for row in found] == [f"{n:03}" for n in range(200)]
        assert np.array_equal(np.array([row["embedding"] for row in found], np.float32), vectors)
