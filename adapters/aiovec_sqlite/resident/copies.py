"""The resident copies of a store's tables: loading, keeping fresh, and giving way to others."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np

from aiovec.backend import give_back

from ..connection import Ticket
from ..layout import TableLayout, floor_of, newest_change
from ..stored import check_stored
from ..vectors import VectorReader
from .partitions import (
    OWN,
    by_segments,
    key_columns,
    large_keys,
    moved,
    rowids_of_key,
    shared_rows,
)
from .reading import RowReader, bytes_of_row, row_reader
from .recall import Recall, measure
from .segments import (
    FULL,
    Segment,
    State,
    appended,
    compacted,
    needs_compaction,
    replaced,
    sparse,
    without,
)

# More changes than this are not brought in while a search waits.
_MOST_CHANGES = 4096
# The loader's page cache: the inner pages of the trees that it walks.
_CACHE_KB = 512


class OlderSnapshotError(Exception):
    """The copy is ahead of the reader's snapshot, which has to be taken anew."""


class ResidentCopy:
    """One table's codes, at the change number of some snapshot of the file."""

    def __init__(self, table: TableLayout, *, bits: bool = False) -> None:
        self.table = table
        self.bits = bits
        self.recall: Recall | None = None
        self.state: State | None = None
        # Rows in shared segments when it was last looked which keys are large.
        self._looked_at = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        state = self.state  # another thread may replace it meanwhile
        return 0 if state is None else state.nbytes

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
        if state.change < floor_of(db, table):
            return None
        rows = db.execute(
            f"SELECT {_row_columns(table)} FROM {table.rows} AS r WHERE r._seq > ? LIMIT ?",
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
        check_stored([row[0] for row in deleted], int, f"the deleted rows of {table.name!r}")
        changed = np.array([row[0] for row in (*rows, *deleted)], dtype=np.int64)
        segments = without(state.segments, changed)
        reader = row_reader(db, table, bits=self.bits)
        segments = add_rows(segments, reader, rows, state.keys, ticket)
        return State(change, tuple(segments))

    def compact(self) -> None:
        """Give back the room of rows that are gone. Safe at any time, in any thread."""
        state = self.state
        if state is None or not needs_compaction(state):
            return
        parts = sparse(state)
        fresh = compacted(parts)
        with self._lock:
            # Writes may have been brought in meanwhile.
            if self.state is not None and (after := replaced(self.state, parts, fresh)):
                self.state = after

    def may_regroup(self) -> bool:
        """Whether so many rows came to shared segments that a key may have grown large."""
        state = self.state
        if state is None or not self.table.partitions:
            return False
        return shared_rows(state) >= self._looked_at + max(OWN, self._looked_at // 8)

    def regroup(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Give the keys that have grown large segments of their own, within one snapshot."""
        change = newest_change(db)
        for key, values in large_keys(db, self.table).items():
            # What is moved must be what the state has, so no write may be brought in meanwhile.
            with self._lock:
                state = self._advance(db, ticket, change)
                if state is None:
                    return
                if key not in state.keys:
                    self.state = moved(state, key, rowids_of_key(db, self.table, values))
        if (state := self.state) is not None:
            self._looked_at = shared_rows(state)

    def may_measure(self) -> bool:
        """Whether it is not known how much a search by bits finds, or not for so many rows."""
        state, recall = self.state, self.recall
        if state is None or not self.bits:
            return False
        return state.rows > 1 if recall is None else 2 * state.rows >= 3 * recall.rows

    def measure(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Measure how much a search by bits finds, within one snapshot."""
        state = self.advance(db, ticket)
        if state is not None:
            self.recall = measure(db, ticket, self.table, state)


class Loader:
    """Reads a table into a copy, a step at a time, within one snapshot."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout, *, bits: bool = False) -> None:
        self.copy = ResidentCopy(table, bits=bits)
        # It reads each page once, and needs none again.
        db.execute(f"PRAGMA cache_size = {-_CACHE_KB}")
        self._db = db
        self._table = table
        self._change = newest_change(db)
        VectorReader(db, table).check_rows()
        self._reader = row_reader(db, table, bits=bits)
        self._own = large_keys(db, table)
        (rows,) = db.execute(f"SELECT count(*) FROM {table.rows}").fetchone()
        self.expected_bytes: int = rows * bytes_of_row(table.schema.dim, bits=bits)
        self._last = 0
        self._segments: list[Segment] = []

    def step(self, ticket: Ticket) -> bool:
        """Read the next rows; False when the copy is ready."""
        rows = self._db.execute(
            f"SELECT {_row_columns(self._table)} FROM {self._table.rows} AS r "
            f"WHERE r._rowid > ? ORDER BY r._rowid LIMIT {FULL}",
            (self._last,),
        ).fetchall()
        if rows:
            self._last = rows[-1][0]
            self._segments = add_rows(self._segments, self._reader, rows, self._own, ticket)
        if len(rows) == FULL:
            return True
        self._trim()
        self.copy.start(State(self._change, tuple(self._segments)))
        self._db.execute("PRAGMA shrink_memory")
        give_back()
        return False

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
) -> list[Segment]:
    """The segments with these rows, of which rowid and partition are given.

    ``own`` are the keys that have segments of their own.
    """
    grown = list(segments)
    for key, rowids in by_segments(rows, own):
        for start in range(0, len(rowids), reader.together):
            ticket.check()
            block = rowids[start : start + reader.together]
            codes = reader.read(block, ticket)
            grown = appended(grown, key, block, codes, reader.width, coming=len(rowids) - start)
    return grown


def _row_columns(table: TableLayout) -> str:
    return ", ".join(["r._rowid", *key_columns(table)])
