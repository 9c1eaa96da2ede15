"""Exporting a whole table as Arrow batches, fields and vectors."""

from __future__ import annotations

import time

import aiosqlite
import numpy as np
import pyarrow as pa

import aiovec

from . import bare
from .data import load
from .measure import Check, Result, interleaved, medians
from .options import Options
from .stores import TABLE, fill, fill_bare


async def run(options: Options) -> list[Result]:
    data = load(options.rows(100_000), 768, options.data)
    rounds = options.rounds(5)
    path, bare_path = options.folder / "a.db", options.folder / "bare.db"
    fill_bare(bare_path, data)
    names = list(data.schema().fields)
    columns = ", ".join(f"r.{name}" for name in names)
    sql = f"SELECT r.id, {columns}, v.vector FROM rows AS r JOIN vec AS v ON v.rowid = r.rowid"

    async with aiovec.connect(path) as store:
        await fill(store, data)

        async def through_aiovec() -> float:
            began = time.perf_counter()
            count = 0
            async for batch in store.export(TABLE):
                count += batch.num_rows
            took = time.perf_counter() - began
            assert count == len(data)
            return count / took

        async def by_aiosqlite() -> float:
            began = time.perf_counter()
            count = 0
            async with (
                aiosqlite.Connection(lambda: bare.connect(bare_path), 1000) as db,
                db.execute(sql) as cursor,
            ):
                while rows := list(await cursor.fetchmany(1000)):
                    count += _arrow(rows, names).num_rows
            took = time.perf_counter() - began
            assert count == len(data)
            return count / took

        async def by_sqlite3() -> float:
            began = time.perf_counter()
            count = 0
            db = bare.connect(bare_path)
            cursor = db.execute(sql)
            while rows := cursor.fetchmany(1000):
                count += _arrow(rows, names).num_rows
            db.close()
            took = time.perf_counter() - began
            assert count == len(data)
            return count / took

        found = await interleaved(
            {
                "aiovec export": through_aiovec,
                "aiosqlite, a join by hand": by_aiosqlite,
                "sqlite3, a join by hand (blocks the loop)": by_sqlite3,
            },
            rounds,
        )
    rates = medians(found)
    return [
        Result(
            "export",
            f"{len(data):,} rows of {data.dim} dims with text fields, to Arrow batches of 1,000 "
            f"({data.origin}; median of {rounds} interleaved rounds)",
            "rows/s",
            rates,
            [Check("rows exported each second", rates["aiovec export"], 150_000)],
        )
    ]


def _arrow(rows: list[tuple[object, ...]], names: list[str]) -> pa.RecordBatch:
    *columns, vectors = zip(*rows, strict=True)
    flat = np.frombuffer(b"".join(vectors), dtype=np.float32)
    arrays = [pa.array(column, type=pa.utf8()) for column in columns]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), len(flat) // len(rows)))
    return pa.RecordBatch.from_arrays(arrays, names=["id", *names, "vector"])
