"""One store, one number of tasks: run as a process, so that its memory is its own.

``python -m bench.loading.process ASKED`` gets a JSON object and prints one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

import aiovec
from aiovec import F, Schema, StoreBusyError, VectorStore

from ..data import Dataset, load

TABLE = "docs"
_LOOK = 0.005
_FILL = 5_000
_RAMP = 4
_MIB = 2**20

_OF_A_HUNDRED = {
    "search": 40, "filtered": 15, "get": 10, "find": 5, "count": 2,
    "upsert": 12, "update": 6, "insert": 6, "delete": 4,
}  # fmt: skip


@dataclass
class Seen:
    """The figures of a run. Times in seconds, memory in bytes."""

    calls: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_call: str = ""
    lags: list[float] = field(default_factory=list)
    most: int = 0

    def add(self, kind: str, took: float) -> None:
        self.calls += 1
        if took > self.slowest:
            self.slowest, self.slowest_call = took, kind


class Load:
    """Mixed calls on one table: of ten, six searches, a read by id or filter, and three writes.

    It holds little for each task, so that what is measured is the store's.
    """

    def __init__(self, store: VectorStore, data: Dataset, tasks: int) -> None:
        self._store = store
        self._data = data
        self._ids = data.ids()
        self._tasks = tasks
        self._chance = random.Random(tasks)
        self.seen = Seen()

    def _call(self, task: int) -> tuple[str, Awaitable[object]]:
        store, data, chance = self._store, self._data, self._chance
        query = data.queries[chance.randrange(len(data.queries))]
        row = chance.randrange(len(data))
        (kind,) = chance.choices(list(_OF_A_HUNDRED), list(_OF_A_HUNDRED.values()))
        where = F.kind == f"kind-{row % 7}"
        call: Awaitable[object]
        match kind:
            case "search":
                call = store.search(TABLE, query)
            case "filtered":
                call = store.search(TABLE, query, where=where)
            case "get":
                call = store.get(TABLE, chance.choices(self._ids, k=10))
            case "find":
                call = store.find(TABLE, F.number.between(row, row + 20), limit=20)
            case "count":
                call = store.count(TABLE, where)
            case "upsert":
                call = store.upsert(TABLE, [self.row(self._ids[row], row)])
            case "update":
                call = store.update(TABLE, {"number": row}, ids=self._ids[row])
            case "insert":
                call = store.upsert(TABLE, [self.row(f"task-{task}", row)])
            case _:
                call = store.delete(TABLE, f"task-{task}")
        return kind, call

    def row(self, id: str, number: int) -> dict[str, Any]:
        return {
            "id": id,
            "embedding": self._data.vectors[number],
            "kind": f"kind-{number % 7}",
            "number": number,
            "text": self._data.texts[number],
        }

    async def run(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        process = psutil.Process()

        async def task(number: int) -> None:
            try:
                # Not all in the same moment: more calls than can be answered would come then.
                await asyncio.sleep(self._chance.random() * seconds / _RAMP)
                while time.perf_counter() < until:
                    kind, call = self._call(number)
                    began = time.perf_counter()
                    try:
                        await call
                    except StoreBusyError:
                        self.seen.refused += 1
                    self.seen.add(kind, time.perf_counter() - began)
            finally:
                left.discard(number)
                if not left:
                    over.set()

        async def look() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(_LOOK)
                self.seen.lags.append(time.perf_counter() - began - _LOOK)

        async def weigh() -> None:
            while True:
                self.seen.most = max(self.seen.most, process.memory_info().rss)
                await asyncio.sleep(0.1)

        watching = [asyncio.ensure_future(look()), asyncio.ensure_future(weigh())]
        left, over = set(range(self._tasks)), asyncio.Event()
        tasks = [asyncio.ensure_future(task(number)) for number in left]
        try:
            await over.wait()
            for one in tasks:
                await one
        finally:
            for watch in watching:
                watch.cancel()
            await asyncio.wait(watching)


async def measure(asked: dict[str, Any]) -> dict[str, Any]:
    data = load(asked["rows"], asked["dim"], asked["data"])
    process = psutil.Process()
    schema = Schema(data.dim, fields={"kind": str, "number": int, "text": str})
    async with aiovec.connect(asked["target"]) as store:
        await store.create_table(TABLE, schema)
        load_ = Load(store, data, asked["tasks"])
        ids = data.ids()
        for start in range(0, len(data), _FILL):
            some = range(start, min(start + _FILL, len(data)))
            await store.insert(TABLE, [load_.row(ids[n], n) for n in some])
        # What the calls need once is loaded before: drivers, copies in memory, caches.
        warm = Load(store, data, 8)
        await warm.run(asked["seconds"] / 6)
        await _settle(store, asked["seconds"] / 12)
        before = process.memory_info().rss
        # What the benchmark itself holds is no garbage to look through, as it would be in no app.
        gc.collect()
        gc.freeze()
        began = time.perf_counter()
        await load_.run(asked["seconds"])
        took = time.perf_counter() - began
        gc.unfreeze()
        await _settle(store, asked["seconds"] / 12)
        after = process.memory_info().rss
    seen = load_.seen
    p50, p99 = np.percentile(seen.lags, (50, 99))
    return {
        "rate": seen.calls / took,
        "refused": seen.refused,
        "slowest": seen.slowest,
        "slowest_call": seen.slowest_call,
        "lag_p50": p50 * 1000,
        "lag_p99": p99 * 1000,
        "lag_most": max(seen.lags) * 1000,
        "before": before / _MIB,
        "most": max(seen.most, before) / _MIB,
        "after": after / _MIB,
    }


async def _settle(store: VectorStore, seconds: float) -> None:
    """Let upkeep that became due end, and what nobody needs any more go."""
    with suppress(StoreBusyError):
        await store.optimize(TABLE)
    gc.collect()
    await asyncio.sleep(seconds)
    gc.collect()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.loads(sys.argv[1])))))
