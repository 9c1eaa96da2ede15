"""Answer a batch of searches from a resident copy, on a reader's thread, in one snapshot.

C code scans the codes for the whole batch and computes the candidates' distances from their
vectors. Threads on all cores share a large scan. Other Python threads continue to run.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aiovec.backend import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    Metric,
)
from aiovec.backend.contract import Columns, Found, Query
from aiovec.backend.memory import usable_cores

from ..connection import Ticket
from ..keyword_search import SnapshotWords, found_by_both, hybrid_hits
from ..layout import TableLayout
from ..reads import by_rowids, split
from ..vectors import VectorReader
from .copy import Masks
from .kernel.library import KINDS, METRICS, address, library, measured
from .parts import in_parts
from .scanfile import SpoiledFileError
from .segments import State, stacked


@dataclass(frozen=True, slots=True)
class ScanQuery:
    """A query, its limit, and for each segment a mask of the rows that the query may return."""

    vector: Float32Array
    limit: int
    masks: Sequence[BoolArray] | None = None
    """None if the query may return any row."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """Rows and their distances to a query, and their vectors if the batch needs them."""

    rowids: Int64Array
    distances: Float64Array
    vectors: Float32Array | None


def nearest(
    state: State,
    targets: Sequence[ScanQuery],
    metric: Metric,
    stop: ctypes.c_byte | None = None,
    *,
    vectors: bool = False,
    parts: int = 0,
    unit: int = 0,
) -> list[Nearest]:
    """Return each query's nearest rows, nearest first, including rows that tie with the last.

    With ``vectors``, return the rows' vectors too. If ``stop`` becomes true, the scan ends early,
    and the result is incomplete. At most ``parts`` threads share the scan, and each takes ``unit``
    rows at a time; 0 means a suitable number.
    """
    native = library()
    points = np.ascontiguousarray(stacked([target.vector for target in targets]), np.float32)
    count, dim = points.shape
    wanted = [max(1, min(target.limit, state.rows)) for target in targets]
    arguments = (
        KINDS[native.kind], state.records, len(state.segments), _mask_addresses(state, targets),
        address(points), (ctypes.c_int64 * count)(*wanted), count, dim, METRICS[metric],
        state.longest, None if stop is None else ctypes.byref(stop),
    )  # fmt: skip

    def results(
        call: Callable[..., int],
    ) -> tuple[list[int], Int64Array, Float64Array, Float32Array | None]:
        """Return where each query's rows end, and all rows, distances, and vectors.

        Repeats the call with more room if so many rows tie that they do not fit.
        """
        room = sum(2 * rows + 16 for rows in wanted)
        while True:
            output = np.empty(count + 2 * room, dtype=np.int64)
            kept = np.empty((room, dim), dtype=np.float32) if vectors else None
            base = address(output)
            rows = base + 8 * count
            total = call(room, base, rows, rows + 8 * room, None if kept is None else address(kept))
            if total < 0:
                raise MemoryError(_NO_MEMORY)
            if total <= room:
                rowids, far = output[count:].reshape(2, room)
                return output[:count].tolist(), rowids, far.view(np.float64), kept
            room = total

    parts = parts or _parts(state, count)
    if parts == 1:
        ends, rowids, far, kept = results(partial(native.functions["search"], *arguments))
    else:
        search = native.functions["begin"](*arguments, parts, unit or _UNIT // dim)
        if search is None:
            raise MemoryError(_NO_MEMORY)
        try:
            in_parts(partial(native.functions["part"], search), parts)
            ends, rowids, far, kept = results(partial(native.functions["end"], search))
        finally:
            native.functions["free"](search)
    if state.is_mapped and np.isnan(far[: ends[-1]]).any():
        raise SpoiledFileError
    slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [
        Nearest(rowids[part], far[part], None if kept is None else kept[part]) for part in slices
    ]


def _mask_addresses(
    state: State, targets: Sequence[ScanQuery]
) -> ctypes.Array[ctypes.c_void_p] | None:
    """Return the addresses of the queries' masks, by segment; None if no query has masks."""
    if all(target.masks is None for target in targets):
        return None
    addresses = [
        None if target.masks is None else address(target.masks[number])
        for number in range(len(state.segments))
        for target in targets
    ]
    return (ctypes.c_void_p * len(addresses))(*addresses)


# The fewest codes, times queries, per thread of a scan: with fewer, waking a thread takes longer
# than it saves. Four queries take as long as one, because memory bandwidth is the limit.
_OF_A_PART, _AS_ONE = 8 * 2**20, 4
# Codes that a thread takes at a time: a few tenths of a millisecond, so that all threads end at
# about the same time.
_UNIT = 2**20


