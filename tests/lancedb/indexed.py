"""Tables of clustered vectors, and questions that are not in the tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec import Schema, VectorStore

DIM = 32
ROWS = 2000
SCHEMA = Schema(DIM, fields={"number": int, "kind": str})


def clustered(rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Return vectors around forty centres, which are the same for each seed."""
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    chance = np.random.default_rng(seed)
    near = centres[chance.integers(0, len(centres), rows)]
    return (near + 0.5 * chance.standard_normal((rows, DIM))).astype(np.float32)


VECTORS = clustered(10_000, seed=1)
QUESTIONS = clustered(60, seed=2)
FEW = {"questions": clustered(64, seed=5)}
"""Options of an index whose recall is quickly measured, for tests that need no more of it."""


def rows(first: int, last: int) -> dict[str, Any]:
    """Return the rows with these numbers, as columns."""
    numbers = np.arange(first, last)
    return {
        "id": [f"r{number}" for number in numbers],
        "embedding": VECTORS[first:last],
        "number": numbers,
        "kind": [f"k{number % 5}" for number in numbers],
    }


async def filled(store: VectorStore, count: int = ROWS) -> None:
    """Create the table ``notes`` with the first ``count`` rows."""
    await store.create_table("notes", SCHEMA)
    await store.insert("notes", rows(0, count))


async def true_recall(store: VectorStore, questions: Any = QUESTIONS, **options: Any) -> float:
    """Return the share of the true nearest rows that searches for all questions find. Rows that are
    as far away as the last true one count, too."""
    exact = await store.search_many("notes", questions, select=[], exact=True)
    hits = await store.search_many("notes", questions, select=[], **options)
    shares = []
    for best, near in zip(exact, hits, strict=True):
        last = (best[-1].distance or 0.0) + 1e-6
        shares.append(sum(1 for hit in near if (hit.distance or 0.0) <= last) / len(best))
    return float(np.mean(shares))
