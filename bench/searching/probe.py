"""Searching in a process of its own: what it takes in memory and in time from the opening on.

``python -m bench.searching.probe <file> <queries.npy> <ours|theirs> <searches>`` prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import sys
import time

import anyio._backends._asyncio
import numpy as np
import psutil
import pyarrow.compute
import sqlite_vec

import aiovec
import aiovec._input.rows
import aiovec._input.vectors
import aiovec._store.store
import aiovec.backend.config
import aiovec_sqlite
from aiovec_sqlite.driver import load_driver

from .. import bare
from .corpus import LIMIT, TABLE

# Imported before the clock runs, as in any process that has opened a store before.
LOADED = (
    anyio._backends._asyncio, pyarrow.compute, sqlite_vec, aiovec._input.rows,
    aiovec.backend.config, aiovec._input.vectors, aiovec_sqlite, load_driver(),
)  # fmt: skip


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def ours(path: str, queries: np.ndarray, searches: int) -> dict[str, object]:
    from .store import copy_bytes

    async with aiovec.connect(":memory:"):
        pass  # with it all is imported that a store needs
    began = time.perf_counter()
    async with aiovec.connect(path) as store:
        opened = time.perf_counter() - began
        before = resident_bytes()
        asked = time.perf_counter()
        hits = await store.search(TABLE, queries[0], limit=LIMIT)
        first = time.perf_counter() - asked
        while not copy_bytes(store):
            await asyncio.sleep(0.002)
            if time.perf_counter() - asked > 300:
                raise TimeoutError("the copy in memory was not ready in time")
        ready = time.perf_counter() - asked
        loaded = resident_bytes()
        took, found = [], [[hit.id for hit in hits]]
        for query in queries[1 : searches + 1]:
            start = time.perf_counter()
            hits = await store.search(TABLE, query, limit=LIMIT)
            took.append(time.perf_counter() - start)
            found.append([hit.id for hit in hits])
        return {
            "first_ms": (opened + first) * 1000,
            "ready_s": ready,
            "before": before,
            "loaded": loaded,
            "after": resident_bytes(),
            "copy": copy_bytes(store),
            "median_ms": float(np.median(took)) * 1000,
            "found": found,
        }


def theirs(path: str, queries: np.ndarray, searches: int) -> dict[str, object]:
    began = time.perf_counter()
    db: sqlite3.Connection = bare.connect(path)  # type: ignore[arg-type]
    statement = (
        f'SELECT rowid, distance FROM "{TABLE}.vec" WHERE vector MATCH ? AND k = ? '
        "ORDER BY distance"
    )
    db.execute(statement, (queries[0].tobytes(), LIMIT)).fetchall()
    first = time.perf_counter() - began
    took = []
    for query in queries[1 : searches + 1]:
        start = time.perf_counter()
        db.execute(statement, (query.tobytes(), LIMIT)).fetchall()
        took.append(time.perf_counter() - start)
    db.close()
    return {"first_ms": first * 1000, "median_ms": float(np.median(took)) * 1000}


def main() -> None:
    path, queries, who, searches = sys.argv[1:]
    asked = np.load(queries)
    told = (
        asyncio.run(ours(path, asked, int(searches)))
        if who == "ours"
        else theirs(path, asked, int(searches))
    )
    print(json.dumps(told))


if __name__ == "__main__":
    main()
