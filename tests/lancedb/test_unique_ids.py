"""An id stands in a table once, whoever writes it at once: tasks, stores, threads, processes."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.faults.shared_writer import SHARED
from tests.faults.test_many_processes import COUNTERS
from tests.sqlite.support import FIELDS, python

import aiovec
from aiovec import DuplicateIdError, Schema, StoreBusyError, VectorStore
from aiovec.backend import RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.locks.local import FOLDER, WriteLock
from aiovec_lancedb.settings import LancedbSettings

SCHEMA = Schema(4, fields={"owner": str})


def target(path: Path) -> str:
    return f"lancedb://{path / 'store'}"


def rows(owner: str, ids: list[str]) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, 2.0, 3.0, 4.0], "owner": owner} for id in ids]


async def all_ids(store: VectorStore) -> list[str]:
    return [id async for batch in store.export("notes") for id in batch.column("id").to_pylist()]


async def race(stores: list[VectorStore], rounds: int) -> None:
    """In each round every store inserts and upserts the same new ids."""
    for number in range(rounds):
        inserted = [f"i{number}-{n}" for n in range(3)]
        upserted = [f"u{number}-{n}" for n in range(3)]
        calls = [store.insert("notes", rows(f"{n}", inserted)) for n, store in enumerate(stores)]
        calls += [store.upsert("notes", rows(f"{n}", upserted)) for n, store in enumerate(stores)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        inserts, upserts = outcomes[: len(stores)], outcomes[len(stores) :]
        assert inserts.count(3) == 1
        assert sum(isinstance(outcome, DuplicateIdError) for outcome in inserts) == len(stores) - 1
        assert upserts == [3] * len(stores)
    ids = await all_ids(stores[0])
    assert len(ids) == len(set(ids)) == 6 * rounds


@pytest.mark.slow
async def test_from_tasks_of_one_store(tmp_path: Path) -> None:
    async with aiovec.connect(target(tmp_path)) as store:
        await store.create_table("notes", SCHEMA)
        await race([store] * 6, rounds=15)


@pytest.mark.slow
async def test_from_two_stores_of_one_process(tmp_path: Path) -> None:
    async with aiovec.connect(target(tmp_path)) as one, aiovec.connect(target(tmp_path)) as two:
        await one.create_table("notes", SCHEMA)
        await race([one, two] * 2, rounds=15)


@pytest.mark.slow
def test_from_threads_with_event_loops_of_their_own(tmp_path: Path) -> None:
    async def create() -> None:
        async with aiovec.connect(target(tmp_path)) as store:
            await store.create_table("notes", SCHEMA)

    asyncio.run(create())
    won: list[str] = []
    failures: list[BaseException] = []

    async def insert(owner: str) -> None:
        async with aiovec.connect(target(tmp_path)) as store:
            for number in range(25):
                try:
                    await store.insert("notes", rows(owner, [f"r{number}"]))
                except DuplicateIdError:
                    continue
                won.append(f"r{number}")

    def run(owner: str) -> None:
        try:
            asyncio.run(insert(owner))
        except BaseException as exc:  # noqa: BLE001 - the test tells it
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(f"thread {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(won) == sorted(f"r{number}" for number in range(25))


def processes(folder: Path, count: int, seconds: float) -> None:
    """What ``tests.faults.shared_writer`` does to a file, done to a folder of LanceDB."""
    place = target(folder)

    async def create() -> None:
        async with aiovec.connect(place) as store:
            await store.create_table(
                "notes", Schema(16, fields={**FIELDS, "owner": str, **COUNTERS})
            )
            await store.insert("notes", [{"id": id, "embedding": [1.0] * 16} for id in SHARED])

    asyncio.run(create())
    running = [
        python(
            "-m", "tests.faults.shared_writer",
            place, str(folder), str(n), str(count), str(seconds),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(count)
    ]  # fmt: skip
    results = []
    for process in running:
        output, complaints = process.communicate(timeout=seconds + 200)
        assert not process.returncode, complaints[-3000:]
        results.append(json.loads(output))

    async def check() -> None:
        async with aiovec.connect(place) as store:
            ids = await all_ids(store)
            assert len(ids) == len(set(ids))
            winners = [id for result in results for id in result["won"]]
            assert len(winners) == len(set(winners)), "two processes inserted one id"
            assert await store.count("notes", "STARTSWITH(id, 'race/')") == len(winners)
            kept = {
                id for result in results for id, version in result["rows"].items() if version
            }  # fmt: skip
            assert {id for id in ids if id.startswith("p")} == kept
            for record in await store.get("notes", SHARED):
                for n, result in enumerate(results):
                    assert (record[f"c{n}"] or 0) == result["counts"][record.id]

    asyncio.run(check())
    assert all(result["calls"] > 3 for result in results)
    assert sum(result["seen"] for result in results) > 0


def test_from_processes(tmp_path: Path) -> None:
    processes(tmp_path, 2, seconds=2)


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 4])
def test_from_processes_for_30_seconds(tmp_path: Path, count: int) -> None:
    processes(tmp_path, count, seconds=30)


@pytest.mark.soak
async def test_200_rounds(tmp_path: Path) -> None:
    async with aiovec.connect(target(tmp_path)) as one, aiovec.connect(target(tmp_path)) as two:
        await one.create_table("notes", SCHEMA)
        await race([one, two] * 2, rounds=200)


# The lock itself


async def test_a_write_gives_up_after_busy_timeout(tmp_path: Path) -> None:
    """Another process holds the table's lock, here played by its file."""
    path = tmp_path / "store"
    backend = LancedbBackend(str(path), LancedbSettings(busy_timeout=0.3))
    await backend.open()
    hurried = VectorStore(backend, RetrievalSettings())
    async with aiovec.connect(target(tmp_path)) as store, hurried:
        await store.create_table("notes", SCHEMA)
        await store.create_table("others", SCHEMA)
        held = WriteLock("another process", path / FOLDER / "notes.lock")
        assert await asyncio.to_thread(held.acquire, 5)
        with pytest.raises(StoreBusyError) as caught:
            await hurried.insert("notes", rows("x", ["a"]))
        assert caught.value.waited >= 0.3
        assert await store.count("notes") == 0
        await store.insert("others", rows("x", ["a"]))
        await asyncio.to_thread(held.release)
        await asyncio.to_thread(held.close)
        assert await store.insert("notes", rows("x", ["a"])) == 1


