"""The resident copy of one table: loading it, keeping it fresh, and the rows a filter selects.

Each segment of a scan costs some time, whatever its size. So in a partitioned table only the keys
with many rows have segments of their own; the rows of small keys share segments, and a search in
such a key has its rows looked up by the file's index and gathered. A key is in one state either
large or small: all its rows lie in its own segments, or all in shared ones.

A filter's mask is kept by segment while the filter is asked for again. Rows that were changed since
stand behind the others, since a changed row is a new one for the copy; so only those have to be
asked about again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aiovec.backend import BoolArray, Expr, Int64Array
from aiovec.backend.contract import Found, VectorQuery
from aiovec.backend.memory import give_back

from ..connection import Ticket
from ..errors import check_stored
from ..layout import TableLayout, floor_of, newest_change, partition_value, quoted
from ..reads import condition_of, rowids_where, selected_rowids
from ..vectors import VectorReader, ordinary
from .approximate import Prefixes, Recall, SignReader, measure
from .codes import RowCodes, encode_rows
from .scan import Workspace
from .segments import (
    SHARED,
    CopyLimits,
    Segment,
    State,
    appended,
    compacted,
    gathered,
    needs_compaction,
    replaced,
    sparse,
    without,
)
from .settle import Batch, Snapshot, Timings
from .whole import whole_rows

# What a row takes beside its codes: scale, offset, error and rowid.
BYTES_BESIDE = 20
# Vectors encoded at once: what is computed on the way stays in the processor's cache, and is little
# beside the copy.
_BLOCK_BYTES = 384 * 1024
# For fewer rows their chunks would not be read whole.
_FEWEST = 256


class RowReader(Protocol):
    """Reads one table's rows within one snapshot."""

    width: int
    """The count of numbers of a row's codes."""
    together: int
    """The count of rows to read at once."""

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        """The codes of rows that have a vector, in the order of ``rowids``."""
        ...


def _together(dim: int) -> int:
    """Return the count of vectors to encode at once."""
    return max(_FEWEST, _BLOCK_BYTES // (4 * dim))


class ExactReader:
    """Reads for exact searches: codes, or the vectors themselves where the copy is ``whole``."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout, *, whole: bool) -> None:
        self.width = table.schema.dim
        self.together = _together(table.schema.dim)
        self._vectors = VectorReader(db, table)
        self._metric = table.schema.metric
        self._rows = whole_rows if whole else encode_rows

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        return self._rows(ordinary(self._vectors.read(rowids, ticket, present=True)), self._metric)


def holds_vectors(rows: int, dim: int, *, bits: bool, limits: CopyLimits) -> bool:
    """Return whether so few rows are copied as vectors."""
    return not bits and rows * 4 * dim <= limits.whole


def expected_bytes(rows: int, dim: int, *, bits: bool, limits: CopyLimits) -> int:
    """Return the bytes that the copy of so many rows takes."""
    whole = holds_vectors(rows, dim, bits=bits, limits=limits)
    # Two codes share a byte of each half.
    return rows * ((dim // 8 if bits else 4 * dim if whole else dim + dim % 2) + BYTES_BESIDE)


def key_of(values: Sequence[object]) -> Hashable:
    return tuple(map(partition_value, values))


def key_columns(table: TableLayout) -> list[str]:
    """The partition fields as columns of ``r``."""
    return [f"r.{quoted(name)}" for name in table.partitions]


def by_segments(
    rows: Sequence[tuple[Any, ...]], own: Collection[Hashable]
) -> list[tuple[Hashable, Int64Array]]:
    """The rowids of rows by the key of the segments they belong to; ``own`` are the large keys."""
    if not rows:
        return []
    if len(rows[0]) == 1 or not own:
        return [(SHARED, np.array([row[0] for row in rows], dtype=np.int64))]
    found: dict[Hashable, list[int]] = {}
    for rowid, *values in rows:
        key = key_of(values)
        found.setdefault(key if key in own else SHARED, []).append(rowid)
    return [(key, np.array(rowids, dtype=np.int64)) for key, rowids in found.items()]


def large_keys(
    db: sqlite3.Connection, table: TableLayout, least: int
) -> dict[Hashable, tuple[Any, ...]]:
    """Return the keys with at least so many rows, and the values of their columns."""
    if not table.partitions:
        return {}
    columns = ", ".join(key_columns(table))
    found = db.execute(
        f"SELECT {columns} FROM {table.rows} AS r GROUP BY {columns} HAVING count(*) >= ?", (least,)
    ).fetchall()
    return {key_of(values): tuple(values) for values in found}


def rowids_of_key(
    db: sqlite3.Connection, table: TableLayout, values: Sequence[object]
) -> Int64Array:
    condition = " AND ".join(f"{column} IS ?" for column in key_columns(table))
    return rowids_where(db, table, condition, values)


def moved(state: State, key: Hashable, rowids: Int64Array, full: int) -> State:
    """Return the state with these rows, which lie in shared segments, in segments of their key."""
    shared = state.of_key(SHARED)
    masks = [
        part.among(rowids, 0) & (part.offset[: part.count] > -np.inf) for part in shared.segments
    ]
    fresh: list[Segment] = []
    for part in gathered(shared, masks).segments:
        order = np.argsort(part.rowids)
        fresh = appended(fresh, key, part.rowids[order], part.rows(order), part.width, full=full)
    rest = without(shared.segments, rowids)
    others = [part for part in state.segments if part.key != SHARED]
    return State(state.change, (*rest, *others, *fresh))


def shared_rows(state: State) -> int:
    """Count the rows that share segments with others."""
    return sum(part.count - part.dead for part in state.segments if part.key == SHARED)


_MOST_MASKS = 64
# More rows than this are not asked about by a list of their rowids.
_MOST_LISTED = 4096
# About what a literal of a filter takes in memory: a short text and its place in a tuple.
_LITERAL = 80


@dataclass(frozen=True, slots=True)
class _Mask:
    """One filter's mask by segment's mark, and the newest state that was asked for it.

    It tells nothing about older states: what has changed since was asked about as it is now.
    """

    change: int
    parts: dict[object, BoolArray]
    literals: int
    """The count of the filter's literals, which are kept with its mask."""

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values()) + self.literals * _LITERAL


