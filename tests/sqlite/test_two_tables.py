"""Searches of several tables at once: each table's are answered together, and rightly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

import aiovec
from aiovec import Schema

DIM, ROWS = 8, 200
TABLES = ("red", "blue")


async def test_each_tables_searches_are_answered_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    vectors = {name: rng.standard_normal((ROWS, DIM), dtype=np.float32) for name in TABLES}
    async with aiovec.connect(tmp_path / "a.db") as store:
        for name in TABLES:
            await store.create_table(name, Schema(DIM))
            ids = [f"{name}{n}" for n in range(ROWS)]
            await store.insert(name, {"id": ids, "embedding": vectors[name]})
            async with asyncio.timeout(60):
                while (await store.stats(name)).details["searched"] != "in memory":
                    await store.search(name, vectors[name][0], limit=1)
                    await asyncio.sleep(0.01)

        async def search(n: int) -> bool:
            name = TABLES[n % 2]
            (hit,) = await store.search(name, vectors[name][n], limit=1)
            return hit.id == f"{name}{n}"

        assert all(await asyncio.gather(*map(search, range(64))))
        for name in TABLES:
            searches = (await store.stats(name)).details["searches"]
            assert searches["largest_batch"] >= 8
