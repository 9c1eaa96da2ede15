"""A million rows behind an index that aiovec chose and tuned."""

from __future__ import annotations

import time

import numpy as np

import aiovec
from aiovec import Field, Schema
from aiovec.backend import Float32Array

from ..measure import Check, Result
from ..options import Options
from ..searching.corpus import LIMIT, TABLE, TOLERANCE
from ..searching.million import DIM, ROWS, SEED, batch, best_scores, points, scores_of
from .memory import Peak
from .searching import described, memory_now

_SEARCHES = 300
_CHECKED = 100


async def run(options: Options) -> list[Result]:
    rows = options.rows(ROWS)
    queries = next(points(_SEARCHES, seed=SEED + 1))
    best: list[Float32Array] = []
    gib = 2**30
    async with aiovec.connect(f"lancedb://{options.folder / 'million'}") as store:
        await store.create_table(
            TABLE, Schema(DIM, fields={"pick": Field(int, index="btree"), "text": Field(str)})
        )
        first = 0
        for vectors in points(rows):
            await store.insert(TABLE, batch(first, vectors))
            first += len(vectors)
            best = [best_scores(best, queries[:_CHECKED] @ vectors.T)]
        # So that no upkeep of what was just written runs beside the searches.
        await store.optimize(TABLE)
        before = memory_now()
        with Peak() as peak:
            began = time.perf_counter()
            await store.create_index(TABLE, "auto")
            built = time.perf_counter() - began
        index = await described(store)
        took, found = [], []
        for query in queries:
            began = time.perf_counter()
            hits = await store.search(TABLE, query, limit=LIMIT)
            took.append((time.perf_counter() - began) * 1000)
            found.append([hit.id for hit in hits])
        began = time.perf_counter()
        await store.search(TABLE, queries[0], limit=LIMIT, exact=True)
        flat = (time.perf_counter() - began) * 1000
        after = memory_now()
    note = (
        f"{index}, built and tuned in {built:.0f} s with {peak.mib:,.0f} MiB on top of "
        f"{before / gib:.2f} GiB; {after / gib:.2f} GiB after the searches"
    )
    scores = scores_of(rows, queries[:_CHECKED], found)
    recall = np.mean(
        [
            np.count_nonzero(ours >= theirs.min() - TOLERANCE) / len(theirs)
            for ours, theirs in zip(scores, best[0], strict=True)
        ]
    )
    return [
        Result(
            "lancedb-million",
            f"the {LIMIT} nearest of {rows:,} generated rows of {DIM} dims, whole rows",
            "ms",
            {
                f"aiovec on LanceDB, recall {recall:.4f}": float(np.median(took)),
                "the same with exact=True": flat,
            },
            [
                Check("recall on new queries", float(recall), 0.95),
                Check("one client", float(np.median(took)), 10, at_most=True, unit=" ms"),
            ],
            [note],
        )
    ]
