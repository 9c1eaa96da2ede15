"""Keyword and hybrid search, what the text index costs, and what each search finds."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import numpy as np

import aiovec
from aiovec import Field, Schema, VectorStore
from aiovec._store.rank import POOL

from .keywords import ways
from .keywords.corpus import Words, chinese_texts
from .measure import Check, Result, interleaved, medians, number
from .options import Options
from .searching.corpus import LIMIT, QUERIES, TABLE
from .searching.store import Ask, until_ready

AIOVEC = "aiovec on SQLite, keywords, whole rows"
VECTOR = "aiovec on SQLite, vector"
# A hybrid search fuses longer lists than it returns.
NEAREST = "aiovec on SQLite, vector as hybrid takes it"
WORDS = "aiovec on SQLite, keywords as hybrid takes them"
HYBRID = "aiovec on SQLite, hybrid"
LANCEDB = "aiovec on LanceDB, keywords, whole rows"

# The shape of the real set that the figures in the docs come from.
_ROWS, _DIM = 117_659, 384
_ROUNDS = 50
_BLOCK = 20  # of queries by one way, before the next one's turn
_INSERT_ROUNDS = 3
_BATCH = 1_000
_LONG, _LONG_WORDS = 50, 50
_SHORT_TEXTS, _CHARACTERS = 20_000, 40


async def run(options: Options) -> list[Result]:
    corpus = Words.load(options.rows(_ROWS), _DIM, options.data)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(options.folder / "a.db"))
        await ways.fill(store, corpus)
        await until_ready(store, corpus.queries[0])
        results = [await _searches(stack, store, corpus, options), await _quality(store, corpus)]
        results.append(await _others(store, corpus, options))
    results.append(await _insert(corpus, options))
    return results


async def _searches(
    stack: AsyncExitStack, store: VectorStore, corpus: Words, options: Options
) -> Result:
    asking: dict[str, Ask] = {
        AIOVEC: ways.by_text(store, corpus.words),
        VECTOR: ways.by_vector(store, corpus),
        NEAREST: ways.by_vector(store, corpus, LIMIT * POOL),
        WORDS: ways.by_text(store, corpus.words, limit=LIMIT * POOL, any=True),
        HYBRID: ways.by_both(store, corpus),
        ways.FTS5: stack.enter_context(ways.fts5(options.folder / "bare.db", corpus)),
    }
    notes: list[str] = []
    if options.peers:
        narrow = corpus.narrow()
        try:
            asking[ways.TANTIVY] = ways.tantivy(options.folder / "tantivy", corpus)
        except ImportError:
            notes.append("skipped: tantivy: it is not installed")
        try:
            asking[ways.LANCEDB] = await ways.lancedb(options.folder / "direct", narrow)
            place = f"lancedb://{options.folder / 'lance'}"
            lance = await stack.enter_async_context(aiovec.connect(place))
            await ways.fill(lance, narrow)
            asking[LANCEDB] = ways.by_text(lance, corpus.words)
        except ImportError:
            notes.append("skipped: LanceDB: lancedb is not installed")
    times = await _timed(asking, len(corpus.words), options.rounds(_ROUNDS))
    found = {name: float(np.median(took)) for name, took in times.items()}
    last = {name: float(np.percentile(took, 99)) for name, took in times.items()}
    slower = max(found[NEAREST], found[WORDS])
    notes.append("p99: " + "; ".join(f"{name} {number(ms)}" for name, ms in last.items()))
    notes += [
        f"{AIOVEC} / {peer}: {found[AIOVEC] / found[peer]:.2f}"
        for peer in (ways.FTS5, ways.TANTIVY, ways.LANCEDB)
        if peer in found
    ]
    if LANCEDB in found:
        notes.append(f"{LANCEDB} / {ways.LANCEDB}: {found[LANCEDB] / found[ways.LANCEDB]:.2f}")
    return Result(
        "text",
        f"the 10 best of {corpus} for {len(times[AIOVEC]):,} words, one after the other (median of "
        "all, in blocks)",
        "ms", found,
        [
            Check("keyword search", found[AIOVEC], 5, at_most=True, unit=" ms"),
            Check("hybrid less the slower of its two parts", found[HYBRID] - slower, 1,
                  at_most=True, unit=" ms"),
        ],
        notes,
    )  # fmt: skip


async def _timed(asking: Mapping[str, Ask], queries: int, rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each query by each way, in rounds of blocks."""
    times: dict[str, list[float]] = {name: [] for name in asking}

    def block_of(name: str) -> Callable[[], Awaitable[float]]:
        ask, took = asking[name], times[name]

        async def measure() -> float:
            first = len(took)
            for query in range(first, min(first + _BLOCK, first + queries)):
                began = time.perf_counter()
                await ask(query % queries)
                took.append((time.perf_counter() - began) * 1000)
            return 0.0

        return measure

    for ask in asking.values():  # nothing is opened or imported while it is measured
        for query in range(min(3, queries)):
            await ask(query)
    await interleaved({name: block_of(name) for name in asking}, rounds)
    return times