class Masks:
    """The masks of one copy's filters; the least recently used ones go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        # The least recently used one first. Not an OrderedDict, which hashes each key to go through
        # its values: that of a filter takes its whole tree.
        self._kept: dict[Expr, _Mask] = {}
        self._lock = threading.Lock()
        self.nbytes = 0
        """The bytes that they take; read on the event loop, so without the lock, under which
        filters are hashed."""

    def of(
        self, db: sqlite3.Connection, table: TableLayout, state: State, where: Expr
    ) -> list[BoolArray]:
        """For each segment of the state which of its rows the filter selects.

        The state must be that of the connection's snapshot.
        """
        with self._lock:
            kept = self._kept.get(where)
        fits = kept is not None and kept.change <= state.change
        known = dict(kept.parts) if kept is not None and fits else {}
        missing = [
            (segment, known.get(segment.mark))
            for segment in state.segments
            if len(known.get(segment.mark, ())) < segment.count
        ]
        if missing:
            self._ask(db, table, where, known, missing)
            if fits or kept is None:
                parts = {segment.mark: known[segment.mark] for segment in state.segments}
                self._keep(where, _Mask(state.change, parts, where.literals))
        else:
            with self._lock:
                last = self._kept.pop(where, None)
                if last is not None:
                    self._kept[where] = last
        return [known[segment.mark][: segment.count] for segment in state.segments]

    def _ask(
        self,
        db: sqlite3.Connection,
        table: TableLayout,
        where: Expr,
        known: dict[object, BoolArray],
        missing: Sequence[tuple[Segment, BoolArray | None]],
    ) -> None:
        unknown = [
            segment.rowids[0 if done is None else len(done) : segment.count]
            for segment, done in missing
        ]
        selected = _selected(db, table, where, np.concatenate(unknown))
        for segment, done in missing:
            part = segment.among(selected, 0 if done is None else len(done))
            known[segment.mark] = part if done is None else np.concatenate([done, part])

    def _keep(self, where: Expr, mask: _Mask) -> None:
        with self._lock:
            kept = self._kept.pop(where, None)
            if kept is not None and kept.change > mask.change:
                mask = kept
            self._kept[where] = mask
            size = sum(kept.nbytes for kept in self._kept.values())
            while len(self._kept) > 1 and (
                len(self._kept) > _MOST_MASKS or size > self._most_bytes
            ):
                size -= self._kept.pop(next(iter(self._kept))).nbytes
            self.nbytes = size


def _selected(
    db: sqlite3.Connection, table: TableLayout, where: Expr, among: Int64Array
) -> Int64Array:
    """The rowids that a filter selects, at least those ``among`` the given ones."""
    if len(among) > _MOST_LISTED:
        return selected_rowids(db, table, where)
    condition, values = condition_of(where, table)
    listed = f"({condition}) AND r._rowid IN (SELECT j.value FROM json_each(?) AS j)"
    return rowids_where(db, table, listed, [*values, json.dumps(among.tolist())])


# What is brought in while a search waits: so many rows, so many bytes of codes, which take some 60
# ms to encode, or this share of the copy. Of more, the copy is made anew while the file answers.
_ROWS_AT_ONCE, _BYTES_AT_ONCE, _SHARE_AT_ONCE = 4096, 6 * 2**20, 1 / 8


class OlderSnapshotError(Exception):
    """The copy is ahead of the reader's snapshot, which has to be taken anew."""