def _parts(state: State, queries: int) -> int:
    """Return the number of threads that share a scan."""
    wanted = state.codes * max(1, queries // _AS_ONE) // _OF_A_PART
    return max(1, min(usable_cores(), wanted))


_NO_MEMORY = "no memory for a scan"
# If a filter selects less than this share of the rows, its query gets a separate scan, which
# multiplies only these rows.
_FEW = 1 / 16
# The most rows that the queries of a scan may return together; each takes about 400 bytes.
_WANTED = 65_536


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reader's snapshot of the file, and the copy's state at that snapshot."""

    db: sqlite3.Connection
    ticket: Ticket
    table: TableLayout
    state: State
    words: SnapshotWords | None = None


# The most queries that share a scan. With more, the codes would be read less often, but the first
# query would wait longer.
MOST_TOGETHER = 32


def found_by_scan(
    snapshot: Snapshot,
    masks: Masks,
    queries: Sequence[Query],
    on_scanned: Callable[[], object],
) -> Iterator[dict[int, Found]]:
    """Scan for all queries; return an iterator over dicts from queries' positions to results.

    Queries with few rows come first. Calls ``on_scanned`` before any field is read.
    """
    best: list[Nearest] = []
    for start in range(0, len(queries), MOST_TOGETHER):
        best += _best(snapshot, masks, queries[start : start + MOST_TOGETHER])
    snapshot.ticket.check()
    on_scanned()
    return _found(snapshot, queries, best)


def _best(snapshot: Snapshot, masks: Masks, queries: Sequence[Query]) -> list[Nearest]:
    """Return the nearest rows of each query."""
    state, ticket = snapshot.state, snapshot.ticket
    best: dict[int, Nearest] = {}
    targets = []
    for query in queries:
        mask = None
        if query.where is not None:
            mask = masks.of(snapshot.db, snapshot.table, state, query.where)
        targets.append(ScanQuery(query.vector, query.limit, mask))
    for places in _scans(targets, state):
        ticket.check()
        results = nearest(
            state, [targets[place] for place in places], snapshot.table.schema.metric, ticket.stop,
            # If the rows' bytes are counted, vectors are read after the other columns.
            vectors=any(
                queries[place].columns.vector and queries[place].columns.meter is None
                for place in places
            ),
        )  # fmt: skip
        best.update(zip(places, results, strict=True))
    return [best[place] for place in range(len(queries))]


def _scans(targets: Sequence[ScanQuery], state: State) -> Iterator[list[int]]:
    """Group the queries into scans: yield the positions of each scan's queries."""
    together: list[int] = []
    wanted = 0
    for place, target in enumerate(targets):
        if target.masks is not None:
            selected = sum(int(np.count_nonzero(mask)) for mask in target.masks)
            if selected < _FEW * state.rows:
                yield [place]
                continue
        limit = min(target.limit, state.rows)
        if together and wanted + limit > _WANTED:
            yield together
            together, wanted = [], 0
        together.append(place)
        wanted += limit
    if together:
        yield together


def _vectors(snapshot: Snapshot, rowids: Int64Array) -> Float32Array:
    """Return the vectors of rows; a row without a vector gets NaN.

    Vectors in sorted segments come from memory, all other vectors from the file.
    """
    state = snapshot.state
    wanted, places = np.unique(rowids, return_inverse=True)
    vectors = np.empty((len(wanted), snapshot.table.schema.dim), dtype=np.float32)
    left = np.ones(len(wanted), dtype=np.bool_)
    for segment in state.segments:
        if segment.ordered:
            rows = segment.places(wanted)
            known = np.searchsorted(wanted, segment.rowids[rows])
            vectors[known], left[known] = segment.vectors[rows], False
    if state.is_mapped and not np.isfinite(vectors[~left]).all():
        raise SpoiledFileError
    if left.any():
        reader = VectorReader(snapshot.db, snapshot.table)
        vectors[left] = reader.read(wanted[left], snapshot.ticket)
    return vectors[places]


# A query with more rows than this is read separately, so that no other query waits for it.
LARGE = 100


def _found(
    snapshot: Snapshot, queries: Sequence[Query], best: Sequence[Nearest]
) -> Iterator[dict[int, Found]]:
    """Read the rows of all queries; small queries for the same columns share a statement."""
    db, ticket, table = snapshot.db, snapshot.ticket, snapshot.table
    small: dict[tuple[bool, Columns], list[int]] = {}
    large: list[int] = []
    for place, query in enumerate(queries):
        is_large = (query.hits if query.by_both else len(best[place].rowids)) > LARGE
        key = query.by_both, query.columns
        (large if is_large else small.setdefault(key, [])).append(place)
    large.sort(key=lambda place: len(best[place].rowids))
    # Hybrid queries take longer, so they come later.
    groups = [small[key] for key in sorted(small, key=lambda key: key[0])]
    for places in [*groups, *([place] for place in large)]:
        query, group = queries[places[0]], [best[place] for place in places]
        if query.by_both:
            both = [
                hybrid_hits(
                    db, ticket, table, queries[place], best[place].rowids.tolist(),
                    best[place].distances.tolist(), snapshot.words,
                )
                for place in places
            ]  # fmt: skip
            answered = found_by_both(db, ticket, table, both, partial(_vectors, snapshot), measured)
            yield dict(zip(places, answered, strict=True))
            continue
        # Queries that count bytes, and queries of other scans, may have no vectors here.
        kept = [near.vectors for near in group if near.vectors is not None]
        every = query.columns.vector and len(kept) == len(group)
        vectors = np.concatenate(kept) if every else None
        joined = np.concatenate([near.rowids for near in group])
        rows = by_rowids(db, ticket, table, joined, query.columns, vectors)
        parts = [rows] if len(group) == 1 else split(rows, [len(near.rowids) for near in group])
        yield {
            place: Found(part, near.distances.tolist())
            for place, near, part in zip(places, group, parts, strict=True)
        }
