"""Small tables: searched by their vectors in memory, one hop to a thread for a lone search."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite import support
from tests.sqlite.support import opened
from tests.waiting import until

from aiovec import Field, Schema
from aiovec_sqlite.copies import CopyLimits

from .support import as_told, in_memory, ready, resident_of, rows_for, same

DIM = 24
FIELDS: dict[str, Any] = {"n": int, "owner": str, "kind": Field(str)}
OPTIONS: list[dict[str, Any]] = [
    {"limit": 10},
    {"limit": 1, "include_vector": True},
    {"limit": 1000},
    {"limit": 7, "where": "n < 500"},
    {"limit": 5, "where": "owner = 'a' AND n < 60", "include_vector": True},
    {"limit": 5, "where": "n < 0"},
]


def rows(rng: np.random.Generator, ids: range) -> list[dict[str, Any]]:
    made = rows_for(rng, ids, DIM)
    for number, row in enumerate(made):
        row["kind"] = ["x", "y"][number % 2]
        if number % 5 == 0:  # rows that float32 hardly tells apart
            row["embedding"] = made[0]["embedding"] * np.float32(1 + 1e-7 * number)
            row["embedding"][number % DIM] *= np.float32(1 + 3e-7 * (number + 1))
    return made


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
async def test_the_same_as_from_the_file(tmp_path: Path, metric: Any) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "a.db"
    fields = {**FIELDS, "owner": Field(str, partition=metric == "l2", nullable=metric != "l2")}
    async with opened(path, limits={"copies": CopyLimits(own_segments=40)}) as store:
        await store.create_table("t", Schema(DIM, metric=metric, fields=fields, payload=False))
        some = rows(rng, range(150))
        for row in some:
            row["owner"] = row["owner"] or "d"
        await store.insert("t", some)
        queries = [
            *rng.standard_normal((4, DIM), dtype=np.float32),
            some[0]["embedding"], some[0]["embedding"] * np.float32(1e3),
        ]  # fmt: skip
        await same(store, path, "t", queries, OPTIONS)
        assert (await ready(store, "t")).copy.state.whole
        await store.delete("t", [row["id"] for row in some[::3]])
        again = rows(rng, range(100, 200))
        for row in again:
            row["owner"] = "a"
        await store.upsert("t", again)
        await same(store, path, "t", queries, OPTIONS)
        assert (await ready(store, "t")).copy.state.whole


async def test_a_table_that_grows_gets_codes(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    path = tmp_path / "a.db"
    limits = {"copies": CopyLimits(whole=100 * 4 * DIM)}
    async with opened(path, limits=limits) as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        await store.insert("t", rows(rng, range(90)))
        queries = rng.standard_normal((3, DIM), dtype=np.float32)
        await same(store, path, "t", queries, OPTIONS)
        copy = (await ready(store, "t")).copy
        assert copy.whole
        assert copy.state.whole
        taken = copy.nbytes
        await store.insert("t", rows(rng, range(90, 300)))
        await store.delete("t", ["r000003", "r000100"])
        await store.search("t", queries[0])
        await until(lambda: not copy.whole)
        assert not copy.state.whole
        await same(store, path, "t", queries, OPTIONS)
        assert (await ready(store, "t")).copy is copy
        assert copy.state.nbytes < 2 * taken


async def test_a_small_table_of_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        query = np.ones(DIM, dtype=np.float32)
        await ready(store, "t")
        assert await store.search("t", query) == []
        await store.insert("t", rows(np.random.default_rng(9), range(3)))
        assert len(await store.search("t", query)) == 3
        await store.delete_where("t", "n >= 0")
        assert await store.search("t", query) == []


async def test_a_lone_search_makes_no_batch_and_many_at_once_share_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        await store.insert("t", rows(rng, range(50)))
        await ready(store, "t")
        query = rng.standard_normal(DIM, dtype=np.float32)
        resident = resident_of(store)
        tasks = asyncio.all_tasks()
        found = await store.search("t", query)
        assert resident._timings["t"].to_dict()["batch"] == 1
        asked = asyncio.ensure_future(store.search("t", query))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() - tasks == {asked}
        many = await asyncio.gather(*(store.search("t", query) for _ in range(20)))
        assert all(as_told(hits) == as_told(found) for hits in [*many, await asked])
        assert resident._timings["t"].to_dict()["largest_batch"] > 4


async def test_a_cancelled_search_leaves_and_the_next_one_is_answered(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        await store.insert("t", rows(rng, range(50)))
        await ready(store, "t")
        query = rng.standard_normal(DIM, dtype=np.float32)
        for _ in range(20):
            asked = asyncio.ensure_future(store.search("t", query))
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        assert len(await store.search("t", query)) == 10
        backend = support.backend_of(store)
        await until(lambda: not resident_of(store)._answering)
        await until(lambda: backend._readers._places.free())


async def test_a_table_is_loaded_behind_the_answer_of_the_file(tmp_path: Path) -> None:
    limits = {"copies": CopyLimits(head_start=60)}
    async with opened(tmp_path / "a.db", limits=limits) as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        await store.insert("t", rows(np.random.default_rng(13), range(50)))
        resident, seen = resident_of(store), list[str]()
        load, answered = resident._load_now, resident.file_answered

        async def loads(*what: Any) -> None:
            seen.append("load")
            await load(*what)

        def answers(*what: Any) -> None:
            seen.append("answer")
            answered(*what)

        resident._load_now, resident.file_answered = loads, answers  # type: ignore[method-assign]
        assert len(await store.search("t", np.ones(DIM, dtype=np.float32))) == 10
        await until(lambda: in_memory(store, "t"))
        assert seen == ["answer", "load"]


async def test_stats_tell_what_a_small_table_takes(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", Schema(DIM, fields=FIELDS))
        await store.insert("t", rows(np.random.default_rng(12), range(50)))
        await ready(store, "t")
        stats = await store.stats("t")
        assert stats.details["scan_expected"] == 50 * (4 * DIM + 20)
        assert stats.scan_memory == stats.details["scan_expected"]


async def test_long_vectors_whose_products_are_made_in_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    path = tmp_path / "a.db"
    vectors = rng.standard_normal((331, 4096), dtype=np.float32)
    async with opened(path) as store:
        await store.create_table("t", Schema(4096, metric="dot", payload=False))
        some = [{"id": f"r{n}", "embedding": one} for n, one in enumerate(vectors)]
        await store.insert("t", some)
        await same(store, path, "t", [*vectors[::150], -vectors[330]], [{"limit": 4}])
        assert (await ready(store, "t")).copy.state.whole
