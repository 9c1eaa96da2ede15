"""Writing to LanceDB: what aiovec's promises cost beside the bare calls."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import aiovec
from aiovec._input.rows import to_table

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import TABLE, Corpus
from . import direct

_BATCH = 1000
_UPSERTS = 20
_BULK_BATCH = 10_000
_ROUNDS = 5


async def run(corpus: Corpus, options: Options) -> list[Result]:
    rounds = options.rounds(_ROUNDS)
    return [await _upserts(corpus, options, rounds), await _bulk(corpus, options, rounds)]


async def _upserts(corpus: Corpus, options: Options, rounds: int) -> Result:
    """Half of each batch replaces rows, the other half is new."""
    there = len(corpus) // 2
    size = min(_BATCH, there // 2)
    batches = [
        corpus.batch(np.arange(there + start, there + start + size) - size // 2)
        for start in range(0, min(_UPSERTS * size, len(corpus) - there - size), size)
    ]
    first = corpus.batch(slice(0, there))

    async def through_aiovec(folder: Path) -> float:
        async with aiovec.connect(f"lancedb://{folder}") as store:
            await store.create_table(TABLE, corpus.schema())
            await store.insert(TABLE, first)
            began = time.perf_counter()
            for batch in batches:
                await store.upsert(TABLE, batch)
            return len(batches) * size / (time.perf_counter() - began)

    async def bare(folder: Path) -> float:
        table = await direct.create(folder, first)
        await table.add(first)
        began = time.perf_counter()
        for batch in batches:
            await direct.upsert(table, batch)
        return len(batches) * size / (time.perf_counter() - began)

    return await _compared(
        "lancedb, upsert",
        f"batches of {size:,} into {there:,} rows, half of them replaced ({corpus})",
        {"aiovec, upsert": through_aiovec, "lancedb, merge_insert": bare},
        options, rounds,
    )  # fmt: skip


async def _bulk(corpus: Corpus, options: Options, rounds: int) -> Result:
    """A table that was just made, as a migration fills it."""
    batches = [
        corpus.batch(slice(start, start + _BULK_BATCH))
        for start in range(0, len(corpus), _BULK_BATCH)
    ]

    async def through_aiovec(folder: Path) -> float:
        async with aiovec.connect(f"lancedb://{folder}") as store:
            await store.create_table(TABLE, corpus.schema())
            backend: Any = store._current.engine.backend
            load = backend.bulk_load(await backend.open_table(TABLE))
            tables = _checked(batches, corpus.schema())
            began = time.perf_counter()
            for table in tables:
                await load.add(table)
            return len(corpus) / (time.perf_counter() - began)

    async def bare(folder: Path) -> float:
        table = await direct.create(folder, batches[0])
        began = time.perf_counter()
        for batch in batches:
            await table.add(batch)
        return len(corpus) / (time.perf_counter() - began)

    return await _compared(
        "lancedb, bulk",
        f"{corpus} into a new table, batches of {_BULK_BATCH:,}",
        {"aiovec, bulk load": through_aiovec, "lancedb, add": bare},
        options, rounds,
    )  # fmt: skip


def _checked(batches: Sequence[pa.RecordBatch], schema: aiovec.Schema) -> list[pa.Table]:
    """As they come out of another store: in the layout that backends get."""
    return [to_table(batch, schema) for batch in batches]


async def _compared(
    subject: str,
    what: str,
    ways: dict[str, Callable[[Path], Awaitable[float]]],
    options: Options,
    rounds: int,
) -> Result:
    def in_fresh_folder(way: Callable[[Path], Awaitable[float]]) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            folder = options.folder / "lance-writes"
            try:
                return await way(folder)
            finally:
                shutil.rmtree(folder)

        return timed

    found = await interleaved({n: in_fresh_folder(w) for n, w in ways.items()}, rounds)
    ours, theirs = found.values()
    ratio = float(np.median(np.divide(ours, theirs)))
    return Result(
        subject, f"{what} (median of {rounds} interleaved rounds)", "rows/s", medians(found),
        [Check(" / ".join(found), ratio, 0.7)],
    )  # fmt: skip
