"""The store that is searched: filling it, and knowing when its copy in memory is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

import aiovec
from aiovec import VectorStore

from .corpus import LIMIT, TABLE, Corpus, row_number

Ask = Callable[[int], Awaitable[list[int]]]
"""Searches for the query of a number; the numbers of the rows that were found."""

_PATIENCE = 120.0


async def fill(path: Path, corpus: Corpus, *, quantized: Literal["bit"] | None = None) -> None:
    async with aiovec.connect(path) as store:
        await fill_open(store, corpus, quantized=quantized)


async def fill_open(
    store: VectorStore, corpus: Corpus, *, quantized: Literal["bit"] | None = None
) -> None:
    await store.create_table(TABLE, corpus.schema(quantized))
    for batch in corpus.batches():
        await store.insert(TABLE, batch)
    await store.optimize(TABLE)


def copy_bytes(store: VectorStore) -> int:
    """Return the bytes of the copy in memory, 0 until it is ready. Cheaper than ``stats``."""
    backend: Any = store._current.engine.backend
    resident = backend._resident._tables.get(TABLE)
    return int(resident.nbytes) if resident is not None and resident.ready else 0


async def until_ready(store: VectorStore, query: np.ndarray) -> float:
    """Search once, then wait for the copy; the seconds from the search on."""
    began = time.perf_counter()
    await store.search(TABLE, query, limit=1)
    while not copy_bytes(store):
        if time.perf_counter() - began > _PATIENCE:
            raise TimeoutError("the copy in memory was not ready in time")
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


def through_aiovec(store: VectorStore, corpus: Corpus, where: str | None = None) -> Ask:
    """The whole search as an application awaits it, with the rows' fields."""

    async def ask(query: int) -> list[int]:
        hits = await store.search(TABLE, corpus.queries[query], limit=LIMIT, where=where)
        return [row_number(hit.id) for hit in hits]

    return ask


async def block(ask: Ask, queries: int, first: int, seconds: float) -> float:
    """The median milliseconds of searches that follow each other for some time."""
    await asyncio.sleep(0.02)  # until the threads of the way before have gone to sleep
    took: list[float] = []
    until = time.perf_counter() + seconds
    while not took or (time.perf_counter() < until and len(took) < 50):
        began = time.perf_counter()
        await ask((first + len(took)) % queries)
        took.append((time.perf_counter() - began) * 1000)
    return float(np.median(took))
