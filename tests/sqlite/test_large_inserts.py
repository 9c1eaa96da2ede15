"""After a large insert, a table in memory is still searched there, or soon again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.slow
async def test_a_copy_that_fell_far_behind_catches_up(tmp_path: Path) -> None:
    dim, rows = 1024, 7_000  # more rows than a search loads itself
    rng = np.random.default_rng(3)
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", Schema(dim))
        old = [{"id": f"old-{n}", "embedding": rng.standard_normal(dim)} for n in range(20)]
        await store.insert("notes", old)
        await ready(store, "notes")
        vectors = rng.standard_normal((rows, dim), dtype=np.float32)
        await store.insert("notes", {"id": [str(n) for n in range(rows)], "embedding": vectors})
        await store.delete("notes", ["old-7", "123"])
        for _ in range(2):  # from the file, then from the copy
            (hit,) = await store.search("notes", vectors[6_999], limit=1)
            assert hit.id == "6999"
            (hit,) = await store.search("notes", vectors[123], limit=1)
            assert hit.id != "123"
            await ready(store, "notes")
        hits = await store.search("notes", vectors[5], limit=8_000)
        assert len(hits) == len({hit.id for hit in hits}) == rows + 20 - 2
