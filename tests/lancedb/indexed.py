"""Tables of clustered vectors, and questions that are none of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from aiovec import Hit, Schema, VectorStore
from aiovec.backend import Clock, RetrievalSettings
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.limits import Limits
from aiovec_lancedb.settings import LancedbSettings

from .support import QUICK

DIM = 32
ROWS = 2000
SCHEMA = Schema(DIM, fields={"number": int, "kind": str})


def clustered(rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Vectors around the same forty centres, whatever the seed."""
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    chance = np.random.default_rng(seed)
    near = centres[chance.integers(0, len(centres), rows)]
    return (near + 0.5 * chance.standard_normal((rows, DIM))).astype(np.float32)


VECTORS = clustered(20_000, seed=1)
# A hundred, with a thousand neighbours: fewer would tell a recall to some hundredths only.
QUESTIONS = clustered(100, seed=2)


def rows(first: int, last: int) -> dict[str, Any]:
    numbers = np.arange(first, last)
    return {
        "id": [f"r{number}" for number in numbers],
        "embedding": VECTORS[first:last],
        "number": numbers,
        "kind": [f"k{number % 5}" for number in numbers],
    }


@asynccontextmanager
async def store_at(
    path: Path, limits: Limits = QUICK, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[VectorStore]:
    # What is due when it closes has tests of its own.
    options = {"index": "none", "close_timeout": 0.0, **settings}
    backend = LancedbBackend(str(path), LancedbSettings(**options), limits, clock)
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
    batches = [batch async for batch in store.export("notes", select=["embedding"])]
    there = [id for batch in batches for id in batch.column("id").to_pylist()]
    vectors = np.concatenate(
        [np.stack(batch.column("embedding").to_numpy(False)) for batch in batches]
    )
    far = _far(vectors, (await store.schema("notes")).metric)
    nearest = np.argpartition(far, limit - 1, axis=0)[:limit]
    found = await store.search_many("notes", QUESTIONS, limit=limit, select=[], **options)
    shares = []
    for best, hits in zip(nearest.T, found, strict=True):
        assert len(hits) == limit
        shares.append(len({there[row] for row in best}.intersection(ids(hits))) / limit)
    return float(np.mean(shares))


def _far(vectors: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float64]:
    """How far each vector is from each question, or what orders them so."""
    rows, points = vectors.astype(np.float64), QUESTIONS.astype(np.float64)
    products = rows @ points.T
    if metric == "dot":
        return -products
    lengths = np.linalg.norm(rows, axis=1)[:, None]
    if metric == "l2":
        return cast("npt.NDArray[np.float64]", lengths**2 - 2 * products)
    return cast("npt.NDArray[np.float64]", -products / lengths)