async def _quality(store: VectorStore, corpus: Words) -> Result:
    found = {}
    for name, ask in (
        ("by vector", ways.by_vector(store, corpus)),
        ("by keywords", ways.by_text(store, corpus.words)),
        ("by both", ways.by_both(store, corpus)),
    ):
        asked = [query for query in range(len(corpus.words)) if corpus.entries[query]]
        found[name] = 100 * corpus.share([(query, await ask(query)) for query in asked])
    return Result(
        "text, quality",
        "the part of a word's own entries that its search has among the 10 best, of "
        f"{len(asked):,} words that have entries",
        "%", found,
    )  # fmt: skip


async def _others(store: VectorStore, corpus: Words, options: Options) -> Result:
    """Searches that cost more than a word does."""
    long = corpus.long_queries(_LONG, _LONG_WORDS)
    texts = chinese_texts(options.rows(_SHORT_TEXTS), _CHARACTERS)
    schema = Schema(4, fields={"text": Field(str, text=True)}, analyzer="ngram")
    await store.create_table("chinese", schema)
    for start in range(0, len(texts), _BATCH):
        part = texts[start : start + _BATCH]
        ids = [f"row-{row:08d}" for row in range(start, start + len(part))]
        vectors = np.ones((len(part), 4), dtype=np.float32)
        await store.insert("chinese", {"id": ids, "embedding": vectors, "text": part})
    await store.optimize("chinese")
    short = [text[:2] for text in texts[:QUERIES]]
    grams = [text[:3] for text in texts[:QUERIES]]
    few = options.rounds(_LONG)
    asking = {
        f"{_LONG_WORDS} words, any of them": ways.by_text(store, long, any=True),
        "two characters": ways.by_text(store, short, "chinese"),
        "three characters": ways.by_text(store, grams, "chinese"),
    }
    found = {}
    for name, ask in asking.items():
        times = []
        for query in range(few):
            began = time.perf_counter()
            await ask(query)
            times.append((time.perf_counter() - began) * 1000)
        found[name] = float(np.median(times))
    return Result(
        "text, others",
        f"long queries of the same table {TABLE!r}; parts of words of {len(texts):,} Chinese texts "
        f"of {_CHARACTERS} characters, analyzer ngram (median of {few})",
        "ms", found,
    )  # fmt: skip


async def _insert(corpus: Words, options: Options) -> Result:
    batches = [corpus.batch(slice(at, at + _BATCH)) for at in range(0, len(corpus), _BATCH)]
    rounds = options.rounds(_INSERT_ROUNDS)

    def inserting(*, text: bool) -> Callable[[], Awaitable[float]]:
        async def timed() -> float:
            path = options.folder / "insert.db"
            try:
                async with aiovec.connect(path) as store:
                    await store.create_table(TABLE, corpus.text_schema(text=text))
                    began = time.perf_counter()
                    for batch in batches:
                        await store.insert(TABLE, batch)
                    return len(corpus) / (time.perf_counter() - began)
            finally:
                path.unlink()

        return timed

    plain, indexed = "without a text index", "text=True"
    found = await interleaved({plain: inserting(text=False), indexed: inserting(text=True)}, rounds)
    ratio = float(np.median(np.divide(found[indexed], found[plain])))
    return Result(
        "text, insert",
        f"{corpus}, batches of {_BATCH:,}, a durable commit each (median of {rounds} rounds)",
        "rows/s", medians(found), [Check("text=True / without", ratio, 0.4)],
    )  # fmt: skip
