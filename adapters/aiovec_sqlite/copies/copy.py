"""The resident copy of one table: load it, keep it fresh, and select rows by filters.

The rows of a table with partitions are loaded in partition order, so that a filter on partitions
skips whole ranges of rows.

A filter's masks, one for each segment, are cached for later searches. A changed row becomes a new
row at the end of the copy, so masks only have to be extended for the rows added there.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from aiovec.backend import BoolArray, Expr, Int64Array
from aiovec.backend.memory import give_back, usable_cores

from ..connection import Ticket
from ..layout import TableLayout, floor_of, newest_change, quoted
from ..reads import condition_of, rowids_where
from ..vectors import VectorReader
from .scanfile import NewFile, write_segments
from .segments import (
    RowCodes,
    Segment,
    State,
    appended,
    encode_rows,
    without,
)

# Bytes of vectors encoded at a time: few enough that the intermediate results stay in the
# processor's cache, and are small compared with the copy.
_BLOCK_BYTES = 384 * 1024
# The fewest rows encoded at a time, and the rows read at a time: enough to read whole chunks.
_FEWEST, _READ = 256, 2048
_MOST_MASKS = 64
# With more new rows than this, a filter runs on the whole table, not on a list of their rowids.
_MOST_LISTED = 4096
# Approximate size of a filter's literal in bytes: a short text and its place in a tuple.
_LITERAL = 80


@dataclass(frozen=True, slots=True)
class _Mask:
    """A filter's masks, by segment mark, and the newest change number at which they were computed.

    The masks are not valid for states before that change, in which rows may have other values.
    """

    change: int
    parts: dict[object, BoolArray]
    nbytes: int
    """The approximate size of the masks and the filter's literals in bytes."""


class _Rows(Protocol):
    """Rows of a copy, such as a segment."""

    @property
    def mark(self) -> object: ...
    @property
    def count(self) -> int: ...
    @property
    def rowids(self) -> Int64Array: ...
    def among(self, rowids: Int64Array, start: int) -> BoolArray: ...


class _RowsAtOnce(Protocol):
    """The rows of a copy at one change number."""

    @property
    def change(self) -> int: ...
    @property
    def segments(self) -> Sequence[_Rows]: ...


class Masks:
    """The masks of one copy's filters; the least recently used masks are removed first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        # The least recently used filter comes first. An OrderedDict would hash each key to iterate
        # over its values, and hashing a filter walks the filter's whole tree.
        self._kept: dict[Expr, _Mask] = {}
        self._lock = threading.Lock()
        self.nbytes = 0
        """The size of all masks in bytes. The event loop reads this size without the lock, because
        threads hold the lock while they hash filters."""

    def of(
        self, db: sqlite3.Connection, table: TableLayout, state: _RowsAtOnce, where: Expr
    ) -> list[BoolArray]:
        """Return each segment's mask of the rows that the filter selects.

        The state must match the connection's snapshot.
        """
        with self._lock:
            kept = self._kept.get(where)
        fits = kept is not None and kept.change <= state.change
        known = dict(kept.parts) if kept is not None and fits else {}
        missing = [
            (segment, known.get(segment.mark))
            for segment in state.segments
            if segment.mark not in known or len(known[segment.mark]) < segment.count
        ]
        if missing:
            self._ask(db, table, where, known, missing)
            if fits or kept is None:
                parts = {segment.mark: known[segment.mark] for segment in state.segments}
                size = sum(map(len, parts.values())) + where.literals * _LITERAL
                self._keep(where, _Mask(state.change, parts, size))
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
        missing: Sequence[tuple[_Rows, BoolArray | None]],
    ) -> None:
        unknown = [
            segment.rowids[0 if done is None else len(done) : segment.count]
            for segment, done in missing
        ]
        selected = selected_among(db, table, where, np.concatenate(unknown))
        for segment, done in missing:
            part = segment.among(selected, 0 if done is None else len(done))
            known[segment.mark] = part if done is None else np.concatenate([done, part])

    def _keep(self, where: Expr, mask: _Mask) -> None:
        with self._lock:
            kept = self._kept.pop(where, None)
            size = self.nbytes - (0 if kept is None else kept.nbytes)
            if kept is not None and kept.change > mask.change:
                mask = kept
            self._kept[where] = mask
            size += mask.nbytes
            while len(self._kept) > 1 and (
                len(self._kept) > _MOST_MASKS or size > self._most_bytes
            ):
                size -= self._kept.pop(next(iter(self._kept))).nbytes
            self.nbytes = size


def selected_among(
    db: sqlite3.Connection, table: TableLayout, where: Expr, among: Int64Array
) -> Int64Array:
    """Return the rowids that a filter selects; rowids that are not in ``among`` may be left out."""
    condition, values = condition_of(where, table)
    if len(among) <= _MOST_LISTED:
        condition = f"({condition}) AND r._rowid IN (SELECT j.value FROM json_each(?) AS j)"
        values = [*values, json.dumps(among.tolist())]
    return rowids_where(db, table, condition, values)


# The most changes that are added while a search waits: a number of rows, a number of bytes of codes
# (about 60 ms to encode), or a share of the copy, whichever is largest. If there are more, they are
# added while searches read the file.
_ROWS_AT_ONCE, _BYTES_AT_ONCE, _SHARE_AT_ONCE = 4096, 6 * 2**20, 1 / 8


class OlderSnapshotError(Exception):
    """The copy is newer than the reader's snapshot, so the reader must take a new snapshot."""


