"""A batch of searches answered from a resident copy, on a reader's thread, in one snapshot.

One call into C scans the codes for the batch and measures the candidates by their vectors, during
which Python's other threads run.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aiovec.backend import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    Metric,
)
from aiovec.backend.contract import Found, VectorQuery

from ..connection import Ticket
from ..layout import TableLayout
from ..reads import by_rowids, split
from .copy import Masks
from .kernel.library import KINDS, METRICS, address, library
from .segments import State, stacked


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, how many rows it wants, and which rows of each segment it may find (None: all)."""

    vector: Float32Array
    wanted: int
    masks: Sequence[BoolArray] | None = None


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows and their distances to a query; vectors where the batch wants any."""

    rowids: Int64Array
    distances: Float64Array
    vectors: Float32Array | None


def nearest(
    state: State,
    asked: Sequence[Asked],
    metric: Metric,
    stop: ctypes.c_byte | None = None,
    *,
    vectors: bool = False,
) -> list[Nearest]:
    """Return each query's nearest rows, and those that equal the last one, the nearest first.

    Their vectors come along on demand. Where ``stop`` becomes true the scan ends early, and rows
    are missing.
    """
    room = sum(2 * min(one.wanted, state.rows) + 16 for one in asked)
    search = Search(state, asked, metric, stop)
    ends, rowids, far, kept = search.run(room, vectors=vectors)
    return [
        Nearest(rowids[part], far[part], None if kept is None else kept[part])
        for part in slices(ends)
    ]


def slices(ends: Sequence[int]) -> list[slice]:
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class Search:
    """The arguments of one call; not ``settled``, it gives all candidates."""

    def __init__(
        self,
        state: State,
        asked: Sequence[Asked],
        metric: Metric,
        stop: ctypes.c_byte | None,
        *,
        settled: bool = True,
    ) -> None:
        self._library = library()
        self._points = np.ascontiguousarray(stacked([one.vector for one in asked]), np.float32)
        count, self._dim = self._points.shape
        masks = None
        if any(one.masks is not None for one in asked):
            places = [
                None if one.masks is None else address(one.masks[number])
                for number in range(len(state.segments))
                for one in asked
            ]
            masks = (ctypes.c_void_p * len(places))(*places)
        self._count = count
        wanted = [max(1, min(one.wanted, state.rows)) for one in asked]
        self._arguments = (
            KINDS[self._library.kind], state.records, len(state.segments), masks,
            address(self._points), (ctypes.c_int64 * count)(*wanted), count,
            self._dim, METRICS[metric], state.longest, int(settled),
            None if stop is None else ctypes.byref(stop),
        )  # fmt: skip

    def run(
        self, room: int, *, vectors: bool = False
    ) -> tuple[list[int], Int64Array, Float64Array, Float32Array | None]:
        """Return where each query's rows end, the rows, their numbers, and their vectors.

        Where there are more rows than there is room for, which takes many that are equal, all is
        done again.
        """
        while True:
            found = np.empty(self._count + 2 * room, dtype=np.int64)
            kept = np.empty((room, self._dim), dtype=np.float32) if vectors else None
            place = address(found)
            rows = place + 8 * self._count
            total = self._library.search(
                *self._arguments, room, place, rows, rows + 8 * room,
                None if kept is None else address(kept),
            )  # fmt: skip
            if total < 0:
                raise MemoryError("no memory for a scan")
            if total <= room:
                ends = found[: self._count].tolist()
                rowids, numbers = found[self._count :].reshape(2, room)
                return ends, rowids, numbers.view(np.float64), kept
            room = total


# Where a filter selects less than this share of the rows, its query has a scan of its own, which
# multiplies few of them.
_FEW = 1 / 16
# Rows that the queries of a scan may want together, which takes some 400 bytes for each.
_WANTED = 65_536


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reader's snapshot of the file, and the copy's state at it."""

    db: sqlite3.Connection
    ticket: Ticket
    table: TableLayout
    state: State


def answer(snapshot: Snapshot, masks: Masks, queries: Sequence[VectorQuery]) -> list[Found]:
    """Return what each query finds."""
    state, ticket = snapshot.state, snapshot.ticket
    best: dict[int, Nearest] = {}
    asked = []
    for query in queries:
        mask = None
        if query.where is not None:
            mask = masks.of(snapshot.db, snapshot.table, state, query.where)
        asked.append(Asked(query.vector, query.limit, mask))
    for places in _scans(asked, state):
        ticket.check()
        found = nearest(
            state, [asked[place] for place in places], snapshot.table.schema.metric, ticket.stop,
            vectors=any(queries[place].columns.vector for place in places),
        )  # fmt: skip
        best.update(zip(places, found, strict=True))
    ticket.check()
    return _fetch(snapshot, queries, [best[place] for place in range(len(queries))])


def _scans(asked: Sequence[Asked], state: State) -> Iterator[list[int]]:
    """The places of queries that scan the rows together."""
    together: list[int] = []
    wanted = 0
    for place, one in enumerate(asked):
        if one.masks is not None:
            selected = sum(int(np.count_nonzero(mask)) for mask in one.masks)
            if selected < _FEW * state.rows:
                yield [place]
                continue
        limit = min(one.wanted, state.rows)
        if together and wanted + limit > _WANTED:
            yield together
            together, wanted = [], 0
        together.append(place)
        wanted += limit
    if together:
        yield together


def _fetch(
    snapshot: Snapshot, queries: Sequence[VectorQuery], best: Sequence[Nearest]
) -> list[Found]:
    """Read the rows of all, by one statement for those that want the same columns."""
    answers: dict[int, Found] = {}
    for columns in {query.columns: None for query in queries}:
        places = [i for i, query in enumerate(queries) if query.columns == columns]
        mine = [best[place] for place in places]
        kept = [one.vectors for one in mine if one.vectors is not None]
        vectors = np.concatenate(kept) if columns.vector else None
        rowids = np.concatenate([one.rowids for one in mine])
        rows = by_rowids(snapshot.db, snapshot.ticket, snapshot.table, rowids, columns, vectors)
        parts = split(rows, [len(one.rowids) for one in mine]) if len(mine) > 1 else [rows]
        for place, one, part in zip(places, mine, parts, strict=True):
            answers[place] = Found(part, one.distances.tolist())
    return [answers[place] for place in range(len(queries))]
