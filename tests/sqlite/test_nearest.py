"""Equal and nearly equal rows, from the file and from memory: never one before a nearer one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import answered, ready
from tests.sqlite.support import opened

from aiovec import Field, Hit, Schema, VectorStore
from aiovec.backend import Metric
from aiovec_sqlite import search

DIM = 8
METRICS: list[Metric] = ["cosine", "l2", "dot"]

Float64Array = np.ndarray[Any, np.dtype[np.float64]]


def true_distances(vectors: Any, query: Any, metric: Metric) -> Float64Array:
    rows, point = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == "l2":
        return np.asarray(np.linalg.norm(rows - point, axis=1))
    products = (rows * point).sum(axis=1)
    if metric == "dot":
        return np.asarray(-products)
    return np.asarray(1 - products / np.linalg.norm(rows, axis=1) / np.linalg.norm(point))


def check(hits: Sequence[Hit], truth: dict[str, float], limit: int, noise: float = 1e-12) -> None:
    """The nearest, told to what float64 can tell; equal ones by id, and any where they straddle."""
    wanted = sorted(truth.values())[:limit]
    assert len({hit.id for hit in hits}) == len(hits) == len(wanted)
    for hit, nearest in zip(hits, wanted, strict=True):
        size = max(1.0, abs(nearest))
        assert abs(truth[hit.id] - nearest) <= noise * size, f"{hit.id} among the nearest {limit}"
        assert abs((hit.distance or 0.0) - nearest) <= noise * size
    order = [(hit.distance, hit.id) for hit in hits]
    assert order == sorted(order)


# Equal rows

GROUPS = {"near": 5, "equal": 2_600, "far": 2_600}
# How many are asked for: around what sqlite-vec takes, and beyond the rows that there are.
LIMITS = (1, 3, 10, 300, 2_500, 4_090, 4_100, 10_000)
LIMITS_OF_MOST_FILTERS = (3, 300, 4_100)


async def fill(store: VectorStore, metric: Metric, partition: bool) -> dict[str, Any]:
    """Few near rows, then many that are one vector, then the rest, in a wild order."""
    rng = np.random.default_rng(3)
    fields = {"owner": Field(str, partition=partition), "n": Field(int, index="btree")}
    await store.create_table("t", Schema(DIM, metric=metric, fields=fields))
    twin = np.eye(DIM, dtype=np.float32)[0] + np.float32(0.3)
    rows = []
    for group, count in GROUPS.items():
        for number in range(count):
            vector = twin
            if group != "equal":
                vector = rng.standard_normal(DIM, dtype=np.float32) * np.float32(0.05)
                vector += twin * np.float32(1.1 if group == "near" else -1)
            rows.append({"embedding": vector, "owner": "ab"[number % 2], "n": number})
    for place, row in zip(rng.permutation(len(rows)), rows, strict=True):
        row["id"] = f"r{place:05}"
    await store.insert("t", rows)
    return {str(row["id"]): row for row in rows}


# Each way with two metrics, and each metric with two ways or all; without partitions the file is
# searched as one partition is.
OFTEN = {
    ("disk", True, "cosine"), ("disk", True, "dot"), ("auto", False, "l2"),
    ("auto", False, "cosine"), ("auto", True, "dot"), ("auto", True, "l2"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan", "partition", "metric"),
    [
        pytest.param(*way, marks=() if way in OFTEN else pytest.mark.soak)
        for way in itertools.product(("disk", "auto"), (False, True), METRICS)
    ],
)
async def test_more_equal_rows_than_any_margin(
    tmp_path: Path, metric: Metric, partition: bool, scan: str
) -> None:
    async with opened(tmp_path / "a.db", scan=scan) as store:
        rows = await fill(store, metric, partition)
        if scan == "auto":
            await ready(store, "t")
        twin = next(row["embedding"] for row in rows.values() if row["n"] == 2_599)
        queries = [np.eye(DIM, dtype=np.float32)[0] + np.float32(0.2), twin]
        searches = 0
        for query in queries:
            measured = true_distances([row["embedding"] for row in rows.values()], query, metric)
            truth = dict(zip(rows, measured.tolist(), strict=True))
            filters: list[tuple[str | None, Any]] = [
                (None, lambda row: True),
                ("owner = 'b'", lambda row: row["owner"] == "b"),
                ("owner = 'a' AND n < 2400", lambda row: row["owner"] == "a" and row["n"] < 2400),
                ("n >= 400", lambda row: row["n"] >= 400),
                ("n < 300", lambda row: row["n"] < 300),
            ]
            for where, selects in filters:
                there = {id: truth[id] for id, row in rows.items() if selects(row)}
                for limit in LIMITS if where in (None, "owner = 'b'") else LIMITS_OF_MOST_FILTERS:
                    hits = await store.search("t", query, limit=limit, where=where)
                    check(hits, there, limit)
                    searches += 1
        if scan == "auto":
            assert answered(store, "t") == searches


@pytest.mark.parametrize("scan", ["disk", "auto"])
@pytest.mark.parametrize("metric", METRICS)
async def test_a_table_of_one_vector(tmp_path: Path, metric: Metric, scan: str) -> None:
    async with opened(tmp_path / "a.db", scan=scan) as store:
        await store.create_table("t", Schema(DIM, metric=metric))
        ids = [f"r{n:04}" for n in np.random.default_rng(0).permutation(3_000)]
        same = np.linspace(0.1, 0.7, DIM)
        await store.insert("t", {"id": ids, "embedding": np.tile(same, (3_000, 1))})
        if scan == "auto":
            await ready(store, "t")
        for query in (same, -same, np.eye(DIM)[2]):
            distance = true_distances([np.float32(same)], np.float32(query), metric)[0]
            for limit in (1, 20, 2_999, 3_000, 5_000):
                hits = await store.search("t", query, limit=limit)
                check(hits, dict.fromkeys(ids, float(distance)), limit)


# Nearly equal rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scan", "partition"),
    [
        ("disk", False),
        ("auto", True),
        pytest.param("disk", True, marks=pytest.mark.soak),
        pytest.param("auto", False, marks=pytest.mark.soak),
    ],
)
async def test_what_float32_cannot_tell_apart(
    tmp_path: Path, metric: Metric, partition: bool, scan: str
) -> None:
    """One large component swallows the small ones where float32 adds them up."""
    dim, count = 512, 3_000
    rng = np.random.default_rng(5)
    vectors = rng.choice([-1e-4, 1e-4], (count, dim)).astype(np.float32)
    vectors[:, 0] = 1
    query = np.full(dim, 1e-4, np.float32)
    query[0] = -1 if metric == "l2" else 1
    async with opened(tmp_path / "a.db", scan=scan) as store:
        fields = {"owner": Field(str, partition=partition)}
        await store.create_table("t", Schema(dim, metric=metric, fields=fields))
        ids = [f"r{n:05}" for n in range(count)]
        owners = ["a" if n % 8 else "b" for n in range(count)]
        await store.insert("t", {"id": ids, "embedding": vectors, "owner": owners})
        if scan == "auto":
            await ready(store, "t")
        truth = dict(zip(ids, true_distances(vectors, query, metric).tolist(), strict=True))
        mine = {id: truth[id] for id, owner in zip(ids, owners, strict=True) if owner == "a"}
        for limit in (1, 10, 100, 1_000):
            check(await store.search("t", query, limit=limit), truth, limit)
            check(await store.search("t", query, limit=limit, where="owner = 'a'"), mine, limit)


# Who answers


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dim", [32, 768])
async def test_rows_are_measured_again_only_where_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Metric, dim: int
) -> None:
    scans = []
    scan = search._nearest_by_scan

    def counted(*arguments: Any) -> Any:
        scans.append(arguments)
        return scan(*arguments)

    monkeypatch.setattr(search, "_nearest_by_scan", counted)
    rng = np.random.default_rng(9)
    async with opened(tmp_path / "a.db", scan="disk") as store:
        await store.create_table("t", Schema(dim, metric=metric))
        vectors = rng.standard_normal((2_500, dim), dtype=np.float32)
        await store.insert("t", {"id": [f"r{n}" for n in range(2_500)], "embedding": vectors})
        for limit in (1, 10, 100, 1_000):
            for query in (vectors[limit], rng.standard_normal(dim)):
                await store.search("t", query, limit=limit)
        assert not scans
        # Copies of the query are at no distance, and nothing can be nearer.
        await store.insert(
            "t", {"id": [f"c{n}" for n in range(90)], "embedding": vectors[:1].repeat(90, 0)}
        )
        assert len(await store.search("t", vectors[0], limit=10)) == 10
        assert not scans
        # Beside them it cannot tell.
        beside = vectors[0] + np.float32(1e-3) * vectors[1]
        assert len(await store.search("t", beside, limit=10)) == 10
        assert len(scans) == 1
