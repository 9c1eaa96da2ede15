"""Partitions: many small ones, and some large ones, beside a table that has none."""

from __future__ import annotations

from pathlib import Path

import aiovec
from aiovec import Field, Schema, VectorStore

from ..measure import Check, Result, interleaved, medians
from ..options import Options
from .corpus import LIMIT, TABLE, Corpus, row_number
from .single import timed
from .store import Ask, until_ready

_ROUNDS = 8
_NONE = "no partitions"
# Rows for each key.
_SMALL, _LARGE = 4, 5_000
# Each key takes a chunk of vectors in the file, so thousands of them take their time to write.
_TOTAL, _DIM = 15_000, 384


async def run(options: Options) -> Result:
    corpus = Corpus.load(options.rows(_TOTAL), _DIM, options.data)
    ways = {
        _NONE: await _filled(
            options.folder / "partitions-none.db", corpus, len(corpus), partition=False
        ),
        f"{_SMALL} rows a key": await _filled(
            options.folder / "partitions-small.db", corpus, _SMALL
        ),
        f"{_LARGE:,} rows a key": await _filled(
            options.folder / "partitions-large.db", corpus, _LARGE
        ),
    }
    try:
        asking: dict[str, Ask] = {f"{name}, all keys": _all(s, corpus) for name, s in ways.items()}
        for (name, store), rows in zip(list(ways.items())[1:], (_SMALL, _LARGE), strict=True):
            asking[f"{name}, one key"] = _one(store, corpus, rows)
        timing = {name: timed(ask, corpus, options) for name, ask in asking.items()}
        found = medians(await interleaved(timing, options.rounds(_ROUNDS)))
    finally:
        for store in ways.values():
            await store.close()
    plain = found[f"{_NONE}, all keys"]
    checks = [
        Check(f"{name} / {_NONE}", found[name] / plain, 2.0, at_most=True)
        for name in list(found)[1:]
    ]
    return Result("search, partitions", f"the {LIMIT} nearest of {corpus}", "ms", found, checks)


async def _filled(path: Path, corpus: Corpus, rows: int, *, partition: bool = True) -> VectorStore:
    store = await aiovec.connect(path)
    schema = Schema(corpus.dim, fields={"key": Field(int, partition=partition)})
    await store.create_table(TABLE, schema)
    keys = _keys(corpus, rows)
    for batch in corpus.batches():
        numbers = [row_number(id) for id in batch.column("id").to_pylist()]
        key = [number % keys for number in numbers]
        columns = {"id": batch.column("id"), "embedding": corpus.vectors[numbers], "key": key}
        await store.insert(TABLE, columns)
    await until_ready(store, corpus.queries[0])
    return store


def _keys(corpus: Corpus, rows: int) -> int:
    return max(1, len(corpus) // rows)


def _all(store: VectorStore, corpus: Corpus) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search(TABLE, corpus.queries[query], limit=LIMIT)
        return [row_number(hit.id) for hit in hits]

    return ask


def _one(store: VectorStore, corpus: Corpus, rows: int) -> Ask:
    """Another key each time."""
    keys, turn = _keys(corpus, rows), 0

    async def ask(query: int) -> list[int]:
        nonlocal turn
        turn += 7
        where = f"key = {turn % keys}"
        hits = await store.search(TABLE, corpus.queries[query], limit=LIMIT, where=where)
        return [row_number(hit.id) for hit in hits]

    return ask
