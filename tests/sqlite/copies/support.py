"""What the tests of searches from memory share: waiting for a copy, and comparing with the file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.sqlite import support
from tests.sqlite.support import backend_of
from tests.waiting import until

from aiovec import Hit, VectorStore
from aiovec_sqlite.copies import CopyLimits, ResidentSearch

# Tables of tests are small, and would be searched by their vectors.
BY_CODES = {"copies": CopyLimits(whole=0)}
opened = partial(support.opened, limits=BY_CODES)


def resident_of(store: VectorStore) -> ResidentSearch:
    resident = backend_of(store)._resident
    assert isinstance(resident, ResidentSearch)
    return resident


def in_memory(store: VectorStore, table: str) -> bool:
    found = resident_of(store)._tables.get(table)
    return found is not None and found.ready


async def ready(store: VectorStore, table: str) -> Any:
    """Wait until the table is searched from memory; what it has there."""
    resident = resident_of(store)
    handle = await backend_of(store).open_table(table)
    await until(lambda: resident.prepare(handle))
    return resident._tables[table]


def answered(store: VectorStore, table: str) -> int:
    """How many searches of the table were answered from memory."""
    timings = resident_of(store)._timings.get(table)
    return 0 if timings is None else int(timings.to_dict()["searches"])


def rows_for(rng: np.random.Generator, ids: Sequence[int], dim: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{i:06}",
            "embedding": rng.standard_normal(dim, dtype=np.float32),
            "n": int(rng.integers(0, 1000)),
            "owner": [None, "a", "b", "c"][int(rng.integers(0, 4))],
            "kind": ["x", True, 1, None][int(rng.integers(0, 4))],
        }
        for i in ids
    ]


def as_told(hits: Sequence[Hit]) -> list[Any]:
    """All that hits tell, to compare them with others."""
    return [
        (
            hit.id, hit.score, hit.distance, dict(hit.fields),
            None if hit.vector is None else hit.vector.tobytes(),
        )
        for hit in hits
    ]  # fmt: skip


async def same(
    store: VectorStore, path: Path, table: str, queries: Any, options: Sequence[dict[str, Any]]
) -> None:
    """The store answers from memory, all at once, as one that reads the file."""
    await ready(store, table)
    before = answered(store, table)
    found = await asyncio.gather(
        *(store.search(table, query, **one) for query in queries for one in options)
    )
    assert answered(store, table) - before == len(found)
    async with opened(path, scan="disk") as disk:
        assert backend_of(disk)._resident is None
        wanted = [await disk.search(table, query, **one) for query in queries for one in options]
    for one, hits, truth in zip([*options] * len(queries), found, wanted, strict=True):
        assert as_told(hits) == as_told(truth), one
