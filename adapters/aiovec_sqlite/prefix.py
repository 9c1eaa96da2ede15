"""Candidates by a prefix of the vectors, read from the file in one pass."""

from __future__ import annotations

import sqlite3

import numpy as np
import numpy.typing as npt

from aiovec.backend import Metric, VectorQuery

from .connection import Ticket
from .layout import TableLayout
from .reads import selected_rowids
from .tuning import PREFIX_OVERSAMPLE, oversampled
from .vectors import VectorReader

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_BLOCK = 4096


def likeliest_by_prefix(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    vectors: VectorReader,
    query: VectorQuery,
    dims: int,
) -> Int64Array:
    """The rows whose first ``dims`` components are nearest to the query's."""
    selected = selected_rowids(db, table, query.where)
    wanted = oversampled(query, PREFIX_OVERSAMPLE, len(selected))
    if wanted == len(selected):
        return selected
    far = np.empty(len(selected), dtype=np.float64)
    for start in range(0, len(selected), _BLOCK):
        ticket.check()
        block = slice(start, start + _BLOCK)
        rows = vectors.read(selected[block], ticket)
        far[block] = _distances(rows[:, :dims], query.vector[:dims], table.schema.metric)
    return selected[np.argpartition(far, wanted - 1)[:wanted]]


def _distances(rows: Float32Array, point: Float32Array, metric: Metric) -> Float64Array:
    """Distances that rank rows; a row of zeros has no direction and so a cosine of 0."""
    wide, query = rows.astype(np.float64), point.astype(np.float64)
    if metric == "l2":
        squares: Float64Array = np.square(wide - query).sum(axis=1)
        return squares
    products: Float64Array = wide @ query
    if metric == "cosine":
        lengths = np.sqrt(np.square(wide).sum(axis=1))
        products /= np.where(lengths > 0, lengths, 1.0)
    return -products
