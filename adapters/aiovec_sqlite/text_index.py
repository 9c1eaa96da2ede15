"""The text index of a table: an FTS5 table over a view of the rows, updated by triggers.

The schema lists the fields that an index must cover, and ``aiovec_text`` the existing indexes.
``advance`` builds the missing index in short write transactions; the first transaction also changes
the schema. A cancelled or killed build continues where it stopped. During a build, triggers skip
the rows that the build has not reached. Until the new index is complete, the old index answers
searches that need only its fields.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from aiovec.backend import ANALYZERS, LANGUAGES, Schema
from aiovec.errors import UnsupportedError

from . import stems
from .connection import Transaction
from .driver import load_driver
from .errors import CORRUPT, ERROR, TextDamageError, code_of
from .layout import TableLayout, quoted, read_table
from .tokens import tokenizer_of

_CREATE_LIST = """CREATE TABLE IF NOT EXISTS aiovec_text (
    generation INTEGER PRIMARY KEY, name TEXT NOT NULL, fts TEXT NOT NULL, fields TEXT NOT NULL,
    analyzer TEXT NOT NULL, done INTEGER, upto INTEGER
) STRICT"""

# The most rows and characters to index per transaction: other writers wait about 50 ms.
_MOST_ROWS = 3_000
_MOST_CHARACTERS = 1_000_000
# Pages of the index merged in one transaction.
_MERGED_PAGES = 200
# Bytes of an index page in the file: a little less than FTS5's default.
_PAGE_BYTES = 4_050
# An FTS5 table's name, with which the names of its view and triggers begin. It never changes.
_FTS_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,63}\.text[0-9]{1,19}")


def _has_list(db: sqlite3.Connection) -> bool:
    """Return whether the file has the list of indexes, which is created with the first index."""
    row = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'aiovec_text'").fetchone()
    return row is not None


@dataclass(frozen=True, slots=True)
class TextIndex:
    """An entry of ``aiovec_text``.

    If the index is incomplete, rows with rowids above ``done`` and up to ``upto`` are not indexed
    yet; otherwise, ``done`` and ``upto`` are None.
    """

    generation: int
    fts: str
    fields: tuple[str, ...]
    analyzer: str
    done: int | None
    upto: int | None
    stemming: str
    """The name of the index's stemming (see ``stems.py``)."""

    @property
    def table(self) -> str:
        """The quoted name of the FTS5 table."""
        return quoted(self.fts)

    @property
    def view(self) -> str:
        """The quoted name of the view of the indexed rows."""
        return quoted(f"{self.fts}.rows")

    @property
    def ready(self) -> bool:
        return self.done is None

    @property
    def columns(self) -> list[str]:
        """The FTS5 columns: numbered, because FTS5 reserves names such as "rank"."""
        return [f"c{number}" for number in range(1, len(self.fields) + 1)]

    @property
    def progress(self) -> str:
        return f"{100 * (self.done or 0) // max(1, self.upto or 0)}%"

    def stored(self, field: str, row: str = "") -> str:
        """Return SQL for a field's text in the index; ``row`` is "new.", "old." or empty."""
        return stems.stored(self.stemming, row + quoted(field))

    def column_of(self, field: str) -> str:
        return f"c{self.fields.index(field) + 1}"

    def shadow(self, suffix: str) -> str:
        """Return the quoted name of one of the tables in which FTS5 keeps its data."""
        return quoted(f"{self.fts}_{suffix}")


def wanted_fields(schema: Schema) -> tuple[str, ...]:
    return tuple(name for name, field in schema.fields.items() if field.text)


def indexes_of(db: sqlite3.Connection, name: str) -> list[TextIndex]:
    """Return a table's indexes, oldest first: at most one complete and one incomplete index."""
    if not _has_list(db):
        return []
    return [
        _read(name, *row)
        for row in db.execute(
            "SELECT generation, fts, fields, analyzer, done, upto FROM aiovec_text "
            "WHERE name = ? ORDER BY generation",
            (name,),
        ).fetchall()
    ]


@lru_cache(maxsize=256, typed=True)
def _read(
    name: str, generation: Any, fts: Any, fields: Any, stemming: Any, done: Any, upto: Any
) -> TextIndex:
    # Cached, because every search reads its index's entry, and equal entries are equal indexes.
    try:
        names = json.loads(fields)
    except ValueError:
        names = None
    if (
        type(names) is not list
        or not names
        or any(type(field) is not str for field in names)
        or not _FTS_NAME.fullmatch(fts)
        or type(stemming) is not str
        or (analyzer := stems.analyzer_of(stemming)) not in ANALYZERS
        or (done is None) != (upto is None)
    ):
        raise TextDamageError(name, "its entry in aiovec_text cannot be read")
    return TextIndex(generation, fts, tuple(names), analyzer, done, upto, stemming)


