"""Calls that are cancelled at any moment: wholly done or not at all, and the store goes on."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from tests.sqlite.support import (
    SCHEMAS,
    LockHolder,
    State,
    all_changes,
    backend_of,
    check_file,
    names_in,
    open_store,
    opened,
    whole_table,
)

import aiovec
from aiovec import Schema, StoreClosedError, VectorStore
from aiovec._core.threads import idle_threads


class Victim:
    """Makes calls that are cancelled, each on rows of its own, and checks what they left."""

    def __init__(self, store: VectorStore, name: str, folder: Path, seed: int) -> None:
        self.store = store
        self.name = name
        self.folder = folder
        self.random = random.Random(seed)
        self.version = 1
        self.ids = [f"{name}/{n}" for n in range(60)]
        self.rows: dict[str, State] = {}
        self.cancelled = 0
        self.calls = 0

    def calls_to_make(self) -> list[Callable[[], Awaitable[object]]]:
        store, vector = self.store, [1.0] * 16

        async def export() -> None:
            async for _ in store.export("notes", batch_size=50):
                pass

        async def backup() -> None:
            path = self.folder / f"{self.name}-{self.calls}.copy"
            await store.backup(path)
            await asyncio.to_thread(check_file, path)

        async def connect() -> None:
            other = await aiovec.connect(store.target)
            await other.close()

        return [
            lambda: store.search("notes", vector, limit=1000),
            lambda: store.search("notes", vector, where="version > 1 OR tags CONTAINS 't1'"),
            lambda: store.search_many("notes", [vector] * 5),
            lambda: store.find("notes", order_by="name", limit=1000),
            lambda: store.get("notes", self.ids),
            lambda: store.count("notes"), lambda: store.tables(), lambda: store.schema("notes"),
            lambda: store.stats("notes"), lambda: store.optimize("notes"), store.ping,
            lambda: store.create_table("other", Schema(4), exist_ok=True),
            lambda: store.drop_table("other", missing_ok=True),
            export, backup, connect,
        ]  # fmt: skip

    def write(self) -> tuple[Awaitable[object], dict[str, State | None]]:
        ids = self.random.sample(self.ids, self.random.choice([1, 7, 60]))
        self.version += 1
        new = State(self.version, self.version)
        there = [id for id in ids if id in self.rows]
        kind = self.random.choice(["insert", "upsert", "delete", "delete_where", "update"])
        if kind == "insert" and not there:
            rows = [new.row(id, self.name) for id in ids]
            return self.store.insert("notes", rows), dict.fromkeys(ids, new)
        if kind == "delete":
            return self.store.delete("notes", ids), dict.fromkeys(ids)
        if kind == "delete_where":
            version = self.rows[there[0]].version if there else 0
            gone = [id for id, state in self.rows.items() if state.version == version]
            where = f"owner = '{self.name}' AND version = {version}"
            return self.store.delete_where("notes", where), dict.fromkeys(gone)
        if kind == "update" and there:
            state = State(self.rows[there[0]].vector_version, self.version)
            fields = state.fields(there[0], self.name)
            return self.store.update("notes", fields, ids=there[:1]), {there[0]: state}
        rows = [new.row(id, self.name) for id in ids]
        return self.store.upsert("notes", rows), dict.fromkeys(ids, new)

    async def cancelled_soon(self, call: Awaitable[object]) -> bool:
        """Whether the call was cancelled; else it has ended."""
        self.calls += 1
        delay = self.random.choice([0, 0.0003, 0.002, 0.01, 0.05]) * self.random.random()
        try:
            async with asyncio.timeout(delay):
                await call
        except TimeoutError:
            self.cancelled += 1
            return True
        return False

    async def check_rows(self, wanted: dict[str, State]) -> bool:
        found = {record.id: record for record in await self.store.get("notes", self.ids)}
        return found.keys() == wanted.keys() and not any(
            state.problems(found[id], self.name) for id, state in wanted.items()
        )

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            if self.random.random() < 0.4:
                await self.cancelled_soon(self.random.choice(self.calls_to_make())())
                continue
            call, change = self.write()
            after = {**self.rows, **{id: s for id, s in change.items() if s is not None}}
            after = {id: s for id, s in after.items() if change.get(id, s) is not None}
            done = not await self.cancelled_soon(call)
            if not done:
                # A call whose work was over when it was cancelled is committed all the same, at
                # the latest with the next write.
                await self.store.delete("notes", "absent")
            if await self.check_rows(after):
                self.rows = after
            else:
                assert not done, "a call that ended is not done"
                assert await self.check_rows(self.rows), "a cancelled call is half done"


def threads_in_use() -> int:
    """Without those that are kept for the next work."""
    return threading.active_count() - idle_threads()


async def campaign(target: str | Path, folder: Path, rounds: int, seed: int) -> None:
    async with opened(target) as store:
        await store.create_table("notes", SCHEMAS["partitioned"])
        victims = [Victim(store, f"v{n}", folder, seed + n) for n in range(6)]
        await asyncio.gather(*(victim.run(5) for victim in victims))
        threads = threads_in_use()
        await asyncio.gather(*(victim.run(rounds) for victim in victims))
        for victim in victims:
            assert victim.cancelled > rounds / 10
        # On a busy machine all calls of one may be too slow.
        assert sum(v.cancelled for v in victims) < sum(v.calls for v in victims)
        # No connection is stuck: as many reads at once as there are connections, and a write.
        async with asyncio.timeout(60):
            await asyncio.gather(*(store.count("notes") for _ in range(50)))
            await store.upsert("notes", [State(1, 1).row("last", "me")])
            for _ in range(10):
                assert len([batch async for batch in store.export("notes")]) > 0
        for _ in range(500):
            if threads_in_use() <= threads + 4:
                break
            await asyncio.sleep(0.01)
        assert threads_in_use() <= threads + 4  # the pool of readers may have filled
        found = await whole_table(store, "notes")
        assert sum(len(victim.rows) for victim in victims) + 1 == len(found)
        assert (await all_changes(store, "notes"))[0] == found
    left = [name for name in await names_in(folder) if "partial" in name]
    assert left == [], "a cancelled backup left its file"


async def test_cancelled_calls(tmp_path: Path) -> None:
    await campaign(tmp_path / "notes.db", tmp_path, rounds=40, seed=1)
    assert (await asyncio.to_thread(check_file, tmp_path / "notes.db"))["notes"] > 0


async def test_cancelled_calls_in_memory(tmp_path: Path) -> None:
    await campaign(":memory:", tmp_path, rounds=25, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 1000, 100))
async def test_many_cancelled_calls(tmp_path: Path, seed: int) -> None:
    await campaign(tmp_path / "notes.db", tmp_path, rounds=300, seed=seed)
    await asyncio.to_thread(check_file, tmp_path / "notes.db")


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "dot"])
async def test_a_cancelled_search_stops_using_the_cpu(tmp_path: Path, metric: str) -> None:
    """By the process's CPU time, against that of the same searches left to their end."""
    async with opened(tmp_path / "notes.db", durability="normal", scan="disk") as store:
        await store.create_table("notes", Schema(256, metric=metric))
        chance = np.random.default_rng(1)
        # sqlite-vec is the slower one, so it gets the rows that make its search long.
        for start in range(0, 40_000 if metric == "cosine" else 20_000, 10_000):
            ids = [f"{start + n}" for n in range(10_000)]
            vectors = chance.standard_normal((10_000, 256), dtype=np.float32)
            await store.insert("notes", {"id": ids, "embedding": vectors})
        queries = chance.standard_normal((20, 256), dtype=np.float32)
        await store.search("notes", queries[0])
        began = time.process_time()
        await store.search_many("notes", queries)
        whole = time.process_time() - began
        tasks = [asyncio.ensure_future(store.search_many("notes", queries)) for _ in range(4)]
        await asyncio.sleep(whole / 20)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        began = time.process_time()
        await asyncio.sleep(whole)
        assert time.process_time() - began < whole / 2  # all four would have used 4
        assert len((await store.search_many("notes", queries))[0]) == 10


