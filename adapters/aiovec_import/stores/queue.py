"""A queue of changed rows' keys, filled by triggers in an app's own SQLite database.

The database is opened for each look at it, only for reading. In this module, only ``Queue.set_up``
and ``Queue.remove`` write to it: with a second writer, the app's transactions that read and then
write could fail. The module uses Python's ``sqlite3``, as an app in this process does: two SQLite
libraries in one process do not see each other's locks, and each drops the other's locks when it
closes the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from secrets import randbits
from typing import Any

from aiovec._documents.reading import python
from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.layout import has_contents, quoted

from ..locks import lock_path
from .sql import as_text

# Seconds to wait for the app's commit.
_BUSY_SECONDS = 5.0
PREFIX = "aiovec_queue_"
_EVENTS = ("insert", "update", "key", "delete", "tail")
# The number of newest entries that the queue keeps, and the number of entries between two prunings.
_KEPT, _TAIL = 100_000, 1024
# The entries that identify a queue: the newest, and the entries 1, 2, 4, ... before the newest.
_BEFORE = (0, *(1 << power for power in range(17)))
# SQLite libraries other than Python's that apps open databases with; Peewee takes the first.
_OTHER_LIBRARIES = ("pysqlite3", "apsw")
_ROLL_BACK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], uri=True).execute("SELECT 1 FROM sqlite_master").fetchone()
"""

Key = tuple[Any, ...]


class AppDatabase:
    """An app's database, opened by Python's own SQLite. Any thread can use the connection ``db``.

    Unless ``writes``, it is opened for reading only, so SQLite does not roll back a transaction
    here: another library in this process may hold it. Raises ConfigError if such a library is known
    to be loaded.
    """

    def __init__(self, path: Path, *, writes: bool = False) -> None:
        self.path = path
        _check_library(path)
        with self.reading():
            self.db = _connected(path, "rw" if writes else "ro", _BUSY_SECONDS)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate each SQLite error to an AiovecError."""
        try:
            yield
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", 0)
            reason = f"{exc}"
            if code == sqlite3.SQLITE_READONLY_ROLLBACK:
                reason = (
                    "it has an unfinished transaction of a program that was killed; it is read "
                    "again once an app has opened it, which rolls the transaction back"
                )
            elif code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                reason = f"it is being overwritten, or it is damaged ({exc})"
            raise AiovecError(f"{self.path}: {reason}") from exc

    def run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a statement, and return its rows."""
        with self.reading():
            return self.db.execute(statement, values).fetchall()

    @contextmanager
    def snapshot(self, begin: str = "BEGIN") -> Iterator[None]:
        """Run statements in one transaction."""
        with self.reading():
            self.db.execute(begin)
            try:
                yield
                self.db.execute("COMMIT")
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    def close(self) -> None:
        self.db.close()
        _leave(self.path)


def _connected(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        _uri(path, mode),
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _check_library(path: Path) -> None:
    """Raise ConfigError if this process has loaded a SQLite library that may open the database.

    ``sqlcipher3`` may be loaded: it opens the stores, and an app's database is another file.
    """
    for name in _OTHER_LIBRARIES:
        if name in sys.modules:
            raise ConfigError(
                f"{path} cannot be followed in this process, because {name} is loaded, a second "
                "SQLite library: if the app opens the file with it, each library would release "
                "the locks of the other, and commits would be lost. Follow the file in a process "
                "of its own, with the command aiovec watch",
                key="source",
            )


def _leave(path: Path) -> None:
    """Remove the database's WAL if no process uses it any more.

    SQLite leaves this to the last connection that may write. If an app ends during a look, this is
    the last one: a backup copied over the file would be read with the rows of the WAL.
    """
    if os.path.exists(f"{os.path.realpath(path)}-wal"):
        with suppress(sqlite3.Error), closing(_connected(path, "rw", 0)) as last:
            last.execute("SELECT 1 FROM sqlite_master").fetchone()


def files_of(path: Path) -> list[tuple[int, ...]]:
    """Return the inodes, times and sizes of a database's file and its WAL. Each commit changes one.

    A WAL without content counts as missing, because each look creates and removes one. The ctime is
    left out: if SQLite runs as root, it changes with each look.
    """
    states: list[tuple[int, ...]] = []
    for file in (real := os.path.realpath(path), f"{real}-wal"):
        with suppress(OSError):
            if (status := os.stat(file)).st_size:
                states.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return states


def roll_back(path: Path) -> None:
    """Let a process of its own roll back the transaction of an app that was killed, if any.

    Such a process sees the locks of all programs; this one may have an app's other library loaded.
    """
    if has_contents(Path(os.path.realpath(path)), "-journal"):
        with suppress(OSError, subprocess.SubprocessError):  # then reading the file fails
            command = [python(), "-I", "-c", _ROLL_BACK, _uri(path, "rw")]
            subprocess.run(command, check=False, capture_output=True, timeout=2 * _BUSY_SECONDS)


@dataclass(frozen=True, slots=True)
class Mark:
    """The position of a store's table in a queue: the entries that were applied to the table.

    ``queue`` is the queue's number, and ``shape`` has the columns and the passage lengths that the
    rows were made with. All entries up to ``applied`` have been applied. ``seen`` maps the numbers
    of some entries to their digests: the entry that was the newest when rows were last read, and
    earlier entries. No row of the store's table is newer than the newest entry in ``seen``.
    ``refused`` lists the keys of rows that were set aside; ``forgot`` is True if there were too
    many to list.
    """

    queue: int
    shape: list[Any]
    applied: int
    seen: Mapping[str, str]
    refused: Sequence[Key] = ()
    forgot: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, default=lambda part: {"hex": part.hex()})

    @classmethod
    def read(cls, text: str | None) -> Mark | None:
        """Parse a mark; return None if the text is not a mark."""
        try:
            facts = json.loads(text or "")
            refused = [
                tuple(bytes.fromhex(p["hex"]) if isinstance(p, dict) else p for p in key)
                for key in facts.pop("refused")
            ]
            return cls(**facts, refused=refused)
        except (TypeError, ValueError, LookupError, AttributeError):
            return None


