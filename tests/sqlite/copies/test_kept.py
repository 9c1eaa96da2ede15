"""Vectors that are kept from one search to the next: always those of the search's own state."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aiovec import Schema
from aiovec_sqlite.copies.kept import KeptVectors

from .support import in_memory, opened, ready, resident_of, same

DIM = 8


def test_only_what_is_true_at_the_same_change_is_given() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        places = int(rng.integers(64, 200))
        kept = KeptVectors(DIM, places * (4 * DIM + 8))
        rows = rng.standard_normal((600, DIM), dtype=np.float32)
        change, given = 0, 0
        kept.begin(change, 2**30)
        for _ in range(200):
            some = rng.permutation(600)[: int(rng.integers(1, 40))]
            asked_at = change - int(rng.random() < 0.2)
            found = np.full((len(some), DIM), np.nan, dtype=np.float32)
            missing = kept.get(some, asked_at, found)
            there = np.setdiff1d(np.arange(len(some)), missing)
            given += len(there)
            assert asked_at == change or not len(there)
            assert np.array_equal(found[there], rows[some[there]])
            # A search in an older state adds nothing.
            wrong = asked_at != change
            kept.put(some, asked_at, rows[some] + wrong)
            if rng.random() < 0.3:
                changed = rng.permutation(600)[: int(rng.integers(0, 10))]
                rows[changed] = rng.standard_normal((len(changed), DIM), dtype=np.float32)
                change += 1
                kept.advance(change, changed)
        assert given > 300
        assert kept.nbytes == places * (4 * DIM + 8)
        kept.give_up()
        kept.put(some, change, rows[some])
        assert len(kept.get(some, change, found)) == len(some)
        assert kept.nbytes == 0


def test_rows_that_share_a_place_are_told_apart() -> None:
    kept = KeptVectors(DIM, 64 * (4 * DIM + 8))
    kept.begin(1, 2**30)
    rows = np.array([3, 67, 131], dtype=np.int64)  # all in one place
    vectors = np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM)
    kept.put(rows, 1, vectors)
    found = np.zeros_like(vectors)
    missing = kept.get(rows, 1, found)
    assert len(missing) == 2
    there = np.setdiff1d(np.arange(3), missing)
    assert np.array_equal(found[there], vectors[there])


def test_they_take_half_of_what_the_codes_do() -> None:
    kept = KeptVectors(DIM, 2**20)
    kept.begin(1, 2**14)
    some = np.arange(1, 10)
    kept.put(some, 1, np.ones((9, DIM), dtype=np.float32))
    assert 0 < kept.nbytes <= 2**13
    small = KeptVectors(DIM, 2**20)
    small.begin(1, 2**10)  # not worth it
    small.put(some, 1, np.ones((9, DIM), dtype=np.float32))
    assert small.nbytes == 0


async def test_searches_amid_writes_find_what_the_file_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "a.db"
    queries = rng.standard_normal((12, DIM), dtype=np.float32)

    def rows(numbers: np.ndarray) -> list[dict[str, object]]:
        vectors = rng.standard_normal((len(numbers), DIM), dtype=np.float32)
        return [
            {"id": f"r{number}", "embedding": vector}
            for number, vector in zip(numbers, vectors, strict=True)
        ]

    async with opened(path) as store:
        await store.create_table("t", Schema(DIM))
        await store.insert("t", rows(np.arange(3000)))
        found = await ready(store, "t")
        for _ in range(6):
            await same(store, path, "t", queries, [{"limit": 10, "include_vector": True}])
            assert found.copy.vectors.nbytes
            # The nearest ones change their places, or go.
            near = [hit.id for query in queries for hit in await store.search("t", query, limit=3)]
            await store.upsert("t", rows(np.array([int(id[1:]) for id in set(near)])))
            await store.delete("t", near[::5])
        # A budget that gets short takes these first.
        resident = resident_of(store)
        before = found.nbytes
        resident._budget = before - 1
        resident._make_room("", 0)
        assert found.nbytes < before
        assert in_memory(store, "t")
        await same(store, path, "t", queries, [{"limit": 10, "include_vector": True}])
