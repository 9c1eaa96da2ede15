"""Tells damage of a text index, which can be built anew, from damage of the rows."""

from __future__ import annotations

import re
import sqlite3

from ..driver import load_driver
from ..errors import CORRUPT, TextDamageError, code_of, names_text_index
from ..layout import quoted

# Of which the names of SQL are made. A renamed table keeps the names of its index.
FTS_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,63}\.text[0-9]{1,19}")


def has_list(db: sqlite3.Connection) -> bool:
    """Return whether the file has the list of indexes: the first one makes it."""
    found = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'aiovec_text'").fetchone()
    return found is not None


def probe(db: sqlite3.Connection, fts: str) -> None:
    """Search an index for next to nothing, which fails where its structure is damaged."""
    db.execute(
        f"SELECT rowid, bm25({quoted(fts)}) FROM {quoted(fts)} WHERE {quoted(fts)} MATCH ? LIMIT 1",
        ('"a" *',),
    ).fetchall()


def damage_behind(db: sqlite3.Connection, error: Exception) -> Exception:
    """Return the error of a text index where one made a write fail, else the write's own.

    A trigger that meets a damaged index says as little as a damaged page does.
    """
    if code_of(error) != CORRUPT or names_text_index(str(error)):
        return error
    failed = load_driver().DatabaseError
    try:
        listed = db.execute("SELECT name, fts FROM aiovec_text").fetchall() if has_list(db) else []
    except failed:
        return error
    for name, fts in listed:
        if not FTS_NAME.fullmatch(fts):
            continue
        try:
            probe(db, fts)
        except failed as exc:
            if code_of(exc) == CORRUPT or names_text_index(str(exc)):
                damage = TextDamageError(str(name), str(exc))
                damage.__cause__ = error
                return damage
    return error
