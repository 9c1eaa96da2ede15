"""Vectors of every size that float32 has: what was accepted is searched, never called damage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.copies.support import answered, in_memory, opened, ready
from tests.sqlite.support import sql
from tests.sqlite.test_nearest import METRICS, check, true_distances
from tests.waiting import until

from aiovec import Schema
from aiovec.backend import Metric

DIM = 16
# From float32's least denormal to its largest power of ten, and the border of what codes can rank.
SIZES = [1e-45, 1e-41, 1e-38, 1e-37, 1e-30, 1e-16, 9e-16, 1e-15, 1e-9, 1e9, 1e15, 2e15, 1e20, 3e38]


def vector(rng: np.random.Generator, size: float) -> np.ndarray[Any, Any]:
    """No component is larger than ``size``; those of a mixed vector are of all sizes below."""
    made = rng.uniform(-1, 1, DIM) * size
    if rng.integers(0, 2):
        made *= 10.0 ** -rng.integers(0, 50, DIM)
    made[rng.integers(0, DIM)] = size
    return np.asarray(made, dtype=np.float32)


_IN_EACH_RUN = (*((metric, None) for metric in METRICS), ("cosine", "bit"), ("l2", "disk"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        pytest.param(
            metric,
            settings,
            id=f"{metric}-{settings}",
            # Each metric from the copy of the file's vectors; the other ways with one each.
            marks=[] if (metric, settings.get("scan")) in _IN_EACH_RUN else [pytest.mark.soak],
        )
        for metric in METRICS
        for settings in ({}, {"scan": "bit"}, {"scan": "disk"})
    ],
)
async def test_one_such_row_after_the_copy_was_loaded(
    tmp_path: Path, metric: Metric, settings: dict[str, Any]
) -> None:
    """A4: it was accepted, so every search goes on; the report was "damaged" until a restart."""
    for place, size in enumerate(SIZES):
        rng = np.random.default_rng(place)
        async with opened(tmp_path / f"{place}.db", **settings) as store:
            await store.create_table("t", Schema(DIM, metric=metric, quantized="bit"))
            rows = {f"r{n:03}": vector(rng, 1.0) for n in range(200)}
            await store.insert("t", {"id": list(rows), "embedding": np.stack(list(rows.values()))})
            if settings.get("scan") != "disk":
                await ready(store, "t")
            await store.search("t", rows["r000"])
            rows["odd"] = vector(rng, size)
            await store.upsert("t", [{"id": "odd", "embedding": rows["odd"]}])
            for query in (rows["r000"], rows["odd"], vector(rng, 1.0), -rows["odd"]):
                hits = await store.search("t", query, limit=500)
                truth = dict(
                    zip(rows, true_distances(list(rows.values()), query, metric), strict=True)
                )
                check(hits, truth, 500)
            assert await store.delete("t", "odd") == 1
            hits = await store.search("t", rows["r000"], limit=500)
            assert len(hits) == 200


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("metric", METRICS)
async def test_rows_of_all_sizes_come_and_go(
    tmp_path: Path, metric: Metric, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A4: inserted and replaced before the copy is loaded, while it is, and afterwards."""
    rng = np.random.default_rng(seed)
    caplog.set_level(logging.WARNING, "aiovec")
    async with opened(tmp_path / "a.db") as store, opened(tmp_path / "a.db", scan="disk") as disk:
        await store.create_table("t", Schema(DIM, metric=metric))
        rows: dict[str, Any] = {}
        for turn in range(12):
            changed = {
                f"r{rng.integers(0, 60):02}": vector(
                    rng, float(rng.choice(SIZES)) if turn > 3 and rng.integers(0, 3) else 1.0
                )
                for _ in range(int(rng.integers(1, 40)))
            }
            await store.upsert(
                "t", [{"id": id, "embedding": found} for id, found in changed.items()]
            )
            rows.update(changed)
            if turn > 5 and len(rows) > 5:
                gone = [id for id in rows if rng.integers(0, 3) == 0]
                assert await store.delete("t", gone) == len(gone)
                for id in gone:
                    del rows[id]
            queries = [vector(rng, 1.0), vector(rng, float(rng.choice(SIZES)))]
            queries += [rows[id] for id in list(rows)[:1]]
            for query in queries:
                # A query along a row, so small that squares of it leave float64, has no noise.
                found = [await one.search("t", query, limit=7) for one in (store, disk)]
                truth = dict(
                    zip(rows, true_distances(list(rows.values()), query, metric), strict=True)
                )
                for hits in found:
                    check(hits, truth, 7)
    assert not [record for record in caplog.records if "damaged" in record.getMessage()]


async def test_optimize_brings_the_copy_back(tmp_path: Path) -> None:
    """A4: once no such row is left, the table can be searched from memory again."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.db"
    async with opened(path) as store:
        await store.create_table("t", Schema(DIM))
        rows = [{"id": f"r{n}", "embedding": vector(rng, 1.0)} for n in range(50)]
        await store.insert("t", [*rows, {"id": "odd", "embedding": vector(rng, 1e-30)}])
        for _ in range(3):
            await store.search("t", rows[0]["embedding"])
            await store.optimize("t")
        assert not in_memory(store, "t")
        await store.upsert("t", [{"id": "odd", "embedding": vector(rng, 1.0)}])
        await store.optimize("t")
    async with opened(path) as store:
        await ready(store, "t")
        assert len(await store.search("t", rows[0]["embedding"], limit=100)) == 51
        assert answered(store, "t") == 1


@pytest.mark.parametrize("settings", [{}, {"scan": "bit"}], ids=str)
@pytest.mark.parametrize("metric", ["l2", "dot"])
async def test_a_table_that_damage_no_longer_marks(
    tmp_path: Path, metric: Metric, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is searched from the file; its codes overflowed, of which NumPy warned the app."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.db"
    usual = rng.uniform(0.5, 1, (200, DIM)).astype(np.float32)
    huge = np.full((1, DIM), -3e38, dtype=np.float32)
    async with opened(path, **settings) as store:
        await store.create_table("t", Schema(DIM, metric=metric, quantized="bit"))
        ids = [f"r{n:03}" for n in range(201)]
        await store.insert("t", {"id": ids, "embedding": np.concatenate([usual, huge])})
    with sql(path) as db:
        db.execute("UPDATE aiovec_tables SET extreme = 0")
    caplog.set_level(logging.WARNING, "aiovec")
    async with opened(path, **settings) as store:
        for _ in range(2):
            hits = await store.search("t", usual[7], limit=200)
            assert sorted(hit.id for hit in hits) == ids[:200]
            await until(lambda: "extreme where none should be" in caplog.text)
        assert not in_memory(store, "t")
