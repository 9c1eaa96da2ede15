"""The file's migration mark, which every process that uses the file obeys.

In ``aiovec_state``, the key ``move`` holds the mark, and ``moved`` the rest of the ``MoveRecord``.
Writers read the mark in their write transaction, so no write can miss a committed mark.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from aiovec.backend.marks import PAUSED, MoveMark, MoveRecord, unreadable_mark
from aiovec.errors import CorruptStoreError

from .connection import Transaction

_MARK, _GENERATION = "move", "moved"


def mark_in(state: Mapping[str, object], target: str) -> MoveMark | None:
    """Return the mark from the entries of ``aiovec_state``; None if there is no mark."""
    return _record_in(state, target).mark if state.get(_MARK) is not None else None


def _record_in(state: Mapping[str, object], target: str) -> MoveRecord:
    try:
        known = json.loads(str(state.get(_GENERATION) or "{}"))
        mark = json.loads(str(state.get(_MARK, "null")))
        return MoveRecord.from_json(json.dumps({**known, "mark": mark}))
    except (ValueError, TypeError, RecursionError) as exc:
        raise CorruptStoreError(target, unreadable_mark(exc)) from exc


def read_record(db: sqlite3.Connection, target: str) -> MoveRecord:
    rows = db.execute(
        "SELECT key, value FROM aiovec_state WHERE key IN (?, ?)", (_MARK, _GENERATION)
    ).fetchall()
    return _record_in(dict(rows), target) if rows else MoveRecord()


def check_here(db: sqlite3.Connection, target: str, run: str | None) -> None:
    """Raise StoreMovedError if the store has moved, unless ``run`` is the run that moved it."""
    mark = read_record(db, target).mark
    if mark is not None and mark.left and mark.run != run:
        raise mark.moved_error(target)


def check_schemas_free(tx: Transaction, target: str, run: str | None) -> None:
    """Raise MigrationError if a migration relies on the schemas, unless ``run`` is its run."""
    mark = read_record(tx.db, target).mark
    if mark is not None and mark.run != run:
        raise mark.frozen_error()


def change(
    tx: Transaction, target: str, change: Callable[[MoveRecord], MoveRecord], *, anew: bool
) -> tuple[MoveRecord, MoveRecord]:
    try:
        before = read_record(tx.db, target)
    except CorruptStoreError:
        if not anew:
            raise
        forget_mark(tx.db)
        before = MoveRecord()
    after = change(before)
    if after == before:
        return before, after
    if after.mark is None:
        forget_mark(tx.db)
    else:
        _save(tx.db, _MARK, asdict(after.mark))
    known = replace(after, mark=None)
    if known != replace(before, mark=None):
        _save(tx.db, _GENERATION, asdict(known))
    if after.mark is not None and after.mark.left and not (before.mark and before.mark.left):
        # All table handles become stale, so readers need not check the mark.
        tx.db.execute("UPDATE aiovec_tables SET epoch = ?", (tx.take(),))
    return before, after


def has_mark(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM aiovec_state WHERE key = ?", (_MARK,)).fetchone() is not None


def forget_mark(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM aiovec_state WHERE key = ?", (_MARK,))


def is_over(db: sqlite3.Connection, target: str, paused: MoveMark) -> bool:
    """Return whether the pause of the mark ``paused`` has ended."""
    mark = read_record(db, target).mark
    return mark is None or mark.state != PAUSED or mark.pause != paused.pause


def _save(db: sqlite3.Connection, key: str, value: object) -> None:
    db.execute(
        "INSERT INTO aiovec_state VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, json.dumps(value)),
    )
