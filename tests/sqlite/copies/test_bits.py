"""Searches by bit codes: approximate as to which rows are measured, and in nothing else."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.sqlite import support
from tests.sqlite.copies.support import answered, as_told, in_memory, ready
from tests.sqlite.copies.test_prefix import check_true, columns, true_distances
from tests.sqlite.support import backend_of, open_store, python
from tests.waiting import until

from aiovec import Field, Schema, Tuning, VectorStore
from aiovec.backend import Metric
from aiovec_sqlite.copies import CopyLimits
from aiovec_sqlite.copies.approximate import sign_codes
from aiovec_sqlite.copies.copy import BYTES_BESIDE
from aiovec_sqlite.copies.kernel.library import NUMPY, OFF, VARIABLE
from aiovec_sqlite.copies.products import products_of

DIM = 64
ROWS = 2500
METRICS: list[Metric] = ["cosine", "l2", "dot"]

Rows = npt.NDArray[np.float32]


opened = partial(support.opened, limits={"copies": CopyLimits(full_segment=600, own_segments=400)})


def alike(rng: np.random.Generator, count: int) -> Rows:
    """Vectors in a few directions, as models give them, of different lengths."""
    centres = np.random.default_rng(99).standard_normal((20, DIM))
    rows = centres[rng.integers(0, 20, count)] + 0.7 * rng.standard_normal((count, DIM))
    return (rows * rng.uniform(0.7, 1.4, (count, 1))).astype(np.float32)


def schema(metric: Metric = "cosine", *, quantized: Any = "bit", **field: Any) -> Schema:
    fields = {"n": Field(int, index="btree"), "k": Field(int, **field)}
    return Schema(DIM, metric=metric, fields=fields, quantized=quantized)


async def filled(store: VectorStore, rows: Rows, table: Schema, name: str = "t") -> None:
    await store.create_table(name, table)
    await store.insert(name, columns(rows))


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
async def test_most_of_the_nearest_are_found_and_truly_measured(
    tmp_path: Path, metric: Metric
) -> None:
    rng = np.random.default_rng(1)
    rows = alike(rng, ROWS)
    async with opened(tmp_path / "a.db", scan="bit") as store:
        await filled(store, rows, schema(metric))
        resident = await ready(store, "t")
        state = resident.copy.state
        assert state.nbytes <= ROWS * (DIM // 8 + BYTES_BESIDE)
        for segment in state.segments:
            first = int(state.segments[0].rowids[0])
            kept = rows[segment.rowids[: segment.count] - first]
            signs = np.packbits(kept > 0, axis=1, bitorder="little")
            assert np.array_equal(segment.codes[: segment.count], signs)
        found: dict[float | None, list[float]] = {None: [], 1.0: [], 1e9: []}
        for query in alike(rng, 25):
            nearest = set(np.argsort(true_distances(rows, query, metric))[:10].tolist())
            for oversample, shares in found.items():
                hits = await store.search(
                    "t", query, limit=10, tuning=Tuning(oversample=oversample)
                )
                check_true(hits, rows, query, metric)
                shares.append(len({int(hit.id) for hit in hits} & nearest) / 10)
        assert answered(store, "t") == 75
        assert np.mean(found[None]) >= 0.9
        assert np.mean(found[1.0]) < np.mean(found[None])
        assert np.mean(found[1e9]) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "queries", [1, *(pytest.param(n, marks=pytest.mark.soak) for n in (2, 3)), 4, 5, 32]
)
@pytest.mark.parametrize("dim", [8, 64, 4096])
@pytest.mark.parametrize("way", [OFF, NUMPY])
def test_products_are_the_same_whole_numbers(
    queries: int, dim: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By planes for few queries, by signs for many: what a query gets does not depend on others."""
    monkeypatch.setenv(VARIABLE, way)
    rng = np.random.default_rng([queries, dim])
    points = rng.standard_normal((queries, dim)).astype(np.float32)
    points[0, 0] = 1e6  # far beyond the last step
    rows = rng.standard_normal((1300, dim)).astype(np.float32)
    coded = sign_codes(list(points))
    codes = np.stack([one.codes for one in coded])
    steps = np.array([[one.scale] for one in coded])
    near = np.abs(points) < 14 * steps
    assert (np.abs(points - codes * steps) <= 1.001 * steps)[near].all()
    assert (codes % 2 == 1).all()
    assert np.abs(codes).max() <= 15
    products = products_of(codes, signs=True)
    room = np.empty((len(rows), products.width), dtype=np.int32)
    products.put(np.packbits(rows > 0, axis=1, bitorder="little"), room)
    wanted = np.where(rows > 0, 1, -1) @ codes.astype(np.int64).T
    assert np.array_equal(room[:, :queries], wanted)
    codes = rng.integers(-127, 128, codes.shape, dtype=np.int8)
    products = products_of(codes, signs=False)
    whole = rng.integers(-127, 128, (1300, dim + 3), dtype=np.int8)
    room = np.empty((len(rows), products.width), dtype=np.int32)
    products.put(whole[:, :dim], room)
    assert np.array_equal(room[:, :queries], whole[:, :dim] @ codes.astype(np.int64).T)


