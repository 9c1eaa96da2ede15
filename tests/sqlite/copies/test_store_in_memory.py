"""Searches of ``:memory:`` from copies, where one connection serves everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import (
    answered,
    as_told,
    in_memory,
    opened,
    ready,
    resident_of,
    rows_for,
)
from tests.sqlite.support import backend_of, open_store

from aiovec import Field, Schema, VectorStore
from aiovec.backend import Metric
from aiovec_sqlite.copies import CopyLimits, copy

DIM = 24
METRICS: list[Metric] = ["cosine", "l2", "dot"]
FEW_A_STEP = {"copies": CopyLimits(whole=0, full_segment=20, own_segments=50)}


def schema(metric: Metric = "cosine", **options: Any) -> Schema:
    return Schema(DIM, metric=metric, fields={"n": int, "owner": Field(str, **options)})


@asynccontextmanager
async def filled(rows: int, made: Schema, **options: Any) -> AsyncIterator[VectorStore]:
    async with opened(":memory:", **options) as store:
        await store.create_table("t", made)
        await store.insert("t", rows_for(np.random.default_rng(0), range(rows), DIM))
        yield store


async def loading(store: VectorStore) -> asyncio.Task[None]:
    """Begin to load the table."""
    handle = await backend_of(store).open_table("t")
    assert not resident_of(store).prepare(handle)
    task = resident_of(store)._tables["t"].loading
    assert task is not None
    return task


async def check_all(store: VectorStore, rng: np.random.Generator) -> None:
    """Every row is found from memory, as the connection itself finds it."""
    await ready(store, "t")
    resident = resident_of(store)
    for where in (None, "owner = 'a'", "n < 300"):
        query = rng.standard_normal(DIM)
        before = answered(store, "t")
        hits = await store.search("t", query, limit=10_000, where=where, include_vector=True)
        assert answered(store, "t") == before + 1
        backend_of(store)._resident = None
        wanted = await store.search("t", query, limit=10_000, where=where, include_vector=True)
        backend_of(store)._resident = resident
        assert as_told(hits) == as_told(wanted)
        assert len(hits) == await store.count("t", where=where)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("partition", [False, True])
async def test_the_same_as_without_a_copy(metric: Metric, partition: bool) -> None:
    rng = np.random.default_rng(1)
    async with filled(700, schema(metric, partition=partition), limits=FEW_A_STEP) as store:
        await check_all(store, rng)
        await store.upsert("t", rows_for(rng, [*range(0, 400, 3), *range(700, 800)], DIM))
        await store.update("t", {"owner": "b"}, where="n > 800")
        await store.delete_where("t", "n BETWEEN 40 AND 60")
        await check_all(store, rng)


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize("most_changes", [4096, 3])
async def test_writes_while_a_table_is_loaded(
    monkeypatch: pytest.MonkeyPatch, partition: bool, most_changes: int
) -> None:
    """Each write has its turn between two steps; with few changes allowed, loading begins anew."""
    monkeypatch.setattr(copy, "_MOST_CHANGES", most_changes)
    rng = np.random.default_rng(2)
    async with filled(1000, schema(partition=partition), limits=FEW_A_STEP) as store:
        task = await loading(store)
        states = []
        for step in range(12):
            ids: Sequence[int] = rng.integers(0, 1000, 6).tolist()
            await store.upsert("t", rows_for(rng, [*dict.fromkeys(ids)], DIM))
            await store.insert("t", rows_for(rng, [2000 + step], DIM))
            await store.delete("t", [f"r{i:06}" for i in rng.integers(0, 1000, 3)])
            await store.update("t", {"owner": "c"}, where=f"n = {step}")
            states.append(task.done())
        assert not any(states), "the table was loaded in one go"
        await task
        await check_all(store, rng)


async def test_tables_that_change_while_they_are_loaded() -> None:
    rng = np.random.default_rng(3)
    async with filled(1000, schema(), limits=FEW_A_STEP) as store:
        task = await loading(store)
        await store.add_field("t", "more", int)
        await task
        assert not in_memory(store, "t")
        await check_all(store, rng)

        await store.drop_table("t")
        await store.create_table("t", schema())
        await store.insert("t", rows_for(rng, range(600), DIM))
        task = await loading(store)
        far = {"id": "far", "embedding": np.full(DIM, 1e30, np.float32)}
        await store.insert("t", [far])
        await task
        assert not in_memory(store, "t")
        hits = await store.search("t", np.ones(DIM), limit=1000)
        assert len(hits) == 601


async def test_a_store_that_is_closed_while_a_table_is_loaded() -> None:
    async with filled(1000, schema(), limits=FEW_A_STEP) as store:
        task = await loading(store)
        await store.count("t")
    assert task.done()


def test_a_loop_that_ends_while_a_table_is_loaded() -> None:
    rng = np.random.default_rng(4)

    async def begin() -> VectorStore:
        store = await open_store(":memory:", limits=FEW_A_STEP)
        await store.create_table("t", schema())
        await store.insert("t", rows_for(rng, range(1000), DIM))
        await loading(store)
        await store.count("t")
        return store

    async def go_on(store: VectorStore) -> None:
        await store.upsert("t", rows_for(rng, range(5, 10), DIM))
        await check_all(store, rng)
        await store.close()

    store = asyncio.run(begin())
    asyncio.run(go_on(store))


async def test_cancelled_searches_leave_the_connection_to_others() -> None:
    rng = np.random.default_rng(5)
    queries = rng.standard_normal((60, DIM), dtype=np.float32)
    async with filled(2000, schema()) as store:
        await ready(store, "t")
        wanted = [as_told(hits) for hits in await store.search_many("t", queries, limit=3)]
        for rounds in range(3):
            calls = [asyncio.ensure_future(store.search("t", q, limit=3)) for q in queries]
            for _ in range(rounds * 3):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            for place, hits in enumerate(found):
                if not isinstance(hits, BaseException):
                    assert as_told(hits) == wanted[place]
            assert sum(isinstance(hits, BaseException) for hits in found) <= 30
            await store.upsert("t", rows_for(np.random.default_rng(0), range(5), DIM))


async def test_stores_beside_each_other() -> None:
    """What several stores in memory hold is not mixed up, and each has its own copies."""
    async with filled(300, schema()) as one, filled(50, schema()) as two:
        await ready(one, "t")
        await ready(two, "t")
        query = np.ones(DIM)
        assert len(await one.search("t", query, limit=1000)) == 300
        assert len(await two.search("t", query, limit=1000)) == 50
        assert answered(one, "t") == answered(two, "t") == 1
        stats = [await store.stats("t") for store in (one, two)]
        assert stats[0].scan_memory > stats[1].scan_memory > 0


async def test_the_budget_and_the_way_by_disk() -> None:
    for options in ({"scan_memory": "1 KiB"}, {"scan": "disk"}):
        async with filled(300, schema(), **options) as store:
            for _ in range(5):
                assert len(await store.search("t", np.ones(DIM), limit=1000)) == 300
            assert (await store.stats("t")).scan_memory == 0
