"""Calls that wait: for how long they may, and how little memory they take meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.waiting import Clock, until

from aiovec import Schema, StoreBusyError, VectorStore
from aiovec._core import writing
from aiovec.backend import Backend, RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.settings import SqliteSettings

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ["sqlite", "lancedb"]
MIB = 2**20
# Seconds that a call may wait in these tests. A call that fails may tell it later by what the
# event loop lags: so much, and some more on a busy machine, where that is measured.
PATIENCE, LAG = 0.3, 1.5


@asynccontextmanager
async def opened(kind: str, path: Path, **settings: Any) -> AsyncIterator[VectorStore]:
    backend: Backend
    if kind == "sqlite":
        backend = SqliteBackend(str(path / "s.db"), SqliteSettings(**settings))
    else:
        # Else the most of a test's time would go into the indexes of a table that is dropped.
        options = {"index": "none", "close_timeout": 0, **settings}
        backend = LancedbBackend(str(path / "s"), LancedbSettings(**options))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        yield store


async def timed(call: Awaitable[object]) -> tuple[float, object]:
    began = time.monotonic()
    outcome: object
    try:
        outcome = await call
    except StoreBusyError as exc:
        outcome = exc
    return time.monotonic() - began, outcome


Outcomes = list[tuple[float, object]]


async def crowd(make: Callable[[int], Awaitable[object]], count: int) -> tuple[Outcomes, float]:
    """Return how long each call took and how it ended, and the most by which a timer lagged."""
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            most = max(most, time.monotonic() - began - 0.01)

    watching = asyncio.ensure_future(watch())
    outcomes = await asyncio.gather(*(timed(make(n)) for n in range(count)))
    watching.cancel()
    return outcomes, most


def check(outcomes: Outcomes, lag: float) -> int:
    """Those who waited too long were told so, in time; how many they are."""
    late = [(took, error) for took, error in outcomes if isinstance(error, StoreBusyError)]
    for took, error in late:
        assert error.waited >= PATIENCE
        assert took < PATIENCE + LAG + 3 * lag, error
    return len(late)


@pytest.mark.parametrize("kind", BACKENDS)
async def test_writes_behind_others_of_this_process(tmp_path: Path, kind: str) -> None:
    """B3: ``busy_timeout`` holds whoever stands before a call, and it did nothing then."""
    rows, dim = 4000, 96
    vectors = np.random.default_rng(1).standard_normal((rows, dim), dtype=np.float32)
    async with opened(kind, tmp_path, busy_timeout=PATIENCE) as store:
        await store.create_table("notes", Schema(dim, fields={"call": int}))

        def write(n: int) -> Awaitable[object]:
            ids = [f"{n}-{i}" for i in range(rows)]
            return store.insert("notes", {"id": ids, "embedding": vectors, "call": [n] * rows})

        outcomes, lag = await crowd(write, 60)
        assert check(outcomes, lag) > 0
        for n, (_, outcome) in enumerate(outcomes):
            found = await store.count("notes", f"call = {n}")
            assert found == (0 if isinstance(outcome, StoreBusyError) else rows)
        # Whoever comes when all is quiet again has to wait for nobody.
        assert await store.insert("notes", [{"id": "last", "embedding": vectors[0]}]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite from memory", "sqlite from the file", "lancedb"])
async def test_searches_behind_others_of_this_process(tmp_path: Path, kind: str) -> None:
    """B3: reads too."""
    rows, dim = 20_000, 128
    vectors = np.random.default_rng(1).standard_normal((rows, dim), dtype=np.float32)
    settings: dict[str, Any] = {"busy_timeout": PATIENCE}
    if kind == "sqlite from the file":
        settings |= {"scan": "disk", "readers": 1}
    elif kind == "lancedb":
        settings |= {"search_memory": "8 MiB"}
    async with opened(kind.split()[0], tmp_path, **settings) as store:
        await store.create_table("notes", Schema(dim))
        for start in range(0, rows, 2000):
            ids = [f"{i}" for i in range(start, start + 2000)]
            await store.insert("notes", {"id": ids, "embedding": vectors[start : start + 2000]})
        if kind == "sqlite from memory":
            while (await store.stats("notes")).details["searched"] != "in memory":
                await store.search("notes", vectors[0])
                await asyncio.sleep(0.05)
        outcomes, lag = await crowd(
            lambda n: store.search_many("notes", vectors[n * 100 : n * 100 + 100], limit=500), 200
        )
        assert check(outcomes, lag) > 0
        for n, (_, found) in enumerate(outcomes):
            if isinstance(found, list):
                assert [hits[0].id for hits in found] == [f"{n * 100 + i}" for i in range(100)]
        async with asyncio.timeout(60):
            while True:  # what the refused ones had begun may still be ending
                with contextlib.suppress(StoreBusyError):
                    assert len(await store.search("notes", vectors[0], limit=3)) == 3
                    break


# Starts calls that insert 2 MB each, while somebody else holds the lock, and prints by how much the
# process grew meanwhile. Their input is there before.
MEASURE = """
import asyncio, json, sys, threading, time
from pathlib import Path
import numpy as np
import psutil
from aiovec import Schema
from tests.faults.test_waiting import HOLD, opened