def serving(db: sqlite3.Connection, table: TableLayout) -> TextIndex:
    """Return the index that answers searches. Raises UnsupportedError if no index is complete."""
    indexes = indexes_of(db, table.name)
    ready = [index for index in indexes if index.ready]
    if ready:
        return ready[-1]
    if indexes:
        raise being_built(table.name, indexes[-1])
    raise UnsupportedError(
        "text",
        "sqlite",
        f"the table {table.name!r} has no text index yet, because an older version created the "
        f"table; build it with optimize({table.name!r})",
    )


def being_built(name: str, index: TextIndex) -> UnsupportedError:
    """Return the error for a search that needs an incomplete index."""
    return UnsupportedError(
        "text",
        "sqlite",
        f"the text index of {name!r} is being built ({index.progress} done); search again later; "
        f"if no process builds it now, optimize({name!r}) or opening the store again continues it",
    )


def check_can_index(schema: Schema) -> None:
    """Raise UnsupportedError if the schema's text index needs a stemmer that is missing."""
    if wanted_fields(schema) and schema.analyzer in LANGUAGES and not stems.has_stemmer():
        raise stems.no_stemmer(schema.analyzer)


# Building


def advance(tx: Transaction, name: str) -> bool:
    """Do one step of building the index that the schema needs; return True if more steps are left.

    Several processes may build the same index at the same time.
    """
    tx.expect(_MOST_ROWS)
    table = read_table(tx.db, name)
    if table is None:
        return False
    indexes = indexes_of(tx.db, name)
    wanted = wanted_fields(table.schema)
    if not wanted:
        for index in indexes:
            _drop(tx.db, index.generation, index.fts)
        return False
    check_can_index(table.schema)
    fitting = [
        index
        for index in indexes
        if set(index.fields) == set(wanted) and index.stemming == stems.stemming_of(index.analyzer)
    ]
    if not fitting:
        for index in indexes:
            if not index.ready:
                _drop(tx.db, index.generation, index.fts)
    index = fitting[-1] if fitting else create(tx, table)
    if not index.ready and not _index_some(tx, table, index):
        return True
    for other in indexes:
        if other != index:
            _drop(tx.db, other.generation, other.fts)
    return False


def incomplete(db: sqlite3.Connection) -> list[str]:
    """Return the tables with an incomplete index, whether or not a process is building it."""
    if not _has_list(db):
        return []
    rows = db.execute("SELECT DISTINCT name FROM aiovec_text WHERE done IS NOT NULL").fetchall()
    return [name for (name,) in rows]


def create(tx: Transaction, table: TableLayout) -> TextIndex:
    """Create an index and its triggers; the index is complete if the table has no rows."""
    db = tx.db
    fields = wanted_fields(table.schema)
    generation = tx.take()
    ends = f"SELECT (SELECT min(_rowid) FROM {table.rows}), (SELECT max(_rowid) FROM {table.rows})"
    first, last = db.execute(ends).fetchone()
    done, upto = (None, None) if last is None else (min(0, first - 1), last)
    analyzer, fts = table.schema.analyzer, f"{table.stem}.text{generation}"
    stemming = stems.stemming_of(analyzer)
    index = TextIndex(generation, fts, fields, analyzer, done, upto, stemming)
    names = map(index.stored, fields)
    shown = ", ".join(f"{n} AS {c}" for n, c in zip(names, index.columns, strict=True))
    db.execute(_CREATE_LIST)
    db.execute(
        f"CREATE VIEW {index.view} AS SELECT _rowid, {shown} FROM {table.rows} "
        f"WHERE {_any_text('', index)}"
    )
    db.execute(
        f"CREATE VIRTUAL TABLE {index.table} USING fts5({', '.join(index.columns)}, "
        f"content={quoted(f'{index.fts}.rows')}, content_rowid=_rowid, "
        f"tokenize='{tokenizer_of(index.analyzer)}')"
    )
    db.execute(
        "INSERT INTO aiovec_text (generation, name, fts, fields, analyzer, done, upto) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (generation, table.name, fts, json.dumps(fields), stemming, done, upto),
    )
    _create_triggers(db, table, index)
    return index


