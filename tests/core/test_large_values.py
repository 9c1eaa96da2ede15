"""What few rows, filters and texts hold is no work for the event loop either."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from tests.harness.loop_time import own_work, watched_loop

import aiovec
from aiovec import Embed, Schema
from aiovec.backend import Float32Array


async def test_a_small_filter_beside_large_ones_that_are_kept() -> None:
    """They were hashed to count their memory: each filter's whole tree, at each search."""
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(2, fields={"name": str}))
        with own_work():
            rows = [{"id": str(n), "embedding": [1, n], "name": "x"} for n in range(2_000)]
        await store.insert("notes", rows)
        await store.search("notes", [1, 0])
        while (await store.stats("notes")).details["searched"] != "in memory":
            await asyncio.sleep(0.01)
            await store.search("notes", [1, 0])
        with own_work():
            large = " OR ".join(f"(name = 'note {n}' AND id != 'x')" for n in range(10_000))
        await store.search("notes", [1, 0], where=large)
        with watched_loop() as found:
            for _ in range(5):
                await store.search("notes", [1, 0], where="name = 'x'")
                await store.stats("notes")
        found.check()


class Embedder:
    model, dim = "m", 2_048

    async def __call__(self, texts: Sequence[str]) -> Float32Array:
        return np.ones((len(texts), self.dim), np.float32)


async def test_rows_of_long_texts_that_are_embedded() -> None:
    schema = Schema(Embedder.dim, fields={"body": str}, embed=Embed("body"))
    async with aiovec.connect(":memory:", embedders={"default": Embedder()}) as store:
        await store.create_table("notes", schema)
        with own_work():
            rows = [{"id": str(n), "body": f"{n} " + "é" * 20_000} for n in range(400)]
        with watched_loop() as found:
            assert await store.upsert("notes", rows) == 400
        found.check()


async def test_the_diversity_of_long_vectors() -> None:
    with own_work():
        matrix = np.random.default_rng(1).normal(size=(400, 4_096)).astype(np.float32)
        ids = [str(n) for n in range(400)]
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", Schema(4_096))
        await store.insert("notes", {"id": ids, "embedding": matrix})
        with watched_loop() as found:
            hits = await store.search("notes", matrix[0], limit=4, fetch_k=400, diversity=0.5)
        assert len(hits) == 4
        found.check()
