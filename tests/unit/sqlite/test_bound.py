"""The bound of the codes, attacked: no row that is among the nearest is missing from the
candidates, and none is better than its bound.

The truth is computed in float64 from the float32 vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sqlite.scans import Candidates, candidates

from aiovec.backend import Metric, distances
from aiovec_sqlite.copies.scan import ScanQuery, nearest
from aiovec_sqlite.copies.segments import (
    FULL,
    Segment,
    State,
    appended,
    encode_rows,
    without,
)

Rows = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Random = np.random.Generator

METRICS: list[Metric] = ["cosine", "l2", "dot"]
DIMS = [1, 2, 7, 63, 64, 65, 384, 4096]
LARGEST, SMALLEST = np.float32(1e15), np.float32(1.0000001e-15)


# Rows that are hard


def gaussian(rng: Random, n: int, dim: int) -> Rows:
    return rng.standard_normal((n, dim), dtype=np.float32)


def near_ties(rng: Random, n: int, dim: int) -> Rows:
    """All of them the same but for noise far below what int8 can tell apart."""
    base = rng.standard_normal(dim)
    noise = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-8, -2, (n, 1))
    rows: Rows = (base * (1 + noise)).astype(np.float32)
    return rows


def last_bits(rng: Random, n: int, dim: int) -> Rows:
    """One vector, with single components moved by one unit in the last place."""
    rows = np.tile(rng.standard_normal(dim, dtype=np.float32), (n, 1))
    spots = rng.integers(0, dim, n)
    up = np.where(rng.random(n) < 0.5, np.float32(np.inf), np.float32(-np.inf))
    rows[np.arange(n), spots] = np.nextafter(rows[np.arange(n), spots], up.astype(np.float32))
    return rows


def duplicates(rng: Random, n: int, dim: int) -> Rows:
    few = rng.standard_normal((max(1, n // 7), dim), dtype=np.float32)
    return few[rng.integers(0, len(few), n)]


def all_equal(rng: Random, n: int, dim: int) -> Rows:
    return np.tile(rng.standard_normal(dim, dtype=np.float32), (n, 1))


def constant(rng: Random, n: int, dim: int) -> Rows:
    return np.full((n, dim), 0.1, np.float32) * rng.integers(1, 4, (n, 1)).astype(np.float32)


def halves(rng: Random, n: int, dim: int) -> Rows:
    """Components that lie halfway between two codes, where rounding leaves out the most."""
    rows = (rng.integers(-126, 126, (n, dim)) + 0.5) / 127
    rows[:, 0] = 1.0
    return rows.astype(np.float32)


def one_hot(rng: Random, n: int, dim: int) -> Rows:
    rows = np.zeros((n, dim), dtype=np.float32)
    rows[np.arange(n), rng.integers(0, dim, n)] = rng.choice(
        np.array([1, -1, 0.5, 1e-7], np.float32), n
    )
    return rows


def spiked(rng: Random, n: int, dim: int) -> Rows:
    """One component so large that all others get the code 0."""
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    rows[np.arange(n), rng.integers(0, dim, n)] = 300.0
    return rows


def denormal_parts(rng: Random, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim)) * np.where(rng.random((n, dim)) < 0.7, 1e-41, 1e-14)
    rows[:, 0] = 1e-14
    return rows.astype(np.float32)


def norms_of_all_sizes(rng: Random, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim))
    rows *= 10.0 ** rng.uniform(-15, 15, (n, 1))
    return within_limits(rows)


def sizes_of_all_components(rng: Random, n: int, dim: int) -> Rows:
    return within_limits(rng.standard_normal((n, dim)) * 10.0 ** rng.uniform(-30, 15, (n, dim)))


def huge(rng: Random, n: int, dim: int) -> Rows:
    return within_limits(rng.choice([1e15, -1e15], (n, dim)) * rng.uniform(0.9, 1, (n, dim)))


def tiny(rng: Random, n: int, dim: int) -> Rows:
    return within_limits(rng.standard_normal((n, dim)) * 1e-15)


def clustered(rng: Random, n: int, dim: int) -> Rows:
    centres = rng.standard_normal((4, dim)) * 5
    rows = centres[rng.integers(0, 4, n)] + 0.01 * rng.standard_normal((n, dim))
    return rows.astype(np.float32)


def some_zero(rng: Random, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    rows[rng.random(n) < 0.4] = 0.0
    return rows


KINDS: list[Callable[[Random, int, int], Rows]] = [
    gaussian, near_ties, last_bits, duplicates, all_equal, constant, halves, one_hot, spiked,
    denormal_parts, norms_of_all_sizes, sizes_of_all_components, huge, tiny, clustered, some_zero,
]  # fmt: skip


def within_limits(rows: npt.NDArray[np.float64]) -> Rows:
    """Vectors that aren't extreme: their largest component lies between 1e-15 and 1e15."""
    found = np.clip(rows, -LARGEST, LARGEST).astype(np.float32)
    small = np.abs(found).max(axis=1) < SMALLEST
    found[small, 0] = SMALLEST
    return found