async def test_a_cancelled_writer_waits_for_no_lock(tmp_path: Path) -> None:
    async with aiovec.connect(target(tmp_path)) as store:
        await store.create_table("notes", SCHEMA)
        held = WriteLock("another process", tmp_path / "store" / FOLDER / "notes.lock")
        assert await asyncio.to_thread(held.acquire, 5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await store.insert("notes", rows("x", ["a"]))
        await asyncio.to_thread(held.release)
        await asyncio.to_thread(held.close)
        assert await store.insert("notes", rows("x", ["a", "b"])) == 2


def test_a_loop_that_ends_leaves_no_lock_behind(tmp_path: Path) -> None:
    """``asyncio.run`` cancels what is under way; the next loop of the process writes on."""

    async def leave(number: int, turns: int) -> None:
        store = await aiovec.connect(target(tmp_path))
        await store.create_table("notes", SCHEMA, exist_ok=True)
        asyncio.ensure_future(store.insert("notes", rows("x", [f"r{number}"])))  # noqa: RUF006
        for _ in range(turns):
            await asyncio.sleep(0.001)

    async def finish() -> None:
        async with aiovec.connect(target(tmp_path)) as store:
            await store.insert("notes", rows("x", ["last"]))
            ids = await all_ids(store)
            assert len(ids) == len(set(ids))

    def leave_many(warned: pytest.WarningsRecorder) -> None:
        for number in range(8):
            asyncio.run(leave(number, turns=number))
        ends = time.monotonic() + 30
        while len(warned) < 8 and time.monotonic() < ends:
            gc.collect()  # LanceDB's threads let go of them a little later
            time.sleep(0.05)

    with pytest.warns(ResourceWarning) as warned:
        leave_many(warned)
    asyncio.run(finish())
