"""Searches where float32 alone would choose wrong: settled in float64, or measured in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tests.contract.base import case

from aiovec import Schema, VectorStore
from aiovec.backend import Metric, distances

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
    numbers, found = [int(hit.id) for hit in hits], [hit.distance for hit in hits]
    measured = distances(vectors, query, metric)
    assert found == sorted(measured)[:limit]
    assert found == measured[numbers].tolist()
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


async def test_near_equals_and_equals(store: VectorStore) -> None:
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
        found = await store.find("notes", order_by="score", descending=descending)
        assert "".join(record.id for record in found) == wanted
    assert await store.count("notes", "score = 0") == 3
