"""Distances as the contract defines them, for backends that settle their candidates with it.

Imported with a backend, off the event loop.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from .schema import Metric

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# Components beyond these make squares that leave float32 or drown in its denormals.
_LARGEST, _SMALLEST = 1e15, 1e-15
_BLOCK = 256


def is_extreme(vectors: Float32Array) -> bool:
    """Whether float32 distances cannot rank some of these vectors: NaN too, as damage may leave."""
    # By blocks that stay in the processor's cache: a copy of all would cost more than the look.
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        if not max(block.max(initial=0.0), -block.min(initial=0.0)) <= _LARGEST:
            return True
        # Only rows that begin so small can be so small everywhere.
        small = np.abs(block[:, :1]).max(axis=1, initial=0.0) < _SMALLEST
        if small.any():
            sizes = np.abs(block[small]).max(axis=1, initial=0.0)
            if ((sizes < _SMALLEST) & (sizes > 0)).any():
                return True
    return False


def distances(vectors: Float32Array, query: Float32Array, metric: Metric) -> Float64Array:
    """Distances in float64, in which no float32 can overflow.

    They are those to one query, or those of each row to the query in the same row. That of a
    damaged vector may be NaN, which is no reason for a warning to the app.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return _distances(vectors, query, metric)


def _distances(vectors: Float32Array, query: Float32Array, metric: Metric) -> Float64Array:
    rows = vectors.astype(np.float64)
    point = query.astype(np.float64)
    if metric == "l2":
        squares = np.square(rows - point).sum(axis=1)
        return cast("Float64Array", np.sqrt(squares))
    # Row by row: a matrix product may sum equal rows in different ways and so part equal hits.
    products: Float64Array = np.einsum("ij,ij->i", rows, np.broadcast_to(point, rows.shape))
    if metric == "dot":
        return -products
    lengths = np.sqrt(np.square(rows).sum(axis=1)) * np.sqrt(np.square(point).sum(axis=-1))
    cosines: Float64Array = products / lengths
    # Rounding may leave a cosine just beyond 1.
    return 1.0 - np.clip(cosines, -1.0, 1.0)


def nearest_first(measured: Float64Array, limit: int) -> Int64Array:
    """Positions by distance, ``limit`` of them, and those that equal the last one.

    Which of equal ones counts is told by the id, in one place for all backends.
    """
    best = np.argsort(measured, kind="stable")
    return best[measured[best] <= measured[best[limit - 1]]] if len(best) > limit else best
