"""Answering a batch of searches from a resident copy, on a reader's thread, in one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from aiovec.backend import Found, VectorQuery

from ..connection import Ticket
from ..filters import fixed_values
from ..layout import TableLayout, partition_value
from ..reads import by_rowids
from ..search import Float32Array, distances, nearest_first
from ..vectors import VectorReader
from .codes import encode_query
from .masks import BoolArray, Masks
from .scan import Asked, candidates
from .segments import Int64Array, State, gathered
from .timings import Timings
from .workspace import Workspace

# Where a filter selects less than this share of the rows, their codes are gathered and scanned
# alone.
_FEW = 1 / 16
# Where there are this many rows for each candidate, hardly two of these lie in one chunk.
_SPARSE = 32


@dataclass(slots=True)
class _Scan:
    """Queries that scan the same rows of the copy together."""

    state: State
    places: list[int]
    asked: list[Asked]


def answer(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    state: State,
    masks: Masks,
    queries: Sequence[VectorQuery],
    timings: Timings,
    workspace: Workspace,
    *,
    alone: bool,
) -> list[Found]:
    """What each query found. The state is that of the connection's snapshot.

    ``alone`` tells that no other batch is being answered.
    """
    with timings.stage("filter"):
        scans = _plan(db, table, state, masks, queries)
    found: list[Int64Array] = [np.empty(0, dtype=np.int64)] * len(queries)
    with timings.stage("scan"):
        for scan in scans:
            ticket.check()
            outcome = candidates(
                scan.state, scan.asked, table.schema.metric, workspace, alone=alone
            )
            for place, rowids in zip(scan.places, outcome, strict=True):
                found[place] = rowids
    with timings.stage("rescore"):
        # One statement for all of a batch: each costs more than the rows it reads.
        rowids, inverse = np.unique(np.concatenate(found), return_inverse=True)
        sparse = len(rowids) * _SPARSE < state.rows
        vectors = VectorReader(db, table).read(rowids, ticket, scattered=sparse)
        ends = np.cumsum([len(part) for part in found])
        best = [
            _nearest(rowids, vectors, inverse[end - len(part) : end], query, table)
            for part, end, query in zip(found, ends, queries, strict=True)
        ]
    with timings.stage("fetch"):
        answers = [
            Found(by_rowids(db, ticket, table, rowids, query.columns, kept), measured.tolist())
            for (rowids, measured, kept), query in zip(best, queries, strict=True)
        ]
    timings.add_batch(len(queries), sum(map(len, found)))
    return answers


def _nearest(
    rowids: Int64Array,
    vectors: Float32Array,
    places: Int64Array,
    query: VectorQuery,
    table: TableLayout,
) -> tuple[Int64Array, np.ndarray, Float32Array | None]:
    mine = vectors[places]
    measured = distances(mine, query.vector, table.schema.metric)
    best = nearest_first(measured, query.limit)
    kept = mine[best] if query.columns.vector else None
    return rowids[places[best]], measured[best], kept


def _plan(
    db: sqlite3.Connection,
    table: TableLayout,
    state: State,
    masks: Masks,
    queries: Sequence[VectorQuery],
) -> list[_Scan]:
    """Which queries scan which rows: those of a partition, those few of a filter, or all."""
    shared: dict[Hashable, _Scan] = {}
    alone: list[_Scan] = []
    for place, query in enumerate(queries):
        codes = encode_query(query.vector, table.schema.metric)
        key = _partition_of(query, table)
        part = state if key is None else state.of_key(key)
        mask: list[BoolArray] | None = None
        if query.where is not None:
            mask = masks.of(db, table, part, query.where)
            if sum(int(np.count_nonzero(one)) for one in mask) < _FEW * part.rows:
                few = gathered(part, mask)
                alone.append(_Scan(few, [place], [Asked(codes, query.limit)]))
                continue
        scan = shared.setdefault(key, _Scan(part, [], []))
        scan.places.append(place)
        scan.asked.append(Asked(codes, query.limit, mask))
    return [*shared.values(), *alone]


def _partition_of(query: VectorQuery, table: TableLayout) -> Hashable | None:
    """The key of the only partition that a query's filter leaves, if it leaves one."""
    if query.where is None or not table.partitions:
        return None
    fixed = fixed_values(query.where, table.schema)
    if len(fixed) < len(table.partitions):
        return None
    return tuple(partition_value(fixed[name]) for name in table.partitions)
