"""Many clients at once, while rows are written, and how long the event loop is held up."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import numpy as np

from aiovec import VectorStore

from ..measure import Check, Result
from ..options import Options
from . import stages
from .corpus import TABLE, Corpus
from .indexes import LANCEDB
from .store import Ask, through_aiovec

CLIENTS = 64
FEWER = (1, 2, 4, 8, 16, 32)

_SECONDS = 10.0
_SECONDS_EACH = 2.0
_WITH_WRITER = "aiovec, whole rows, with a writer"
_ALONE = "aiovec, whole rows, no writer"
_WARM_UP = 1.0
_WRITTEN = 500  # rows a second
_AT_ONCE = 25
_LOOK = 0.001
_KEPT = 2000  # answers whose recall is looked at


async def run(
    store: VectorStore, corpus: Corpus, options: Options, indexed: Mapping[str, Ask]
) -> list[Result]:
    ask = through_aiovec(store, corpus)
    seconds = _SECONDS * options.repeat
    each = _SECONDS_EACH * min(1.0, options.repeat)
    await rate(ask, corpus, CLIENTS, _WARM_UP * min(1.0, options.repeat))
    answers: list[tuple[int, list[int]]] = []
    corpus.least_scores  # noqa: B018 - looked up now, not while clients wait
    # What the benchmark itself holds is no garbage to look through, as it would be in no app.
    gc.collect()
    gc.freeze()
    async with lags() as lag, writer(store, corpus) as written:
        ours = await rate(ask, corpus, CLIENTS, seconds, answers)
        wrote = written[0] / seconds
    gc.unfreeze()
    alone = await rate(ask, corpus, CLIENTS, seconds / 2)
    others = {name: await rate(other, corpus, CLIENTS, seconds) for name, other in indexed.items()}
    p50, p99 = np.percentile(lag, (50, 99))
    checks = [
        Check("searches a second", ours, 1500),
        Check("lag of the event loop, p99", float(p99), 5, at_most=True, unit=" ms"),
        Check("lag of the event loop, most", max(lag), 20, at_most=True, unit=" ms"),
        Check("recall of aiovec meanwhile", corpus.recall(answers[:_KEPT]), 1.0),
    ]
    if LANCEDB in others:
        checks.append(Check(f"aiovec / {LANCEDB}", ours / others[LANCEDB], 1.0))
    crowd = Result(
        "search, 64 clients",
        f"{CLIENTS} clients at once for {seconds:g} s, {corpus}; aiovec while {_WRITTEN} rows a "
        "second are upserted, the others with no writer",
        "searches/s",
        {_WITH_WRITER: ours, _ALONE: alone, **others},
        checks,
        [f"rows written: {wrote:.0f} a second; lag p50 {p50:.2f} ms"],
    )
    by_clients: dict[str, float] = {}
    for clients in (*FEWER, CLIENTS):
        for name, other in {"aiovec": ask, **indexed}.items():
            by_clients[f"{name}, {clients} clients"] = await rate(other, corpus, clients, each)
    return [
        crowd,
        Result(
            "search, by clients", f"clients at once, no writer, {corpus}", "searches/s", by_clients
        ),
        await stages.run(store, ask, corpus, options, CLIENTS),
    ]


async def rate(
    ask: Ask,
    corpus: Corpus,
    clients: int,
    seconds: float,
    answers: list[tuple[int, list[int]]] | None = None,
) -> float:
    """Searches a second of clients that each ask again as soon as they are answered."""
    done = 0
    began = time.perf_counter()
    until = began + seconds

    async def client(number: int) -> None:
        nonlocal done
        query = number * 31
        while time.perf_counter() < until:
            query = (query + 1) % len(corpus.queries)
            rows = await ask(query)
            done += 1
            if answers is not None and len(answers) < _KEPT:
                answers.append((query, rows))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / (time.perf_counter() - began)


@asynccontextmanager
async def lags() -> AsyncIterator[list[float]]:
    """Milliseconds by which a timer of the event loop comes too late, all the time."""
    found: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_LOOK)
            found.append((time.perf_counter() - began - _LOOK) * 1000)

    async with _running(look):
        yield found


@asynccontextmanager
async def writer(store: VectorStore, corpus: Corpus) -> AsyncIterator[list[int]]:
    """Rows that are replaced by their like, evenly over time; how many so far.

    Their vectors stay, so the nearest ones are known at any time. The store does not look whether
    they do: it does all of a change's work.
    """
    written = [0]
    random = np.random.default_rng(7)
    size = min(_AT_ONCE, len(corpus))
    # Before the clock runs: making rows is the application's work.
    batches = [corpus.batch(random.choice(len(corpus), size, replace=False)) for _ in range(256)]

    async def write() -> None:
        began = time.perf_counter()
        while True:
            await store.upsert(TABLE, batches[written[0] // size % len(batches)])
            written[0] += size
            due = began + written[0] / _WRITTEN
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async with _running(write):
        yield written


@asynccontextmanager
async def _running(what: object) -> AsyncIterator[None]:
    task = asyncio.ensure_future(what())  # type: ignore[operator]
    try:
        yield
    finally:
        if task.done():
            task.result()  # it only ends by failing
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
