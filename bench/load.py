"""Measure many tasks with mixed calls on one store: event-loop lag, slowest call, and memory."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

import aiovec
from aiovec import F, StoreBusyError, VectorStore

from .data import TABLE, Data, load, row_id
from .measure import Options, Result, fresh, lags
from .stores import fill

_TASKS = (64, 500, 5000)
_SECONDS, _ROWS = 60.0, 20_000
_TARGETS = {"SQLite": "{}/load-{}.db", "LanceDB": "lancedb://{}/load-{}.lance"}
_MIB = 2**20

Call = Callable[[], Awaitable[object]]


async def run(options: Options) -> list[Result]:
    results = []
    for backend, target in _TARGETS.items():
        for tasks in sorted({max(8, int(n * min(1.0, options.scale))) for n in _TASKS}):
            settings = {
                "target": target.format(options.folder, tasks),
                "tasks": tasks, "rows": options.rows(_ROWS), "data": options.data,
                "seconds": options.seconds(_SECONDS),
            }  # fmt: skip
            # Run in a separate process, so that the process's memory is mostly the store's.
            result = await fresh("load", settings)
            results.append(
                Result(
                    f"load, {backend}",
                    f"{tasks:,} tasks with mixed calls for {settings['seconds']:g} s, of a hundred "
                    f"72 reads and 28 single-row writes, {settings['rows']:,} rows",
                    "ms", result["measured"],
                    notes=[f"{result['refused']:,.0f} calls were refused as busy",
                           f"the slowest call was {result['slowest']}"],
                )
            )  # fmt: skip
    return results


def _calls(store: VectorStore, data: Data, task: int, chance: random.Random) -> dict[str, Call]:
    """Return a call of each kind. Each key has the kind's percentage of the calls, and its name."""
    query, row = data.queries[chance.randrange(len(data.queries))], chance.randrange(len(data))
    ids = [row_id(number) for number in chance.choices(range(len(data)), k=10)]
    new = {**data.row(row), "id": f"task-{task}"}
    return {
        "40 search": lambda: store.search(TABLE, query),
        "15 filtered": lambda: store.search(TABLE, query, where=F.pick < 10 * (row % 90 + 1)),
        "10 get": lambda: store.get(TABLE, ids),
        "5 find": lambda: store.find(TABLE, F.place.between(row, row + 20), limit=20),
        "2 count": lambda: store.count(TABLE, F.pick < row % 1000),
        "12 upsert": lambda: store.upsert(TABLE, [data.row(row)]),
        "6 update": lambda: store.update(TABLE, {"pick": row % 1000}, ids=row_id(row)),
        "6 insert": lambda: store.upsert(TABLE, [new]),
        "4 delete": lambda: store.delete(TABLE, f"task-{task}"),
    }


async def _work(store: VectorStore, data: Data, tasks: int, seconds: float) -> dict[str, Any]:
    chance, until = random.Random(tasks), time.perf_counter() + seconds
    done = refused = 0
    slowest = (0.0, "")

    async def task(number: int) -> None:
        nonlocal done, refused, slowest
        # Otherwise all tasks would start at the same moment.
        await asyncio.sleep(chance.random() * seconds / 4)
        while time.perf_counter() < until:
            calls = _calls(store, data, number, chance)
            (kind,) = chance.choices(list(calls), [int(kind.split()[0]) for kind in calls])
            began = time.perf_counter()
            try:
                await calls[kind]()
            except StoreBusyError:
                refused += 1
            done += 1
            slowest = max(slowest, (time.perf_counter() - began, kind.split()[1]))

    began = time.perf_counter()
    async with lags() as late:
        await asyncio.gather(*map(task, range(tasks)))
    return {
        "rate": done / (time.perf_counter() - began), "refused": refused, "slowest": slowest,
        "late": late,
    }  # fmt: skip


async def in_process(settings: dict[str, Any]) -> dict[str, Any]:
    data, process = load(settings["rows"], settings["data"]), psutil.Process()
    async with aiovec.connect(settings["target"]) as store:
        await fill(store, data)
        # First load everything that is loaded only once: tables in memory, caches, imports.
        await _work(store, data, 8, settings["seconds"] / 6)
        await _settle(store)
        before = process.memory_info().rss
        result = await _work(store, data, settings["tasks"], settings["seconds"])
        most = process.memory_info().rss
        await _settle(store)
        after = process.memory_info().rss
    p50, p99 = np.percentile(result["late"], (50, 99))
    return {
        "measured": {
            "calls (per second)": result["rate"],
            "lag of the event loop, p50": p50,
            "lag of the event loop, p99": p99,
            "lag of the event loop, most": max(result["late"]),
            "slowest call": 1000 * result["slowest"][0],
            "memory before (MiB)": before / _MIB,
            "memory at the end (MiB)": most / _MIB,
            "memory after upkeep (MiB)": after / _MIB,
        },
        "refused": result["refused"],
        "slowest": result["slowest"][1],
    }


async def _settle(store: VectorStore) -> None:
    with suppress(StoreBusyError):
        await store.optimize(TABLE)
    gc.collect()
