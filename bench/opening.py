"""Opening a store that exists, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiovec

from .data import load
from .measure import Check, Result, interleaved, medians
from .options import Options
from .stores import TABLE, fill, fill_bare

# Each prints the milliseconds it took.
_WARM = """
import asyncio, sys, time
import pyarrow.compute, aiovec._input.rows, aiovec.backend.config
import aiovec._store.store, aiovec_sqlite
import anyio._backends._asyncio, importlib.metadata, sqlite_vec
from aiovec_sqlite.driver import load_driver
load_driver()
async def main():
    began = time.perf_counter()
    async with aiovec.connect(sys.argv[1]) as store:
        await store.get("docs", ["row-00000001"])
        print((time.perf_counter() - began) * 1000)
asyncio.run(main())
"""
_COLD = """
import time
began = time.perf_counter()
import asyncio, sys, aiovec
async def main():
    async with aiovec.connect(sys.argv[1]) as store:
        await store.get("docs", ["row-00000001"])
        print((time.perf_counter() - began) * 1000)
asyncio.run(main())
"""
_BARE = """
import asyncio, sys, time
import aiosqlite, numpy
from bench import bare
async def main():
    began = time.perf_counter()
    async with aiosqlite.Connection(lambda: bare.connect(sys.argv[1]), 64) as db:
        async with db.execute("SELECT * FROM rows WHERE id = 'row-00000001'") as cursor:
            await cursor.fetchall()
        print((time.perf_counter() - began) * 1000)
asyncio.run(main())
"""


async def run(options: Options) -> list[Result]:
    data = load(options.rows(100_000), 768, options.data)
    rounds = options.rounds(15)
    path, bare_path = options.folder / "a.db", options.folder / "bare.db"
    fill_bare(bare_path, data)
    async with aiovec.connect(path) as store:
        await fill(store, data)
        assert await store.count(TABLE) == len(data)

    def fresh(code: str, target: Path) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            command = [sys.executable, "-c", code, str(target)]
            done = await asyncio.to_thread(
                subprocess.run, command, check=True, capture_output=True, text=True
            )
            return float(done.stdout)

        return timed

    found = await interleaved(
        {
            "aiovec, imports done": fresh(_WARM, path),
            "aiovec, imports included": fresh(_COLD, path),
            "aiosqlite with sqlite-vec, imports done": fresh(_BARE, bare_path),
        },
        rounds,
    )
    times = medians(found)
    return [
        Result(
            "open",
            f"from nothing open to a first row read, {len(data):,} rows of {data.dim} dims, in a "
            f"fresh process (median of {rounds} interleaved rounds)",
            "ms",
            times,
            [Check("opening", times["aiovec, imports done"], 50, at_most=True, unit=" ms")],
        )
    ]
