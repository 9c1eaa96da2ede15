"""Distances as the contract defines them, for backends that measure candidates exactly.

A backend imports this module off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from .._model.arrays import Float32Array, Float64Array, Int64Array
from .._model.schema import Metric

# Components measured in one step, and the fewest rows in a step. More components would allocate new
# memory each time. With fewer rows, threads would switch more often and wait for the interpreter
# (``python -m bench search``).
_COMPONENTS, _FEWEST_ROWS = 49_152, 16
# Splits a float64 into an upper part of 29 bits and the rest.
_CUT = 2.0**24 + 1
# Below this squared cosine between a row's rest and the point, a share's error does not matter.
_ALONG = 2.0**-50
# Squared sine of angles that float64 cannot distinguish from 0.
_NO_ANGLE = 2.0**-156


def distances(vectors: Float32Array, query: Float32Array, metric: Metric) -> Float64Array:
    """Return distances in float64, so that distances of float32 vectors cannot overflow.

    ``query`` is one vector, or a matrix with a query for each row. A row's distance depends only on
    the row and its query. ``docs/internals/exact-search.md`` bounds the error: 2⁻⁴⁴ of the
    distance, even among rows that are nearly equal. The distance of a damaged vector may be NaN,
    without a NumPy warning.
    """
    count, dim = vectors.shape
    measured = np.empty(count, dtype=np.float64)
    step = max(_FEWEST_ROWS, _COMPONENTS // dim)
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, count, step):
            part = slice(start, start + step)
            rows = np.ascontiguousarray(vectors[part], dtype=np.float64)
            points = np.ascontiguousarray(
                query[None, :] if query.ndim == 1 else query[part], dtype=np.float64
            )
            measured[part] = _MEASURES[metric](rows, points)
    return measured


def scores_of(metric: Metric, distances: Sequence[float]) -> list[float]:
    """Return the scores of hits with these distances; higher is better."""
    if metric == "cosine":
        return [1.0 - distance for distance in distances]
    if metric == "l2":
        return [1.0 / (1.0 + distance) for distance in distances]
    return [-distance for distance in distances]


def _dot(rows: Float64Array, points: Float64Array) -> Float64Array:
    # The product of two float32 numbers is exact in float64. A sum of products is not exact, and
    # would order nearly equal rows wrongly. So each product is split: the upper parts are multiples
    # of one number, with few enough bits that their sum is exact.
    products = rows * points
    largest = np.abs(products).max(axis=1, initial=0.0)
    exponents = np.frexp(largest)[1] + (rows.shape[1].bit_length() + 1)
    border = np.ldexp(1.5, exponents)[:, None]
    upper = (products + border) - border
    products -= upper
    return cast("Float64Array", -(upper.sum(axis=1) + products.sum(axis=1)))


def _cosine(rows: Float64Array, points: Float64Array) -> Float64Array:
    products: Float64Array = (rows * points).sum(axis=1)
    of_rows, of_points = _squares(rows), _squares(points)
    cosines = products / (np.sqrt(of_rows) * np.sqrt(of_points))
    # Rounding may give a cosine just above 1.
    distances: Float64Array = 1.0 - np.clip(cosines, -1.0, 1.0)
    near = distances < 0.25  # these are measured by differences
    if near.any():
        shares = products / of_points
        if not near.all():
            rows, shares, of_rows = rows[near], shares[near], of_rows[near]
            if len(points) > 1:
                points, of_points = points[near], of_points[near]
        distances[near] = _cosine_of_near(rows, points, shares, of_rows, of_points)
    return distances


def _cosine_of_near(
    rows: Float64Array,
    points: Float64Array,
    shares: Float64Array,
    of_rows: Float64Array,
    of_points: Float64Array,
) -> Float64Array:
    """Return 1 - cos of small angles: s / (1 + cos), where s is the squared sine.

    Subtracting a number near 1 from 1 loses the digits that distinguish nearly equal rows. The sine
    is computed from the rest of a row, after the row's component along the query is subtracted.
    """
    # The upper part of a share has 29 bits, so its product with a float32 is exact.
    cut = shares * _CUT
    upper = cut - (cut - shares)
    rest = rows - upper[:, None] * points
    rest -= (shares - upper)[:, None] * points
    squares = _squares(rest)
    # A rounding error of the share leaves a little of the point in the rest.
    along = (rest * points).sum(axis=1)
    off = np.square(along) > _ALONG * squares * of_points
    if off.any():
        picked, lengths = (points[off], of_points[off]) if len(points) > 1 else (points, of_points)
        squares[off] = _squares(rest[off] - (along[off] / lengths)[:, None] * picked)
    sines = squares / of_rows
    sines[sines < _NO_ANGLE] = 0.0
    distances: Float64Array = sines / (1.0 + np.sqrt(1.0 - sines))
    return distances


def _squares(rows: Float64Array) -> Float64Array:
    # Not einsum, which adds sequentially: NumPy's pairwise sums lose less precision.
    return cast("Float64Array", np.square(rows).sum(axis=1))


def _l2(rows: Float64Array, points: Float64Array) -> Float64Array:
    return cast("Float64Array", np.sqrt(_squares(rows - points)))


_MEASURES: dict[Metric, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "cosine": _cosine,
    "l2": _l2,
    "dot": _dot,
}


def nearest_first(measured: Float64Array, limit: int) -> Int64Array:
    """Return the positions of the ``limit`` nearest rows and of all rows tied with the last one.

    Every backend returns all ties, and ``VectorStore`` breaks them by id for all backends.
    """
    best = np.argsort(measured, kind="stable")
    return best[measured[best] <= measured[best[limit - 1]]] if len(best) > limit else best