async def test_exact_searches_and_prefixes_are_left_to_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    path = tmp_path / "a.db"
    async with opened(path, scan="bit") as store, opened(path, scan="disk") as disk:
        await filled(store, rows, schema())
        await ready(store, "t")
        differ = 0
        for query in rng.standard_normal((20, DIM), dtype=np.float32):
            truth = as_told(await disk.search("t", query))
            exact = await store.search("t", query, exact=True, tuning=Tuning(oversample=1.0))
            assert as_told(exact) == truth
            prefix = Tuning(dims=16)
            assert as_told(await store.search("t", query, tuning=prefix)) == as_told(
                await disk.search("t", query, tuning=prefix)
            )
            differ += as_told(await store.search("t", query)) != truth
        assert answered(store, "t") == 20
        assert differ > 0  # noise is where bits fail, so these were used


async def test_other_tables_stay_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    path = tmp_path / "a.db"
    async with opened(path, scan="bit") as store, opened(path, scan="disk") as disk:
        await filled(store, rows, schema(quantized=None))
        await ready(store, "t")
        for query in rng.standard_normal((10, DIM), dtype=np.float32):
            hits = await store.search("t", query)
            assert as_told(hits) == as_told(await disk.search("t", query))
        assert answered(store, "t") == 10
        stats = await store.stats("t")
        assert "exact" in stats.index
        assert "recall" not in stats.details


@pytest.mark.parametrize("partition", [False, True])
async def test_filters_come_before_the_nearest(tmp_path: Path, partition: bool) -> None:
    rng = np.random.default_rng(4)
    rows = alike(rng, ROWS)
    async with opened(tmp_path / "a.db", scan="bit") as store:
        await filled(store, rows, schema(partition=partition))
        await ready(store, "t")
        await store.delete_where("t", "n = 50 OR n = 51")
        for where in (None, "n < 1", "n < 30", "k = 1", "k = 1 AND n < 50", "k = 9"):
            allowed = {r.id for r in await store.find("t", where, select=[], limit=ROWS)}
            for limit in (1, 10, 5000):
                (query,) = alike(rng, 1)
                tuning = Tuning(oversample=1.0)
                hits = await store.search("t", query, limit=limit, where=where, tuning=tuning)
                assert len(hits) == min(limit, len(allowed)), where
                check_true(hits, rows, query, "cosine")
                assert {hit.id for hit in hits} <= allowed
        assert answered(store, "t") == 18


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
async def test_writes_are_seen_at_once(tmp_path: Path, metric: Metric) -> None:
    rng = np.random.default_rng(5)
    rows = alike(rng, ROWS)
    path = tmp_path / "a.db"
    async with opened(path, scan="bit") as store, opened(path, scan="bit") as other:
        await filled(store, rows, schema(metric))
        await ready(store, "t")
        await ready(other, "t")
        for step in range(30):
            id = f"{ROWS + step % 7:05}"
            row = 3 * alike(rng, 1)[0]  # long, so that it is the nearest by dot as well
            await store.upsert("t", columns(row[None], ROWS + step % 7))
            for one in (store, other):
                (hit,) = await one.search("t", row, limit=1)
                assert hit.id == id
            await store.delete("t", id)
            for one in (store, other):
                (hit,) = await one.search("t", row, limit=1)
                assert int(hit.id) < ROWS
        assert answered(store, "t") == answered(other, "t") == 60


async def test_a_batch_gives_what_each_gives_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    async with opened(tmp_path / "a.db", scan="bit") as store:
        await filled(store, alike(rng, ROWS), schema("l2"))
        await ready(store, "t")
        asked = [
            (query, {"where": where, "limit": limit, "tuning": tuning})
            for query in alike(rng, 5)
            for where in (None, "n < 40", "n < 2")
            for limit in (1, 12)
            for tuning in (None, Tuning(oversample=2.0))
        ]
        alone = [as_told(await store.search("t", query, **kind)) for query, kind in asked]  # type: ignore[arg-type]
        calls = [store.search("t", query, **kind) for query, kind in asked]  # type: ignore[arg-type]
        assert [as_told(hits) for hits in await asyncio.gather(*calls)] == alone
        # Callers that go harm nobody.
        tasks = [
            asyncio.ensure_future(store.search("t", query, **kind))  # type: ignore[arg-type]
            for query, kind in asked
        ]
        await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for hits, wanted in zip(found[1::2], alone[1::2], strict=True):
            assert not isinstance(hits, BaseException)
            assert as_told(hits) == wanted


