"""After a large insert, a table in memory is still searched there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.sqlite.support import ready

import aiovec
from aiovec import Schema

DIM, ADDED = 32, 5_000


async def test_searches_behind_large_inserts_are_answered_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(DIM))
        await store.insert("notes", [{"id": "first", "embedding": np.ones(DIM)}])
        await ready(store, "notes")
        for batch in range(3):
            before = (await store.stats("notes")).details["searches"]["searches"]
            vectors = rng.standard_normal((ADDED, DIM), dtype=np.float32)
            ids = [f"{batch}-{n}" for n in range(ADDED)]
            await store.insert("notes", {"id": ids, "embedding": vectors})
            (hit,) = await store.search("notes", vectors[77], limit=1)
            assert hit.id == f"{batch}-77"
            details = (await store.stats("notes")).details
            assert details["searched"] == "in memory"
            assert details["searches"]["searches"] == before + 1
