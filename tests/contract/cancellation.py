"""Cancelling calls at any moment: all of a call or nothing, and the store goes on."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tests.contract.base import ContractBase, case
from tests.harness.values import DIM, SMALL, ids_of, small_rows, vectors

from aiovec import Hit, VectorStore
from aiovec.backend import Float32Array


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


class _Counted(Awaitable[Any]):
    """A call that tells when it waits for the n-th time."""

    def __init__(
        self, call: Coroutine[Any, Any, Any], at: int, reached: Callable[[], None]
    ) -> None:
        self._call = call
        self._left = at
        self._reached = reached

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._call.__await__()
        step = steps.__next__
        while True:
            try:
                waited_for = step()
            except StopIteration as stop:
                return stop.value
            self._left -= 1
            if not self._left:
                self._reached()
            try:
                yield waited_for
            except BaseException as exc:  # noqa: BLE001 - it belongs into the call
                step = lambda error=exc: steps.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = steps.__next__


Stop = Callable[["asyncio.Task[Any]", anyio.CancelScope], None]
"""Interrupts a call, which runs in a task and in a scope."""


def _once(task: asyncio.Task[Any], _: anyio.CancelScope) -> None:
    task.cancel()


def _again_and_again(task: asyncio.Task[Any], scope: anyio.CancelScope, times: int = 4) -> None:
    """Cancel the task in each of some rounds of the loop: a caller who has lost patience."""
    if times and not task.done():
        task.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(_again_and_again, task, scope, times - 1)


def _by_scope(_: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    """As ``move_on_after`` does: every await in the scope raises from now on."""
    scope.cancel()


STOPS: dict[str, Stop] = {
    "once": _once, "again and again": _again_and_again, "by a scope": _by_scope,
}  # fmt: skip


async def stopped_at(
    call: Coroutine[Any, Any, Any], at: int, stop: Stop, delay: float = 0.0
) -> tuple[bool, bool]:
    """Interrupt the call ``delay`` seconds after it began to wait for the ``at``-th time.

    Gives whether it came so far, and whether it returned a result.
    """
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    far = False

    def reached() -> None:
        nonlocal far
        far = True
        task = asyncio.current_task()  # it may have begun before ``create_task`` returns
        assert task is not None
        if delay:
            loop.call_later(delay, stop, task, scope)
        else:
            loop.call_soon(stop, task, scope)

    async def run() -> bool:
        with scope:
            await _Counted(call, at, reached)
            return True
        return False

    task = loop.create_task(run())
    try:
        returned = await task
    except asyncio.CancelledError:
        returned = False
    return far, returned


# Awaits of a call that are interrupted at most; and how long after the await began, in seconds:
# at once, and when a thread is at work.
_MOST_AWAITS = 80
_DELAYS = (0.0, 0.002, 0.008)


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

    async def test_a_write_stopped_at_any_await_is_settled_when_it_returns(
        self, store: VectorStore
    ) -> None:
        """A2: whatever stops it, and however often. Its buffer is the caller's again at once."""
        await store.create_table("notes", SMALL)
        base = await self._rows_of(store)
        number, count = 0, 600

        def call(values: Float32Array, *, replace: bool) -> Coroutine[Any, Any, Any]:
            ids = [f"{number}-{i}" for i in range(count)]
            rows = {"id": ids, "embedding": values, "year": [number] * count}
            return (store.upsert if replace else store.insert)("notes", rows)

        for name, stop in STOPS.items():
            for delay in _DELAYS:
                for at in range(1, _MOST_AWAITS):
                    number += 1
                    values = np.full((count, DIM), number, dtype=np.float32)
                    where = f"year = {number}"
                    with case(f"{name}, {delay} s after await {at}"):
                        far, done = await stopped_at(
                            call(values, replace=bool(number % 2)), at, stop, delay
                        )
                        values[:] = -1.0
                        found = await store.count("notes", where)
                        assert found in ({count} if done else {0, count})
                        await asyncio.sleep(0.01)
                        rows = await store.find(
                            "notes", where, select=["embedding"], limit=2 * count
                        )
                        assert len(rows) == found
                        assert {tuple(row.vector) for row in rows if row.vector is not None} <= {
                            (float(number),) * DIM
                        }
                    base += found
                    if not far:
                        break
        assert await self._rows_of(store) == base

    @staticmethod
    async def _rows_of(store: VectorStore) -> int:
        return await store.count("notes")

    async def test_every_writing_call_stopped_at_any_await(self, store: VectorStore) -> None:
        """A2: all of the call or nothing, and no more changes once it has returned."""
        await self.table(store, SMALL, small_rows(40))
        number = 0

        async def state() -> list[Any]:
            tables = await store.tables()
            rows = await store.find(
                "notes", order_by="id", limit=1_000,
                select=["name", "year", "embedding", "payload.k0", "payload.k59"],
            )  # fmt: skip
            return [tables, (await store.schema("notes")).to_json(), [r.to_dict() for r in rows]]

        def calls() -> list[Coroutine[Any, Any, Any]]:
            vector = [float(number)] * DIM
            return [
                store.insert("notes", [{"id": f"new{number}", "embedding": vector}]),
                store.upsert("notes", [{"id": "r0001", "embedding": vector, "year": number}]),
                store.update("notes", {"year": number, "name": f"n{number}"}, where="year >= 0"),
                store.update("notes", {"name": "x" * number}, ids=["r0002", "r0003"]),
                # Of so many keys that they are checked in a thread.
                store.update("notes", {f"k{n}": number for n in range(60)}, ids=["r0006", "r0007"]),
                store.set_vectors("notes", ["r0004", "r0005"], [vector, vector]),
                store.insert(
                    "notes",
                    [{"id": id, "embedding": vector} for id in ("r0001", f"other{number}")],
                    on_conflict="skip",
                ),
                store.delete("notes", [f"r{number % 40:04}"]),
                store.delete_where("notes", f"name = 'n{number - 1}' AND id < 'r0005'"),
                store.create_table(f"made{number}", SMALL),
                store.add_field("notes", f"field{number}", int),
                store.drop_table(f"made{number - 1}", missing_ok=True),
            ]

        for which in range(len(calls_of := calls())):
            for name, stop in STOPS.items():
                for at in range(1, _MOST_AWAITS):
                    number += 1
                    made = calls()
                    for n, other in enumerate(made):
                        if n != which:
                            other.close()
                    with case(f"call {which}, {name}, await {at}"):
                        far, _ = await stopped_at(made[which], at, stop, _DELAYS[number % 2])
                        after = await state()
                        await asyncio.sleep(0.005)
                        assert await state() == after
                    if not far:
                        break
        for unused in calls_of:
            unused.close()

    async def test_cancelled_updates_and_deletes(self, store: VectorStore) -> None:
        await self.table(store, SMALL, small_rows(300))
        chance = random.Random(12)
        for n in range(30):
            returned = await _cancelled(
                store.update("notes", {"name": f"u{n}"}, where="TRUE"), chance
            )
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
                    assert n % 3 == 0, outcome
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

    async def test_who_cancels_does_not_wait_for_a_function_that_reranks(
        self, store: VectorStore
    ) -> None:
        """The function runs on, and keeps its place among those that may run at once."""
        await self.table(store, SMALL, small_rows(10))
        over = threading.Event()
        running: list[int] = []
        most = 0

        def slow(hits: list[Hit]) -> list[Hit]:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            over.wait(60)
            running.pop()
            return hits

        async with asyncio.timeout(60):
            try:
                for place in range(6):
                    search = asyncio.ensure_future(store.search("notes", [1.0] * DIM, rerank=slow))
                    while place < 4 and len(running) <= place:
                        assert not search.done()
                        await asyncio.sleep(0.01)
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(search, 0.02 if place < 4 else 0.3)
            finally:
                over.set()
            assert len(await store.search("notes", [1.0] * DIM, rerank=slow)) == 10
        assert most == 4

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
