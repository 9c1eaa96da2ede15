"""Bulk insert: Arrow batches of 1,000 rows, each durable when its call returns."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

import aiovec

from . import bare
from .data import load
from .measure import Check, Result, interleaved, medians
from .options import Options

_BATCH = 1000


async def run(options: Options) -> list[Result]:
    data = load(options.rows(30_000), 768, options.data)
    batches = data.batches(_BATCH)
    bare_columns = [data.vectors[i : i + _BATCH] for i in range(0, len(data), _BATCH)]
    rounds = options.rounds(5)

    async def through_aiovec(folder: Path) -> float:
        async with aiovec.connect(folder / "a.db") as store:
            await store.create_table("docs", data.schema())
            began = time.perf_counter()
            for batch in batches:
                await store.insert("docs", batch)
            return time.perf_counter() - began

    async def through_aiovec_with_vectors_only(folder: Path) -> float:
        async with aiovec.connect(folder / "v.db") as store:
            await store.create_table("docs", aiovec.Schema(data.dim))
            narrow = [batch.select(["id", "embedding"]) for batch in batches]
            began = time.perf_counter()
            for batch in narrow:
                await store.insert("docs", batch)
            return time.perf_counter() - began

    def by_hand(table: str) -> Callable[[Path], Awaitable[float]]:
        async def insert(folder: Path) -> float:
            db = bare.connect(folder / f"{table}.db")
            bare.create_vec0(db, data.dim) if table == "vec" else bare.create_blobs(db)
            began = time.perf_counter()
            for number, vectors in enumerate(bare_columns):
                first = 1 + number * _BATCH
                bare.insert_vectors(db, table, range(first, first + len(vectors)), vectors)
            took = time.perf_counter() - began
            db.close()
            return took

        return insert

    ways = {
        "aiovec, text fields and vectors": through_aiovec,
        "aiovec, ids and vectors": through_aiovec_with_vectors_only,
        "bare vec0, executemany": by_hand("vec"),
        "bare BLOB table, executemany (no search)": by_hand("blobs"),
    }
    if options.peers and (lance := _lancedb()):
        ways["LanceDB add (no fsync)"] = lambda folder: lance(folder, batches)

    def in_fresh_folder(way: Callable[[Path], Awaitable[float]]) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            folder = options.folder / "insert"
            folder.mkdir()
            try:
                return len(data) / await way(folder)
            finally:
                shutil.rmtree(folder)

        return timed

    found = await interleaved({n: in_fresh_folder(w) for n, w in ways.items()}, rounds)
    rates = medians(found)
    aiovec_rates, bare_rates = (
        found["aiovec, text fields and vectors"],
        found["bare vec0, executemany"],
    )
    ratio = float(np.median(np.divide(aiovec_rates, bare_rates)))
    return [
        Result(
            "insert",
            f"{len(data):,} rows, {data.dim} dims, batches of {_BATCH:,}, a durable commit each "
            f"({data.origin}; median of {rounds} interleaved rounds)",
            "rows/s",
            rates,
            [Check("aiovec / bare vec0", ratio, 0.5)],
        )
    ]


def _lancedb() -> Callable[..., Awaitable[float]] | None:
    try:
        import lancedb
    except ImportError:
        return None

    async def add(folder: Path, batches: list[object]) -> float:
        db = await lancedb.connect_async(folder / "lance")
        table = await db.create_table("docs", schema=batches[0].schema)  # type: ignore[attr-defined]
        began = time.perf_counter()
        for batch in batches:
            await table.add(batch)
        return time.perf_counter() - began

    return add