async def test_the_budget_holds_for_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = alike(rng, ROWS)
    room = ROWS * (DIM // 8 + BYTES_BESIDE)
    # The exact copy of one table would not fit.
    assert room * 2.5 < ROWS * (DIM + BYTES_BESIDE)
    async with opened(tmp_path / "a.db", scan="bit", scan_memory=str(int(2.5 * room))) as store:
        for name in "abc":
            await filled(store, rows, schema(), name)
            await ready(store, name)
            await store.search(name, rows[0])
        assert [in_memory(store, name) for name in "abc"] == [False, True, True]
        truth = await store.search("a", rows[1], exact=True)
        assert truth[0].id == "00001"


def recall_of(stats: Any) -> dict[str, Any]:
    found: dict[str, Any] = stats.details["recall"]
    return found


async def measured(store: VectorStore, rows: int) -> Any:
    """The stats once recall was measured on so many rows."""
    resident = await ready(store, "t")
    await until(lambda: resident.copy.recall is not None and resident.copy.recall.rows >= rows)
    return await store.stats("t")


async def test_stats_tell_the_measured_recall(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    async with opened(tmp_path / "a.db", scan="bit") as store:
        await filled(store, rows, schema())
        stats = await measured(store, ROWS)
        told = recall_of(stats)
        assert told["sample"] == 100
        assert told["rows"] == ROWS
        assert told["k"] == 10
        # The same by searches of the store.
        shares = []
        for number in rng.permutation(ROWS)[:200]:
            near = await store.search("t", rows[number], limit=11, exact=True)
            truth = {hit.id for hit in near} - {f"{number:05}"}
            # As many candidates as a search of ten has.
            hits = await store.search(
                "t", rows[number], limit=11, tuning=Tuning(oversample=81 / 11)
            )
            shares.append(len({hit.id for hit in hits} & truth) / 10)
        assert told["recall"] == pytest.approx(np.mean(shares), abs=0.06)
        assert 0.3 < told["recall"] < 1.0  # noise
        assert stats.index == (
            f"bit codes: approximate, recall@10 {told['recall']:.3f} measured on 100 rows"
        )
        # Again when the table has grown by half.
        await store.insert("t", columns(rows[: ROWS // 4], 10_000))
        await store.search("t", rows[0])
        await asyncio.sleep(0.05)
        assert recall_of(await store.stats("t"))["rows"] == ROWS
        await store.insert("t", columns(rows[: ROWS // 3], 20_000))
        await store.search("t", rows[0])
        stats = await measured(store, ROWS + 1)
        assert recall_of(stats)["rows"] == ROWS + ROWS // 4 + ROWS // 3


async def test_stats_before_anything_is_in_memory_and_on_few_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    async with opened(tmp_path / "a.db", scan="bit") as store:
        await filled(store, alike(rng, 1), schema())
        stats = await store.stats("t")
        assert stats.index == "bit codes: approximate once they are in memory, exact until then"
        await store.search("t", alike(rng, 1)[0])
        await ready(store, "t")
        assert (await store.stats("t")).index == "bit codes: approximate, recall not measured yet"
        await store.insert("t", columns(alike(rng, 30), 100))
        await store.search("t", alike(rng, 1)[0])
        assert recall_of(await measured(store, 31))["recall"] == 1.0


async def test_info_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path, scan="bit", preload='["t"]') as store:
        await filled(store, alike(np.random.default_rng(0), 50), schema())
    environment = os.environ | {"AIOVEC_RETRIEVAL__SQLITE__SCAN": "bit"}
    process = python("-m", "aiovec", "info", str(path), stdout=-1, env=environment)
    out, _ = await asyncio.to_thread(process.communicate)
    assert "bit codes: approximate" in " ".join(str(out).split())


async def test_closing_amid_the_measuring(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path, scan="bit") as store:
        await filled(store, alike(np.random.default_rng(0), ROWS), schema())
    for pause in (0.0, 0.01, 0.03, 0.06):
        other = await open_store(path, scan="bit")
        await ready(other, "t")
        await asyncio.sleep(pause)
        await other.close()
        assert not backend_of(other)._resident._tasks