async def test_cancelled_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", [State(1, 1).row("old", "me")])
        async with LockHolder(path):
            calls = [
                asyncio.ensure_future(call)
                for call in (
                    store.insert("notes", [State(1, 1).row("new", "me")]),
                    store.update("notes", {"name": "x"}, where="TRUE"),
                    store.delete("notes", ["old"]),
                    store.optimize("notes"),
                    store.create_table("other", Schema(3)),
                )
            ]
            await asyncio.sleep(0.2)
            for call in calls:
                call.cancel()
            # They leave at once, though the lock is still held.
            done, waiting = await asyncio.wait(calls, timeout=20)
            assert not waiting
            assert all(call.cancelled() for call in done)
        await store.insert("notes", [State(1, 1).row("later", "me")])
        found = {record.id: record["name"] for record in await store.find("notes")}
        assert found == {"old": "old:1", "later": "later:1"}
        assert await store.tables() == ["notes"]


# Closing


async def test_close_while_calls_run(tmp_path: Path) -> None:
    for turn in range(10):
        path = tmp_path / f"{turn}.db"
        store = await open_store(path)
        await store.create_table("notes", SCHEMAS["plain"])
        await store.insert("notes", [State(1, 1).row(f"a{n}", "me") for n in range(200)])

        async def export(store: VectorStore) -> int:
            return sum([batch.num_rows async for batch in store.export("notes", batch_size=5)])

        calls = [
            asyncio.ensure_future(call)
            for n in range(20)
            for call in (
                store.insert("notes", [State(1, 1).row(f"b{n}", "me")]),
                store.search("notes", [1.0] * 16, limit=200),
                store.find("notes"),
                export(store),
            )
        ]
        await asyncio.sleep(0.004 * turn)
        async with asyncio.timeout(60):
            await asyncio.gather(store.close(), store.close())
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            good = isinstance(outcome, (int, list, StoreClosedError))
            assert good, repr(outcome)
        with pytest.raises(StoreClosedError):
            await store.ping()
        written = sum(outcome == 1 for outcome in outcomes[::4])
        assert (await asyncio.to_thread(check_file, path)) == {"notes": 200 + written}


