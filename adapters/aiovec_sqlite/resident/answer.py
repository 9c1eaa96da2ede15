"""Answering a batch of searches from a resident copy, on a reader's thread, in one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from aiovec.backend import Found, Metric, VectorQuery

from ..connection import Ticket
from ..filters import fixed_values, only_fixes
from ..layout import TableLayout, partition_value
from ..reads import by_rowids, split
from ..tuning import PREFIX_OVERSAMPLE, oversampled, prefix_of
from ..vectors import VectorReader
from .approximate import Sought, likeliest
from .bits import BIT_OVERSAMPLE, SignValues
from .codes import encode_queries
from .masks import BoolArray, Masks
from .prefixes import Prefixes, PrefixValues
from .rescoring import Nearest, Rescoring
from .scan import Asked, Candidates, candidates
from .segments import SHARED, State, gathered
from .timings import Timings
from .workspace import Workspace

# Where a filter selects less than this share of the rows, their codes are gathered and scanned
# alone.
_FEW = 1 / 16


@dataclass(slots=True)
class _Scan:
    """Queries that scan the same rows of the copy together."""

    state: State
    dims: int | None
    """How many components rank the rows; None for an exact scan."""
    places: list[int] = field(default_factory=list)
    masks: list[Sequence[BoolArray] | None] = field(default_factory=list)
    gathered: bool = False

    def add(self, place: int, mask: Sequence[BoolArray] | None) -> None:
        self.places.append(place)
        self.masks.append(mask)


def answer(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    state: State,
    masks: Masks,
    prefixes: Prefixes,
    queries: Sequence[VectorQuery],
    timings: Timings,
    workspace: Workspace,
    *,
    alone: bool,
    bits: bool = False,
) -> list[Found]:
    """What each query found. The state is that of the connection's snapshot.

    ``alone`` tells that no other batch is being answered, ``bits`` that the state holds signs.
    """
    with timings.stage("filter"):
        scans = _plan(db, table, state, masks, queries)
    found: dict[int, Candidates] = {}
    with timings.stage("scan"):
        for scan in scans:
            ticket.check()
            if bits:
                outcome = _by_bits(scan, queries, table.schema.metric, workspace, alone=alone)
            else:
                outcome = _run(scan, queries, table.schema.metric, prefixes, workspace, alone=alone)
            found.update(zip(scan.places, outcome, strict=True))
    with timings.stage("rescore"):
        rescoring = Rescoring(VectorReader(db, table), table.schema.metric, state, ticket)
        best = rescoring.nearest([found[place] for place in range(len(queries))], queries)
    with timings.stage("fetch"):
        answers = _fetch(db, ticket, table, queries, best)
    timings.add_batch(len(queries), rescoring.read)
    return answers


def _fetch(
    db: sqlite3.Connection,
    ticket: Ticket,
    table: TableLayout,
    queries: Sequence[VectorQuery],
    best: Sequence[Nearest],
) -> list[Found]:
    """The rows of all, by one statement for those that want the same columns."""
    answers: dict[int, Found] = {}
    for columns in {query.columns: None for query in queries}:
        places = [i for i, query in enumerate(queries) if query.columns == columns]
        mine = [best[place] for place in places]
        kept = [one.vectors for one in mine if one.vectors is not None]
        vectors = np.concatenate(kept) if columns.vector else None
        rowids = np.concatenate([one.rowids for one in mine])
        rows = by_rowids(db, ticket, table, rowids, columns, vectors)
        parts = split(rows, [len(one.rowids) for one in mine])
        for place, one, part in zip(places, mine, parts, strict=True):
            answers[place] = Found(part, one.distances.tolist())
    return [answers[place] for place in range(len(queries))]


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
    keys = state.keys
    for place, query in enumerate(queries):
        dims = prefix_of(query, table.schema.dim)
        key = _partition_of(query, table)
        if key is not None and key not in keys:
            key = SHARED
        part = state if key is None else state.of_key(key)
        mask: list[BoolArray] | None = None
        whole = key not in (None, SHARED) and only_fixes(query.where, table.schema)
        if query.where is not None and not whole:
            mask = masks.of(db, table, part, query.where)
            if sum(int(np.count_nonzero(one)) for one in mask) < _FEW * part.rows:
                few = _Scan(gathered(part, mask), dims, gathered=True)
                few.add(place, None)
                alone.append(few)
                continue
        shared.setdefault((key, dims), _Scan(part, dims)).add(place, mask)
    return [*shared.values(), *alone]


def _run(
    scan: _Scan,
    queries: Sequence[VectorQuery],
    metric: Metric,
    prefixes: Prefixes,
    workspace: Workspace,
    *,
    alone: bool,
) -> list[Candidates]:
    """The candidates of a scan's queries."""
    mine = [queries[place] for place in scan.places]
    if scan.dims is None:
        codes = encode_queries(np.stack([query.vector for query in mine]), metric)
        asked = [
            Asked(code, query.limit, mask)
            for code, query, mask in zip(codes, mine, scan.masks, strict=True)
        ]
        return candidates(scan.state, asked, metric, workspace, alone=alone)
    sought = _sought(scan, mine, PREFIX_OVERSAMPLE)
    # The lengths of gathered rows serve this search alone.
    kept = {} if scan.gathered else prefixes.of(scan.state, scan.dims)
    vectors = [query.vector for query in mine]
    values = partial(PrefixValues, vectors, scan.dims, metric, kept, workspace)
    return likeliest(scan.state, sought, values, workspace, alone=alone)


def _by_bits(
    scan: _Scan,
    queries: Sequence[VectorQuery],
    metric: Metric,
    workspace: Workspace,
    *,
    alone: bool,
) -> list[Candidates]:
    mine = [queries[place] for place in scan.places]
    values = partial(SignValues, [query.vector for query in mine], metric, workspace)
    sought = _sought(scan, mine, BIT_OVERSAMPLE)
    return likeliest(scan.state, sought, values, workspace, alone=alone)


def _sought(scan: _Scan, queries: Sequence[VectorQuery], oversample: float) -> list[Sought]:
    return [
        Sought(oversampled(query, oversample, scan.state.rows), mask)
        for query, mask in zip(queries, scan.masks, strict=True)
    ]


def _partition_of(query: VectorQuery, table: TableLayout) -> Hashable | None:
    """The key of the only partition that a query's filter leaves, if it leaves one."""
    if query.where is None or not table.partitions:
        return None
    fixed = fixed_values(query.where, table.schema)
    if len(fixed) < len(table.partitions):
        return None
    return tuple(partition_value(fixed[name]) for name in table.partitions)
