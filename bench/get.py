"""``get`` of 30 ids among 100,000 rows, and what of its time is more than the hop to a thread."""

from __future__ import annotations

import sqlite3
import time

import aiosqlite
import numpy as np

import aiovec

from . import bare
from .data import load
from .measure import Check, Result, interleaved, medians
from .options import Options
from .stores import TABLE, fill, fill_bare

_IDS = 30


async def run(options: Options) -> list[Result]:
    data = load(options.rows(100_000), 768, options.data)
    random = np.random.default_rng(1)
    ids = data.ids()
    path, bare_path = options.folder / "a.db", options.folder / "bare.db"
    fill_bare(bare_path, data)
    marks = ", ".join("?" * _IDS)
    columns = ", ".join(f"r.{name}" for name in data.schema().fields)
    # What a user would write: a join, which vec0 answers by a lookup for each row.
    sql = (
        f"SELECT r.id, {columns}, v.vector FROM rows AS r JOIN vec AS v ON v.rowid = r.rowid "
        f"WHERE r.id IN ({marks})"
    )

    def some_ids() -> list[str]:
        return [ids[i] for i in random.choice(len(ids), _IDS, replace=False)]

    def reader() -> sqlite3.Connection:
        return bare.connect(bare_path)

    async with aiovec.connect(path) as store:
        await fill(store, data)
        async with aiosqlite.Connection(reader, 64) as db:

            async def through_aiovec() -> float:
                asked = some_ids()
                began = time.perf_counter()
                records = await store.get(TABLE, asked)
                took = time.perf_counter() - began
                assert [record.id for record in records] == asked
                return took * 1000

            async def hop() -> float:
                began = time.perf_counter()
                async with db.execute("SELECT 1") as cursor:
                    await cursor.fetchall()
                return (time.perf_counter() - began) * 1000

            async def by_hand() -> float:
                asked = some_ids()
                began = time.perf_counter()
                async with db.execute(sql, asked) as cursor:
                    rows = [
                        (id, fields, np.frombuffer(vector, dtype=np.float32))
                        for id, *fields, vector in await cursor.fetchall()
                    ]
                took = time.perf_counter() - began
                assert len(rows) == _IDS
                return took * 1000

            found = await interleaved(
                {
                    "aiovec get": through_aiovec,
                    "aiosqlite, SELECT 1": hop,
                    "aiosqlite, a join by hand": by_hand,
                },
                options.rounds(500),
            )
    times = medians(found)
    beyond = times["aiovec get"] - times["aiosqlite, SELECT 1"]
    return [
        Result(
            "get",
            f"{_IDS} ids among {len(data):,} rows of {data.dim} dims, fields and vectors "
            f"(median of {options.rounds(500)})",
            "ms",
            times,
            [Check("get beyond the hop to a thread", beyond, 1.0, at_most=True, unit=" ms")],
        )
    ]
