"""The resident copies of a store's tables: loading, keeping fresh, and giving way to others."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ..connection import Ticket
from ..layout import TableLayout, partition_value, quoted
from ..vectors import VectorReader
from .codes import encode_rows
from .segments import (
    FULL,
    Int64Array,
    Segment,
    State,
    appended,
    compacted,
    needs_compaction,
    without,
)

# More changes than this are not brought in while a search waits.
_MOST_CHANGES = 4096
# What a row takes beside its codes: scale, offset, error and rowid.
BYTES_BESIDE = 20


class OlderSnapshotError(Exception):
    """The copy is ahead of the reader's snapshot, which has to be taken anew."""


class ResidentCopy:
    """One table's codes, at the change number of some snapshot of the file."""

    def __init__(self, table: TableLayout) -> None:
        self.table = table
        self.state: State | None = None
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return 0 if self.state is None else self.state.nbytes

    def advance(self, db: sqlite3.Connection, ticket: Ticket) -> State | None:
        """The state at the connection's snapshot; None where it has fallen behind too far."""
        change = newest_change(db)
        state = self.state  # another thread may replace it meanwhile
        if state is not None and state.change == change:
            return state
        with self._lock:
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
        (floor,) = db.execute(
            "SELECT floor FROM aiovec_tables WHERE name = ?", (table.name,)
        ).fetchone()
        if state.change < floor:
            return None
        rows = db.execute(
            f"SELECT _rowid{_key_columns(table)} FROM {table.rows} WHERE _seq > ? LIMIT ?",
            (state.change, _MOST_CHANGES + 1),
        ).fetchall()
        deleted = db.execute(
            "SELECT row FROM aiovec_deleted WHERE name = ? AND seq > ? LIMIT ?",
            (table.name, state.change, _MOST_CHANGES + 1),
        ).fetchall()
        if len(rows) + len(deleted) > _MOST_CHANGES:
            return None
        if not rows and not deleted:  # another table changed
            return State(change, state.segments)
        changed = np.array([row[0] for row in (*rows, *deleted)], dtype=np.int64)
        segments = without(state.segments, changed)
        segments = add_rows(segments, table, VectorReader(db, table), rows, ticket)
        return State(change, tuple(segments))

    def compact(self) -> None:
        """Give back the room of rows that are gone. Safe at any time, in any thread."""
        state = self.state
        if state is None or not needs_compaction(state):
            return
        smaller = State(state.change, tuple(compacted(state.segments)))
        with self._lock:
            # Where a write came in between, the next one will ask again.
            if self.state is state:
                self.state = smaller


class Loader:
    """Reads a table into a copy, a step at a time, within one snapshot."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        self.copy = ResidentCopy(table)
        self._db = db
        self._table = table
        self._change = newest_change(db)
        self._vectors = VectorReader(db, self._table)
        (rows,) = db.execute(f"SELECT count(*) FROM {table.rows}").fetchone()
        self.expected_bytes = int(rows * (table.schema.dim + BYTES_BESIDE))
        self._last = 0
        self._segments: list[Segment] = []

    def step(self, ticket: Ticket) -> bool:
        """Read the next rows; False when the copy is ready."""
        rows = self._db.execute(
            f"SELECT _rowid{_key_columns(self._table)} FROM {self._table.rows} "
            f"WHERE _rowid > ? ORDER BY _rowid LIMIT {FULL}",
            (self._last,),
        ).fetchall()
        if rows:
            self._last = rows[-1][0]
            self._segments = add_rows(self._segments, self._table, self._vectors, rows, ticket)
        if len(rows) == FULL:
            return True
        # The last one grew step by step.
        trimmed = (segment.with_room(segment.count) for segment in self._segments)
        self.copy.state = State(self._change, tuple(trimmed))
        return False


def newest_change(db: sqlite3.Connection) -> int:
    """The number of the store's newest change, in this snapshot."""
    (number,) = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
    return int(number)


def add_rows(
    segments: Sequence[Segment],
    table: TableLayout,
    vectors: VectorReader,
    rows: Sequence[tuple[Any, ...]],
    ticket: Ticket,
) -> list[Segment]:
    """The segments with these rows, of which rowid and partition are given."""
    grown = list(segments)
    schema = table.schema
    for key, rowids in _by_key(rows):
        for start in range(0, len(rowids), _BLOCK):
            ticket.check()
            block = rowids[start : start + _BLOCK]
            codes = encode_rows(vectors.read(block, ticket), schema.metric)
            grown = appended(grown, key, block, codes, schema.dim, coming=len(rowids) - start)
    return grown


# Rows encoded at once: what a step computes on the way stays in the processor's cache.
_BLOCK = 2048


def _by_key(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Hashable, Int64Array]]:
    if not rows or len(rows[0]) == 1:
        return [((), np.array(rows, dtype=np.int64).reshape(-1))] if rows else []
    found: dict[Hashable, list[int]] = {}
    for rowid, *key in rows:
        found.setdefault(tuple(map(partition_value, key)), []).append(rowid)
    return [(key, np.array(rowids, dtype=np.int64)) for key, rowids in found.items()]


def _key_columns(table: TableLayout) -> str:
    return "".join(f", {quoted(name)}" for name in table.partitions)
