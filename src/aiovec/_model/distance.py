"""Distances as the contract defines them, for backends that settle their candidates with it.

Imported with a backend, off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from .arrays import Float32Array, Float64Array, Int64Array
from .schema import Metric

# Components measured at once, in rows of many of them at least so many. More would be new memory
# each time. Fewer hand the interpreter to other threads more often, and wait to get it back
# (``python -m bench search``).
_COMPONENTS, _LEAST_ROWS = 49_152, 16
# Cosine distances below this are measured by differences.
_NEAR = 0.25
# Cuts a float64 into an upper part of 29 bits and the rest.
_CUT = 2.0**24 + 1
# The square of a share's error that is too small to count.
_ALONG = 2.0**-50
# The sine's square of angles that float64 cannot tell from 0.
_NO_ANGLE = 2.0**-156


def distances(vectors: Float32Array, query: Float32Array, metric: Metric) -> Float64Array:
    """Distances in float64, in which no float32 can overflow.

    They are those to one query, or those of each row to the query in the same row. What is told
    for a row depends on it and its query alone.
    ``docs/internals/exact-search.md`` bounds the error: 2⁻⁴⁴ of the distance,
    also among rows that are nearly equal. The distance of a damaged vector may be NaN,
    which is no reason for a warning to the app.
    """
    count, dim = vectors.shape
    measured = np.empty(count, dtype=np.float64)
    step = max(_LEAST_ROWS, _COMPONENTS // dim)
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, count, step):
            some = slice(start, start + step)
            rows = np.ascontiguousarray(vectors[some], dtype=np.float64)
            points = np.ascontiguousarray(
                query[None, :] if query.ndim == 1 else query[some], dtype=np.float64
            )
            measured[some] = _MEASURES[metric](rows, points)
    return measured


def _euclidean(rows: Float64Array, points: Float64Array) -> Float64Array:
    return cast("Float64Array", np.sqrt(_squares(rows - points)))


def _dot(rows: Float64Array, points: Float64Array) -> Float64Array:
    # The product of two float32 is exact in float64, a sum of products is not, and would tell rows
    # that differ little in the wrong order. So each product is cut in two: the upper parts are
    # multiples of one number, few enough bits that they add up exactly.
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
    # Rounding may leave a cosine just beyond 1.
    found: Float64Array = 1.0 - np.clip(cosines, -1.0, 1.0)
    near = found < _NEAR
    if near.any():
        shares = products / of_points
        if not near.all():
            rows, shares, of_rows = rows[near], shares[near], of_rows[near]
            if len(points) > 1:
                points, of_points = points[near], of_points[near]
        found[near] = _cosine_of_near(rows, points, shares, of_rows, of_points)
    return found


def _cosine_of_near(
    rows: Float64Array,
    points: Float64Array,
    shares: Float64Array,
    of_rows: Float64Array,
    of_points: Float64Array,
) -> Float64Array:
    """1 - cos of small angles: s / (1 + cos), with s the sine's square.

    1 minus a number near 1 has lost the digits that tell near rows apart. The sine comes from what
    is left of a row without its share of the point.
    """
    # The upper part of a share has 29 bits, so its product with a float32 is exact.
    cut = shares * _CUT
    upper = cut - (cut - shares)
    rest = rows - upper[:, None] * points
    rest -= (shares - upper)[:, None] * points
    squares = _squares(rest)
    # A share that is off by its last bits leaves a little of the point in the rest.
    along = (rest * points).sum(axis=1)
    off = np.square(along) > _ALONG * squares * of_points
    if off.any():
        mine, lengths = (points[off], of_points[off]) if len(points) > 1 else (points, of_points)
        squares[off] = _squares(rest[off] - (along[off] / lengths)[:, None] * mine)
    sines = squares / of_rows
    sines[sines < _NO_ANGLE] = 0.0
    found: Float64Array = sines / (1.0 + np.sqrt(1.0 - sines))
    return found


def _squares(rows: Float64Array) -> Float64Array:
    # Not einsum, which adds up one after the other: NumPy's sums go by halves, and lose less.
    return cast("Float64Array", np.square(rows).sum(axis=1))


_MEASURES: dict[Metric, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "cosine": _cosine,
    "l2": _euclidean,
    "dot": _dot,
}


def nearest_first(measured: Float64Array, limit: int) -> Int64Array:
    """Positions by distance, ``limit`` of them, and those that equal the last one.

    Which of equal ones counts is told by the id, in one place for all backends.
    """
    best = np.argsort(measured, kind="stable")
    return best[measured[best] <= measured[best[limit - 1]]] if len(best) > limit else best
