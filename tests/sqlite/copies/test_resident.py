"""Searches from memory, through the store: the same answers as from the file, at any time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.sqlite.copies.support import (
    answered,
    as_told,
    in_memory,
    opened,
    ready,
    resident_of,
    rows_for,
    same,
)
from tests.sqlite.support import backend_of, python
from tests.waiting import Clock, until

import aiovec
from aiovec import F, Field, Schema, StoreClosedError, TableNotFoundError, VectorStore
from aiovec._core.threads import idle_threads
from aiovec.backend import Columns, Found, Metric, Patience, TableHandle, VectorQuery
from aiovec_sqlite.copies import CopyLimits, copy, segments
from aiovec_sqlite.copies.batches import Call, Pipeline

DIM = 24
METRICS: list[Metric] = ["cosine", "l2", "dot"]
FILTERS: list[Any] = [
    None, "n < 1", "n < 10", "n < 500", "n < 990", "n >= 0", "n < 0", "id = 'r000007'",
    "owner = 'a'", "owner = 'a' AND n < 300", "owner IS NULL", "owner = 'nobody'",
    "owner IN ('a', 'b')", "NOT owner = 'b'", F.payload["kind"] == 1, F.payload["kind"] == True,  # noqa: E712
]  # fmt: skip


def schema(metric: Metric = "cosine", **options: Any) -> Schema:
    return Schema(
        DIM, metric=metric, fields={"n": Field(int, index="btree"), "owner": Field(str, **options)}
    )


def options(limits: tuple[int, ...] = (1, 10)) -> list[dict[str, Any]]:
    return [{"limit": limit, "where": where} for where in FILTERS for limit in limits]


async def filled(
    path: Path, rows: int, metric: Metric = "cosine", seed: int = 0, **field: Any
) -> np.random.Generator:
    rng = np.random.default_rng(seed)
    async with opened(path) as store:
        await store.create_table("t", schema(metric, **field))
        await store.insert("t", rows_for(rng, range(rows), DIM))
    return rng


SMALL_SEGMENTS = {"copies": CopyLimits(whole=0, full_segment=200)}


# The same answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "partition"),
    [  # each metric, and both with and without partitions; every pair is a long test
        ("cosine", True), ("l2", False), ("dot", True),
        pytest.param("cosine", False, marks=pytest.mark.soak),
        pytest.param("l2", True, marks=pytest.mark.soak),
        pytest.param("dot", False, marks=pytest.mark.soak),
    ],
)  # fmt: skip
async def test_the_same_as_from_the_file(tmp_path: Path, metric: Metric, partition: bool) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 1300, metric, partition=partition)
    async with opened(path, limits=SMALL_SEGMENTS) as store:
        queries = rng.standard_normal((3, DIM), dtype=np.float32)
        await same(store, path, "t", queries, options())
        await same(store, path, "t", queries, options())  # with masks that were kept
        await store.upsert("t", rows_for(rng, [*range(0, 400, 3), *range(1300, 1400)], DIM))
        await store.update("t", {"n": 5, "owner": "a"}, ids=["r000500", "r000501"])
        await store.update("t", {"owner": "b"}, where="n > 900")
        await store.delete("t", [f"r{i:06}" for i in range(5, 1300, 11)])
        await store.delete_where("t", "n BETWEEN 40 AND 60")
        await same(store, path, "t", queries, options())
        more: list[dict[str, Any]] = [
            {"limit": 5, "include_vector": True},
            {"limit": 5, "select": ["n"]},
            {"limit": 5, "select": [], "include_vector": True, "where": "n < 20"},
            {"limit": 100_000},
            {"limit": 100_000, "where": "n < 300"},
        ]
        await same(store, path, "t", queries, more)


async def test_search_many_and_a_batch_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 3000)
    queries = rng.standard_normal((300, DIM), dtype=np.float32)
    async with opened(path) as store, opened(path, scan="disk") as disk:
        await ready(store, "t")
        found = await store.search_many("t", queries, limit=7, where="n < 700")
        wanted = await disk.search_many("t", queries, limit=7, where="n < 700")
        assert list(map(as_told, found)) == list(map(as_told, wanted))
        assert answered(store, "t") == 300


async def test_equal_rows_come_by_id(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as store:
        await store.create_table("t", schema("l2"))
        same_vector = np.ones(DIM, dtype=np.float32)
        ids = [f"e{i:03}" for i in np.random.default_rng(1).permutation(500)]
        await store.insert("t", [{"id": id, "embedding": same_vector, "n": 1} for id in ids])
        await ready(store, "t")
        for limit in (1, 20, 499):
            hits = await store.search("t", same_vector, limit=limit)
            assert [hit.id for hit in hits] == sorted(ids)[:limit]
        assert answered(store, "t") == 3


async def test_rows_that_float64_cannot_tell_apart_come_by_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("t", schema("l2"))
        tiny = rng.standard_normal((300, DIM)) * 1e-14
        await store.insert("t", [{"id": f"{i:03}", "embedding": v} for i, v in enumerate(tiny)])
        await ready(store, "t")
        hits = await store.search("t", np.full(DIM, 1e14), limit=5)
        assert len({hit.distance for hit in hits}) == 1
        assert [hit.id for hit in hits] == ["000", "001", "002", "003", "004"]
        assert answered(store, "t") == 1


async def test_extreme_vectors_are_left_to_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 200, "l2")
    query = rng.standard_normal(DIM, dtype=np.float32)
    async with opened(path) as store:
        await ready(store, "t")
        hits = await store.search("t", query * np.float32(1e25), limit=3)
        assert answered(store, "t") == 0  # an extreme query
        assert len(hits) == 3
        far = {"id": "far", "embedding": np.full(DIM, 1e30, np.float32), "n": 1}
        await store.upsert("t", [far])
        with caplog.at_level(logging.WARNING, "aiovec"):
            for _ in range(50):
                hits = await store.search("t", np.full(DIM, 1e29, np.float32), limit=201)
                assert len(hits) == 201
                assert "far" in {hit.id for hit in await store.search("t", query, limit=201)}
                await asyncio.sleep(0.002)
        assert not in_memory(store, "t")
        assert answered(store, "t") == 0


# Freshness


async def test_each_write_is_seen_by_the_next_search(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 500)
    async with opened(path) as store, opened(path) as other:
        await ready(store, "t")
        await ready(other, "t")
        for step in range(60):
            writer, reader = (store, other) if step % 2 else (other, store)
            (row,) = rows_for(rng, [step * 7], DIM)
            row["n"] = 5000 + step
            await writer.upsert("t", [row])
            for one in (reader, writer):
                (hit,) = await one.search("t", row["embedding"], limit=1)
                assert (hit.id, hit["n"]) == (row["id"], row["n"])
                (hit,) = await one.search("t", -row["embedding"], where="n >= 5000", limit=1)
                assert hit.id == row["id"]
            await writer.update("t", {"n": 1}, ids=row["id"])
            for one in (reader, writer):
                hits = await one.search("t", row["embedding"], where="n >= 5000", limit=1)
                assert hits == []
            await writer.delete("t", row["id"])
            for one in (reader, writer):
                (hit,) = await one.search("t", row["embedding"], limit=1)
                assert hit.id != row["id"]
        assert answered(store, "t") == answered(other, "t") == 60 * 4
    async with opened(path) as store:
        await same(store, path, "t", rng.standard_normal((2, DIM)), options((5,)))


WRITE = """
import asyncio, sys, numpy as np, aiovec

