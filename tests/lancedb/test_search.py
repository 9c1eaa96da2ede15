"""Searches where float32 alone would choose wrong: settled in float64, or measured in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aiovec import Schema
from aiovec.backend import Metric, distances
from aiovec_lancedb.limits import Limits, ReadLimits

from .support import QUICK, opened

DIM = 16


def matrix(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


async def nearest(
    path: Path,
    metric: Metric,
    vectors: Any,
    query: Any,
    limit: int,
    *,
    exact: bool,
    limits: Limits = QUICK,
) -> tuple[list[int], list[float]]:
    """The numbers of the rows that a store gives, with their distances."""
    async with opened(path, limits) as store:
        await store.create_table("notes", Schema(DIM, metric=metric))
        ids = [f"{n:06}" for n in range(len(vectors))]
        await store.insert("notes", {"id": ids, "embedding": vectors})
        hits = await store.search("notes", query, limit=limit, exact=exact)
    return [int(hit.id) for hit in hits], [float(hit.distance or 0) for hit in hits]


def check(
    metric: Metric, vectors: Any, query: Any, limit: int, found: tuple[list[int], list[float]]
) -> None:
    """The distances are those of the true nearest, and each is its own row's."""
    measured = distances(vectors, query, metric)
    assert found[1] == sorted(measured)[:limit]
    assert found[1] == measured[found[0]].tolist()
    assert len(set(found[0])) == limit


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("exact", [True, False])
async def test_distances_are_those_of_float64(tmp_path: Path, metric: Metric, exact: bool) -> None:
    vectors, query = matrix(2_000), matrix(1, seed=9)[0]
    found = await nearest(tmp_path / "s", metric, vectors, query, 30, exact=exact)
    check(metric, vectors, query, 30, found)


@pytest.mark.parametrize("size", [1e-9, 1e-13, 1e9])
async def test_dot_products_far_from_one(tmp_path: Path, size: float) -> None:
    """Lance ranks by 1 - dot, in which products of 1e-18 are all the same."""
    vectors = matrix(3_000) * np.float32(size)
    query = matrix(1, seed=9)[0] * np.float32(size)
    found = await nearest(tmp_path / "s", "dot", vectors, query, 10, exact=False)
    check("dot", vectors, query, 10, found)


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("extreme", ["one row", "rows", "query"])
async def test_extreme_vectors(tmp_path: Path, metric: Metric, size: float, extreme: str) -> None:
    """Their squares leave float32, whether they are stored or searched for."""
    vectors, query = matrix(300), matrix(1, seed=9)[0]
    if extreme == "one row":
        vectors[7] *= np.float32(size)
    elif extreme == "rows":
        vectors *= np.float32(size)
    else:
        query = query * np.float32(size)
    found = await nearest(tmp_path / "s", metric, vectors, query, 10, exact=False)
    check(metric, vectors, query, 10, found)


async def test_extreme_vectors_of_a_later_call_count(tmp_path: Path) -> None:
    vectors, query = matrix(200), matrix(1, seed=9)[0]
    async with opened(tmp_path / "s") as writer, opened(tmp_path / "s") as reader:
        await writer.create_table("notes", Schema(DIM, metric="l2"))
        everything = vectors
        for start, size in ((0, 1.0), (100, 1e-30)):
            part = vectors[start : start + 100] * np.float32(size)
            everything[start : start + 100] = part
            ids = [f"{n:06}" for n in range(start, start + 100)]
            await writer.upsert("notes", {"id": ids, "embedding": part})
            hits = await reader.search("notes", query * np.float32(size), limit=5)
            there = everything[: start + 100]
            expected = distances(there, query * np.float32(size), "l2")
            assert [hit.distance for hit in hits] == sorted(expected)[:5]


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
async def test_an_exact_search_among_near_equals(tmp_path: Path, metric: Metric) -> None:
    """Rows that differ in the last bits of float32: more than one candidate list can hold."""
    base = matrix(1)[0]
    vectors = np.repeat(base[None, :], 3_000, axis=0)
    steps = np.random.default_rng(3).integers(-4, 5, vectors.shape)
    vectors = (vectors.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    query = (base * np.float32(1.5)).astype(np.float32)
    found = await nearest(tmp_path / "s", metric, vectors, query, 10, exact=True)
    check(metric, vectors, query, 10, found)


async def test_an_exact_search_among_equals(tmp_path: Path) -> None:
    vectors = np.repeat(matrix(1), 2_000, axis=0)
    found, measured = await nearest(tmp_path / "s", "l2", vectors, vectors[0], 10, exact=True)
    assert measured == [0.0] * 10
    assert len(set(found)) == 10


async def test_a_limit_that_would_fill_the_memory(tmp_path: Path) -> None:
    """Many hits are found by measuring in blocks, not by one large answer."""
    small = Limits(read=ReadLimits(candidate_bytes=4 * DIM * 100))
    vectors, query = matrix(5_000), matrix(1, seed=9)[0]
    found = await nearest(
        tmp_path / "s", "cosine", vectors, query, 1_000, exact=False, limits=small
    )
    check("cosine", vectors, query, 1_000, found)
    async with opened(tmp_path / "s", small) as store:
        everything = await store.search("notes", query, limit=10**12, select=[])
        assert len(everything) == 5_000
        none = await store.search("notes", query, limit=1_000, where="id = 'absent'")
        assert none == []
