"""Small tables: their copies hold the vectors themselves, so that no file is asked for them.

For a table of some thousand rows it is not the scan that takes the time, but encoding the query and
reading the candidates' vectors. One product in float32 gives each row a value; the rows that its
rounding cannot exclude are measured in float64, as everywhere (``docs/EXACT_SEARCH.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aiovec.backend import BoolArray, Float32Array, Float64Array, Int64Array, Metric
from aiovec.backend.contract import VectorQuery

from .codes import RowCodes, rounding
from .segments import State

# Numbers in one product. OpenBLAS uses threads from 460,800 on.
_AT_ONCE = 2**18


def whole_rows(vectors: Float32Array, metric: Metric) -> RowCodes:
    """Vectors in the place of codes. Their components are 0 or lie between 1e-15 and 1e15."""
    count = len(vectors)
    squares: Float64Array = np.square(vectors, dtype=np.float64).sum(axis=1)
    scale, offset = np.ones(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
    if metric == "cosine":
        scale[:] = 1 / np.sqrt(np.where(squares > 0, squares, 1.0))
    elif metric == "l2":
        offset[:] = squares / -2
    return RowCodes(vectors, scale, offset, np.zeros(count, dtype=np.float32))


def likeliest_whole(
    state: State, query: VectorQuery, masks: Sequence[BoolArray] | None, metric: Metric
) -> tuple[Int64Array, Float32Array]:
    """Return the rows that may be among the nearest, with their vectors.

    ``masks`` tell for each segment which of its rows may be found.
    """
    if not state.segments:
        return np.empty(0, dtype=np.int64), np.empty((0, len(query.vector)), dtype=np.float32)
    values = _values(state, query.vector, masks, metric)
    found = _reached(values, query.limit, _miss(state, query.vector, metric))
    return _rows(state, found)


def _values(
    state: State, query: Float32Array, masks: Sequence[BoolArray] | None, metric: Metric
) -> Float32Array:
    """The rows' values; minus infinity for those that are gone, or may not be found."""
    parts = []
    for number, segment in enumerate(state.segments):
        count = segment.count
        values = _products(segment.codes[:count], query)
        if metric == "cosine":
            values *= segment.scale[:count]
        if metric == "l2" or segment.dead:
            values += segment.offset[:count]
        if masks is not None:
            values[~masks[number][:count]] = -np.inf
        parts.append(values)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _products(rows: Float32Array, query: Float32Array) -> Float32Array:
    """The rows' products with the query, by one thread: BLAS gives a large product to several,
    which wait for each other where no core is free.
    """
    products = np.empty(len(rows), dtype=np.float32)
    step = max(1, _AT_ONCE // len(query))
    for start in range(0, len(rows), step):
        np.dot(rows[start : start + step], query, out=products[start : start + step])
    return products


def _miss(state: State, query: Float32Array, metric: Metric) -> float:
    """At least twice the most by which a value misses the true one."""
    length = 1.001 * math.sqrt(np.dot(query, query))
    share = 4 * rounding(len(query))
    if metric == "cosine":
        return share * length
    longest = state.longest
    return share * longest * (length + longest if metric == "l2" else length)


def _reached(values: Float32Array, limit: int, miss: float) -> Int64Array:
    """Where the rows stand that may be among the nearest."""
    floor = -np.inf
    if len(values) > limit:
        place = len(values) - limit
        floor = float(np.partition(values, place)[place]) - miss
    return np.flatnonzero(values >= floor if floor > -np.inf else values > -np.inf)


def _rows(state: State, places: Int64Array) -> tuple[Int64Array, Float32Array]:
    """The rows at these places, which rise, in the segments one after the other."""
    rowids, vectors, start = [], [], 0
    for segment in state.segments:
        mine = places
        if len(state.segments) > 1:
            first, last = np.searchsorted(places, (start, start + segment.count))
            mine = places[first:last] - start
        rowids.append(segment.rowids[mine])
        vectors.append(segment.codes[mine])
        start += segment.count
    if len(rowids) == 1:
        return rowids[0], vectors[0]
    return np.concatenate(rowids), np.concatenate(vectors)
