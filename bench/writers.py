"""Many tasks that each insert single rows: they share commits."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import aiosqlite
import numpy as np

import aiovec

from . import bare
from .data import load
from .measure import Check, Result, interleaved, medians
from .options import Options

_TASKS = 100
_EACH = 20
_ALONE = 300
# Seconds; a usual time for a consumer's disk or a network volume.
_SLOW_FLUSH = 0.004

Row = dict[str, Any]


async def run(options: Options) -> list[Result]:
    count = options.rows(_TASKS * _EACH)
    data = load(count, 768, options.data)
    names = list(data.schema().fields)
    rows: list[Row] = [
        {**fields, "embedding": vector}
        for batch in data.batches()
        for fields, vector in zip(
            batch.select(["id", *names]).to_pylist(), data.vectors, strict=False
        )
    ]
    # One after the other is slow: fewer rows give its rate just as well.
    alone = rows[: max(50, options.rows(_ALONE))]
    rounds = options.rounds(5)

    async def concurrently(store: aiovec.VectorStore) -> int:
        async def one(task: int) -> None:
            for row in rows[task::_TASKS]:
                await store.insert("docs", [row])

        await asyncio.gather(*(one(task) for task in range(_TASKS)))
        return len(rows)

    async def one_after_the_other(store: aiovec.VectorStore) -> int:
        for row in alone:
            await store.insert("docs", [row])
        return len(alone)

    def aiovec_way(
        write: Callable[[aiovec.VectorStore], Awaitable[int]], durability: str
    ) -> Callable[[Path], Awaitable[float]]:
        async def timed(folder: Path) -> float:
            config = folder / "aiovec.toml"
            config.write_text(f'[retrieval.sqlite]\ndurability = "{durability}"\n')
            async with aiovec.connect(folder / "a.db", config=config) as store:
                await store.create_table("docs", data.schema())
                began = time.perf_counter()
                written = await write(store)
                took = time.perf_counter() - began
                assert await store.count("docs") == written
            return written / took

        return timed

    def bare_way(synchronous: str) -> Callable[[Path], Awaitable[float]]:
        async def timed(folder: Path) -> float:
            db = bare.connect(folder / "b.db", synchronous=synchronous)
            bare.create_vec0(db, data.dim)
            bare.create_rows(db, names)
            began = time.perf_counter()
            for rowid, row in enumerate(alone, 1):
                db.execute("BEGIN IMMEDIATE")
                bare.insert_rows(db, [rowid], [[row[name]] for name in ("id", *names)])
                db.execute(
                    "INSERT INTO vec (rowid, vector) VALUES (?, ?)",
                    (rowid, row["embedding"].tobytes()),
                )
                db.execute("COMMIT")
            took = time.perf_counter() - began
            db.close()
            return len(alone) / took

        return timed

    async def by_hand_with_a_lock(folder: Path) -> float:
        """Write as an async app by itself would: one connection for all tasks, a commit a row."""
        lock, columns = asyncio.Lock(), ", ".join("?" * (len(names) + 2))

        async def one(db: aiosqlite.Connection, task: int) -> None:
            for number in range(task, len(rows), _TASKS):
                row = rows[number]
                values = (number + 1, *(row[name] for name in ("id", *names)))
                async with lock:
                    await db.execute(f"INSERT INTO rows VALUES ({columns})", values)
                    await db.execute(
                        "INSERT INTO vec (rowid, vector) VALUES (?, ?)",
                        (number + 1, row["embedding"].tobytes()),
                    )
                    # As ``db.commit()``, but seen by ``slow_flush``.
                    await db.execute("COMMIT")

        async with aiosqlite.Connection(lambda: bare.connect(folder / "b.db"), 64) as db:
            db.isolation_level = "IMMEDIATE"  # the first statement begins a transaction
            await db._execute(bare.create_vec0, db._conn, data.dim)
            await db._execute(bare.create_rows, db._conn, names)
            began = time.perf_counter()
            await asyncio.gather(*(one(db, task) for task in range(_TASKS)))
            return len(rows) / (time.perf_counter() - began)

    def in_fresh_folder(
        way: Callable[[Path], Awaitable[float]], flush: float = 0.0
    ) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            folder = options.folder / "writers"
            folder.mkdir()
            try:
                with bare.slow_flush(flush) if flush else nullcontext():
                    return await way(folder)
            finally:
                shutil.rmtree(folder)

        return timed

    shared, single = f"aiovec, {_TASKS} tasks", "bare sqlite, a commit per row"
    in_turn = "aiovec, one call after the other"
    locked = f"aiosqlite by hand, {_TASKS} tasks and a lock, a commit per row"
    durable = {
        shared: aiovec_way(concurrently, "full"),
        single: bare_way("FULL"),
        locked: by_hand_with_a_lock,
        in_turn: aiovec_way(one_after_the_other, "full"),
    }
    normal = {
        f"{shared}, durability normal": aiovec_way(concurrently, "normal"),
        f"{single}, NORMAL": bare_way("NORMAL"),
        f"{in_turn}, durability normal": aiovec_way(one_after_the_other, "normal"),
    }
    flush = flush_time(options.folder)
    told = f"{len(rows):,} single rows of {data.dim} dims from {_TASKS} tasks, each durable when "
    told += f"its call returns (median of {rounds} interleaved rounds)"
    found = await interleaved(
        {name: in_fresh_folder(way) for name, way in {**durable, **normal}.items()}, rounds
    )
    slowed = await interleaved(
        {name: in_fresh_folder(way, _SLOW_FLUSH) for name, way in durable.items()}, rounds
    )

    def ratio(rates: dict[str, list[float]], other: str) -> float:
        return float(np.median(np.divide(rates[shared], rates[other])))

    def beside(rates: dict[str, list[float]]) -> list[str]:
        return [
            f"{_TASKS} tasks / one call after the other: {ratio(rates, in_turn):.1f}",
            f"{_TASKS} tasks / {locked}: {ratio(rates, locked):.1f}",
        ]

    return [
        Result(
            "writers",
            f"{told}; a flush takes {flush * 1000:.2f} ms on this disk",
            "rows/s",
            medians(found),
            [Check(f"{_TASKS} tasks / a commit per row", ratio(found, single), 10)],
            beside(found),
        ),
        Result(
            "writers, slow flush",
            f"the same where each commit waits {_SLOW_FLUSH * 1000:g} ms longer, as on disks "
            "without a protected cache",
            "rows/s",
            medians(slowed),
            [Check(f"{_TASKS} tasks / a commit per row", ratio(slowed, single), 10)],
            beside(slowed),
        ),
    ]


def flush_time(folder: Path) -> float:
    """The median seconds of a flush: where that is nearly nothing, sharing commits gains little."""
    path = folder / "flushed"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    path.unlink()
    return float(np.median(took))
