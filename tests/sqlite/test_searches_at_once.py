"""Concurrent searches: the first ones of a newly opened file, and searches of several tables."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.sqlite.support import opened, ready

from aiovec import Schema
from aiovec.backend.context import CallContext, calling

ROWS, DIM, QUERIES = 30_000, 64, 64


async def test_many_first_searches_wait_for_the_table_to_be_loaded(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype("f4")
    rows = {"id": [str(row) for row in range(ROWS)], "embedding": vectors}
    path = tmp_path / "a.db"
    async with opened(path) as store:
        await store.create_table("notes", Schema(dim=DIM))
        await store.insert("notes", rows)
    wanted = [str(row) for row in range(QUERIES)]

    async with opened(path) as store:
        matches = await store.search_many("notes", vectors[:QUERIES], limit=1)
        assert [hits[0].id for hits in matches] == wanted
        assert (await store.stats("notes")).details["searches"]["searches"] == QUERIES

    async with opened(path) as store:
        searches = (store.search("notes", vector, limit=1) for vector in vectors[:QUERIES])
        assert [hits[0].id for hits in await asyncio.gather(*searches)] == wanted
        answered = (await store.stats("notes")).details["searches"]["searches"]
        assert 0 < answered < QUERIES  # the first searches read the file


async def test_few_groups_take_few_searches_however_many_rows(tmp_path: Path) -> None:
    """If more groups are requested than exist, the search does not read the whole table."""
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype("f4")
    rows = {
        "id": [str(row) for row in range(ROWS)], "embedding": vectors,
        "kind": ["abc"[row % 3] for row in range(ROWS)],
    }  # fmt: skip
    async with opened(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(dim=DIM, fields={"kind": str}))
        await store.insert("notes", rows)
        await ready(store, "notes")

        async def answered() -> int:
            result: int = (await store.stats("notes")).details["searches"]["searches"]
            return result

        before = await answered()
        hits = await store.search("notes", vectors[0], group_by="kind", per_group=2, limit=10)
        assert sorted(hit["kind"] for hit in hits) == list("aabbcc")
        assert await answered() - before <= 3


async def test_each_tables_searches_are_answered_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    names = ("red", "blue")
    vectors = {name: rng.standard_normal((200, 8), dtype=np.float32) for name in names}
    async with opened(tmp_path / "a.db") as store:
        for name in names:
            await store.create_table(name, Schema(8))
            ids = [f"{name}{n}" for n in range(200)]
            await store.insert(name, {"id": ids, "embedding": vectors[name]})
            await ready(store, name)

        async def search(n: int) -> bool:
            name = names[n % 2]
            (hit,) = await store.search(name, vectors[name][n], limit=1)
            return hit.id == f"{name}{n}"

        assert all(await asyncio.gather(*map(search, range(64))))
        for name in names:
            searches = (await store.stats(name)).details["searches"]
            assert searches["largest_batch"] >= 8


async def test_a_small_search_waits_for_no_large_one_of_its_scan(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).standard_normal((ROWS, 8), dtype=np.float32)
    ended: list[int] = []
    async with opened(tmp_path / "a.db", readers=1) as store:
        await store.create_table("notes", Schema(8, fields={"kind": str}))
        rows = {"id": [str(row) for row in range(ROWS)], "embedding": vectors}
        await store.insert("notes", rows)
        await ready(store, "notes")

        async def search(number: int, limit: int) -> None:
            hits = await store.search("notes", vectors[number], limit=limit)
            ended.append(number)
            assert (hits[0].id, len(hits)) == (str(number), limit)

        # The first search runs alone, and the others run together.
        await asyncio.gather(
            search(0, ROWS // 2), search(1, ROWS), search(2, 5_000), search(3, ROWS), search(4, 5)
        )
        assert (await store.stats("notes")).details["searches"]["largest_batch"] == 4
    assert [number for number in ended if number] in ([4, 2, 1, 3], [4, 2, 3, 1])


async def test_searches_with_one_of_too_many_bytes_are_repeated_together(tmp_path: Path) -> None:
    """They are not repeated one by one, nor for callers that have gone."""
    vectors = np.random.default_rng(6).standard_normal((2_000, 8), dtype=np.float32)
    rows = {"id": [str(n) for n in range(2_000)], "embedding": vectors, "n": range(2_000)}
    parts: Counter[int] = Counter()  # the number of parts read for each search
    gone = threading.Event()

    async with opened(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(8, fields={"n": int}))
        await store.insert("notes", rows)
        await ready(store, "notes")
        loop = asyncio.get_running_loop()

        def check(n: int, _: int) -> None:
            parts[n] += 1
            if n == 9:
                loop.call_soon_threadsafe(searches[15].cancel)
                assert gone.wait(60)
                raise OverflowError

        async def search(n: int) -> Any:
            with calling(CallContext(check_bytes=partial(check, n))):
                return await store.search("notes", vectors[n], limit=40)

        before = (await store.stats("notes")).details["searches"]["batches"]
        searches = [asyncio.ensure_future(search(n)) for n in range(20)]
        searches[15].add_done_callback(lambda _: gone.set())
        outcomes = await asyncio.gather(*searches, return_exceptions=True)
        after = (await store.stats("notes")).details["searches"]["batches"]
    assert isinstance(outcomes.pop(15), asyncio.CancelledError)
    assert isinstance(outcomes.pop(9), OverflowError)
    assert all(len(hits) == 40 for hits in outcomes)
    assert after - before <= 3
    assert parts.pop(9) == 1
    assert 15 not in parts
    assert max(parts.values()) <= 4


async def test_a_read_waits_for_other_reads_until_it_is_cancelled(tmp_path: Path) -> None:
    vectors = np.random.default_rng(7).standard_normal((100, 8), dtype=np.float32)
    reading, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        reading.set()
        assert go_on.wait(60)

    async with opened(tmp_path / "a.db", readers=1, busy_timeout=0.5) as store:
        await store.create_table("notes", Schema(8))
        await store.insert("notes", {"id": [str(n) for n in range(100)], "embedding": vectors})
        await ready(store, "notes")
        with calling(CallContext(check_bytes=hold)):
            first = asyncio.ensure_future(store.search("notes", vectors[0], limit=40))
        assert await asyncio.to_thread(reading.wait, 60)
        calls: list[Any] = [
            call
            for _ in range(2)
            for call in (
                store.search("notes", vectors[1], limit=1), store.get("notes", ["1"]),
                store.count("notes"),
            )
        ]  # fmt: skip
        reads = [asyncio.ensure_future(call) for call in calls]
        try:
            done, _ = await asyncio.wait(reads, timeout=1.5)
            assert not done
            for read in reads[3:]:
                read.cancel()
            await asyncio.wait(reads[3:])
            assert [read.cancelled() for read in reads] == [False] * 3 + [True] * 3
        finally:
            go_on.set()
        assert len(await first) == 40
        hits, record, count = await asyncio.gather(*reads[:3])
        assert (len(hits), len(record), count) == (1, 1, 100)
