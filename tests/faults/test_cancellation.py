"""Calls that are cancelled at any await: done as a whole or not at all, and the store goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.harness.cancel import STOPS, every_cancel, stopped_at
from tests.harness.scripts import (
    DIM,
    KINDS,
    SCHEMA,
    TABLE,
    Place,
    begun,
    row,
    scripts_of,
    settled,
    target_in,
)

import aiovec
from aiovec import Hit, StoreBusyError, StoreClosedError

EVERY = range(1, 300)
QUERY = [1.0] * DIM


async def campaign(
    folder: Path, kind: str, stops: Iterable[str], delays: Sequence[float], names: Iterable[str]
) -> None:
    """Stop the calls of these scripts at every await, on one store."""
    target = target_in(folder, kind)
    met: dict[str, int] = {}
    async with Place(target) as place:
        model = await begun(place)
        for name in names:
            for how in stops:
                try:
                    model, met[name] = await every_cancel(
                        place, model, scripts_of(kind)[name], STOPS[how], EVERY, delays
                    )
                except BaseException as exc:
                    exc.add_note(f"{name}, stopped {how}")
                    raise
    assert all(met.values()), met
    await settled(target, model)


async def test_every_call_on_sqlite(tmp_path: Path) -> None:
    await campaign(tmp_path, "sqlite", ["again and again"], [0.0, 0.001], scripts_of("sqlite"))


async def test_some_calls_on_lancedb(tmp_path: Path) -> None:
    await campaign(tmp_path, "lancedb", ["again and again"], [0.003], ["insert", "many at once"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_stopped_in_every_way(tmp_path: Path, kind: str) -> None:
    stops = ["once", "by a scope"] if kind == "sqlite" else ["by a scope"]
    delays = [0.0, 0.001, 0.004] if kind == "sqlite" else [0.004]
    await campaign(tmp_path, kind, stops, delays, scripts_of(kind))


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_stopped_in_every_way_for_long(tmp_path: Path, kind: str) -> None:
    delays = [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016]
    await campaign(tmp_path, kind, STOPS, delays, scripts_of(kind))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_memory_of_a_cancelled_call_is_its_callers_again(
    tmp_path: Path, kind: str
) -> None:
    """What a caller writes into an array behind its call is nowhere in the store."""
    async with aiovec.connect(target_in(tmp_path, kind)) as store:
        await store.create_table(TABLE, SCHEMA)
        for at in (1, 2, 3, 5, 8, 13) if kind == "sqlite" else (3, 6):
            values = np.full((500, DIM), at, dtype=np.float32)
            rows = {
                "id": [f"{at}-{n}" for n in range(500)],
                "embedding": values,
                "year": [at] * 500,
            }
            _, returned = await stopped_at(
                store.insert(TABLE, rows), at, STOPS["again and again"], 0.001
            )
            values[:] = -1.0
            found = await store.find(TABLE, f"year = {at}", limit=1000, include_vector=True)
            assert len(found) == 500 or (not found and not returned)
            assert all(one.vector is not None and set(one.vector) == {at} for one in found)


async def test_a_cancelled_search_waits_for_no_function_that_reranks(tmp_path: Path) -> None:
    """And no other call of the store waits for it."""
    begun, over = threading.Event(), threading.Event()

    def slow(hits: list[Hit]) -> list[Hit]:
        begun.set()
        assert over.wait(120)
        return hits

    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row("a", 1)])
        search = asyncio.ensure_future(store.search(TABLE, QUERY, rerank=slow))
        try:
            assert await asyncio.to_thread(begun.wait, 120)
            assert len(await store.search(TABLE, QUERY)) == 1
            await store.insert(TABLE, [row("b", 2)])
            search.cancel()
            await asyncio.wait([search], timeout=60)
            assert search.cancelled()
        finally:
            over.set()
        assert len(await store.search(TABLE, QUERY, rerank=slow)) == 2


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Another process has the write lock of the file."""
    holder = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
        yield
    finally:
        await asyncio.to_thread(holder.communicate, b"\n")


