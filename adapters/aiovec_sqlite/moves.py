"""The mark of a migration in the file, which every process that has it open heeds.

It lies in ``aiovec_state`` under the key ``move``. Who writes reads it in the write transaction
itself, so no write can pass a mark that was committed before it.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from dataclasses import asdict, dataclass, replace

from aiovec.backend import MoveMark
from aiovec.errors import MigrationError, StoreMovedError

from .errors import DamageError
from .transaction import Transaction

OPEN, PAUSED, MOVED = "open", "paused", "moved"


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark as it lies in the file. ``pause`` tells one pause from the next."""

    run: str
    state: str = OPEN
    moved_to: str = ""
    backend: str = ""
    config: str = ""
    pause: str = ""
    limit: float = 0.0

    def told(self) -> MoveMark:
        return MoveMark(self.run, self.state, self.moved_to, self.backend, self.config)

    def moved_error(self, target: str) -> StoreMovedError:
        return StoreMovedError(target, self.moved_to, backend=self.backend, config=self.config)


def parsed(value: object) -> Mark | None:
    """The mark that a value of ``aiovec_state`` holds."""
    if value is None:
        return None
    try:
        return Mark(**json.loads(str(value)))
    except (ValueError, TypeError) as exc:
        raise DamageError("the mark of a migration cannot be read") from exc


def read_mark(db: sqlite3.Connection) -> Mark | None:
    row = db.execute("SELECT value FROM aiovec_state WHERE key = 'move'").fetchone()
    return parsed(row[0]) if row is not None else None


def check_here(db: sqlite3.Connection, target: str, run: str | None) -> None:
    """Raise StoreMovedError where the store has moved, unless the caller acts for that run."""
    mark = read_mark(db)
    if mark is not None and mark.state == MOVED and mark.run != run:
        raise mark.moved_error(target)


def check_schemas_free(tx: Transaction, run: str | None) -> None:
    """Raise MigrationError where a migration counts on the schemas, unless it asks itself."""
    mark = read_mark(tx.db)
    if mark is not None and mark.run != run:
        raise MigrationError(
            f"a migration is open (run {mark.run}), and until it ends no table can be created, "
            "altered or dropped; `aiovec migrate status` tells how far it is, "
            "`aiovec migrate abort` ends it"
        )


# What a run does to its mark: the work of one write transaction each


def begin(tx: Transaction, run: str, backend: str, config: str) -> None:
    mark = read_mark(tx.db)
    if mark is None:
        _save(tx, Mark(run, backend=backend, config=config))
        return
    _check_own(mark, run)
    if mark.state != MOVED and backend and (mark.backend, mark.config) != (backend, config):
        _save(tx, replace(mark, backend=backend, config=config))


def pause(tx: Transaction, run: str, limit: float) -> None:
    mark = _own(tx, run)
    if mark.state == MOVED:
        raise MigrationError(f"the run {run} has moved the store already")
    _save(tx, replace(mark, state=PAUSED, pause=uuid.uuid4().hex, limit=limit))


def resume(tx: Transaction, run: str) -> bool:
    mark = _own(tx, run)
    if mark.state != PAUSED:
        return False
    _save(tx, replace(mark, state=OPEN))
    return True


def set_moved(tx: Transaction, run: str, moved_to: str, backend: str, config: str) -> bool:
    mark = _own(tx, run)
    if mark.state == OPEN:
        return False
    if mark.state == PAUSED:
        _save(tx, replace(mark, state=MOVED, moved_to=moved_to, backend=backend, config=config))
        # Every handle on a table is stale from here on. So readers need not look at the mark.
        tx.db.execute("UPDATE aiovec_tables SET epoch = ?", (tx.take(),))
    return True


def end(tx: Transaction, run: str) -> None:
    mark = read_mark(tx.db)
    if mark is not None:
        _check_own(mark, run)
        tx.db.execute("DELETE FROM aiovec_state WHERE key = 'move'")


def is_over(db: sqlite3.Connection, paused: Mark) -> bool:
    """Whether the pause has ended."""
    mark = read_mark(db)
    return mark is None or mark.state != PAUSED or mark.pause != paused.pause


def end_pause(tx: Transaction, paused: Mark) -> None:
    """End a pause that lasts too long, for all who wait: its run may have died."""
    if not is_over(tx.db, paused):
        _save(tx, replace(paused, state=OPEN))


def _own(tx: Transaction, run: str) -> Mark:
    mark = read_mark(tx.db)
    if mark is None:
        raise MigrationError(f"the store knows of no open migration, so not of the run {run}")
    _check_own(mark, run)
    return mark


def _check_own(mark: Mark, run: str) -> None:
    if mark.run != run:
        raise MigrationError(
            f"another migration of this store is open: run {mark.run}; go on with it, or end it "
            "by `aiovec migrate abort`"
        )


def _save(tx: Transaction, mark: Mark) -> None:
    tx.db.execute(
        "INSERT INTO aiovec_state VALUES ('move', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (json.dumps(asdict(mark)),),
    )