class ResidentCopy:
    """One table's codes, at the change number of some snapshot of the file, and what searches keep.

    ``bits`` has signs in the place of int8 codes. Filters' masks take at most ``most_for_masks``
    bytes. The workspace is that of all copies of a store.
    """

    def __init__(
        self,
        table: TableLayout,
        workspace: Workspace,
        *,
        bits: bool,
        most_for_masks: int,
    ) -> None:
        self.table = table
        self.bits = bits
        self.workspace = workspace
        self.masks = Masks(most_for_masks)
        self.prefixes = Prefixes(table.schema.metric)
        self._limits = workspace.limits
        self.recall: Recall | None = None
        self.state: State | None = None
        self.whole = False
        """True while rows are read as vectors; changes before the first of them, and by ``cut``."""
        # Rows in shared segments when it was last looked which keys are large.
        self._looked_at = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        state = self.state  # another thread may replace it meanwhile
        codes = 0 if state is None else state.nbytes
        return codes + self.masks.nbytes + self.prefixes.nbytes

    def reader(self, db: sqlite3.Connection) -> RowReader:
        """Reads rows as this copy holds them."""
        if self.bits:
            return SignReader(db, self.table)
        return ExactReader(db, self.table, whole=self.whole)

    def most_changes(self, rows: int) -> int:
        """Return the count of changes to bring in at once into a copy of so many rows."""
        nbytes = self.table.schema.dim // 8 if self.bits else self.table.schema.dim
        by_size = _BYTES_AT_ONCE // (4 * nbytes if self.whole else nbytes)
        return max(_ROWS_AT_ONCE, by_size, int(rows * _SHARE_AT_ONCE))

    def search_batch(
        self,
        snapshot: Snapshot,
        queries: Sequence[VectorQuery],
        timings: Timings,
    ) -> list[Found]:
        """Return the rows that each query found."""
        return Batch(self, snapshot, queries).answer(timings)

    def start(self, state: State) -> None:
        """Begin with what was loaded."""
        self._looked_at = shared_rows(state)
        self.state = state

    def advance(self, db: sqlite3.Connection, ticket: Ticket) -> State | None:
        """The state at the connection's snapshot; None where it has fallen behind too far."""
        change = newest_change(db)
        state = self.state  # another thread may replace it meanwhile
        if state is not None and state.change == change:
            return state
        with self._lock:
            return self._advance(db, ticket, change)

    def _advance(self, db: sqlite3.Connection, ticket: Ticket, change: int) -> State | None:
        state = self.state
        if state is None or state.change == change:
            return state
        if state.change > change:
            raise OlderSnapshotError
        self.state = self._advanced(db, ticket, state, change)
        return self.state

    def _advanced(
        self, db: sqlite3.Connection, ticket: Ticket, state: State, change: int
    ) -> State | None:
        table = self.table
        changes = _changes(db, table, state.change, self.most_changes(state.rows))
        if changes is None:
            return None
        rows, changed = changes
        segments: Sequence[Segment] = state.segments
        if len(changed):  # else another table changed
            reader = self.reader(db)
            some = with_vectors(table, rows)
            full = self._limits.full_segment
            segments = without(segments, changed)
            segments = add_rows(segments, reader, some, state.keys, ticket, full)
        return State(change, tuple(segments))

    def compact(self) -> None:
        """Give back the room of rows that are gone. Safe at any time, in any thread."""
        state = self.state
        if state is None or not needs_compaction(state):
            return
        parts = sparse(state)
        fresh = compacted(parts, full=self._limits.full_segment)
        with self._lock:
            # Writes may have been brought in meanwhile.
            if self.state is not None and (
                after := replaced(self.state, parts, fresh, full=self._limits.full_segment)
            ):
                self.state = after

    def may_cut(self) -> bool:
        """Return whether the table has grown too large to have its vectors in memory."""
        state = self.state
        return self.whole and state is not None and state.nbytes > 1.5 * self._limits.whole

    def cut(self) -> None:
        """Make codes of the vectors, which then go. Safe at any time, in any thread."""
        with self._lock:
            state = self.state
            if state is None or not self.whole:
                return
            segments: list[Segment] = []
            dim, metric = self.table.schema.dim, self.table.schema.metric
            for part in state.segments:
                rows = np.flatnonzero(part.offset[: part.count] > -np.inf)
                step = _together(dim)
                for start in range(0, len(rows), step):
                    block = rows[start : start + step]
                    segments = appended(
                        segments, part.key, part.rowids[block],
                        encode_rows(part.codes[block], metric), dim,
                        coming=len(rows) - start, full=self._limits.full_segment,
                    )  # fmt: skip
            self.whole = False
            self.state = State(state.change, tuple(segments))

    def may_regroup(self) -> bool:
        """Return whether so many rows came to shared segments that a key may have grown large."""
        state = self.state
        if state is None or not self.table.partitions:
            return False
        return shared_rows(state) >= self._looked_at + max(
            self._limits.own_segments, self._looked_at // 8
        )

    def regroup(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Give the keys that have grown large segments of their own, within one snapshot."""
        change = newest_change(db)
        for key, values in large_keys(db, self.table, self._limits.own_segments).items():
            # What is moved must be what the state has, so no write may be brought in meanwhile.
            with self._lock:
                state = self._advance(db, ticket, change)
                if state is None:
                    return
                if key not in state.keys:
                    rowids = rowids_of_key(db, self.table, values)
                    self.state = moved(state, key, rowids, self._limits.full_segment)
        if (state := self.state) is not None:
            self._looked_at = shared_rows(state)

    def may_measure(self) -> bool:
        """Return whether the recall of searches by bits is not known for so many rows."""
        state, recall = self.state, self.recall
        if state is None or not self.bits:
            return False
        return state.rows > 1 if recall is None else 2 * state.rows >= 3 * recall.rows

    def measure(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Measure how much a search by bits finds, within one snapshot."""
        state = self.advance(db, ticket)
        if state is not None:
            self.recall = measure(db, ticket, self.table, state)


def _changes(
    db: sqlite3.Connection, table: TableLayout, since: int, most: int
) -> tuple[Sequence[tuple[Any, ...]], Int64Array] | None:
    """Return the rows that were written since then, and the rowids of those and of the deleted.

    None where they are more than ``most``, or not all are known any more.
    """
    if since < floor_of(db, table):
        return None
    rows = db.execute(
        f"SELECT {_row_columns(table)} FROM {table.rows} AS r WHERE r._seq > ? LIMIT ?",
        (since, most + 1),
    ).fetchall()
    deleted = db.execute(
        "SELECT row FROM aiovec_deleted WHERE name = ? AND seq > ? LIMIT ?",
        (table.name, since, most + 1),
    ).fetchall()
    if len(rows) + len(deleted) > most:
        return None
    check_stored([row[0] for row in deleted], int, f"the deleted rows of {table.name!r}")
    return rows, np.array([row[0] for row in (*rows, *deleted)], dtype=np.int64)


class Loader:
    """Reads a table into a copy, a step at a time.

    Rows come in the order of their rowids. Where each step has a snapshot of its own, what was
    written between two of them is brought in first: then the rows up to the last one read are as
    they are in this snapshot. New ones have higher rowids, so their turn comes.
    """

    def __init__(self, db: sqlite3.Connection, copy: ResidentCopy, limits: CopyLimits) -> None:
        self.copy = copy
        self._limits = limits
        table, bits = copy.table, copy.bits
        self._table = table
        self._change = newest_change(db)
        VectorReader(db, table).check_rows()
        self._own = large_keys(db, table, limits.own_segments)
        counted = table.shadow("rowids") if table.schema.vector_nullable else table.rows
        (rows,) = db.execute(f"SELECT count(*) FROM {counted}").fetchone()
        copy.whole = holds_vectors(rows, table.schema.dim, bits=bits, limits=limits)
        self.expected_bytes: int = expected_bytes(rows, table.schema.dim, bits=bits, limits=limits)
        self._last = 0
        self._segments: list[Segment] = []

    def step(self, db: sqlite3.Connection, ticket: Ticket) -> bool:
        """Read the next rows; return False when the copy is ready."""
        full = self._limits.full_segment
        reader = self.copy.reader(db)
        self._bring_in(db, reader, ticket)
        rows = db.execute(
            f"SELECT {_row_columns(self._table)} FROM {self._table.rows} AS r "
            f"WHERE r._rowid > ? ORDER BY r._rowid LIMIT {full}",
            (self._last,),
        ).fetchall()
        if rows:
            self._last = rows[-1][0]
            some = with_vectors(self._table, rows)
            self._segments = add_rows(self._segments, reader, some, self._own, ticket, full)
        if len(rows) == full:
            return True
        self._trim()
        self.copy.start(State(self._change, tuple(self._segments)))
        db.execute("PRAGMA shrink_memory")
        give_back()
        return False

    def _bring_in(self, db: sqlite3.Connection, reader: RowReader, ticket: Ticket) -> None:
        """Bring in what was written since the step before; begin anew where that is too much."""
        change = newest_change(db)
        if change == self._change:
            return
        rows_so_far = sum(part.count - part.dead for part in self._segments)
        most = self.copy.most_changes(rows_so_far)
        changes = _changes(db, self._table, self._change, most)
        self._change = change
        if changes is None:
            self._last, self._segments = 0, []
            return
        rows, changed = changes
        known = [row for row in rows if row[0] <= self._last]
        some = with_vectors(self._table, known)
        full = self._limits.full_segment
        self._segments = without(self._segments, changed)
        self._segments = add_rows(self._segments, reader, some, self._own, ticket, full)

    def _trim(self) -> None:
        """Give back the room of segments that grew step by step, one after the other."""
        for place, segment in enumerate(self._segments):
            if len(segment.rowids) > segment.count:
                self._segments[place] = segment.with_room(segment.count)


def add_rows(
    segments: Sequence[Segment],
    reader: RowReader,
    rows: Sequence[tuple[Any, ...]],
    own: Collection[Hashable],
    ticket: Ticket,
    full: int,
) -> list[Segment]:
    """Return the segments with these rows, of which rowid and partition are given.

    ``own`` are the keys that have segments of their own.
    """
    grown = list(segments)
    for key, rowids in by_segments(rows, own):
        for start in range(0, len(rowids), reader.together):
            ticket.check()
            block = rowids[start : start + reader.together]
            codes = reader.read(block, ticket)
            coming = len(rowids) - start
            grown = appended(grown, key, block, codes, reader.width, coming=coming, full=full)
    return grown


def _row_columns(table: TableLayout) -> str:
    """The columns of ``r`` for ``with_vectors``."""
    columns = ["r._rowid", *key_columns(table)]
    if table.schema.vector_nullable:
        has = f"SELECT 1 FROM {table.shadow('rowids')} AS m WHERE m.rowid = r._rowid"
        columns.append(f"EXISTS ({has})")
    return ", ".join(columns)


def with_vectors(table: TableLayout, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Return the rows that have a vector, as ``add_rows`` takes them."""
    if not table.schema.vector_nullable:
        return rows
    return [row[:-1] for row in rows if row[-1]]