@pytest.mark.slow
async def test_calls_that_wait_for_another_process_leave_at_once(tmp_path: Path) -> None:
    """When they are cancelled, and after ``busy_timeout``; nothing of them is done."""
    path = tmp_path / "notes.db"
    config = tmp_path / "aiovec.toml"
    config.write_text("[retrieval.sqlite]\nbusy_timeout = 0.5\n")
    async with aiovec.connect(path) as store, aiovec.connect(path, config=config) as hasty:
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row("old", 1)])
        async with held(path):
            calls = [
                asyncio.ensure_future(call)
                for call in (
                    store.insert(TABLE, [row("new", 2)]), store.delete(TABLE, ["old"]),
                    store.update(TABLE, {"name": "x"}, where="TRUE"), store.optimize(TABLE),
                    store.create_table("other", SCHEMA),
                )
            ]  # fmt: skip
            with pytest.raises(StoreBusyError):
                await hasty.insert(TABLE, [row("hasty", 3)])
            for call in calls:
                call.cancel()
            _, waiting = await asyncio.wait(calls, timeout=60)
            assert not waiting
            assert all(call.cancelled() for call in calls)
        await store.insert(TABLE, [row("later", 4)])
        assert [(one.id, one["name"]) for one in await store.find(TABLE)] == [
            ("later", "note of 4"), ("old", "note of 1"),
        ]  # fmt: skip
        assert await store.tables() == [TABLE]


@pytest.mark.slow
async def test_large_calls_that_wait_take_little_memory(tmp_path: Path) -> None:
    """Rows are looked at when the call has its turn: 100 calls would make 200 MiB of them."""
    path, config = tmp_path / "notes.db", tmp_path / "aiovec.toml"
    config.write_text("[retrieval.sqlite]\nwrite_queue = 2\nbusy_timeout = 600\n")
    values = np.random.default_rng(1).standard_normal((1024, 512))  # not of the type that is kept
    process = psutil.Process()
    async with aiovec.connect(path, config=config) as store:
        await store.create_table(TABLE, aiovec.Schema(512))
        calls = [
            {"id": [f"{n}-{i}" for i in range(len(values))], "embedding": values}
            for n in range(100)
        ]
        await store.insert(TABLE, calls[0])
        async with held(path):
            before = process.memory_info().rss
            tasks = [asyncio.ensure_future(store.insert(TABLE, rows)) for rows in calls[1:]]
            done, _ = await asyncio.wait(tasks, timeout=3, return_when=asyncio.FIRST_COMPLETED)
            assert not done
            assert process.memory_info().rss - before < 64 << 20
            for task in tasks[2:]:
                task.cancel()
        await asyncio.wait(tasks)
        assert await store.count(TABLE) == 3 * 1024


# Opening and closing


@pytest.mark.parametrize("kind", KINDS)
async def test_a_close_while_calls_run(tmp_path: Path, kind: str) -> None:
    """Each call answers or says that the store is closed; what was acknowledged is there."""
    for turn in range(3):
        target = target_in(tmp_path, kind, f"store{turn}")
        store = await aiovec.connect(target)
        await store.create_table(TABLE, SCHEMA)
        await store.insert(TABLE, [row(f"a{n}", n) for n in range(100)])

        async def export(store: aiovec.VectorStore = store) -> int:
            return sum([batch.num_rows async for batch in store.export(TABLE, batch_size=9)])

        calls = [
            asyncio.ensure_future(call)
            for n in range(6)
            for call in (
                store.insert(TABLE, [row(f"b{n}", n)]), store.search(TABLE, QUERY, limit=200),
                store.find(TABLE), export(),
            )
        ]  # fmt: skip
        for _ in range(10 * turn):
            await asyncio.sleep(0)
        async with asyncio.timeout(120):
            await asyncio.gather(store.close(), store.close())
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, (int, list, StoreClosedError)) for one in outcomes), outcomes
        with pytest.raises(StoreClosedError):
            await store.ping()
        async with aiovec.connect(target) as again:
            assert await again.count(TABLE) == 100 + outcomes[::4].count(1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_opening_or_close_leaves_nothing_open(tmp_path: Path, kind: str) -> None:
    target = target_in(tmp_path, kind)
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        await store.backup(tmp_path / "copy")
    for at in range(1, 40):
        opening = aiovec.connect(target)
        far, _ = await stopped_at(opening.__aenter__(), at, STOPS["once"])
        if not far:
            await opening.__aexit__(None)
            break
    for at in (1, 2, 3):
        store = await aiovec.connect(target)
        await store.insert(TABLE, [row(f"{at}", at)])
        await stopped_at(store.close(), at, STOPS["once"])
        await store.close()
    # No restore could replace a store that somebody has open.
    await aiovec.restore(tmp_path / "copy", target, overwrite=True)