def hard_query(rng: Random, rows: Rows, metric: Metric) -> Rows:
    """A query that makes it hard to tell the rows apart."""
    row = rows[rng.integers(0, len(rows))].astype(np.float64)
    way = rng.integers(0, 6)
    if way == 0:
        query = row
    elif way == 1:
        query = row * (1 + 1e-4 * rng.standard_normal(len(row)))
    elif way == 2:  # along what the row's codes leave out, where Cauchy-Schwarz is an equality
        query = left_out(row)
    elif way == 3:
        query = rng.standard_normal(len(row)) * 10.0 ** rng.uniform(-14, 14)
    elif way == 4:
        query = -row
    else:
        query = rows.mean(axis=0, dtype=np.float64)
    if not query.any():
        query = np.ones(len(row)) if metric == "cosine" or way else query
    found: Rows = query.astype(np.float32)
    if query.any():
        found = within_limits(query[None, :])[0]
    return found


def left_out(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    unit = np.abs(row).max() / 127 or 1.0
    rest: npt.NDArray[np.float64] = row - unit * np.rint(row / unit)
    return rest


# Truth


def true_values(rows: Rows, query: Rows, metric: Metric) -> Values:
    exact, point = rows.astype(np.float64), query.astype(np.float64)
    products: Values = exact @ point
    if metric == "dot":
        return products
    if metric == "l2":
        products -= np.square(exact).sum(axis=1) / 2
        return products
    lengths: Values = np.sqrt(np.square(exact).sum(axis=1))
    products /= lengths * np.sqrt(np.square(point).sum())
    return products


def state_of(
    rows: Rows, metric: Metric, rng: Random, full: int = FULL
) -> tuple[State, Rows, set[int]]:
    """The rows in segments, some in small steps, and some that came and went."""
    n = len(rows)
    gone = set(map(int, np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.2]))))
    if len(gone) == n:
        gone.pop()
    parts: list[Segment] = []
    start = 0
    while start < n:
        end = min(n, start + int(rng.integers(1, n + 1)))
        ids = np.arange(start, end, dtype=np.int64)
        some = rows[start:end]
        coded = encode_rows(some, metric)
        parts = appended(parts, ids, coded, full=full)
        start = end
    parts = without(parts, np.array(sorted(gone), dtype=np.int64))
    return State(1, tuple(parts)), rows, gone