async def test_a_cancelled_close_closes_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = await open_store(path)
    await store.create_table("notes", SCHEMAS["plain"])
    async with LockHolder(path) as holder:
        writing = asyncio.ensure_future(store.insert("notes", [State(1, 1).row("a", "me")]))
        await asyncio.sleep(0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.close()
        await holder.free()
    assert await writing == 1
    await store.close()
    assert await names_in(path.parent) == ["notes.db"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts no open files in /proc or /dev")
async def test_cancelled_openings_leave_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    async with opened(path) as store:
        await store.create_table("notes", SCHEMAS["plain"])
    chance = random.Random(1)
    for _ in range(60):
        try:
            async with asyncio.timeout(0.02 * chance.random()):
                store = await aiovec.connect(path)
        except TimeoutError:
            continue
        await store.close()
    # The last connection that closes removes the WAL, unless two close at the same moment: then
    # each takes the other for the last. So it is gone behind another one, if none was left open.
    for _ in range(500):
        async with opened(path):
            pass
        if await names_in(path.parent) == ["notes.db"]:
            break
        await asyncio.sleep(0.01)
    assert await names_in(path.parent) == ["notes.db"]
    async with opened(path) as store:
        assert backend_of(store) is not None
        await store.insert("notes", [State(1, 1).row("a", "me")])
