"""The scan, attacked by vectors of each hard kind, by the instructions that it chooses itself."""

from __future__ import annotations

import numpy as np
import pytest
from tests.harness.hard_vectors import KINDS, SMALLEST
from tests.unit.sqlite.scans import METRICS, Case, check_scan, random_case

from aiovec.backend import Metric
from aiovec_sqlite.copies.segments import appended, encode_rows

DIMS = [1, 2, 7, 63, 64, 65, 384, 4096]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("metric", "dims"),
    [
        (METRICS[0], DIMS[::3]),
        *(pytest.param(name, DIMS, marks=pytest.mark.slow) for name in METRICS),
    ],
)
def test_no_row_among_the_best_is_missing(kind: str, metric: Metric, dims: list[int]) -> None:
    """And none is better than its bound."""
    for seed, dim in enumerate(dims):
        rng = np.random.default_rng(seed)
        check_scan(
            random_case(rng, rows=200 if dim < 1000 else 80, dim=dim, metric=metric, kind=kind)
        )


@pytest.mark.parametrize("metric", METRICS)
def test_the_smallest_queries_find_huge_rows(metric: Metric) -> None:
    """In units of a tiny query's scale a huge row's value leaves float32."""
    rows = np.full((300, 64), 1e15, dtype=np.float32)
    rows[::2] = 1e-15
    rows[::2, 0] = SMALLEST
    rows[:, 1] = np.linspace(0.1, 1, 300) * rows[:, 2]
    segments = appended([], np.arange(300, dtype=np.int64), encode_rows(rows, metric))
    for value in (SMALLEST, np.float32(0))[: 1 if metric == "cosine" else 2]:
        wanted = [1, 149, 160, 299, 1000]
        points = np.full((len(wanted), 64), value, np.float32)
        check_scan(Case([*segments], points, wanted, [None] * len(wanted), metric))


@pytest.mark.parametrize("rounded", ["query", "rows"])
def test_a_row_that_its_codes_hide_is_found(rounded: str) -> None:
    """All that makes the nearest row the nearest is what rounding left out."""
    sharp, blunt = np.zeros(64, np.float32), np.full(64, 0.49 / 127, np.float32)
    sharp[1:], blunt[0] = 1, 1
    nearest, point = (sharp, blunt) if rounded == "query" else (blunt, sharp)
    rows = np.zeros((300, 64), np.float32)
    rows[:, 0 if rounded == "query" else 1] = np.linspace(0.01, 0.1, 300)
    rows[-1] = nearest
    assert rows[-1] @ point > 0.2 > (rows[:-1] @ point).max()
    segments = appended([], np.arange(300, dtype=np.int64), encode_rows(rows, "dot"))
    check_scan(Case([*segments], point[None, :], [1], [None], "dot"))