class Queue(AppDatabase):
    """The queue of one table, with an entry for each change, in the order of the commits.

    Each entry has a random number: after a restore, the same changes made again have other numbers.
    The key of entry 0 is the queue's own random number. A queue that was emptied has no entry 0,
    and is recreated. ``keys`` lists the columns of the table's key. All methods block.
    """

    def __init__(self, path: Path, table: str, *, writes: bool = False) -> None:
        super().__init__(path, writes=writes)
        self.keys: Sequence[str] = ()
        self._named = table

    @cached_property
    def table(self) -> str:
        """The table's name as the database spells it."""
        named = "SELECT name FROM main.sqlite_master WHERE name = ? COLLATE NOCASE"
        rows = self.run(named, (self._named,))
        return str(rows[0][0]) if rows else self._named

    @cached_property
    def _queue(self) -> str:
        return quoted(_name(self.table))

    @property
    def columns(self) -> str:
        return ", ".join(f"k{number}" for number in range(len(self.keys)))

    # Set-up

    def _made(self) -> dict[str, str]:
        """Return the statements that create the queue's table and its triggers, by name.

        The triggers call no functions: a call makes bulk writes a fifth slower, even if its trigger
        does not fire.
        """
        own = [*map(quoted, self.keys)]
        changed = " OR ".join(f"old.{key} COLLATE BINARY IS NOT new.{key}" for key in own)
        made = {}
        for name, event, row, when in (
            ("insert", "INSERT", "new", ""),
            ("update", "UPDATE", "new", ""),
            ("key", "UPDATE", "old", f" WHEN {changed}"),
            ("delete", "DELETE", "old", ""),
        ):
            keys = ", ".join(f"{row}.{key}" for key in own)
            made[name] = (
                f"AFTER {event} ON {quoted(self.table)}{when} BEGIN "
                f"INSERT INTO {self._queue} ({self.columns}) VALUES ({keys}); END"
            )
        made["tail"] = (
            f"AFTER INSERT ON {self._queue} WHEN new.seq % {_TAIL} = 0 BEGIN "
            f"DELETE FROM {self._queue} WHERE seq > 0 AND seq <= new.seq - {_KEPT}; END"
        )
        table = f"(seq INTEGER PRIMARY KEY, {self.columns}, r DEFAULT (random()))"
        return {
            _name(self.table): f"CREATE TABLE {self._queue} {table}",
            **{
                (name := _name(self.table, event)): f"CREATE TRIGGER {quoted(name)} {rest}"
                for event, rest in made.items()
            },
        }

    def statements(self) -> list[str]:
        """Return the statements that create the queue and its triggers, replacing existing ones."""
        return [
            *self.removals(),
            *self._made().values(),
            f"INSERT INTO {self._queue} (seq, k0) VALUES (0, {randbits(48)})",
        ]

    def removals(self) -> list[str]:
        """Return the statements that remove the existing triggers and the queue, if it exists.

        Raises ConfigError if the app has a table with the queue's name.
        """
        name = _name(self.table)
        columns = self.run("SELECT name FROM pragma_table_info(?, 'main')", (name,))
        # Look for the triggers by name: if their table was renamed, they belong to another table.
        triggers = self.run(
            "SELECT name FROM main.sqlite_master WHERE type = 'trigger' "
            f"AND name IN ({', '.join('?' * len(_EVENTS))}) COLLATE NOCASE ORDER BY rowid",
            [_name(self.table, event) for event in _EVENTS],
        )
        if columns and (columns[0][0], columns[1][0][:1]) != ("seq", "k"):
            raise ConfigError(
                f"the database has another table {name!r}, and the queue of {self.table!r} needs "
                "this name; rename it to watch",
                key="source",
            )
        drops = [f"DROP TRIGGER {quoted(trigger)}" for (trigger,) in triggers]
        return [*drops, f"DROP TABLE {self._queue}"] if columns else drops

    def remove(self) -> list[str]:
        """Remove the queue and the triggers; return the executed statements."""
        with self.snapshot("BEGIN IMMEDIATE"):
            self.set_up(statements := self.removals())
        return statements

    def set_up(self, statements: Sequence[str]) -> None:
        """Create the queue and its triggers, in a transaction that may write."""
        for statement in statements:
            self.run(statement)

    def number(self) -> int | None:
        """Return the queue's number; None if the queue or a trigger is missing or changed."""
        existing = dict(
            self.run(
                "SELECT name, sql FROM main.sqlite_master WHERE tbl_name IN (?, ?) COLLATE NOCASE",
                (self.table, _name(self.table)),
            )
        )
        if any(existing.get(name) != sql for name, sql in self._made().items()):
            return None
        numbers = self.run(f"SELECT k0 FROM {self._queue} WHERE seq = 0")
        return int(numbers[0][0]) if numbers else None

    # Reading

    def suits(self, mark: Mark) -> bool:
        """Return whether the mark is from this queue, and the queue still has all later changes."""
        if self.number() != mark.queue:
            return False
        ((first,),) = self.run(f"SELECT min(seq) FROM {self._queue} WHERE seq > 0")
        oldest, seen = first or 1, {int(seq): digest for seq, digest in mark.seen.items()}
        newest = max(seen, default=0)
        if not oldest - 1 <= mark.applied <= newest <= self.last() or (seen and newest < oldest):
            return False
        return self._digests(seen) == {seq: it for seq, it in seen.items() if seq >= oldest}

    def seen(self) -> dict[str, str]:
        """Return the digests, by number, of the newest entry and of some earlier entries."""
        last = self.last()
        digests = self._digests(last - before for before in _BEFORE if last > before)
        return {str(seq): digest for seq, digest in digests.items()}

    def _digests(self, entries: Iterable[int]) -> dict[int, str]:
        listed = ", ".join(map(str, entries))
        rows = self.run(f"SELECT * FROM {self._queue} WHERE seq IN ({listed})")
        return {seq: blake2b(repr(key).encode(), digest_size=6).hexdigest() for seq, *key in rows}

    def last(self) -> int:
        """Return the number of the newest committed entry; 0 if there is none."""
        ((last,),) = self.run(f"SELECT max(seq) FROM {self._queue}")
        return int(last or 0)

    def newest(self) -> list[Any]:
        """Return the newest entry and the schema's version."""
        entry = self.run(f"SELECT * FROM {self._queue} ORDER BY seq DESC LIMIT 1")
        return [*entry, *self.run("PRAGMA main.schema_version")]

    def noted(self, limit: int, after: int) -> tuple[int, list[Key]]:
        """Read up to ``limit`` entries with numbers above ``after``.

        Return the number of the last entry read (``after`` if none), and the distinct keys.
        """
        return _keys_in(self.db, self._queue, self.columns, limit, after)

    def waiting(self, mark: Mark, until: int | None = None) -> int | None:
        """Return the number of entries after the mark, up to ``until`` or else to the newest entry.

        Return None if the mark is not valid for the queue. Raises LookupError if the queue has no
        entry ``until`` yet.
        """
        last, suits = self.last(), self.suits(mark)
        if until is not None and until > last:
            raise LookupError(until)
        return max(0, (until or last) - mark.applied) if suits else None


