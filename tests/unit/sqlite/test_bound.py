"""The scan, attacked: no row among the nearest is missing, and none is better than its bound.

The truth is what NumPy makes of the float32 vectors, in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness.hard_vectors import (
    KINDS,
    SMALLEST,
    Random,
    Rows,
    Values,
    hard_query,
    hard_rows,
)
from tests.unit.sqlite.scans import PARTS, most_values

from aiovec.backend import Metric, distances
from aiovec_sqlite.copies.scan import Nearest, ScanQuery, nearest
from aiovec_sqlite.copies.segments import FULL, Segment, State, appended, encode_rows, without

METRICS: list[Metric] = ["cosine", "l2", "dot"]
DIMS = [1, 2, 7, 63, 64, 65, 384, 4096]


# Truth


def true_values(rows: Rows, query: Rows, metric: Metric) -> Values:
    """What the scan bounds: the larger, the nearer."""
    exact, point = rows.astype(np.float64), query.astype(np.float64)
    products: Values = exact @ point
    if metric == "l2":
        products -= np.square(exact).sum(axis=1) / 2
    elif metric == "cosine":
        products /= np.sqrt(np.square(exact).sum(axis=1) * np.square(point).sum())
    return products


def segments_of(rows: Rows, metric: Metric, rng: Random, full: int) -> tuple[Segment, ...]:
    """The rows in segments that came in steps of any size."""
    parts: list[Segment] = []
    start = 0
    while start < len(rows):
        end = start + int(rng.integers(1, len(rows) + 1))
        some = rows[start:end]
        ids = np.arange(start, start + len(some), dtype=np.int64)
        parts = appended(parts, ids, encode_rows(some, metric), full=full)
        start = end
    return tuple(parts)


def check(rows: Rows, metric: Metric, rng: Random, full: int = FULL) -> None:
    """Each row that is near enough is found: by several queries, with filters, with rows gone."""
    there = rng.random(len(rows)) >= rng.choice([0.0, 0.2])
    there[0] = True
    segments = segments_of(rows, metric, rng, full)
    state = State(1, tuple(without(segments, np.flatnonzero(~there))))
    asked, allowed = [], []
    for _ in range(int(rng.choice([1, 1, 2, 5]))):
        wanted = max(1, int(rng.choice([1, 2, 10, len(rows) - 1, len(rows), len(rows) + 5])))
        passing, masks = there, None
        if rng.random() < 0.4:
            mask = rng.random(len(rows)) < rng.choice([0.05, 0.5, 0.95])
            masks = [mask[part.rowids[: part.count]] for part in state.segments]
            passing = there & mask
        asked.append(ScanQuery(hard_query(rng, rows, metric), wanted, masks))
        allowed.append(passing)
    for one in asked:
        values = true_values(rows, one.vector, metric)
        for part in segments:
            most = most_values(part, one.vector, metric)
            assert (most >= values[part.rowids[: part.count]]).all(), (
                "a row is better than it can be"
            )
    parts = int(rng.choice(PARTS))
    measured = nearest(state, asked, metric, vectors=True, parts=parts, unit=32)
    for near, one, passing in zip(measured, asked, allowed, strict=True):
        check_nearest(near, rows, metric, one, passing)


def check_nearest(
    near: Nearest, rows: Rows, metric: Metric, asked: ScanQuery, allowed: npt.NDArray[np.bool_]
) -> None:
    assert near.vectors is not None
    assert near.vectors.tobytes() == rows[near.rowids].tobytes()
    true = distances(rows[near.rowids], asked.vector, metric)
    assert near.distances.tobytes() == true.tobytes()
    every = distances(rows[allowed], asked.vector, metric)
    best = every <= np.sort(every)[: asked.wanted].max(initial=-np.inf)
    assert sorted(near.rowids) == np.flatnonzero(allowed)[best].tolist(), "missing, or too far"


# The tests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_no_row_among_the_best_is_missing(kind: str, metric: Metric) -> None:
    for seed, dim in enumerate(DIMS):
        full = (64, 100, FULL)[seed % 3]
        rng = np.random.default_rng([seed, full])
        check(hard_rows(kind, rng, 200 if dim < 1000 else 80, dim, metric), metric, rng, full)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.one_of(st.integers(1, 80), st.sampled_from(DIMS)),
    count=st.integers(1, 700),
    kinds=st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=3),
    metric=st.sampled_from(METRICS),
    full=st.sampled_from([1, 63, 64, 65, 300, FULL]),
)
def test_no_row_is_missing_whatever_the_table(
    seed: int, dim: int, count: int, kinds: list[str], metric: Metric, full: int
) -> None:
    rng = np.random.default_rng(seed)
    share = max(1, min(count, 200_000 // dim, 200 * full) // len(kinds))
    rows = np.concatenate([hard_rows(kind, rng, share, dim, metric) for kind in kinds])
    if len(rows):
        check(rng.permutation(rows), metric, rng, full)


@pytest.mark.parametrize("metric", METRICS)
def test_the_smallest_queries(metric: Metric) -> None:
    """In units of a tiny query's scale a huge row's value leaves float32."""
    rows = np.full((300, 64), 1e15, dtype=np.float32)
    rows[::2] = 1e-15
    rows[::2, 0] = SMALLEST
    rows[:, 1] = np.linspace(0.1, 1, 300) * rows[:, 2]
    state = State(1, segments_of(rows, metric, np.random.default_rng(1), FULL))
    for value in (SMALLEST, np.float32(0))[: 1 if metric == "cosine" else 2]:
        for wanted in (1, 149, 160, 299, 1000):
            asked = ScanQuery(np.full(64, value, np.float32), wanted)
            (near,) = nearest(state, [asked], metric, vectors=True)
            check_nearest(near, rows, metric, asked, np.ones(300, dtype=bool))