def check_candidates(rows: Rows, metric: Metric, rng: Random, full: int = FULL) -> None:
    """No row that is among the k best is missing, in batches, with filters and with rows gone."""
    state, rows, gone = state_of(rows, metric, rng, full)
    there = np.array([i not in gone for i in range(len(rows))])
    asked, wishes = [], []
    for _ in range(int(rng.choice([1, 1, 2, 5]))):
        query = hard_query(rng, rows, metric)
        wanted = max(1, int(rng.choice([1, 2, 10, len(rows) - 1, len(rows), len(rows) + 5])))
        allowed = np.ones(len(rows), dtype=bool)
        masks = None
        if rng.random() < 0.4:
            allowed = rng.random(len(rows)) < rng.choice([0.05, 0.5, 0.95])
            masks = [allowed[part.rowids[: part.count]] for part in state.segments]
        asked.append(ScanQuery(query, wanted, masks))
        wishes.append((query, wanted, allowed & there))
    outcome = candidates(state, asked, metric)
    for found, wish in zip(outcome, wishes, strict=True):
        check_found(found, rows, metric, *wish)
    measured = nearest(state, asked, metric, vectors=True)
    for near, (query, wanted, allowed) in zip(measured, wishes, strict=True):
        assert near.vectors is not None
        assert near.vectors.tobytes() == rows[near.rowids].tobytes()
        true = distances(rows[near.rowids], query, metric)
        assert near.distances.tobytes() == true.tobytes()
        every = distances(rows[allowed], query, metric)
        if len(every):
            last = np.sort(every)[min(wanted, len(every)) - 1]
            best = set(np.flatnonzero(allowed)[every <= last].tolist())
            assert best == set(near.rowids.tolist()), "a row is missing, or too far"


def candidates_of(rows: Rows, query: Rows, wanted: int, metric: Metric) -> Candidates:
    ids = np.arange(len(rows), dtype=np.int64)
    state = State(1, tuple(appended([], ids, encode_rows(rows, metric))))
    (found,) = candidates(state, [ScanQuery(query, wanted)], metric)
    return found


def check_found(
    candidates: Candidates,
    rows: Rows,
    metric: Metric,
    query: Rows,
    wanted: int,
    allowed: npt.NDArray[np.bool_],
) -> None:
    found = candidates.rowids
    assert len(set(found.tolist())) == len(found), "a row twice"
    assert allowed[found].all(), "a row that is gone or not allowed"
    values = true_values(rows, query, metric)
    truth = values[allowed]
    if not len(truth):
        assert not len(found)
        return
    worst = np.sort(truth)[-min(wanted, len(truth))]
    best = set(np.flatnonzero(allowed)[truth >= worst].tolist())
    assert best <= set(found.tolist()), f"{len(best - set(found.tolist()))} rows are missing"
    assert (candidates.most >= values[found]).all(), "a row is better than it can be"


# The tests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_no_row_among_the_best_is_missing(
    kind: Callable[[Random, int, int], Rows], metric: Metric
) -> None:
    for seed, dim in enumerate(DIMS):
        full = (64, 100, FULL)[seed % 3]
        rng = np.random.default_rng([seed, full])
        rows = kind(rng, 200 if dim < 1000 else 80, dim)
        if metric == "cosine":
            rows = rows[rows.any(axis=1)]
        check_candidates(rows, metric, rng, full)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.one_of(st.integers(1, 80), st.sampled_from(DIMS)),
    count=st.integers(1, 700),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    metric=st.sampled_from(METRICS),
    full=st.sampled_from([1, 63, 64, 65, 300, FULL]),
)
def test_no_row_is_missing_whatever_the_table(
    seed: int,
    dim: int,
    count: int,
    kinds: list[Callable[[Random, int, int], Rows]],
    metric: Metric,
    full: int,
) -> None:
    rng = np.random.default_rng(seed)
    share = max(1, min(count, 200_000 // dim, 200 * full) // len(kinds))
    rows = np.concatenate([kind(rng, share, dim) for kind in kinds])
    if metric == "cosine":
        rows = rows[rows.any(axis=1)]
    if len(rows):
        check_candidates(rows[rng.permutation(len(rows))], metric, rng, full)


@pytest.mark.parametrize("metric", METRICS)
def test_the_smallest_queries(metric: Metric) -> None:
    """In units of a tiny query's scale a huge row's value leaves float32."""
    rows = np.full((300, 64), 1e15, dtype=np.float32)
    rows[::2] = 1e-15
    rows[::2, 0] = SMALLEST
    rows[:, 1] = np.linspace(0.1, 1, 300) * rows[:, 2]
    queries = [np.full(64, SMALLEST, dtype=np.float32)]
    if metric != "cosine":
        queries.append(np.zeros(64, dtype=np.float32))
    for query in queries:
        for wanted in (1, 149, 160, 299, 1000):
            found = candidates_of(rows, query, wanted, metric)
            check_found(found, rows, metric, query, wanted, np.ones(300, dtype=bool))
