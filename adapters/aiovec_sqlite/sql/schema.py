"""Check a file's schema before anything else in the file is read.

SQLite runs the SQL of a view, a trigger or a generated column whenever a statement uses it, so a
file from a stranger could make every call run forever. A file's schema may therefore contain only
what aiovec, sqlite-vec and FTS5 create, and plain tables and indexes.
"""

from __future__ import annotations

import re
import sqlite3

from aiovec.errors import CorruptStoreError

from .filters import INDEXED

# A quoted name, by SQLite's quoting rules.
_N = r'"(?:[^"]|"")*+"'
# Patterns for the names of an ordinary table, of a text index, and of the index's view.
_ROWS, _TEXT = r'"[a-z0-9_-]++\.rows"', r'"[a-z0-9_-]++\.text[0-9]++"'
_VIEW = _TEXT[:-1] + r'\.rows"'


def _of_index(row: str) -> tuple[str, str, str]:
    """Return patterns for a row of a text index: its columns, the condition that the row has text,
    and the condition that the index, which may be incomplete, contains it.

    ``row`` is "new", "old" or empty.
    """
    row = row and rf"{row}\."
    column = rf"(?:{row}{_N}|CAST\({row}{_N} AS BLOB\))"
    column = rf"(?:{column}|aiovec_(?:letters|stems)\('[a-z ]++', {column}\))"
    columns = rf"(?:, {column}(?: AS c[0-9]++)?)++"
    text = rf"\({row}{_N} IS NOT NULL(?: OR {row}{_N} IS NOT NULL)*+\)"
    reached = (
        r" AND EXISTS \(SELECT 1 FROM aiovec_text AS t WHERE t\.generation = [0-9]++ "
        rf"AND \({row}_rowid <= t\.done OR {row}_rowid > t\.upto\)\)"
    )
    return columns, text, f"{text}(?:{reached})?"


_SHOWN, _HAS_TEXT, _ = _of_index("")
_NEW, _, _IN_NEW = _of_index("new")
_OLD, _, _IN_OLD = _of_index("old")
_ADD = rf"INSERT INTO {_TEXT} \(rowid(?:, c[0-9]++)++\) SELECT new\._rowid{_NEW}"
_REMOVE = (
    rf"INSERT INTO {_TEXT} \({_TEXT}, rowid(?:, c[0-9]++)++\) SELECT 'delete', old\._rowid{_OLD}"
)
_CHANGES = rf"_rowid(?:, {_N})++"
_CHANGED = rf"old\._rowid IS NOT new\._rowid(?: OR old\.{_N} IS NOT new\.{_N})++"
_PATH = r"'\$(?:\.\"[A-Za-z0-9_-]++\")++'"
_OF_KEY = re.escape(INDEXED.format(column="payload", at="@")).replace("@", _PATH)
_OPTIONS = r"content_rowid=_rowid, tokenize='[a-z0-9_ ]++'"
# Not "++": before Python 3.11.5, the failed repetition would consume the "c" of "content".
_COLUMNS = r"(?:c[0-9]++, )+"
_EXCHANGE = rf"{_REMOVE} WHERE {_IN_OLD}; {_ADD} WHERE {_IN_NEW}"
_OURS = (
    # Plain columns, without operators or comments. See also ``_EXPRESSION``.
    rf"TABLE (?:[\w\s(),.]|{_N}|'[^']*+')*+",
    rf"(?:UNIQUE )?INDEX (?:{_N}|\w++) ON (?:{_N}|\w++) ?\((?:[\w\s,]|{_N})*+\)",
    rf"INDEX {_N} ON {_ROWS} \({_OF_KEY}\)",
    r'VIRTUAL TABLE "[a-z0-9_-]++\.vec" USING vec0\([\w\s,=[\]]*+\)',
    rf"VIRTUAL TABLE {_TEXT} USING fts5\({_COLUMNS}content={_VIEW}, {_OPTIONS}\)",
    rf"VIEW {_VIEW} AS SELECT _rowid{_SHOWN} FROM {_ROWS} WHERE {_HAS_TEXT}",
    rf"TRIGGER {_N} AFTER INSERT ON {_ROWS} WHEN {_IN_NEW} BEGIN {_ADD}; END",
    rf"TRIGGER {_N} AFTER DELETE ON {_ROWS} WHEN {_IN_OLD} BEGIN {_REMOVE}; END",
    rf"TRIGGER {_N} AFTER UPDATE OF {_CHANGES} ON {_ROWS} WHEN {_CHANGED} BEGIN {_EXCHANGE}; END",
)
_STATEMENT = re.compile(f"CREATE (?:{'|'.join(_OURS)})")
# The words that precede an expression in a table's definition.
_EXPRESSION = re.compile(r"\b(?:AS|CHECK)\b|\bDEFAULT\s*\(", re.IGNORECASE)
_QUOTED = re.compile(f"{_N}|'[^']*+'")


def check_schema(db: sqlite3.Connection, target: str) -> None:
    """Raise CorruptStoreError if SQLite might run SQL in the schema that aiovec did not write."""
    entries = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    for kind, name, sql in db.execute(entries):
        # The statement decides, because a hostile file can lie about the kind.
        ours = isinstance(sql, str) and _STATEMENT.fullmatch(sql)
        if not ours or (
            sql.startswith("CREATE TABLE") and _EXPRESSION.search(_QUOTED.sub('""', sql))
        ):
            raise CorruptStoreError(
                target,
                f"this version of aiovec does not create the {kind} {str(name)[:80]!r}, whose SQL "
                "could run in any call: open the file with the version that created it, do not use "
                "a file from a stranger, restore a damaged one from a backup, and if you added the "
                f"{kind} yourself, drop it with the same program",
            )
