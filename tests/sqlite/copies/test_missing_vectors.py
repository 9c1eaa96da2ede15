"""Tables in memory some of whose rows have no vector."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import answered, as_told, opened, ready, rows_for, same
from tests.sqlite.support import backend_of, sql

from aiovec import CorruptStoreError, Field, Schema, VectorStore
from aiovec.backend import Metric
from aiovec_sqlite.copies import CopyLimits

DIM = 24
SMALL = {"copies": CopyLimits(whole=0, full_segment=200, own_segments=150)}
OPTIONS: list[dict[str, Any]] = [
    {"limit": limit, "where": where, "include_vector": limit == 10}
    for limit in (1, 10, 5_000)
    for where in (None, "n < 10", "n < 500", "owner = 'a'", "owner = 'a' AND n < 300")
]


def schema(metric: Metric, *, partition: bool, **more: Any) -> Schema:
    fields = {"n": Field(int, index="btree"), "owner": Field(str, partition=partition)}
    return Schema(DIM, metric=metric, fields=fields, vector_nullable=True, **more)


def gappy(rng: np.random.Generator, ids: range, share: float) -> list[dict[str, Any]]:
    """Rows of which this share has a vector."""
    rows = rows_for(rng, ids, DIM)
    for row in rows:
        if rng.random() >= share:
            del row["embedding"]
    return rows


async def filled(path: Path, count: int, share: float, made: Schema) -> np.random.Generator:
    rng = np.random.default_rng(3)
    async with opened(path) as store:
        await store.create_table("t", made)
        await store.insert("t", gappy(rng, range(count), share))
    return rng


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "partition"),
    [  # each metric, and both with and without partitions; every pair is a long test
        ("cosine", False), ("l2", True), ("dot", False),
        pytest.param("cosine", True, marks=pytest.mark.soak),
        pytest.param("l2", False, marks=pytest.mark.soak),
        pytest.param("dot", True, marks=pytest.mark.soak),
    ],
)  # fmt: skip
async def test_the_same_as_from_the_file(tmp_path: Path, metric: Metric, partition: bool) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 900, 0.6, schema(metric, partition=partition))
    async with opened(path, limits=SMALL) as store:
        queries = rng.standard_normal((2, DIM), dtype=np.float32)
        await same(store, path, "t", queries, OPTIONS)
        # Vectors come and go beside the copy.
        await store.insert("t", gappy(rng, range(900, 1200), 0.5))
        await same(store, path, "t", queries, OPTIONS)
        without = [
            r.id
            for r in await store.find("t", limit=2_000, include_vector=True)
            if r.vector is None
        ][:80]
        given = rng.standard_normal((len(without), DIM), dtype=np.float32)
        assert await store.set_vectors("t", without, given) == len(without)
        await same(store, path, "t", queries, OPTIONS)
        changed = gappy(rng, range(100, 400), 0.3)
        await store.upsert("t", changed)
        await store.update("t", {"owner": "c"}, ids=without[:20])
        await store.delete("t", [f"r{n:06}" for n in range(600, 700)])
        await same(store, path, "t", queries, OPTIONS)
        # Nearest to its own vector, or not found at all.
        for row in changed[:40]:
            if "embedding" in row and metric != "dot":
                (hit,) = await store.search("t", row["embedding"], limit=1)
                assert hit.id == row["id"]


@pytest.mark.parametrize("share", [0.0, 0.003])
async def test_hardly_any_vector(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 1_000, share, schema("l2", partition=True))
    async with opened(path, limits=SMALL) as store:
        queries = rng.standard_normal((2, DIM), dtype=np.float32)
        await same(store, path, "t", queries, OPTIONS)
        resident = await ready(store, "t")
        assert resident.copy.state.rows == len(await store.search("t", queries[0], limit=5_000))
        await store.insert("t", gappy(rng, range(1_000, 1_003), 1.0))
        await same(store, path, "t", queries, OPTIONS)


async def test_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    rng = await filled(path, 600, 0.5, schema("cosine", partition=False, quantized="bit"))
    async with opened(path) as store:
        await ready(store, "t")
        there = {
            r.id
            for r in await store.find("t", limit=2_000, include_vector=True)
            if r.vector is not None
        }
        query = rng.standard_normal(DIM, dtype=np.float32)
        assert {hit.id for hit in await store.search("t", query, limit=1_000)} == there
        gone = sorted(there)[:50]
        await store.upsert("t", [{"id": id, "n": 1} for id in gone])
        found = {hit.id for hit in await store.search("t", query, limit=1_000)}
        assert found == there.difference(gone)
        assert answered(store, "t") >= 2


async def test_searches_beside_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path, 400, 0.5, schema("cosine", partition=False))
    made = np.eye(DIM, dtype=np.float32)

    async def write(store: VectorStore, row: int) -> None:
        one = {"id": f"own{row}", "n": row}
        for _ in range(6):
            await store.upsert("t", [one])
            assert f"own{row}" not in await ids(store, row)
            assert await store.set_vectors("t", [f"own{row}"], made[row : row + 1]) == 1
            assert (await ids(store, row))[0] == f"own{row}"

    async def ids(store: VectorStore, row: int) -> list[str]:
        return [hit.id for hit in await store.search("t", made[row], limit=1_000)]

    async with opened(path, limits=SMALL) as store:
        await ready(store, "t")
        await asyncio.gather(*(write(store, row) for row in range(8)))
        assert answered(store, "t") == 96
    async with opened(path, limits=SMALL) as store, opened(path, scan="disk") as disk:
        await ready(store, "t")
        found = await store.search("t", made[0], limit=50)
        assert as_told(found) == as_told(await disk.search("t", made[0], limit=50))


async def test_a_vector_that_vanished_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path, 300, 0.5, schema("cosine", partition=False))
    async with opened(path) as store:
        await ready(store, "t")
        query = np.ones(DIM, dtype=np.float32)
        (hit,) = await store.search("t", query, limit=1)
        with sql(path) as db:
            (rowid,) = db.execute('SELECT _rowid FROM "t.rows" WHERE id = ?', (hit.id,)).fetchone()
            db.execute('DELETE FROM "t.vec_rowids" WHERE rowid = ?', (rowid,))
            db.commit()
        with pytest.raises(CorruptStoreError):
            await store.search("t", query, limit=1)
        assert backend_of(store)._resident is not None
