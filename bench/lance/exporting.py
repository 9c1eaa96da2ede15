"""Exporting from LanceDB: what a snapshot with cursors costs beside the bare stream of batches."""

from __future__ import annotations

import time

import numpy as np

import aiovec

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import TABLE, Corpus
from . import direct

_ROWS = 100_000
_BATCH = 1000
_ROUNDS = 9
_SEED = 5


async def run(corpus: Corpus, options: Options) -> list[Result]:
    """Rows whose ids lie in no order, as random ids do."""
    rounds = options.rounds(_ROUNDS)
    count = min(_ROWS, len(corpus))
    order = np.random.default_rng(_SEED).permutation(count)
    folder = options.folder / "exported"
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table(TABLE, corpus.schema())
        for start in range(0, count, 10_000):
            await store.insert(TABLE, corpus.batch(order[start : start + 10_000]))
        table = await (await direct.connect(folder)).open_table(TABLE)

        async def through_aiovec() -> float:
            began, rows = time.perf_counter(), 0
            async for batch in store.export(TABLE, batch_size=_BATCH):
                rows += batch.num_rows
            took = time.perf_counter() - began
            assert rows == count
            return rows / took

        async def bare() -> float:
            began, rows = time.perf_counter(), 0
            async for batch in await table.query().to_batches(max_batch_length=_BATCH):
                rows += batch.num_rows
            took = time.perf_counter() - began
            assert rows == count
            return rows / took

        ways = {"aiovec, export": through_aiovec, "lancedb, to_batches": bare}
        found = await interleaved(ways, rounds)
    ours, theirs = found.values()
    ratio = float(np.median(np.divide(ours, theirs)))
    return [
        Result(
            "lancedb, export",
            f"{count:,} rows of {corpus.dim} dims ({corpus.origin}) whose ids lie in no order, to "
            f"Arrow batches of {_BATCH:,} (median of {rounds} interleaved rounds)",
            "rows/s",
            medians(found),
            [Check(" / ".join(found), ratio, 0.7)],
        )
    ]