def _any_text(row: str, index: TextIndex) -> str:
    """Return the condition that a row has text; ``row`` is "new.", "old." or empty."""
    return "(" + " OR ".join(f"{row}{quoted(name)} IS NOT NULL" for name in index.fields) + ")"


def _create_triggers(db: sqlite3.Connection, table: TableLayout, index: TextIndex) -> None:
    fts, columns = index.table, ", ".join(index.columns)

    def values(row: str) -> str:
        return ", ".join(
            [f"{row}._rowid", *(index.stored(name, f"{row}.") for name in index.fields)]
        )

    def counts(row: str) -> str:
        text = _any_text(f"{row}.", index)
        if index.ready:
            return text
        return (
            f"{text} AND EXISTS (SELECT 1 FROM aiovec_text AS t WHERE "
            f"t.generation = {index.generation} "
            f"AND ({row}._rowid <= t.done OR {row}._rowid > t.upto))"
        )

    remove = f"INSERT INTO {fts} ({fts}, rowid, {columns}) SELECT 'delete', {values('old')}"
    add = f"INSERT INTO {fts} (rowid, {columns}) SELECT {values('new')}"
    names = ["_rowid", *map(quoted, index.fields)]
    changed = " OR ".join(f"old.{name} IS NOT new.{name}" for name in names)
    events = {
        "insert": ("INSERT", counts("new"), f"{add};"),
        "delete": ("DELETE", counts("old"), f"{remove};"),
        "update": (
            f"UPDATE OF {', '.join(names)}",
            changed,
            f"{remove} WHERE {counts('old')}; {add} WHERE {counts('new')};",
        ),
    }
    for name, (event, condition, body) in events.items():
        trigger = quoted(f"{index.fts}.{name}")
        db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        db.execute(
            f"CREATE TRIGGER {trigger} AFTER {event} ON {table.rows} WHEN {condition} "
            f"BEGIN {body} END"
        )


def _index_some(tx: Transaction, table: TableLayout, index: TextIndex) -> bool:
    """Index the next rows; return True if no more rows are left."""
    db = tx.db
    lengths = " + ".join(f"coalesce(length({quoted(name)}), 0)" for name in index.fields)
    end, count, characters = index.done, 0, 0
    for rowid, length in db.execute(
        f"SELECT _rowid, {lengths} FROM {table.rows} WHERE _rowid > ? AND _rowid <= ? "
        f"ORDER BY _rowid LIMIT {_MOST_ROWS}",
        (index.done, index.upto),
    ):
        end = rowid
        count += 1
        characters += length
        if characters > _MOST_CHARACTERS:
            break
    columns = ", ".join(index.columns)
    tx.check()
    db.execute(
        f"INSERT INTO {index.table} (rowid, {columns}) SELECT _rowid, {columns} "
        f"FROM {index.view} WHERE _rowid > ? AND _rowid <= ?",
        (index.done, end),
    )
    if count == _MOST_ROWS or characters > _MOST_CHARACTERS:
        db.execute("UPDATE aiovec_text SET done = ? WHERE generation = ?", (end, index.generation))
        return False
    db.execute(
        "UPDATE aiovec_text SET done = NULL, upto = NULL WHERE generation = ?",
        (index.generation,),
    )
    _create_triggers(db, table, replace(index, done=None, upto=None))
    return True


def _drop(db: sqlite3.Connection, generation: int, fts: str) -> None:
    """Remove an index with its triggers, view and entry, even if it is damaged."""
    for name in ("insert", "delete", "update"):
        db.execute(f"DROP TRIGGER IF EXISTS {quoted(f'{fts}.{name}')}")
    try:
        db.execute(f"DROP TABLE IF EXISTS {quoted(fts)}")
    except load_driver().DatabaseError as exc:
        if code_of(exc) not in (0, ERROR, CORRUPT) or not db.in_transaction:
            raise
        # FTS5 opens a table before it drops it, which needs an undamaged configuration.
        config = quoted(f"{fts}_config")
        db.execute(f"DROP TABLE IF EXISTS {config}")
        db.execute(f"CREATE TABLE {config} (k PRIMARY KEY, v) WITHOUT ROWID")
        db.execute(f"INSERT INTO {config} VALUES ('version', 4)")
        db.execute(f"DROP TABLE IF EXISTS {quoted(fts)}")
    db.execute(f"DROP VIEW IF EXISTS {quoted(f'{fts}.rows')}")
    db.execute("DELETE FROM aiovec_text WHERE generation = ?", (generation,))