async def main():
    kind, path, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    dim = 512
    rows = np.random.default_rng(1).standard_normal((1024, dim))  # of float64, so not as it is kept
    inputs = [
        {"id": [f"{n}-{i}" for i in range(len(rows))], "embedding": rows, "text": ["x"] * len(rows)}
        for n in range(calls)
    ]
    process = psutil.Process()
    async with opened(kind, path, write_queue=2, busy_timeout=600) as store:
        await store.create_table("notes", Schema(dim, fields={"text": str}))
        for n in range(2):
            await store.upsert("notes", inputs[n])
        lock = path / ("s.db" if kind == "sqlite" else "s/.aiovec/notes.lock")
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD, kind, str(lock),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        assert await holder.stdout.readline() == b"held\\n"
        before = process.memory_info().rss
        most = before
        tasks = [asyncio.ensure_future(store.upsert("notes", one)) for one in inputs]
        until = time.monotonic() + 4
        while time.monotonic() < until:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)
        waiting = sum(not task.done() for task in tasks)
        for task in tasks[3:]:
            task.cancel()
        holder.stdin.close()
        await holder.wait()
        outcomes = await asyncio.gather(*tasks[:3])
        await asyncio.wait(tasks)
    print(json.dumps([most - before, waiting, outcomes]))

asyncio.run(main())
"""

# Holds the lock of a file, or of a table of LanceDB, until its input is closed.
HOLD = """
import sys
kind, path = sys.argv[1:]
if kind == "sqlite":
    import sqlite3
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
else:
    import os
    from aiovec_lancedb.locks.local import LockedFile
    from pathlib import Path
    held = LockedFile.at(Path(path))
    assert held is not None
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKENDS)
async def test_calls_that_wait_take_no_memory(tmp_path: Path, kind: str) -> None:
    """B1: 300 calls of 2 MB behind a queue of 2. Rows are looked at when a place is there."""
    calls = 300
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURE, kind, str(tmp_path), str(calls), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, errors = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode == 0, errors.decode()
    grown, waiting, outcomes = json.loads(told)
    assert waiting == calls  # somebody else had the lock
    assert outcomes == [1024] * 3
    assert grown < 64 * MIB


@pytest.mark.parametrize("kind", BACKENDS)
async def test_large_calls_wait_for_the_memory_of_others(tmp_path: Path, kind: str) -> None:
    """B1: so they do where the queue has places, and one that is larger than all runs alone."""
    vectors = np.zeros((9000, 1024))
    vectors[:, 0] = 1
    async with opened(kind, tmp_path) as store:
        await store.create_table("notes", Schema(1024))
        calls = [
            store.insert("notes", {"id": [f"{n}-{i}" for i in range(size)], "embedding": part})
            for n, size in enumerate([20_000 // 4, 9000, 10, 9000])
            for part in [vectors[:size]]
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        most = 0
        backend: Any = store._follower.engine.backend
        while not all(task.done() for task in tasks):
            most = max(most, backend._writing.used)
            await asyncio.sleep(0.001)
        assert [await task for task in tasks] == [5000, 9000, 10, 9000]
        assert 0 < most <= backend._writing.memory
        assert await store.count("notes") == 23_010


@pytest.mark.parametrize("kind", ["sqlite", "lancedb"])
async def test_what_a_call_checks_is_no_time_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody else uses the store, and to repeat the call would not help."""
    clock = Clock(monkeypatch)

    def slow(work: Callable[..., Any], *args: Any) -> tuple[Any, float]:
        found = work(*args)
        clock.advance(3600)
        return found, 3600.0

    monkeypatch.setattr(writing, "_timed", slow)
    async with opened(kind, tmp_path, busy_timeout=600) as store:
        await store.create_table("notes", Schema(2))
        assert await store.insert("notes", [{"id": "a", "embedding": [1, 2]}]) == 1
        await store.upsert("notes", [{"id": "a", "embedding": [2, 1]}])


async def test_what_waits_for_the_store_s_own_work_has_its_time_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    async with opened("lancedb", tmp_path, busy_timeout=600) as store:
        await store.create_table("notes", Schema(2, fields={"year": int, "month": int}))
        backend: Any = store._follower.engine.backend
        indexing = backend._indexing
        for call in (
            partial(store.rename_field, "notes", "year", "years"),
            partial(store.drop_field, "notes", "month"),
            partial(store.drop_table, "notes"),
        ):
            async with indexing._only_one("notes"):
                calling = asyncio.ensure_future(call())
                lock = indexing._state("notes").lock()
                await until(lambda lock=lock: lock._waiters)
                clock.advance(3600)
            await calling
