"""Searching, side by side with its peers: one client, many, filters, opening, and what it costs."""

from __future__ import annotations

import aiovec

from .measure import Result
from .options import Options
from .searching import (
    approximate,
    cost,
    crowd,
    filtered,
    fresh,
    in_memory,
    partitions,
    single,
)
from .searching.corpus import Corpus
from .searching.indexes import indexed_peers
from .searching.store import fill, until_ready

# The shape of the real set that the figures in the docs come from.
_ROWS, _DIM = 117_659, 384
_LARGE_ROWS, _LARGE_DIM = 100_000, 768


async def run(options: Options) -> list[Result]:
    corpus = Corpus.load(options.rows(_ROWS), _DIM, options.data)
    path = options.folder / "a.db"
    await fill(path, corpus)
    results = [await fresh.run(path, corpus, options)]
    async with aiovec.connect(path) as store, indexed_peers(corpus, options) as (indexed, told):
        await until_ready(store, corpus.queries[0])
        results.append(await single.run(store, path, corpus, options, indexed, told))
        results.append(await filtered.run(store, corpus, options))
        results += await crowd.run(store, corpus, options, indexed)
        results.append(await in_memory.run(store, corpus, options))
    path.unlink()
    results.append(await partitions.run(options))
    results += await approximate.run(options, corpus)
    del corpus
    results.append(await _large(options))
    results += await cost.run(options)
    return results


async def _large(options: Options) -> Result:
    corpus = Corpus.load(options.rows(_LARGE_ROWS), _LARGE_DIM, options.data)
    path = options.folder / "large.db"
    await fill(path, corpus)
    async with aiovec.connect(path) as store:
        await until_ready(store, corpus.queries[0])
        return await single.run(store, path, corpus, options, {}, [])