class ResidentCopy:
    """One table in memory, at the change number of some snapshot of the file.

    The masks of its filters take at most ``most_for_masks`` bytes.
    """

    def __init__(self, table: TableLayout, most_for_masks: int, state: State | None = None) -> None:
        self.table = table
        self.masks = Masks(most_for_masks)
        self.state = state
        self.file_change = -1 if state is None else state.change
        """The change number of the scan file; -1 without a scan file."""
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        return 0 if self.state is None else self.state.rows

    @property
    def nbytes(self) -> int:
        """The size of the private memory in bytes."""
        state = self.state  # another thread may replace it
        return self.masks.nbytes + (0 if state is None else state.nbytes)

    def load(
        self,
        db: sqlite3.Connection,
        ticket: Ticket,
        rowids: Int64Array,
        file: NewFile | None = None,
    ) -> None:
        """Read the rows with these ids, which all have a vector in the connection's snapshot.

        With ``file``, write the rows to that new scan file.
        """
        VectorReader(db, self.table).check_rows()
        if file is None:
            segments = self.with_rows((), db, rowids, ticket)
            self.state = State(newest_change(db), tuple(segments))
        else:
            encoded = self._encoded(db, rowids, ticket)
            self.state = write_segments(file, self.table, len(rowids), newest_change(db), encoded)
            self.file_change = self.state.change
        db.execute("PRAGMA shrink_memory")
        give_back()

    def follow(self, db: sqlite3.Connection, ticket: Ticket, most: float) -> bool:
        """Add all changes; return False if there are more than ``most``, or if some are unknown."""
        try:
            return self.advance(db, ticket, int(most)) is not None
        except OlderSnapshotError:  # a search has just added them
            return True

    def advance(
        self, db: sqlite3.Connection, ticket: Ticket, most: int | None = None
    ) -> State | None:
        """Return the state at the connection's snapshot.

        Returns None if there are more than ``most`` changes, by default the most that a search
        adds.
        """
        change = newest_change(db)
        state = self.state  # another thread may replace it
        if state is not None and state.change == change:
            return state
        with self._lock:
            state = self.state
            if state is None or state.change == change:
                return state
            if state.change > change:
                raise OlderSnapshotError
            if most is None:
                most = self.most_changes(state.rows)
            changes = changes_since(db, self.table, state.change, most)
            if changes is None:
                return None
            written, changed = changes
            if len(changed):
                segments = self.with_rows(without(state.segments, changed), db, written, ticket)
                state = State(change, tuple(segments))
            else:  # only other tables changed
                state = replace(state, change=change)
            self.state = state
            return state

    def with_rows(
        self,
        segments: Sequence[Segment],
        db: sqlite3.Connection,
        rowids: Int64Array,
        ticket: Ticket,
    ) -> list[Segment]:
        """Return the segments plus these rows of the file; the rows must have vectors."""
        grown, coming = list(segments), len(rowids)
        for block, rows in self._encoded(db, rowids, ticket):
            grown = appended(grown, block, rows, coming=coming)
            coming -= len(block)
        return grown

    def _encoded(
        self, db: sqlite3.Connection, rowids: Int64Array, ticket: Ticket
    ) -> Iterator[tuple[Int64Array, RowCodes]]:
        """Yield encoded rows of the file in blocks.

        If there are many rows, all cores encode them while the next rows are read.
        """
        metric, reader = self.table.schema.metric, VectorReader(db, self.table)
        together = max(_FEWEST, _BLOCK_BYTES // (4 * self.table.schema.dim))
        read = together * max(1, _READ // together)
        many = len(rowids) > read
        before: Sequence[tuple[Int64Array, Callable[[], RowCodes]]] = ()
        with ThreadPoolExecutor(usable_cores(), "aiovec-encode") as threads:
            for start in range(0, len(rowids), read):
                block, coming = rowids[start : start + read], []
                vectors = reader.read(block, ticket, present=True)
                for first in range(0, len(block), together):
                    rows = slice(first, first + together)
                    work = partial(encode_rows, vectors[rows], metric)
                    coming.append((block[rows], threads.submit(work).result if many else work))
                for part, codes in before:
                    ticket.check()
                    yield part, codes()
                before = coming
            for part, codes in before:
                ticket.check()
                yield part, codes()

    def most_changes(self, rows: int) -> int:
        """Return the most changes that a search adds to a copy of this many rows."""
        by_size = _BYTES_AT_ONCE // self.table.schema.dim
        return max(_ROWS_AT_ONCE, by_size, int(rows * _SHARE_AT_ONCE))


def changes_since(
    db: sqlite3.Connection, table: TableLayout, since: int, most: int
) -> tuple[Int64Array, Int64Array] | None:
    """Return the rowids of the rows that changed after ``since``, in two arrays.

    The first array has only the rows that now have a vector; the second array has all rows,
    including deleted rows. Returns None if there are more than ``most`` rows, or if the file no
    longer lists all deleted rows.
    """
    if since < floor_of(db, table):
        return None
    rows = db.execute(
        f"SELECT r._rowid, {_has_vector(table)} FROM {table.rows} AS r WHERE r._seq > ? LIMIT ?",
        (since, most + 1),
    ).fetchall()
    deleted = db.execute(
        "SELECT row FROM aiovec_deleted WHERE name = ? AND seq > ? LIMIT ?",
        (table.name, since, most + 1),
    ).fetchall()
    if len(rows) + len(deleted) > most:
        return None
    written = [rowid for rowid, has in rows if has]
    changed = [row[0] for row in (*rows, *deleted)]
    return np.array(written, dtype=np.int64), np.array(changed, dtype=np.int64)


def rows_to_load(db: sqlite3.Connection, table: TableLayout) -> Int64Array:
    """Return the rowids of the rows that have a vector, in partition order."""
    if not table.partitions:
        return rowids_where(db, table, _has_vector(table), ())
    order = ", ".join(f"r.{quoted(name)}" for name in table.partitions)
    rows = f"SELECT r._rowid FROM {table.rows} AS r WHERE {_has_vector(table)}"
    rowids = db.execute(f"{rows} ORDER BY {order}, r._rowid").fetchall()
    return np.array(rowids, dtype=np.int64).reshape(-1)


def _has_vector(table: TableLayout) -> str:
    """Return an SQL condition that is true if row ``r`` has a vector."""
    if not table.schema.vector_nullable:
        return "1"
    return f"EXISTS (SELECT 1 FROM {table.shadow('rowids')} AS m WHERE m.rowid = r._rowid)"
