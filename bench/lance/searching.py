"""Searching LanceDB's indexes: what aiovec adds, and whether the wanted recall is reached."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

import aiovec
from aiovec import Tuning, VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import LIMIT, TABLE, Corpus, row_number
from ..searching.store import Ask, block
from . import direct
from .memory import Peak

# Effort that any index of a table of this size answers with.
_EFFORT = {"nprobes": 20, "refine": 5}
_TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
_ROUNDS = 12
_SECONDS = 0.2


@dataclass(frozen=True)
class Point:
    """One way of searching: how much it finds and how long it takes."""

    label: str
    recall: float
    ms: float


async def fill(folder: Path, corpus: Corpus) -> None:
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await store.create_table(TABLE, corpus.schema())
        for batch in corpus.batches():
            await store.insert(TABLE, batch)
        await store.optimize(TABLE)


def through_aiovec(
    store: VectorStore, corpus: Corpus, *, tuning: Tuning | None = None, exact: bool = False
) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search(
            TABLE, corpus.queries[query], limit=LIMIT, tuning=tuning, exact=exact
        )
        return [row_number(hit.id) for hit in hits]

    return ask


async def run(folder: Path, corpus: Corpus, options: Options) -> list[Result]:
    async with aiovec.connect(f"lancedb://{folder}") as store:
        with Peak() as peak:
            began = time.perf_counter()
            await store.create_index(TABLE, "auto")
            built = time.perf_counter() - began
        note = (
            f"{await described(store)}, built and tuned in {built:.1f} s with {peak.mib:,.0f} MiB"
        )
        results = [await _overhead(store, folder, corpus, options)]
        points = await curve(store, corpus, options)
        results.append(_recall(corpus, points, note))
        return results


async def described(store: VectorStore) -> str:
    """The index over the vectors in words."""
    for index in await store.indexes(TABLE):
        if index.column == "embedding":
            return f"{index.kind} {dict(index.parameters)}, its own recall {index.recall}"
    return "no index"


async def _overhead(store: VectorStore, folder: Path, corpus: Corpus, options: Options) -> Result:
    """The same index, the same effort, the same fields."""
    table = await (await direct.connect(folder)).open_table(TABLE)
    asking = {
        "aiovec": through_aiovec(store, corpus, tuning=Tuning(**_EFFORT)),
        "lancedb called directly": direct.ask(table, corpus.queries, **_EFFORT),
    }
    found = medians(await interleaved(_timed(asking, corpus, options), options.rounds(_ROUNDS)))
    ours, theirs = found.values()
    return Result(
        "lancedb, what the contract costs",
        f"the {LIMIT} nearest of {corpus} with whole rows, {_EFFORT}",
        "ms", found,
        [Check("aiovec less lancedb", ours - theirs, 0.5, at_most=True, unit=" ms")],
    )  # fmt: skip


async def curve(store: VectorStore, corpus: Corpus, options: Options) -> list[Point]:
    """Recall on queries that no tuning has seen, and latency, for several wanted recalls."""
    asking = {"as tuned": through_aiovec(store, corpus)}
    for target in _TARGETS:
        asking[f"recall={target}"] = through_aiovec(store, corpus, tuning=Tuning(recall=target))
    asking["exact=True"] = through_aiovec(store, corpus, exact=True)
    rounds = max(1, options.rounds(_ROUNDS) // 3)
    took = medians(await interleaved(_timed(asking, corpus, options), rounds))
    points = []
    for label, ask in asking.items():
        count = options.rounds(30 if label == "exact=True" else len(corpus.queries))
        numbers = range(min(count, len(corpus.queries)))
        recall = corpus.recall([(query, await ask(query)) for query in numbers])
        points.append(Point(label, recall, took[label]))
    return points


def _recall(corpus: Corpus, points: list[Point], note: str) -> Result:
    return Result(
        "lancedb",
        f"the {LIMIT} nearest of {corpus}, whole rows, queries that the tuning has not seen",
        "ms",
        {f"{point.label}: recall {point.recall:.4f}": point.ms for point in points},
        [
            Check("recall as tuned", points[0].recall, 0.95),
            *(
                Check(f"recall where {point.label}", point.recall, float(point.label[7:]))
                for point in points
                if point.label.startswith("recall=")
            ),
        ],
        [note],
    )


def _timed(
    asking: dict[str, Ask], corpus: Corpus, options: Options
) -> dict[str, Callable[[], Awaitable[float]]]:
    def timed(ask: Ask) -> Callable[[], Awaitable[float]]:
        turn = 0

        async def measure() -> float:
            nonlocal turn
            turn += 50
            seconds = _SECONDS * min(1.0, options.repeat)
            return await block(ask, len(corpus.queries), turn, seconds)

        return measure

    return {name: timed(ask) for name, ask in asking.items()}


def memory_now() -> int:
    return int(psutil.Process().memory_info().rss)
