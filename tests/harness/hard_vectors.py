"""Vectors that are hard to tell apart in 8 bits, in float32, or after rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from aiovec.backend import Metric

Rows = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Random = np.random.Generator

LARGEST, SMALLEST = np.float32(1e15), np.float32(1.0000001e-15)


def near_ties(rng: Random, n: int, dim: int) -> Values:
    """Return vectors that differ only by noise far below the resolution of int8."""
    noise = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-8, -2, (n, 1))
    rows: Values = rng.standard_normal(dim) * (1 + noise)
    return rows


def last_bits(rng: Random, n: int, dim: int) -> Rows:
    """Return copies of a vector, each with one component moved by one unit in the last place."""
    sizes = 10.0 ** -rng.integers(0, rng.choice([1, 16]), dim)
    rows = np.tile((rng.standard_normal(dim) * sizes).astype(np.float32), (n, 1))
    spots = rng.integers(0, dim, n)
    up = np.where(rng.random(n) < 0.5, np.float32(np.inf), np.float32(-np.inf))
    rows[np.arange(n), spots] = np.nextafter(rows[np.arange(n), spots], up.astype(np.float32))
    return rows


def duplicates(rng: Random, n: int, dim: int) -> Values:
    few = rng.standard_normal((max(1, n // 7), dim))
    return few[rng.integers(0, len(few), n)]


def halves(rng: Random, n: int, dim: int) -> Values:
    """Return components that lie halfway between two codes, where rounding loses the most."""
    rows = (rng.integers(-126, 126, (n, dim)) + 0.5) / 127
    rows[:, 0] = 1.0
    return rows


def one_hot(rng: Random, n: int, dim: int) -> Values:
    rows = np.zeros((n, dim))
    rows[np.arange(n), rng.integers(0, dim, n)] = rng.choice([1, -1, 0.5, 1e-7], n)
    return rows


def spiked(rng: Random, n: int, dim: int) -> Values:
    """Return rows with one component so large that all others get the code 0."""
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
    """Return rows of a kind, within the limits of aiovec; for cosine, without zero vectors."""
    made = KINDS[kind](rng, n, dim)
    zero = ~made.any(axis=1)
    rows = within_limits(made)
    rows[zero] = 0
    kept: Rows = rows[~zero] if metric == "cosine" else rows
    return kept


def within_limits(rows: npt.NDArray[np.floating]) -> Rows:
    """Limit vectors so that the largest component of each is between 1e-15 and 1e15."""
    limited: Rows = np.clip(rows, -LARGEST, LARGEST).astype(np.float32)
    small = np.abs(limited).max(axis=1) < SMALLEST
    limited[small, 0] = SMALLEST
    return limited


def hard_query(rng: Random, rows: Rows, metric: Metric) -> Rows:
    """Return a query that makes it hard to tell the rows apart."""
    row = rows[rng.integers(0, len(rows))].astype(np.float64)
    unit = np.abs(row).max() / 127 or 1.0
    query = (
        row,
        row * (1 + 1e-4 * rng.standard_normal(len(row))),
        # The rounding error of the row's codes: in its direction, Cauchy-Schwarz is an equality.
        row - unit * np.rint(row / unit),
        rng.standard_normal(len(row)) * 10.0 ** rng.uniform(-14, 14),
        -row,
        rows.mean(axis=0, dtype=np.float64),
    )[rng.integers(0, 6)]
    if not query.any():
        return np.full(len(row), metric == "cosine", np.float32)
    limited: Rows = within_limits(query[None, :])[0]
    return limited