def drop_all(tx: Transaction, name: str) -> None:
    """Remove the indexes of a table, even if their entries are unreadable."""
    if not _has_list(tx.db):
        return
    for generation, fts in tx.db.execute(
        "SELECT generation, fts FROM aiovec_text WHERE name = ?", (name,)
    ).fetchall():
        if type(fts) is not str or not _FTS_NAME.fullmatch(fts):
            raise TextDamageError(name, "its entry in aiovec_text cannot be read")
        _drop(tx.db, generation, fts)


def drop_with(tx: Transaction, name: str, field: str) -> None:
    """Remove the indexes on a dropped field; ``advance`` builds an index on the other fields."""
    for index in indexes_of(tx.db, name):
        if field in index.fields:
            _drop(tx.db, index.generation, index.fts)


def rename_field(tx: Transaction, name: str, old: str, new: str) -> None:
    """Record the new name of a field. SQLite has already changed the view and the triggers."""
    for index in indexes_of(tx.db, name):
        fields = [new if field == old else field for field in index.fields]
        tx.db.execute(
            "UPDATE aiovec_text SET fields = ? WHERE generation = ?",
            (json.dumps(fields), index.generation),
        )


def rename_table(tx: Transaction, old: str, new: str) -> None:
    """Record the new name of a table; the names of its indexes in the file stay the same."""
    if indexes_of(tx.db, old):
        tx.db.execute("UPDATE aiovec_text SET name = ? WHERE name = ?", (new, old))


# Upkeep


def merge_some(tx: Transaction, name: str, *, first: bool) -> bool:
    """Merge some of the segments that commits add to the index.

    Returns True if more are left.
    """
    for index in indexes_of(tx.db, name):
        if index.ready:
            before = tx.db.total_changes
            pages = -_MERGED_PAGES if first else _MERGED_PAGES
            tx.db.execute(
                f"INSERT INTO {index.table} ({index.table}, rank) VALUES ('merge', ?)", (pages,)
            )
            return tx.db.total_changes - before >= 2
    return False


def size_of(db: sqlite3.Connection, index: TextIndex) -> int:
    """Return the approximate size of an index in bytes."""
    pages, rows = db.execute(
        f"SELECT (SELECT count(*) FROM {index.shadow('idx')}), "
        f"(SELECT count(*) FROM {index.shadow('docsize')})"
    ).fetchone()
    return int(pages * _PAGE_BYTES + rows * 12)


def details_of(db: sqlite3.Connection, table: TableLayout) -> tuple[int, Mapping[str, Any]]:
    """Return the approximate size in bytes of a table's indexes, and details for ``stats``."""
    if not wanted_fields(table.schema):
        return 0, {}
    indexes = indexes_of(db, table.name)
    size = sum(size_of(db, index) for index in indexes)
    if not indexes:
        state = "missing: optimize builds it"
    elif indexes[-1].ready:
        state = "ready"
    else:
        state = f"being built: {indexes[-1].progress}"
    return size, {
        "text_analyzer": table.schema.analyzer,
        "text_index": state,
        "text_index_bytes": size,
    }


def faults_of(db: sqlite3.Connection, table: TableLayout) -> tuple[str, bool]:
    """Describe the state of a table's text index; also return True if it is complete and sound.

    This writes nothing, so it only compares which rows are indexed; SQLite's quick_check covers
    the words.
    """
    try:
        indexes = indexes_of(db, table.name)
        if not indexes:
            return "missing; an older version created the table", False
        index = indexes[-1]
        if not index.ready:
            return f"being built: {index.progress}; until it is complete, searches fail", False
        missing, more = db.execute(
            f"SELECT (SELECT count(*) FROM {index.view} WHERE _rowid NOT IN "
            f"(SELECT id FROM {index.shadow('docsize')})), "
            f"(SELECT count(*) FROM {index.shadow('docsize')} WHERE id NOT IN "
            f"(SELECT _rowid FROM {index.view}))"
        ).fetchone()
        # A search fails if the structure of the index is damaged.
        fts = index.table
        db.execute(f"SELECT bm25({fts}) FROM {fts} WHERE {fts} MATCH '\"a\" *' LIMIT 1").fetchall()
    except TextDamageError:
        return "damaged: its entry cannot be read", False
    except load_driver().DatabaseError as exc:
        return f"damaged: {exc}", False
    if missing or more:
        return (
            f"damaged: it lacks {missing:,} rows, and has {more:,} rows that do not exist",
            False,
        )
    return f"ready, analyzer {index.analyzer!r}", True
