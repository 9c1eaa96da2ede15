"""Measure the cost of idle open stores, each on its own file, and of their next call."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
from contextlib import AsyncExitStack
from functools import partial

import psutil

import aiovec

from .data import load
from .measure import Options, Result, timed

_STORES, _ROWS = 300, 100
# Seconds after which an unused store is at rest, and its threads have ended.
_REST = 16


async def run(options: Options) -> list[Result]:
    stores: list[aiovec.VectorStore] = []
    data, before = load(_ROWS, options.data), _held()
    count = max(2, options.rows(_STORES))
    async with AsyncExitStack() as opened:
        for number in range(count + 1):
            if number == 1:  # the first store has imported all modules
                before = _held()
            connected = aiovec.connect(options.folder / "waiting" / f"{number}.db")
            stores.append(store := await opened.enter_async_context(connected))
            await store.create_table("t", data.schema())
            await store.insert("t", data.batch(slice(None)))
            await store.search("t", data.queries[0])
        await asyncio.sleep(_REST)
        rested = {name: (held - before[name]) / count for name, held in _held().items()}
        calls: dict[str, list[float]] = {"first search": [], "second search": []}
        for store in stores:
            for times in calls.values():
                times.append(await timed(partial(store.search, "t", data.queries[1]))())
    took = {name: statistics.median(times) for name, times in calls.items()}
    note = f"{count} stores of {data}, after {_REST} s without a call"
    return [
        Result("waiting", "for each store", "", rested, notes=[note]),
        Result("waiting, calls", "after the rest (median)", "ms", took),
    ]


def _held() -> dict[str, float]:
    process = psutil.Process(os.getpid())
    return {
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
        "MB": process.memory_info().rss / 1e6,
    }
