"""The scan, attacked: no row among the nearest is missing, and none is better than its bound.

The truth is what NumPy makes of the float32 vectors, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sqlite.scans import PARTS, most_values

from aiovec.backend import Metric, distances
from aiovec_sqlite.copies.scan import Nearest, ScanQuery, nearest
from aiovec_sqlite.copies.segments import FULL, Segment, State, appended, encode_rows, without

Rows = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Random = np.random.Generator

METRICS: list[Metric] = ["cosine", "l2", "dot"]
DIMS = [1, 2, 7, 63, 64, 65, 384, 4096]
LARGEST, SMALLEST = np.float32(1e15), np.float32(1.0000001e-15)


# Rows that are hard


def near_ties(rng: Random, n: int, dim: int) -> Values:
    """All of them the same but for noise far below what int8 can tell apart."""
    noise = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-8, -2, (n, 1))
    rows: Values = rng.standard_normal(dim) * (1 + noise)
    return rows


def last_bits(rng: Random, n: int, dim: int) -> Rows:
    """One vector, with single components moved by one unit in the last place."""
    rows = np.tile(rng.standard_normal(dim, dtype=np.float32), (n, 1))
    spots = rng.integers(0, dim, n)
    up = np.where(rng.random(n) < 0.5, np.float32(np.inf), np.float32(-np.inf))
    rows[np.arange(n), spots] = np.nextafter(rows[np.arange(n), spots], up.astype(np.float32))
    return rows


def duplicates(rng: Random, n: int, dim: int) -> Values:
    few = rng.standard_normal((max(1, n // 7), dim))
    return few[rng.integers(0, len(few), n)]


def halves(rng: Random, n: int, dim: int) -> Values:
    """Components that lie halfway between two codes, where rounding leaves out the most."""
    rows = (rng.integers(-126, 126, (n, dim)) + 0.5) / 127
    rows[:, 0] = 1.0
    return rows


def one_hot(rng: Random, n: int, dim: int) -> Values:
    rows = np.zeros((n, dim))
    rows[np.arange(n), rng.integers(0, dim, n)] = rng.choice([1, -1, 0.5, 1e-7], n)
    return rows


def spiked(rng: Random, n: int, dim: int) -> Values:
    """One component so large that all others get the code 0."""
    rows = rng.standard_normal((n, dim))
    rows[np.arange(n), rng.integers(0, dim, n)] = 300.0
    return rows


def denormal_parts(rng: Random, n: int, dim: int) -> Values:
    rows = rng.standard_normal((n, dim)) * np.where(rng.random((n, dim)) < 0.7, 1e-41, 1e-14)
    rows[:, 0] = 1e-14
    return rows


def clustered(rng: Random, n: int, dim: int) -> Values:
    centres = rng.standard_normal((4, dim)) * 5
    return centres[rng.integers(0, 4, n)] + 0.01 * rng.standard_normal((n, dim))


KINDS: dict[str, Callable[[Random, int, int], npt.NDArray[np.floating]]] = {
    "gaussian": lambda rng, n, dim: rng.standard_normal((n, dim)),
    "near ties": near_ties,
    "last bits": last_bits,
    "duplicates": duplicates,
    "all equal": lambda rng, n, dim: np.tile(rng.standard_normal(dim), (n, 1)),
    "constant": lambda rng, n, dim: np.full((n, dim), 0.1) * rng.integers(1, 4, (n, 1)),
    "halves": halves,
    "one hot": one_hot,
    "spiked": spiked,
    "denormal parts": denormal_parts,
    "norms of all sizes": lambda rng, n, dim: (
        rng.standard_normal((n, dim)) * 10.0 ** rng.uniform(-15, 15, (n, 1))
    ),
    "components of all sizes": lambda rng, n, dim: (
        rng.standard_normal((n, dim)) * 10.0 ** rng.uniform(-30, 15, (n, dim))
    ),
    "huge": lambda rng, n, dim: rng.choice([1e15, -1e15], (n, dim)) * rng.uniform(0.9, 1, (n, dim)),
    "tiny": lambda rng, n, dim: rng.standard_normal((n, dim)) * 1e-15,
    "clustered": clustered,
    "some zero": lambda rng, n, dim: rng.standard_normal((n, dim)) * (rng.random((n, 1)) < 0.6),
}


def hard_rows(kind: str, rng: Random, n: int, dim: int, metric: Metric) -> Rows:
    """Rows of a kind, none of them extreme; under cosine none is zero."""
    made = KINDS[kind](rng, n, dim)
    zero = ~made.any(axis=1)
    rows = within_limits(made)
    rows[zero] = 0
    kept: Rows = rows[~zero] if metric == "cosine" else rows
    return kept


def within_limits(rows: npt.NDArray[np.floating]) -> Rows:
    """Vectors that aren't extreme: their largest component lies between 1e-15 and 1e15."""
    limited: Rows = np.clip(rows, -LARGEST, LARGEST).astype(np.float32)
    small = np.abs(limited).max(axis=1) < SMALLEST
    limited[small, 0] = SMALLEST
    return limited


def hard_query(rng: Random, rows: Rows, metric: Metric) -> Rows:
    """A query that makes it hard to tell the rows apart."""
    row = rows[rng.integers(0, len(rows))].astype(np.float64)
    unit = np.abs(row).max() / 127 or 1.0
    query = (
        row,
        row * (1 + 1e-4 * rng.standard_normal(len(row))),
        # Along what the row's codes leave out, where Cauchy-Schwarz is an equality.
        row - unit * np.rint(row / unit),
        rng.standard_normal(len(row)) * 10.0 ** rng.uniform(-14, 14),
        -row,
        rows.mean(axis=0, dtype=np.float64),
    )[rng.integers(0, 6)]
    if not query.any():
        return np.full(len(row), metric == "cosine", np.float32)
    limited: Rows = within_limits(query[None, :])[0]
    return limited


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
