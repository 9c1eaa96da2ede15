"""Searches where float32 alone would choose wrong: settled in float64, or measured in full."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.contract.base import case

from aiovec import Schema, Tuning, VectorStore
from aiovec.backend import Metric, distances

from .support import lance_calls, opened

DIM = 16
METRICS: tuple[Metric, ...] = ("cosine", "l2", "dot")


def matrix(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


async def check(
    store: VectorStore, metric: Metric, vectors: Any, query: Any, limit: int, **options: Any
) -> None:
    """The distances are those of the true nearest, and each is its own row's."""
    await store.create_table("notes", Schema(DIM, metric=metric))
    ids = [f"{n:06}" for n in range(len(vectors))]
    await store.insert("notes", {"id": ids, "embedding": vectors})
    hits = await store.search("notes", query, limit=limit, **options)
    await store.drop_table("notes")
    numbers, result = [int(hit.id) for hit in hits], [hit.distance for hit in hits]
    measured = distances(vectors, query, metric)
    assert result == sorted(measured)[:limit]
    assert result == measured[numbers].tolist()
    assert len(set(numbers)) == limit


async def test_distances_are_those_of_float64(store: VectorStore) -> None:
    vectors, query = matrix(2_000), matrix(1, seed=9)[0]
    for metric in METRICS:
        for exact in (True, False):
            with case((metric, exact)):
                await check(store, metric, vectors, query, 30, exact=exact)
    for size in (1e-9, 1e9):
        with case(size):
            # Lance ranks by 1 - dot, in which products of 1e-18 are all the same.
            scaled = np.float32(size)
            await check(store, "dot", vectors * scaled, query * scaled, 10)


async def test_near_equal_and_equal_rows_are_ordered_exactly(store: VectorStore) -> None:
    """Rows that differ in the last bits of float32: more than one list of candidates can hold."""
    base = matrix(1)[0]
    vectors = np.repeat(base[None, :], 3_000, axis=0)
    steps = np.random.default_rng(3).integers(-4, 5, vectors.shape)
    vectors = (vectors.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    query = (base * np.float32(1.5)).astype(np.float32)
    for metric in METRICS:
        with case(metric):
            await check(store, metric, vectors, query, 10, exact=True)
    with case("equal"):
        equal = np.repeat(matrix(1), 2_000, axis=0)
        await check(store, "l2", equal, equal[0], 10, exact=True)


async def test_near_equals_take_a_query_of_their_own(store: VectorStore) -> None:
    """However many are further away, only they are read."""
    vectors = matrix(3_000)
    vectors[100:130] = vectors[0]
    for metric in METRICS:
        with case(metric), lance_calls() as calls:
            await check(store, metric, vectors, vectors[0], 10, exact=True)
        assert (calls["to_batches"], calls["distance_range"]) == (3, 1)  # one is the insert's


async def test_exact_searches_share_a_scan(store: VectorStore) -> None:
    """Those with the same filter, in any order; each gets what it would get alone."""
    vectors, queries = matrix(2_000), matrix(6, seed=9)
    wheres = [None, None, "n < 900", "n < 900", "n < 900", None]
    for metric in METRICS:
        with case(metric):
            await store.create_table("notes", Schema(DIM, metric=metric, fields={"n": int}))
            numbers = list(range(len(vectors)))
            await store.insert("notes", {"id": numbers, "embedding": vectors, "n": numbers})
            await store.search("notes", queries[0])  # which asks what holds for the version
            with lance_calls() as calls:
                matches = await store.search_many("notes", queries, each_where=wheres, exact=True)
            assert calls["to_batches"] == 2
            for query, where, hits in zip(queries, wheres, matches, strict=True):
                assert hits == await store.search("notes", query, where=where, exact=True)
            await store.drop_table("notes")


async def test_all_searches_of_a_call_see_one_version(tmp_path: Path) -> None:
    """Also those that the index cannot answer, which are done again behind the others."""
    over = False
    async with opened(tmp_path / "s", index="none") as store, opened(tmp_path / "s") as other:
        await store.create_table("notes", Schema(2, metric="l2", fields={"n": int, "year": int}))
        vectors = np.zeros((3_000, 2), np.float32)
        vectors[:, 0] = np.arange(3_000) % 2 * 100
        numbers = list(range(3_000))
        rows = {"id": numbers, "embedding": vectors, "n": [n % 2 for n in numbers]}
        await store.insert("notes", {**rows, "year": [0] * 3_000})
        await store.create_index("notes", "ivf_flat", num_partitions=2)

        async def write() -> None:
            for year in itertools.count(1):
                await other.update("notes", {"year": year}, where="TRUE")
                if over:
                    return

        writing = asyncio.ensure_future(write())
        try:
            for _ in range(25):
                # The second one's filter selects only rows of the other partition.
                matches = await store.search_many(
                    "notes",
                    [[0, 0], [0, 0]],
                    each_where=["n = 0", "n = 1"],
                    tuning=Tuning(nprobes=1),
                )
                assert [len(hits) for hits in matches] == [10, 10]
                assert len({hit["year"] for hits in matches for hit in hits}) == 1
        finally:
            over = True
            await writing


async def test_a_filter_that_finds_all_its_vectors_is_searched_once(store: VectorStore) -> None:
    """Most of the rows that it selects have no vector."""
    schema = Schema(DIM, vector_nullable=True, fields={"n": int})
    await store.create_table("notes", schema)
    numbers = list(range(2_000))
    vectors = [vector if n % 100 == 0 else None for n, vector in enumerate(matrix(2_000))]
    await store.insert("notes", {"id": numbers, "embedding": vectors, "n": numbers})
    await store.create_index("notes", "ivf_flat", num_partitions=2)
    for where, count in (("n < 500", 5), ("n < 1900", 19)):
        with case(where):
            await store.search("notes", matrix(1)[0], limit=50, where=where)
            with lance_calls() as calls:
                hits = await store.search("notes", matrix(1)[0], limit=50, where=where)
            assert len(hits) == count
            assert calls["to_batches"] == 1


async def test_zeros_are_equal_whatever_their_sign(store: VectorStore) -> None:
    """Lance's own order puts -0.0 before 0.0."""
    await store.create_table("notes", Schema(2, fields={"score": float}))
    given = {"a": 0.0, "b": -0.0, "c": 0.0, "d": None, "e": -1.0, "f": 1.0}
    for id, score in given.items():
        await store.insert("notes", [{"id": id, "embedding": [1, 2], "score": score}])
    await store.upsert("notes", [{"id": "b", "embedding": [1, 3], "score": -0.0}])
    await store.update("notes", {"score": -0.0}, ids="c")
    await store.update("notes", {"score": -0.0, "key": 1}, ids="a")
    for descending, wanted in ((False, "eabcfd"), (True, "fabced")):
        records = await store.find("notes", order_by="score", descending=descending)
        assert "".join(record.id for record in records) == wanted
    assert await store.count("notes", "score = 0") == 3
