"""Tables of clustered vectors, and questions that are none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec import Hit, Schema, VectorStore
from aiovec.settings import LancedbSettings, RetrievalSettings
from aiovec_lancedb import LancedbBackend

DIM = 32
ROWS = 2000
# Forty questions tell a recall to some hundredths only, and each build draws its own lots.
CHANCE = 0.05
SCHEMA = Schema(DIM, fields={"number": int, "kind": str})


def clustered(rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Vectors around the same forty centres, whatever the seed."""
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    chance = np.random.default_rng(seed)
    near = centres[chance.integers(0, len(centres), rows)]
    return (near + 0.5 * chance.standard_normal((rows, DIM))).astype(np.float32)


VECTORS = clustered(20_000, seed=1)
QUESTIONS = clustered(40, seed=2)


def rows(first: int, last: int) -> dict[str, Any]:
    numbers = np.arange(first, last)
    return {
        "id": [f"r{number}" for number in numbers],
        "embedding": VECTORS[first:last],
        "number": numbers,
        "kind": [f"k{number % 5}" for number in numbers],
    }


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    for _ in range(4000):
        if await done():
            return
        await asyncio.sleep(0.03)
    raise AssertionError("it never came to be so")


@asynccontextmanager
async def store_at(path: Path, **settings: Any) -> AsyncIterator[VectorStore]:
    options = {"index": "none", **settings}
    backend = LancedbBackend(str(path), LancedbSettings(**options))
    await backend.open()
    async with VectorStore(backend, RetrievalSettings()) as store:
        yield store


async def filled(store: VectorStore, count: int = ROWS, schema: Schema = SCHEMA) -> None:
    await store.create_table("notes", schema)
    await store.insert("notes", rows(0, count))


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


async def found_share(store: VectorStore, limit: int = 10, **options: Any) -> float:
    """What part of the true nearest searches find, over all questions."""
    shares = []
    for question in QUESTIONS:
        truth = set(ids(await store.search("notes", question, limit=limit, exact=True)))
        found = ids(await store.search("notes", question, limit=limit, **options))
        assert len(found) == limit
        shares.append(len(truth.intersection(found)) / limit)
    return float(np.mean(shares))
