"""Rows that are nearly equal, down to 1e-15 of their size: from memory and from the file alike.

The truth is computed with whole numbers and 100 decimal places.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sqlite.support import opened, ready

from aiovec import Schema
from aiovec.backend import Metric, distances

METRICS: list[Metric] = ["cosine", "l2", "dot"]
# What docs/internals/exact-search.md promises: the error in parts of the distance, the least
# angle, and the error of a dot product in parts of its largest product.
ERROR, NO_ANGLE, OF_PRODUCT = Decimal(2) ** -44, Decimal(2) ** -77, Decimal(2) ** -70


def whole(vector: Any) -> list[int]:
    """A float32 vector in units of the least denormal."""
    return [int(float(x) * 2.0**149) for x in vector]


def true_distance(row: list[int], query: list[int], metric: Metric) -> Decimal:
    unit = Decimal(2) ** -149
    if metric == "l2":
        return Decimal(sum((a - b) ** 2 for a, b in zip(row, query, strict=True))).sqrt() * unit
    product = sum(a * b for a, b in zip(row, query, strict=True))
    if metric == "dot":
        return -Decimal(product) * unit**2
    lengths = sum(a * a for a in row) * sum(b * b for b in query)
    # sin² / (1 + cos), of which neither part cancels.
    sine = Decimal(lengths - product**2) / Decimal(lengths)
    cosine = Decimal(product) / Decimal(lengths).sqrt()
    return 1 - cosine if cosine < 0 else sine / (1 + cosine)


def allowed(true: Decimal, row: list[int], query: list[int], metric: Metric) -> Decimal:
    if metric == "dot":
        largest = max(abs(a * b) for a, b in zip(row, query, strict=True))
        return ERROR * abs(true) + OF_PRODUCT * Decimal(largest) * Decimal(2) ** -298
    if metric == "l2":
        return ERROR * true
    return ERROR * true + NO_ANGLE * (2 * true).sqrt() + NO_ANGLE**2


def near_duplicates(rng: np.random.Generator, dim: int, count: int) -> Any:
    """A base, then rows beside it: by bits of single components, of the small ones, by a scale."""
    base = rng.standard_normal(dim) * 10.0 ** -rng.integers(0, 16, dim)
    base[rng.integers(0, dim)] = 1.0
    if rng.integers(0, 2):
        base = rng.standard_normal(dim)
    first = base.astype(np.float32)
    rows = [first]
    while len(rows) < count:
        row = first.copy()
        kind = len(rows) % 5
        if kind == 0:  # some of the smallest components by some bits
            small = np.argsort(np.abs(row))[: max(1, dim // 4)]
            row[small] *= np.float32(1 + 2.0**-23 * rng.integers(-9, 9))
        elif kind == 1:  # one bit up or down in some components
            some = rng.integers(0, dim, rng.integers(1, 4))
            row[some] = np.nextafter(row[some], np.float32(rng.choice([-9, 9])))
        elif kind == 2:  # everywhere
            row = (base * (1 + rng.standard_normal(dim) * 10.0 ** -rng.integers(5, 8))).astype("f4")
        elif kind == 3:  # along the same line, as far as float32 can tell
            row = (base * rng.uniform(0.5, 2)).astype("f4")
        elif kind == 4:
            row *= np.float32(rng.choice([1, 2, 0.5]))
        rows.append(row)
    return np.stack(rows)


@pytest.mark.slow
async def test_the_nearest_of_near_duplicates(tmp_path: Path) -> None:
    """The right ones in the right order, with the same distances from memory and from the file."""
    rng = np.random.default_rng(48)
    path = tmp_path / "a.db"
    async with opened(path) as store, opened(path, scan="disk") as disk:
        for metric in METRICS:
            rows = near_duplicates(rng, 48, 150)
            others = rng.standard_normal((2_400, 48)).astype(np.float32)
            await store.create_table(metric, Schema(48, metric=metric))
            ids = [f"r{n:04}" for n in range(2_550)]
            every = np.concatenate([rows, others])
            await store.insert(metric, {"id": ids, "embedding": every})
            await ready(store, metric)
            for query in (rows[0], np.nextafter(rows[0], np.float32(9)), rows[3] * np.float32(3)):
                measured = distances(every, query, metric)
                nearest = sorted(zip(measured.tolist(), ids, strict=True))
                for limit in (1, 10, 60):
                    for place in (store, disk):
                        hits = await place.search(metric, query, limit=limit)
                        found = [(hit.distance, hit.id) for hit in hits]
                        assert [one for one, _ in found] == [one for one, _ in nearest[:limit]]
                        # Of rows that are as far as the last one, any may be left out.
                        last = nearest[limit - 1][0]
                        assert [one for one in found if one[0] < last] == [
                            one for one in nearest if one[0] < last
                        ]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 3, 7, 8, 9, 31, 128, 129, 700, 4096]),
    size=st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]),
    metric=st.sampled_from(METRICS),
)
def test_distances_are_true(seed: int, dim: int, size: float, metric: Metric) -> None:
    """Within the error that is promised, whatever else is measured in the same call."""
    rng = np.random.default_rng(seed)
    rows = near_duplicates(rng, dim, 12) * np.float32(size)
    rows = np.concatenate([rows, -rows[:2], rng.standard_normal((4, dim)).astype("f4")])
    if metric == "cosine":
        rows = rows[np.abs(rows).max(axis=1) > 0]
    query = rows[rng.integers(0, len(rows))]
    if rng.integers(0, 2):
        query = np.nextafter(query, np.float32(9))
    measured = distances(rows, query, metric)
    assert distances(rows, np.tile(query, (len(rows), 1)), metric).tobytes() == measured.tobytes()
    alone = [distances(row[None, :], query, metric)[0] for row in rows]
    assert np.asarray(alone).tobytes() == measured.tobytes()
    with localcontext(prec=100):
        point = whole(query)
        for row, found in zip(rows, measured.tolist(), strict=True):
            exact = whole(row)
            true = true_distance(exact, point, metric)
            assert abs(Decimal(found) - true) <= allowed(true, exact, point, metric)
            if exact == point and metric != "dot":
                assert found == 0
