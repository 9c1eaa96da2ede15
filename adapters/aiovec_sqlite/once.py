"""The keys of writes that were done, each committed with its write.

A table of their own, made by the first write that has a key. Earlier versions of aiovec pass it by.
"""

from __future__ import annotations

import sqlite3
import time

from aiovec.backend.context import Kept, WriteKey

_CREATE = """CREATE TABLE IF NOT EXISTS aiovec_writes (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    done INTEGER NOT NULL, outcome INTEGER, text_of TEXT
) STRICT"""

# How long a key is kept, in seconds, and how many are: a client that repeats a write does so soon.
KEEP_SECONDS = 24 * 3600
KEEP_NUMBER = 100_000
# Keys that a write looks at to forget them: more than one, so that old ones do get fewer.
_FORGET = 4


class Keys:
    """The keys in one file, within the transaction of a write."""

    def __init__(self, *, keep: int = KEEP_NUMBER, seconds: float = KEEP_SECONDS) -> None:
        self._keep = keep
        self._seconds = seconds

    def find(self, db: sqlite3.Connection, key: WriteKey) -> tuple[Kept, str | None] | None:
        """Return the trace of a write, and the table whose text index it left to be built."""
        if not _is_there(db):
            return None
        row = db.execute(
            "SELECT digest, outcome, text_of FROM aiovec_writes WHERE key = ?", (key.name,)
        ).fetchone()
        if row is None:
            return None
        digest, outcome, text_of = row
        key.check(digest)
        return Kept(outcome), text_of

    def keep(
        self, db: sqlite3.Connection, key: WriteKey, outcome: object, text_of: str | None
    ) -> None:
        """Keep the outcome of a write, and forget some keys that are too old or too many."""
        db.execute(_CREATE)
        now = int(time.time())
        count = outcome if isinstance(outcome, int) else None
        number = db.execute(
            "INSERT INTO aiovec_writes (key, digest, done, outcome, text_of) "
            "VALUES (?, ?, ?, ?, ?)",
            (key.name, key.digest, now, count, text_of),
        ).lastrowid
        db.execute(
            "DELETE FROM aiovec_writes WHERE number IN ("
            "SELECT number FROM aiovec_writes ORDER BY number LIMIT ?"
            ") AND (number <= ? OR done < ?)",
            (_FORGET, (number or 0) - self._keep, now - self._seconds),
        )


def _is_there(db: sqlite3.Connection) -> bool:
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aiovec_writes'"
    return db.execute(sql).fetchone() is not None
