"""Searches by a prefix of the vectors: which rows they rank, and that all else is exact."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.sqlite import support
from tests.sqlite.copies.support import answered, as_told, ready

import aiovec
from aiovec import Field, Hit, InvalidArgumentError, Schema, Tuning, VectorStore
from aiovec.backend import Metric
from aiovec_sqlite.copies import CopyLimits

DIM, PREFIX = 32, 8
ROWS = 1500
METRICS: list[Metric] = ["cosine", "l2", "dot"]
SCANS = ["auto", "disk"]

Rows = npt.NDArray[np.float32]


opened = partial(
    support.opened, limits={"copies": CopyLimits(whole=0, full_segment=400, own_segments=300)}
)


def nested(rng: np.random.Generator, count: int) -> Rows:
    """Vectors whose first components say the most, as such models give them."""
    sizes = 1.0 / (1.0 + np.arange(DIM))
    return (rng.standard_normal((count, DIM)) * sizes).astype(np.float32)


async def filled(store: VectorStore, metric: Metric, rows: Rows, **field: Any) -> None:
    schema = Schema(DIM, metric=metric, fields={"n": Field(int, index="btree"),
                                                "k": Field(int, **field)})  # fmt: skip
    await store.create_table("t", schema)
    await store.insert("t", columns(rows))


def columns(rows: Rows, first: int = 0) -> dict[str, Any]:
    numbers = range(first, first + len(rows))
    return {
        "id": [f"{i:05}" for i in numbers], "embedding": rows,
        "n": [i % 100 for i in numbers], "k": [i % 3 for i in numbers],
    }  # fmt: skip


def true_distances(rows: Rows, query: Rows, metric: Metric) -> npt.NDArray[np.float64]:
    wide, point = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.asarray(np.linalg.norm(wide - point, axis=1))
    products = wide @ point
    if metric == "cosine":
        products /= np.linalg.norm(wide, axis=1) * np.linalg.norm(point)
        return np.asarray(1 - products)
    return np.asarray(-products)


def check_true(hits: list[Hit], rows: Rows, query: Rows, metric: Metric) -> None:
    """Distances are those of whole vectors, best first."""
    told = [hit.distance or 0.0 for hit in hits]
    truth = true_distances(rows[[int(hit.id) for hit in hits]], query, metric)
    np.testing.assert_allclose(told, truth, rtol=1e-6, atol=1e-9)
    assert told == sorted(told)


async def make_ready(store: VectorStore, scan: str) -> None:
    if scan == "auto":
        await ready(store, "t")


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("metric", METRICS)
async def test_the_best_by_prefix_are_measured_with_whole_vectors(
    tmp_path: Path, metric: Metric, scan: str
) -> None:
    rng = np.random.default_rng(1)
    rows = nested(rng, ROWS)
    async with opened(tmp_path / "a.db", scan=scan) as store:
        await filled(store, metric, rows)
        await make_ready(store, scan)
        for oversample in (None, 1.0, 2.5):
            tuning = Tuning(dims=PREFIX, oversample=oversample)
            wanted = math.ceil(10 * (4.0 if oversample is None else oversample))
            shares = []
            for query in nested(rng, 20):
                hits = await store.search("t", query, limit=10, tuning=tuning)
                check_true(hits, rows, query, metric)
                by_prefix = true_distances(rows[:, :PREFIX], query[:PREFIX], metric)
                likely = np.argsort(by_prefix)[:wanted]
                near = true_distances(rows, query, metric)
                best = likely[np.argsort(near[likely])[:10]]
                shares.append(len({int(hit.id) for hit in hits} & set(best.tolist())) / 10)
                assert len(hits) == 10
            # Codes are not the vectors themselves; the file ranks by these.
            assert np.mean(shares) >= (0.97 if scan == "auto" else 1.0)
        assert answered(store, "t") == 60 if scan == "auto" else True


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("metric", METRICS)
async def test_exact_wins_and_a_whole_prefix_is_exact(
    tmp_path: Path, metric: Metric, scan: str
) -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    query = rng.standard_normal(DIM, dtype=np.float32)
    rows[7] = query
    rows[7, :PREFIX] = -query[:PREFIX]  # the worst by its prefix
    rows[7, PREFIX:] *= 9
    query[PREFIX:] *= 9
    async with opened(tmp_path / "a.db", scan=scan) as store:
        await filled(store, metric, rows)
        await make_ready(store, scan)
        plain = await store.search("t", query, limit=3)
        assert plain[0].id == "00007"
        likely = await store.search("t", query, limit=3, tuning=Tuning(dims=PREFIX))
        assert "00007" not in {hit.id for hit in likely}
        check_true(likely, rows, query, metric)
        for told in (
            await store.search("t", query, limit=3, tuning=Tuning(dims=PREFIX), exact=True),
            await store.search("t", query, limit=3, tuning=Tuning(dims=DIM, oversample=1.0)),
            await store.search("t", query, limit=3, tuning=Tuning(dims=PREFIX, oversample=1e9)),
        ):
            assert as_told(told) == as_told(plain)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("partition", [False, True])
async def test_filters_come_before_the_nearest(tmp_path: Path, scan: str, partition: bool) -> None:
    rng = np.random.default_rng(3)
    rows = nested(rng, ROWS)
    async with opened(tmp_path / "a.db", scan=scan) as store:
        await filled(store, "cosine", rows, partition=partition)
        await make_ready(store, scan)
        await store.delete_where("t", "n = 50 OR n = 51")
        for where, there in {
            "n < 1": ROWS // 100, "n < 30": ROWS * 30 // 100, "k = 1": ROWS // 3 - 10,
            "k = 1 AND n < 50": ROWS // 6, "k = 5": 0,
        }.items():  # fmt: skip
            for limit in (1, 10, 5000):
                tuning = Tuning(dims=PREFIX, oversample=1.0)
                (query,) = nested(rng, 1)
                hits = await store.search("t", query, limit=limit, where=where, tuning=tuning)
                exact = await store.search("t", query, limit=limit, where=where)
                assert len(hits) == len(exact), where
                assert abs(len(exact) - min(limit, there)) <= (0 if limit <= 10 else 1)
                check_true(hits, rows, query, "cosine")
                allowed = {r.id for r in await store.find("t", where, select=[], limit=ROWS)}
                assert {hit.id for hit in hits} <= allowed


async def test_writes_are_seen_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = nested(rng, ROWS)
    tuning = Tuning(dims=PREFIX, oversample=1.0)
    async with opened(tmp_path / "a.db") as store:
        await filled(store, "cosine", rows)
        await ready(store, "t")
        for step in range(40):
            (row,) = nested(rng, 1)
            await store.upsert("t", columns(row[None], ROWS + step % 7))
            (hit,) = await store.search("t", row, limit=1, tuning=tuning)
            assert hit.id == f"{ROWS + step % 7:05}"
            await store.delete("t", hit.id)
            (hit,) = await store.search("t", row, limit=1, tuning=tuning)
            assert int(hit.id) < ROWS
        assert answered(store, "t") == 80


async def test_one_batch_of_many_kinds(tmp_path: Path) -> None:
    """Searches by several prefixes, exact ones and filtered ones, asked at once."""
    rng = np.random.default_rng(5)
    rows = nested(rng, ROWS)
    kinds: list[dict[str, Any]] = [
        {"tuning": tuning, "where": where, "limit": limit}
        for tuning in (None, Tuning(dims=4), Tuning(dims=9), Tuning(dims=9, oversample=40))
        for where in (None, "n < 40", "n < 2")
        for limit in (1, 12)
    ]
    queries = nested(rng, 4)
    async with opened(tmp_path / "a.db") as store:
        await filled(store, "l2", rows)
        await ready(store, "t")
        asked = [(query, kind) for query in queries for kind in kinds]
        alone = [as_told(await store.search("t", query, **kind)) for query, kind in asked]
        found = await asyncio.gather(*(store.search("t", query, **kind) for query, kind in asked))
        assert list(map(as_told, found)) == alone


async def test_rows_without_a_prefix(tmp_path: Path) -> None:
    """Under cosine a prefix of zeros has no direction; such rows are ranked last, and found."""
    rng = np.random.default_rng(6)
    rows = nested(rng, 60)
    rows[10:50, :PREFIX] = 0
    for scan in SCANS:
        async with opened(tmp_path / f"{scan}.db", scan=scan) as store:
            await filled(store, "cosine", rows)
            await make_ready(store, scan)
            hits = await store.search("t", rows[0], limit=60, tuning=Tuning(dims=PREFIX))
            assert len(hits) == 60
            hits = await store.search("t", rows[12], limit=3, tuning=Tuning(dims=PREFIX))
            assert len(hits) == 3
            check_true(hits, rows, rows[12], "cosine")


async def test_what_lengths_of_prefixes_take_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    async with opened(tmp_path / "a.db") as store:
        await filled(store, "cosine", nested(rng, ROWS))
        await ready(store, "t")

        async def told() -> int:
            return (await store.stats("t")).scan_memory or 0

        before = await told()
        await store.search("t", nested(rng, 1)[0], tuning=Tuning(dims=PREFIX))
        assert await told() == before + 4 * ROWS
        for dims in range(1, 20):
            await store.search("t", nested(rng, 1)[0], tuning=Tuning(dims=dims))
        assert await told() <= before + 4 * 4 * ROWS


@pytest.mark.parametrize("tuning", [
    Tuning(dims=0), Tuning(dims=-1), Tuning(dims=DIM + 1), Tuning(dims=2.5),  # type: ignore[arg-type]
    Tuning(dims=True), Tuning(oversample=0.5), Tuning(oversample=math.nan),
    Tuning(oversample=math.inf),
])  # fmt: skip
async def test_wrong_tuning_is_told(tuning: Tuning) -> None:
    async with aiovec.connect(":memory:") as store:
        await filled(store, "cosine", nested(np.random.default_rng(0), 5))
        with pytest.raises(InvalidArgumentError) as told:
            await store.search("t", np.ones(DIM), tuning=tuning)
        assert told.value.argument.startswith("tuning.")
