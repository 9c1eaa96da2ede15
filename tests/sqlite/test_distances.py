"""Distances of rows that are nearly equal, down to 1e-15 of their size.

The truth is computed with whole numbers and 100 decimal places.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.hard_vectors import hard_rows

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
    # sin² / (1 + cos), where neither part cancels.
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


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 3, 7, 8, 9, 31, 128, 129, 700, 4096]),
    size=st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]),
    kind=st.sampled_from(["last bits", "near ties", "denormal parts"]),
    metric=st.sampled_from(METRICS),
)
def test_distances_are_true(seed: int, dim: int, size: float, kind: str, metric: Metric) -> None:
    """Within the error that is promised, whatever else is measured in the same call."""
    rng = np.random.default_rng(seed)
    rows = hard_rows(kind, rng, 12, dim, metric) * np.float32(size)
    along = rows[:2].astype("f8") * rng.uniform(0.5, 2)  # as far as float32 can tell
    others = rng.standard_normal((4, dim))
    rows = np.concatenate([rows, -rows[:2], along.astype("f4"), others.astype("f4")])
    if metric == "cosine":
        rows = rows[np.abs(rows).max(axis=1) > 0]
    query = rows[rng.integers(0, len(rows))]
    if rng.integers(0, 2):
        query = np.nextafter(query, np.copysign(np.float32(9), query))  # never to zero
    measured = distances(rows, query, metric)
    assert distances(rows, np.tile(query, (len(rows), 1)), metric).tobytes() == measured.tobytes()
    alone = [distances(row[None, :], query, metric)[0] for row in rows]
    assert np.asarray(alone).tobytes() == measured.tobytes()
    with localcontext(prec=100):
        point = whole(query)
        for row, distance in zip(rows, measured.tolist(), strict=True):
            exact = whole(row)
            true = true_distance(exact, point, metric)
            assert abs(Decimal(distance) - true) <= allowed(true, exact, point, metric)
            if exact == point and metric != "dot":
                assert distance == 0