class Keys:
    """A copy of the keys of all rows, in a temporary database of its own."""

    def __init__(self, queue: Queue) -> None:
        self._columns, keys = queue.columns, ", ".join(map(quoted, queue.keys))
        rows = f"SELECT {keys} FROM app.{quoted(queue.table)}"
        self._db = sqlite3.connect("", uri=True, isolation_level=None, check_same_thread=False)
        self._db.text_factory = as_text
        try:
            with queue.reading():
                self._db.execute(f"CREATE TABLE keys (seq INTEGER PRIMARY KEY, {self._columns})")
                self._db.execute("ATTACH ? AS app", (_uri(queue.path, "ro"),))
                self._db.execute(f"INSERT INTO keys ({self._columns}) {rows}")
                self._db.execute("DETACH app")
                _leave(queue.path)
        except BaseException:
            self.close()
            raise

    def after(self, seq: int, limit: int) -> tuple[int, list[Key]]:
        """Read up to ``limit`` keys at positions above ``seq``.

        Return the position of the last key read (``seq`` if none), and the distinct keys.
        """
        return _keys_in(self._db, "keys", self._columns, limit, seq)

    def close(self) -> None:
        self._db.close()


def _keys_in(
    db: sqlite3.Connection, table: str, columns: str, limit: int, after: int
) -> tuple[int, list[Key]]:
    statement = f"SELECT seq, {columns} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
    rows = db.execute(statement, (after, limit)).fetchall()
    return (rows[-1][0] if rows else after), [*dict.fromkeys(row[1:] for row in rows)]


def lock_of(path: Path, table: str) -> str:
    """Return the path of the lock that all watches of a queue share."""
    return lock_path(str(path), "queue", table.lower())


def _name(table: str, event: str = "") -> str:
    return f"{PREFIX}{table}{event and '_'}{event}"
