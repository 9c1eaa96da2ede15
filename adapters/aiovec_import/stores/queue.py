"""The keys of changed rows, which triggers note in an app's own SQLite database.

This module uses Python's ``sqlite3``, as the app does. Two SQLite libraries in one process would
not see each other's locks, and each would drop the other's when it closes the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.layout import quoted

# How long a commit of the app is waited for.
_BUSY_SECONDS = 5.0
PREFIX = "aiovec_queue_"
_EVENTS = ("insert", "update", "key", "delete")
_BEGIN = "/* aiovec "
_MARK = "WHERE done IS NOT NULL ORDER BY seq LIMIT 1"

Versions = tuple[int, tuple[int, int]]


def connected(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Return a connection of Python's own SQLite to an existing file, for any thread."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with translated(path):
        return sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise an AiovecError for each error of Python's SQLite."""
    try:
        yield
    except sqlite3.Error as exc:
        raise AiovecError(f"{path}: {exc}") from exc


class Queue:
    """The queue of one table: an entry for each change, in the order of the commits.

    ``says`` is what its entries are for, and stands in each trigger: the table of a store as
    ``target``, and all that changes the rows that it gets. One entry is the mark up to which all
    are applied; without it the rows have to be noted again. It has the number of the newest change
    of the store's table then, 0 if that is not known. All methods block.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        path: Path,
        table: str,
        keys: Sequence[str],
        target: str,
        says: Mapping[str, Any],
    ) -> None:
        self._db, self._path, self._table, self._keys = db, path, table, [*map(quoted, keys)]
        self._queue = quoted(_name(table))
        self.says: dict[str, Any] = {"target": target, "keys": [*keys], **says}

    def statements(self) -> list[str]:
        """Return the statements that make the queue and its triggers."""
        columns = ", ".join(f"k{number}" for number in range(len(self._keys)))
        said = json.dumps(self.says, sort_keys=True).replace("*/", "*\\/")
        changed = " OR ".join(f"old.{k} COLLATE BINARY IS NOT new.{k}" for k in self._keys)
        made = [f"CREATE TABLE {self._queue} (seq INTEGER PRIMARY KEY, {columns}, done)"]
        for name, event, row in zip(
            _EVENTS,
            ("INSERT", "UPDATE", "UPDATE", "DELETE"),
            ("new", "new", "old", "old"),
            strict=True,
        ):
            when = f" WHEN {changed}" if name == "key" else ""
            keys = ", ".join(f"{row}.{key}" for key in self._keys)
            made.append(
                f"CREATE TRIGGER {quoted(_name(self._table, name))} AFTER {event} ON "
                f"{quoted(self._table)}{when} BEGIN {_BEGIN}{said} */ "
                f"INSERT INTO {self._queue} ({columns}) VALUES ({keys}); END"
            )
        return made

    def is_marked(self) -> bool:
        """Return whether the triggers are as they should be, and all rows were noted or applied.

        ConfigError if the queue belongs to another table of a store, or is a table of the app.
        """
        with translated(self._path):
            removals(self._db, self._table)
            found = dict(
                self._db.execute(
                    "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' "
                    "AND tbl_name = ? COLLATE NOCASE",
                    (self._table,),
                )
            )
        said = [_said(found.get(_name(self._table, event), "")) for event in _EVENTS]
        other = said[0].get("target", target := self.says["target"])
        if other != target:
            source = f"{self._path}#{self._table}"
            raise ConfigError(
                f"{source} is watched for {other}, and its queue can serve one table of a store "
                f"only; to watch it for {target}, end that with: aiovec watch {source} --stop"
            )
        return said == [self.says] * len(_EVENTS) and self.marked() is not None

    def make(self, schema: tuple[int, int]) -> tuple[int, int] | None:
        """Recreate the queue and its triggers, with an entry for each row and without the mark.

        Return the version of the schema then; None if it was no longer this one, so that the
        columns may be others, and nothing was made.
        """
        columns = ", ".join(f"k{number}" for number in range(len(self._keys)))
        with self._writing():
            if self.versions()[1] != schema:
                return None
            for statement in (*removals(self._db, self._table)[1], *self.statements()):
                self._db.execute(statement)
            self._db.execute(
                f"INSERT INTO {self._queue} ({columns}) "
                f"SELECT {', '.join(self._keys)} FROM {quoted(self._table)}"
            )
            return self.versions()[1]

    def mark(self, until: int, number: int) -> None:
        """Say that all entries up to one are applied, and the number of the store's table."""
        with self._writing():
            self._db.execute(f"DELETE FROM {self._queue} WHERE seq <= ?", (until,))
            mark = until, str(number)  # the number may have more than 64 bits
            self._db.execute(f"INSERT INTO {self._queue} (seq, done) VALUES (?, ?)", mark)

    def marked(self) -> int | None:
        """Return the entry up to which all are applied; None while that is not known."""
        return self._entry("seq")

    def number(self) -> int:
        """Return the number of the store's table when the mark was made."""
        return self._entry("done") or 0

    def last(self) -> int:
        """Return the last entry that is committed now."""
        return self._entry("seq", "ORDER BY seq DESC LIMIT 1") or 0

    def _entry(self, column: str, which: str = _MARK) -> int | None:
        with translated(self._path):
            try:
                row = self._db.execute(f"SELECT {column} FROM {self._queue} {which}").fetchone()
            except sqlite3.OperationalError as exc:
                if "no such table" not in str(exc):
                    raise
                row = None
        return None if row is None else int(row[0])

    def noted(self, limit: int, after: int) -> tuple[int, list[tuple[Any, ...]]]:
        """Return the keys of the next entries, each once, and the last of these entries."""
        with translated(self._path):
            rows = self._db.execute(
                f"SELECT * FROM {self._queue} WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        return (rows[-1][0] if rows else 0), [*dict.fromkeys(row[1:-1] for row in rows)]

    def waiting(self, until: int | None = None) -> int | None:
        """Return how many entries wait, up to one; None while the queue is being made."""
        mark = self.marked()
        return None if mark is None else max(0, (self.last() if until is None else until) - mark)

    def versions(self) -> Versions:
        """Return the versions of the database."""
        return versions_of(self._db, self._path)

    @contextmanager
    def snapshot(self, begin: str = "BEGIN") -> Iterator[None]:
        """Run statements in one transaction."""
        with translated(self._path):
            self._db.execute(begin)
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _writing(self) -> Any:
        return self.snapshot("BEGIN IMMEDIATE")


def versions_of(db: sqlite3.Connection, path: Path) -> Versions:
    """Return a number that changes with each commit of others, and what changes with the schema,
    or when another file has this path."""
    with translated(path):
        (commits,) = db.execute("PRAGMA main.data_version").fetchone()
        (schema,) = db.execute("PRAGMA main.schema_version").fetchone()
    return commits, (schema, os.stat(path).st_ino)


def removals(db: sqlite3.Connection, table: str) -> tuple[str, list[str]]:
    """Return a table's name as the database has it, and the statements that remove its triggers
    and its queue, as far as they exist.

    ConfigError if the app has a table of the queue's name.
    """
    listed = "SELECT type, name FROM main.sqlite_master WHERE name = ? COLLATE NOCASE"
    table = next((name for _, name in db.execute(listed, (table,))), table)
    info = db.execute("SELECT name FROM pragma_table_info(?, 'main')", (_name(table),)).fetchall()
    if info and (info[0], info[-1]) != (("seq",), ("done",)):
        raise ConfigError(
            f"the database has another table {_name(table)!r}, and the queue of {table!r} "
            "needs this name; rename it to watch",
            key="source",
        )
    names = [*(_name(table, event) for event in _EVENTS), _name(table)]
    found = [row for name in names for row in db.execute(listed, (name,))]
    return table, [f"DROP {kind.upper()} {quoted(name)}" for kind, name in found]


def take_turn(path: str) -> sqlite3.Connection | None:
    """Return a connection that holds a lock until it closes, at the latest with this process.

    None while another one holds it.
    """
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as exc:
        db.close()
        if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return None
        raise AiovecError(f"{path}: {exc}") from exc
    return db


def _name(table: str, event: str = "") -> str:
    return f"{PREFIX}{table}{event and '_'}{event}"


def _said(sql: str) -> dict[str, Any]:
    """Return what a trigger says; nothing if it is none of ours."""
    _, begin, rest = sql.partition(_BEGIN)
    try:
        return dict(json.loads(rest.partition(" */")[0])) if begin else {}
    except ValueError:
        return {}