async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        for line in sys.stdin:
            step = int(line)
            vector = np.zeros(24, np.float32)
            vector[step % 24] = 1 + step
            await store.upsert("t", [{"id": "mark", "embedding": vector, "n": step}])
            await store.delete("t", f"r{step:06}")
            print(step, flush=True)

asyncio.run(main())
"""


async def test_writes_of_another_process_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path, 300, "l2")
    process = python("-c", WRITE, str(path), stdin=-1, stdout=-1)

    def write(step: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{step}\n"

    try:
        async with opened(path) as store:
            await ready(store, "t")
            for step in range(20):
                await asyncio.to_thread(write, step)
                query = np.zeros(DIM, np.float32)
                query[step % DIM] = 1 + step
                hits = await store.search("t", query, limit=400)
                assert (hits[0].id, hits[0]["n"], hits[0].distance) == ("mark", step, 0.0)
                assert len(hits) == 300 - step
            assert answered(store, "t") == 20
    finally:
        await asyncio.to_thread(process.communicate)


def alive(segment: segments.Segment) -> Any:
    return segment.offset[: segment.count] > -np.inf


async def test_masks_of_a_newer_state_serve_no_older_one(tmp_path: Path) -> None:
    """A reader in an older snapshot must not get hits by what its rows became later."""
    path = tmp_path / "a.db"
    rng = await filled(path, 300)
    async with opened(path) as store:
        resident = await ready(store, "t")
        backend = backend_of(store)
        handle = await backend.open_table("t")
        where = await store._bind("n = 7777", handle.schema)
        assert where is not None
        row = rows_for(rng, [3], DIM)[0]
        await store.update("t", {"n": 7777}, ids=row["id"])
        old: list[Any] = []
        halfway, go_on = threading.Event(), threading.Event()

        def read(db: Any, ticket: Any) -> None:
            table = resident.copy.table
            state = resident.copy.advance(db, ticket)
            halfway.set()
            assert go_on.wait(30)
            mask = resident.copy.masks.of(db, table, state, where)
            for segment, part in zip(state.segments, mask, strict=True):
                old.extend(segment.rowids[: segment.count][part & alive(segment)].tolist())

        reading = asyncio.ensure_future(backend._read(read))
        assert await asyncio.to_thread(halfway.wait, 30)
        await store.update("t", {"n": 1}, ids=row["id"])
        assert await store.search("t", row["embedding"], where="n = 7777") == []
        go_on.set()
        await reading
        assert len(old) == 1
        assert await store.search("t", row["embedding"], where="n = 7777") == []


async def test_a_table_that_comes_again_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 300)
    async with opened(path) as store:
        await ready(store, "t")
        await store.add_field("t", "year", Field(int))
        query = rng.standard_normal(DIM, dtype=np.float32)
        hits = await store.search("t", query, where="year IS NULL", limit=3)
        assert [hit["year"] for hit in hits] == [None] * 3
        await same(store, path, "t", [query], [{"limit": 5, "where": "year IS NULL"}])
        await store.update("t", {"year": 3}, ids=hits[0].id)
        (hit,) = await store.search("t", query, where="year = 3", limit=3)
        assert hit.id == hits[0].id
        await store.drop_table("t")
        with pytest.raises(aiovec.TableNotFoundError):
            await store.search("t", query)
        await store.create_table("t", Schema(3, metric="l2"))
        assert await store.search("t", [1, 2, 3]) == []
        await store.insert("t", [{"id": "new", "embedding": [1, 2, 3]}])
        await ready(store, "t")
        (hit,) = await store.search("t", [1, 2, 3])
        assert (hit.id, hit.distance) == ("new", 0.0)


async def test_too_many_changes_make_the_copy_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 200)
    async with opened(path) as store:
        await ready(store, "t")
        await store.insert("t", rows_for(rng, range(1000, 1000 + 4200), DIM))
        hits = await store.search("t", rng.standard_normal(DIM), limit=5000)
        assert len(hits) == 4400
        await same(store, path, "t", rng.standard_normal((2, DIM)), options((5,)))


async def test_the_copy_stays_small_under_many_updates(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 600)
    async with opened(path) as store:
        resident = await ready(store, "t")
        for _ in range(12):
            await store.upsert("t", rows_for(rng, range(600), DIM))
            await store.search("t", rng.standard_normal(DIM), where="n < 500")
            compacting = resident.compacting
            await until(lambda: compacting is None or compacting.done())  # noqa: B023
        assert resident.copy.state.rows == 600
        assert resident.copy.nbytes < 4 * 600 * (DIM + copy.BYTES_BESIDE)
        await same(store, path, "t", rng.standard_normal((3, DIM)), options())


async def test_small_partitions_take_little_room(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = np.random.default_rng(4)
    async with opened(path) as store:
        await store.create_table("t", schema(partition=True))
        rows = rows_for(rng, range(1200), DIM)
        for number, row in enumerate(rows):
            row["owner"] = f"tenant {number % 400}"
        await store.insert("t", rows)
        resident = await ready(store, "t")
        least = 1200 * (DIM + copy.BYTES_BESIDE)
        assert resident.copy.nbytes == least
        await store.update("t", {"n": 1}, ids=[row["id"] for row in rows[:400]])
        await same(store, path, "t", [rows[7]["embedding"]], [{"where": "owner = 'tenant 7'"}, {}])
        assert resident.copy.nbytes < 4 * least


async def test_loading_misses_no_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 4000)
    async with opened(path, limits=SMALL_SEGMENTS) as store:
        done = False
        known: dict[str, np.ndarray] = {}

        async def write(first: int) -> None:
            own = np.random.default_rng([first, 7])
            while not done:
                rows = rows_for(own, own.integers(first, first + 2000, 3).tolist(), DIM)
                await store.upsert("t", rows)
                known.update({row["id"]: row["embedding"] for row in rows})
                await store.delete("t", f"r{int(own.integers(4000, 5000)):06}")

        writers = [asyncio.ensure_future(write(first)) for first in (0, 2000)]
        for _ in range(4):
            await ready(store, "t")
            await asyncio.sleep(0.05)
            resident_of(store)._drop("t", resident_of(store)._tables["t"])  # and once more
        await ready(store, "t")
        done = True
        await asyncio.gather(*writers)
        found = await store.search_many("t", list(known.values()), limit=1)
        assert [hits[0].id for hits in found if (hits[0].distance or 0) > 1e-6] == []
        assert [hits[0].id for hits in found] == list(known)
        await same(store, path, "t", rng.standard_normal((3, DIM)), options((10,)))


# The budget


async def test_over_the_budget_the_file_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 500)
    queries = rng.standard_normal((5, DIM), dtype=np.float32)
    async with opened(path, scan_memory="10 KiB") as small, opened(path, scan="disk") as disk:
        for _ in range(3):
            for query in queries:
                hits = await small.search("t", query, limit=5, where="n < 400")
                assert as_told(hits) == as_told(
                    await disk.search("t", query, limit=5, where="n < 400")
                )
        assert answered(small, "t") == 0
        assert not in_memory(small, "t")
    assert [r.getMessage() for r in caplog.records if r.name == "aiovec"] == [
        "table t is searched from the file: it is larger than scan_memory"
    ]


async def test_the_table_searched_longest_ago_gives_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    room = 1000 * (DIM + copy.BYTES_BESIDE)
    async with opened(tmp_path / "a.db", scan_memory=str(int(2.5 * room))) as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, schema())
            await store.insert(name, rows_for(rng, range(1000), DIM))
        query = rng.standard_normal(DIM)
        for name in ("a", "b"):
            await ready(store, name)
        await store.search("a", query)
        await ready(store, "c")
        assert [in_memory(store, name) for name in "abc"] == [True, False, True]
        # And where they grow together, later.
        await store.insert("c", rows_for(rng, range(1000, 1800), DIM))
        await store.search("c", query)
        assert [in_memory(store, name) for name in "abc"] == [False, False, True]
        for name in "abc":
            assert len(await store.search(name, query, limit=1800)) == (
                1800 if name == "c" else 1000
            )


async def test_a_copy_gives_way_whose_reading_is_still_being_closed(tmp_path: Path) -> None:
    """What it would take counted on, and the next table had to go too."""
    rng = np.random.default_rng(0)
    room = 1000 * (DIM + copy.BYTES_BESIDE)
    async with opened(tmp_path / "a.db", scan_memory=str(int(2.5 * room))) as store:
        for name in ("a", "b", "c"):
            await store.create_table(name, schema())
            await store.insert(name, rows_for(rng, range(1000), DIM))
        resident = resident_of(store)
        aside, closing = resident._aside, asyncio.Event()

        @asynccontextmanager
        async def long_closed() -> AsyncIterator[Any]:
            async with aside() as read:
                yield read
                await closing.wait()

        await ready(store, "a")
        resident._aside = long_closed
        await ready(store, "b")
        resident._aside = aside
        await store.search("a", rng.standard_normal(DIM))
        await ready(store, "c")
        assert [in_memory(store, name) for name in "abc"] == [True, False, True]
        closing.set()


async def test_preload(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path, 100)
    async with opened(path, preload='["t", "absent"]') as store:
        await until(lambda: in_memory(store, "t"))
        assert len(await store.search("t", np.ones(DIM), limit=3)) == 3
        assert answered(store, "t") == 1


# Callers that go, stores that close


async def test_a_cancelled_search_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 3000)
    queries = rng.standard_normal((200, DIM), dtype=np.float32)
    async with opened(path, readers=1) as store:
        await ready(store, "t")
        wanted = [as_told(hits) for hits in await store.search_many("t", queries, limit=3)]
        for pause in (0.0, 0.001, 0.005):
            calls = [asyncio.ensure_future(store.search("t", q, limit=3)) for q in queries]
            await asyncio.sleep(pause)
            for call in calls[::3]:
                call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            for number, hits in enumerate(found):
                if isinstance(hits, asyncio.CancelledError):
                    assert number % 3 == 0
                else:
                    assert not isinstance(hits, BaseException)
                    assert as_told(hits) == wanted[number]
        # A whole batch that goes leaves a store that works.
        calls = [asyncio.ensure_future(store.search("t", q)) for q in queries]
        await asyncio.sleep(0.002)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert as_told(await store.search("t", queries[0], limit=3)) == wanted[0]


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.01])
async def test_closing_amid_searches(tmp_path: Path, pause: float) -> None:
    """Each search has its answer, or tells that the store is closed."""
    path = tmp_path / "a.db"
    rng = await filled(path, 3000)
    queries = rng.standard_normal((1500, DIM), dtype=np.float32)
    async with opened(path) as store:
        await ready(store, "t")
        calls = [asyncio.ensure_future(store.search("t", q, limit=3)) for q in queries]
        await asyncio.sleep(pause)
        await store.close()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, StoreClosedError)
            else:
                assert len(outcome) == 3


async def test_a_batch_reads_by_the_patience_of_its_oldest_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = await filled(tmp_path / "a.db", 500)
    clock = Clock(monkeypatch)
    async with opened(tmp_path / "a.db", readers=1, busy_timeout=3600) as store:
        await ready(store, "t")
        resident: Any = resident_of(store)
        read, gate = resident._read, asyncio.Event()
        waited: list[float] = []

        async def behind_gate(work: Any) -> Any:
            waited.append(clock.monotonic() - Patience(0).began)
            await gate.wait()
            return await read(work)

        monkeypatch.setattr(resident, "_read", behind_gate)
        calls = []
        for behind in range(4):
            calls.append(asyncio.ensure_future(store.search("t", rng.standard_normal(DIM))))
            await until(lambda: waited and len(resident._pipeline._state().waiting) == behind)  # noqa: B023
            clock.advance(100)
        gate.set()
        await asyncio.gather(*calls)
        # The first one reads when it comes, the others together 300 s after the second one came.
        assert [round(seconds, -2) for seconds in waited] == [0, 300]


async def test_a_pipeline_that_closes_answers_all_who_wait() -> None:
    free = asyncio.Event()

    async def answer(_: TableHandle, calls: Sequence[Call]) -> list[list[Found]]:
        await free.wait()
        return [[] for _ in calls]

    pipeline = Pipeline(answer, 1, busy_timeout=60)
    table = TableHandle("t", schema(), 1)
    query = VectorQuery(np.ones(DIM, np.float32), 1, None, Columns(()))
    calls = [asyncio.ensure_future(pipeline.search(table, [query])) for _ in range(40)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(pipeline.close())
    await asyncio.sleep(0)
    free.set()
    await closing
    assert await asyncio.gather(*calls) == [[]] * 40


async def test_closing_amid_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 5000)
    query = rng.standard_normal(DIM)

    async def once(pause: float) -> None:
        async with opened(path) as store:
            await store.search("t", query)
            await asyncio.sleep(pause)

    await once(0.2)
    before = open_things()
    for step in range(30):
        await once(step * 0.001)
    await no_more_than(before)


def open_things() -> tuple[int, int]:
    process = psutil.Process()
    files = process.num_handles() if sys.platform == "win32" else process.num_fds()
    # Not those in which a loop's library runs single functions, which it keeps for others.
    threads = sum(thread.name.startswith("aiovec") for thread in threading.enumerate())
    return threads - idle_threads(), files


async def no_more_than(before: tuple[int, int]) -> None:
    """Threads and files are given back, at once or soon after."""
    deadline = time.monotonic() + 60
    while True:
        gc.collect()
        now = open_things()
        if now[0] <= before[0] and now[1] <= before[1]:
            return
        assert time.monotonic() < deadline, f"{before} threads and files became {now}"
        await asyncio.sleep(0.05)


# All at once


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "l2"])
async def test_searches_and_writes_at_once(tmp_path: Path, metric: Metric) -> None:
    """Each task owns some rows; a row whose write was acknowledged is found by its own vector,
    one whose delete was acknowledged is not. In the end all is as the file tells."""
    path = tmp_path / "a.db"
    rng = await filled(path, 1500, metric)
    seconds = float(os.environ.get("AIOVEC_SOAK_SECONDS", "1"))
    deadline = time.monotonic() + seconds
    searches = 0

    async def work(store: VectorStore, number: int) -> None:
        nonlocal searches
        own = np.random.default_rng([number, 7])
        mine: dict[str, dict[str, Any]] = {}
        while time.monotonic() < deadline or searches < 200:
            act = own.random()
            if act < 0.25 or not mine:
                ids = (10_000 * (number + 1) + own.integers(0, 60, 4)).tolist()
                rows = {row["id"]: row for row in rows_for(own, ids, DIM)}
                await store.upsert("t", list(rows.values()))
                mine.update(rows)
            elif act < 0.35:
                gone = str(own.choice(list(mine)))
                row = mine.pop(gone)
                await store.delete("t", gone)
                hits = await store.search("t", row["embedding"], limit=2)
                assert gone not in {hit.id for hit in hits}
            elif act < 0.45:
                row = mine[str(own.choice(list(mine)))]
                row["n"] = int(own.integers(0, 1000))
                await store.update("t", {"n": row["n"]}, ids=row["id"])
            elif act < 0.5:
                call = asyncio.ensure_future(store.search("t", own.standard_normal(DIM)))
                await asyncio.sleep(float(own.random()) * 0.003)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            else:
                row = mine[str(own.choice(list(mine)))]
                bound = int(own.choice([0, row["n"] // 50 * 50, 990]))
                where = None if bound == 0 else f"n >= {bound}"
                hits = await store.search("t", row["embedding"], limit=3, where=where)
                searches += 1
                assert all(hit["n"] >= bound for hit in hits)
                scores = [hit.score for hit in hits]
                assert scores == sorted(scores, reverse=True)
                if row["n"] >= bound:
                    assert hits[0].id == row["id"]
                    assert hits[0]["n"] == row["n"]

    before = open_things()
    async with (
        opened(path, limits=SMALL_SEGMENTS) as store,
        opened(path, limits=SMALL_SEGMENTS) as second,
    ):
        await ready(store, "t")
        await asyncio.gather(*(work(second if n % 4 == 3 else store, n) for n in range(16)))
        assert answered(store, "t") > searches / 2
        queries = rng.standard_normal((3, DIM), dtype=np.float32)
        for one in (store, second):
            await same(one, path, "t", queries, options())
    await no_more_than(before)


async def test_a_table_that_is_dropped_or_renamed_gives_its_memory_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as store:
        resident = resident_of(store)
        for name in ("first", "second"):
            await store.create_table(name, schema())
            await store.insert(name, rows_for(np.random.default_rng(0), range(50), DIM))
            await ready(store, name)
        assert {name for name, size in resident.memory_by_table() if size} == {"first", "second"}
        await store.rename_table("first", "third")
        await store.drop_table("second")
        assert resident.memory_by_table() == []
        await ready(store, "third")
        assert len(await store.search("third", np.ones(DIM), limit=50)) == 50
        assert [name for name, _ in resident.memory_by_table()] == ["third"]


async def test_searches_beside_a_table_that_comes_and_goes(tmp_path: Path) -> None:
    """By two stores: what one forgets, the other may be searching."""
    vectors = np.random.default_rng(0).standard_normal((300, DIM), dtype=np.float32)
    over, found = False, 0

    async def search(store: VectorStore, count: int) -> None:
        nonlocal found
        while not over:
            try:
                found += len(await store.search_many("t", vectors[:count]))
            except TableNotFoundError:
                await asyncio.sleep(0)

    async with opened(tmp_path / "a.db") as one, opened(tmp_path / "a.db") as two:
        async with asyncio.TaskGroup() as group:
            for store in (one, two):
                for count in (1, 1, 40):
                    group.create_task(search(store, count))
            for rows in (300, 30) * 5:
                await one.create_table("t", Schema(DIM))
                ids = [str(n) for n in range(rows)]
                await one.insert("t", {"id": ids, "embedding": vectors[:rows]})
                await ready(one, "t")
                await one.rename_table("t", "u")
                await one.rename_table("u", "t")
                await asyncio.sleep(0.02)
                await one.drop_table("t")
            over = True
        assert found
        # A search that had looked the table up before it went begins to load it, and soon sees.
        await until(lambda: not resident_of(one).memory_by_table())
