"""How much a search by bit codes finds, measured on the table itself."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from aiovec.backend import Metric

from ..connection import Ticket
from ..layout import TableLayout
from ..vectors import VectorReader
from .approximate import Sought, likeliest
from .bits import BIT_OVERSAMPLE, SignValues
from .codes import Float32Array
from .segments import Int64Array, State
from .workspace import Workspace

_K = 10
_SAMPLE = 100
# Rows compared with the sample at once, and queries scanned at once.
_BLOCK = 2048
_TOGETHER = 32
# Scores closer than this are ties: float32 sums differ.
_TIE = 1e-5


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of the nearest rows that searches for some of the table's own rows found.

    The row itself, which is always found, does not count.
    """

    recall: float
    k: int
    sample: int
    rows: int
    """How many rows the table had."""


def measure(
    db: sqlite3.Connection, ticket: Ticket, table: TableLayout, state: State
) -> Recall | None:
    """Search for some rows exactly and by bits. The state is that of the connection's snapshot."""
    rowids = np.sort(_alive(state))
    if len(rowids) < 2:
        return None
    # The same rows of the same table each time.
    places = np.random.default_rng(0).permutation(len(rowids))[:_SAMPLE]
    sample = np.sort(rowids[places])
    reader, metric = VectorReader(db, table), table.schema.metric
    queries = reader.read(sample, ticket)
    k = min(_K, len(rowids) - 1)
    least = _least_scores(reader, ticket, rowids, sample, queries, metric, k)
    wanted = min(len(rowids), int(k * BIT_OVERSAMPLE) + 1)
    workspace = Workspace(helpers=0)
    shares = []
    for start in range(0, len(sample), _TOGETHER):
        ticket.check()
        part = queries[start : start + _TOGETHER]
        values = partial(SignValues, list(part), metric, workspace)
        found = likeliest(state, [Sought(wanted)] * len(part), values, workspace, alone=False)
        for place, one in enumerate(found, start):
            others = one.rowids[one.rowids != sample[place]]
            scores = _scores(reader.read(others, ticket), queries[place : place + 1], metric)[:, 0]
            near = np.count_nonzero(scores >= least[place] - _TIE * abs(least[place]))
            shares.append(min(1.0, near / k))
    return Recall(float(np.mean(shares)), k, len(sample), len(rowids))


def _alive(state: State) -> Int64Array:
    parts = [
        part.rowids[: part.count][part.offset[: part.count] > -np.inf] for part in state.segments
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _least_scores(
    reader: VectorReader,
    ticket: Ticket,
    rowids: Int64Array,
    sample: Int64Array,
    queries: Float32Array,
    metric: Metric,
    k: int,
) -> npt.NDArray[np.float32]:
    """For each row of the sample the score of the k-th nearest other row."""
    best = np.full((k, len(sample)), -np.inf, dtype=np.float32)
    for start in range(0, len(rowids), _BLOCK):
        ticket.check()
        block = rowids[start : start + _BLOCK]
        scores = _scores(reader.read(block, ticket), queries, metric)
        mine = np.flatnonzero(np.isin(sample, block))
        scores[np.searchsorted(block, sample[mine]), mine] = -np.inf
        best = np.partition(np.concatenate([best, scores]), -k, axis=0)[-k:]
    least: npt.NDArray[np.float32] = best.min(axis=0)
    return least


def _scores(rows: Float32Array, queries: Float32Array, metric: Metric) -> npt.NDArray[np.float32]:
    """Scores of rows for queries, higher is nearer; float32 is enough to count by."""
    products: npt.NDArray[np.float32] = rows @ queries.T
    squares = np.einsum("ij,ij->i", rows, rows)[:, None]
    if metric == "cosine":
        products /= np.sqrt(squares)
    elif metric == "l2":
        # The query's own square is the same for all rows, and keeps a near row's score small.
        products = products * 2 - squares - np.einsum("ij,ij->i", queries, queries)
    return products
