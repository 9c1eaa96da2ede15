"""Searches that are cancelled, again and again, beside a table that is dropped and made anew."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import aiovec
from aiovec import Schema, VectorStore
from aiovec.errors import TableNotFoundError

DIM, ROWS, TASKS, SEARCHES = 16, 600, 24, 12


async def _fill(store: VectorStore, table: str, vectors: np.ndarray) -> None:
    await store.create_table(table, Schema(DIM))
    rows = [{"id": str(n), "embedding": vector} for n, vector in enumerate(vectors)]
    await store.insert(table, rows)


@pytest.mark.parametrize("place", ["a file", ":memory:"])
async def test_no_search_waits_for_ever_or_finds_another_row(tmp_path: Path, place: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIM)).astype(np.float32)
    ended: Counter[str] = Counter()
    async with aiovec.connect(tmp_path / "a.db" if place == "a file" else place) as store:
        await _fill(store, "stays", vectors)
        await _fill(store, "goes", vectors)

        async def search(number: int) -> None:
            chance = random.Random(number)
            for _ in range(SEARCHES):
                table, row = chance.choice(["stays", "stays", "goes"]), chance.randrange(ROWS)
                call = asyncio.ensure_future(store.search(table, vectors[row], limit=2))
                for _ in range(chance.choice([0, 0, 1, 2, 3])):
                    await asyncio.sleep(chance.random() * 0.004)
                    call.cancel()
                try:
                    async with asyncio.timeout(60):
                        hits = await call
                except (asyncio.CancelledError, TableNotFoundError) as exc:
                    ended[type(exc).__name__] += 1
                else:
                    # The other table may be empty just now.
                    assert hits[0].id == str(row) if hits else table == "goes"
                    ended["answered"] += 1

        searching = asyncio.gather(*map(search, range(TASKS)))
        while not searching.done():
            await store.drop_table("goes")
            await _fill(store, "goes", vectors)
        await searching
        assert (await store.search("stays", vectors[5], limit=1))[0].id == "5"
    assert ended["answered"]
    assert ended["CancelledError"]
    assert ended.total() == TASKS * SEARCHES
