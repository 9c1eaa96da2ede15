"""Cancelling calls at any moment: all of a call or nothing, and the store goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ..store import VectorStore
from .base import ContractBase
from .values import DIM, SMALL, ids_of, small_rows, vectors


async def _cancelled(call: Coroutine[Any, Any, Any], chance: random.Random) -> bool:
    """Cancel the call after some turns of the loop, or some time; whether it had returned."""
    task = asyncio.ensure_future(call)
    if chance.random() < 0.5:
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(chance.random() * 0.006)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


class CancellationContract(ContractBase):
    """Every kind of call, cancelled at random moments."""

    async def test_cancelled_writes_are_whole_or_nothing(self, store: VectorStore) -> None:
        await store.create_table("notes", SMALL)
        chance = random.Random(11)
        done: dict[int, bool] = {}
        for n in range(40):
            rows = [
                {"id": f"{n}-{i}", "embedding": vector, "year": n}
                for i, vector in enumerate(vectors(150, seed=n))
            ]
            write = store.upsert if n % 2 else store.insert
            done[n] = await _cancelled(write("notes", rows), chance)
            assert await store.count("notes", f"year = {n}") in ({150} if done[n] else {0, 150})
        await store.insert("notes", small_rows(1, start=9_000))
        total = 1
        for n, returned in done.items():
            count = await store.count("notes", f"year = {n}")
            assert count in ({150} if returned else {0, 150})
            total += count
        assert await store.count("notes") == total
        assert len(await store.search("notes", vectors(1)[0], limit=10_000)) == total

    async def test_cancelled_updates_and_deletes(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(300))
        chance = random.Random(12)
        for n in range(30):
            returned = await _cancelled(store.update("notes", {"name": f"u{n}"}), chance)
            changed = await store.count("notes", f"name = 'u{n}'")
            assert changed in ({300} if returned else {0, 300})
        rows = small_rows(300)
        for _ in range(15):
            returned = await _cancelled(store.delete_where("notes", "year < 200"), chance)
            left = await store.count("notes")
            assert left in ({100} if returned else {100, 300})
            await store.upsert("notes", rows)
            assert await store.count("notes") == 300
        assert len(await store.search("notes", vectors(1)[0], limit=1_000)) == 300

    async def test_cancelled_reads(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(1_500))
        chance = random.Random(13)
        query = vectors(1)[0]

        async def drain() -> None:
            async for _ in store.export("notes", batch_size=100):
                await asyncio.sleep(0)

        ids = [f"r{i:04}" for i in range(1_500)]
        reads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: store.search("notes", query, limit=1_000),
            lambda: store.search_many("notes", vectors(30), limit=20),
            lambda: store.find("notes", "name LIKE '%n%'", order_by="year", limit=1_000),
            lambda: store.get("notes", ids),
            lambda: store.count("notes", "year > 3"),
            drain,
        ]
        for n in range(60):
            await _cancelled(reads[n % len(reads)](), chance)
        assert await store.count("notes") == 1_500
        assert len(await store.search("notes", query, limit=2_000)) == 1_500
        await store.insert("notes", small_rows(1, start=5_000))
        await store.drop_table("notes")

    async def test_cancelled_table_changes(self, store: VectorStore) -> None:
        chance = random.Random(14)
        for n in range(20):
            name = f"t{n}"
            made = await _cancelled(store.create_table(name, SMALL), chance)
            there = name in await store.tables()
            assert there or not made
            await store.create_table(name, SMALL, exist_ok=True)
            await store.insert(name, small_rows(3))
            added = await _cancelled(store.add_field(name, "more", str), chance)
            fields = (await store.schema(name)).fields
            assert "more" in fields or not added
            if "more" in fields:
                assert await store.count(name, "more IS NULL") == 3
            dropped = await _cancelled(store.drop_table(name), chance)
            there = name in await store.tables()
            assert not (there and dropped)
            if there:
                assert await store.count(name) == 3
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(3))

    async def test_one_of_many_cancelled(self, store: VectorStore) -> None:
        """Calls that wait together: cancelling some leaves the others as they were."""
        await store.create_table("notes", SMALL)
        chance = random.Random(15)
        for turn in range(6):
            tasks = [
                asyncio.ensure_future(
                    store.insert("notes", small_rows(4, start=1_000 * turn + 10 * n))
                )
                for n in range(30)
            ]
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for n, outcome in enumerate(outcomes):
                ids = [f"r{1_000 * turn + 10 * n + i:04}" for i in range(4)]
                found = ids_of(await store.get("notes", ids))
                if outcome == 4:
                    assert found == ids
                else:
                    assert n % 3 == 0
                    assert isinstance(outcome, asyncio.CancelledError)
                    assert found in ([], ids)

    async def test_a_timeout_is_a_cancellation(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(500))
        for _ in range(10):
            try:
                async with asyncio.timeout(0):
                    await store.search("notes", vectors(1)[0], limit=500)
            except TimeoutError:
                continue
        assert len(await store.search("notes", vectors(1)[0], limit=500)) == 500

    async def test_a_cancelled_export_frees_its_snapshot(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(400))
        chance = random.Random(16)

        async def stop_between() -> None:
            async for _ in store.export("notes", batch_size=10):
                await asyncio.sleep(1)

        for _ in range(20):
            assert not await _cancelled(stop_between(), chance)
        assert await store.delete_where("notes", "TRUE") == 400
        await store.optimize("notes")
        await store.drop_table("notes")

    async def test_what_was_cancelled_stays_whole_when_reopened(self, tmp_path: Path) -> None:
        self.need_persistence()
        chance = random.Random(17)
        returned = []
        async with await self.open(tmp_path) as store:
            await store.create_table("notes", SMALL)
            for n in range(10):
                rows = [{"id": f"{n}-{i}", "embedding": [1.0] * DIM, "year": n} for i in range(100)]
                returned.append(await _cancelled(store.insert("notes", rows), chance))
        async with await self.open(tmp_path) as store:
            for n, done in enumerate(returned):
                assert await store.count("notes", f"year = {n}") in ({100} if done else {0, 100})
