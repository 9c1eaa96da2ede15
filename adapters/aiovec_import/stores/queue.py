"""A queue of changed rows' keys, filled by triggers in an app's own SQLite database.

In this module, only ``Queue.set_up`` and ``Queue.remove`` write to the database: with a second
writer, the app's transactions that read and then write could fail. The module uses Python's
``sqlite3``, as an app in this process does. Two SQLite libraries in one process would not see each
other's locks, and each would drop the other's locks when it closes the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from secrets import randbits
from typing import Any, NamedTuple

from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.layout import quoted

from ..locks import lock_path

# Seconds to wait for the app's commit.
_BUSY_SECONDS = 5.0
PREFIX = "aiovec_queue_"
_EVENTS = ("insert", "update", "key", "delete", "tail")
# The number of newest entries that the queue keeps, and the number of entries between two prunings.
_KEPT, _TAIL = 100_000, 1024
# The entries that identify a queue: the newest, and the entries 1, 2, 4, ... before the newest.
_BEFORE = (0, *(1 << power for power in range(17)))
_COPY = "temp.aiovec_keys"

Key = tuple[Any, ...]


class Versions(NamedTuple):
    """Numbers that change when a database does: commits, schema, inode, and modification time."""

    commits: int
    schema: int
    file: int
    time: int

    def is_same_file(self, before: Versions) -> bool:
        """Return whether this is still the same file with the same schema.

        If the modification time changed without a commit, another program overwrote the file,
        or the WAL was checkpointed. Both cases count as another file.
        """
        is_copied = self.time != before.time and self.commits == before.commits
        return self[1:3] == before[1:3] and not is_copied


class AppDatabase:
    """An app's database, opened by Python's own SQLite. Any thread can use the connection ``db``.

    The file is opened for writing if permitted, so that SQLite can roll back the transaction of an
    app that was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.reading():
            self.db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Translate each SQLite error to an AiovecError."""
        try:
            yield
        except sqlite3.Error as exc:
            raise AiovecError(f"{self.path}: {exc}") from exc

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

    def versions(self) -> Versions:
        """Return the numbers that change when the database does."""
        ((commits,),) = self.run("PRAGMA main.data_version")
        ((schema,),) = self.run("PRAGMA main.schema_version")
        try:
            status = os.stat(self.path)
        except OSError as exc:
            raise AiovecError(f"{self.path} cannot be read: {exc.strerror or exc}") from exc
        return Versions(commits, schema, status.st_ino, status.st_mtime_ns)

    def close(self) -> None:
        self.db.close()


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

    def __init__(self, path: Path, table: str) -> None:
        super().__init__(path)
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
    def _columns(self) -> str:
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
                f"INSERT INTO {self._queue} ({self._columns}) VALUES ({keys}); END"
            )
        made["tail"] = (
            f"AFTER INSERT ON {self._queue} WHEN new.seq % {_TAIL} = 0 BEGIN "
            f"DELETE FROM {self._queue} WHERE seq > 0 AND seq <= new.seq - {_KEPT}; END"
        )
        table = f"(seq INTEGER PRIMARY KEY, {self._columns}, r DEFAULT (random()))"
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
            for statement in (statements := self.removals()):
                self.db.execute(statement)
        return statements

    def set_up(self, statements: Sequence[str], before: Versions) -> Versions | None:
        """Create the queue and its triggers; return the new versions of the database.

        If the schema or the file has changed since ``before``, the columns may have changed, too:
        create nothing and return None.
        """
        with self.snapshot("BEGIN IMMEDIATE"):
            if not self.versions().is_same_file(before):
                return None
            for statement in statements:
                self.db.execute(statement)
            return self.versions()

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

    def noted(self, limit: int, after: int) -> tuple[int, list[Key]]:
        """Read up to ``limit`` entries with numbers above ``after``.

        Return the number of the last entry read (``after`` if none), and the distinct keys.
        """
        return self._keys_in(self._queue, limit, after)

    def copy_keys(self) -> None:
        """Copy the keys of all rows to a temporary table, for ``copied``."""
        keys = ", ".join(map(quoted, self.keys))
        self.run(f"DROP TABLE IF EXISTS {_COPY}")
        self.run(f"CREATE TABLE {_COPY} (seq INTEGER PRIMARY KEY, {self._columns})")
        self.run(
            f"INSERT INTO {_COPY} ({self._columns}) SELECT {keys} FROM main.{quoted(self.table)}"
        )

    def copied(self, limit: int, after: int) -> tuple[int, list[Key]]:
        """Read up to ``limit`` copied keys at positions above ``after``.

        Return the position of the last key read (``after`` if none), and the distinct keys.
        """
        return self._keys_in(_COPY, limit, after)

    def _keys_in(self, table: str, limit: int, after: int) -> tuple[int, list[Key]]:
        statement = f"SELECT seq, {self._columns} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self.run(statement, (after, limit))
        return (rows[-1][0] if rows else after), [*dict.fromkeys(row[1:] for row in rows)]

    def waiting(self, mark: Mark, until: int | None = None) -> int | None:
        """Return the number of entries after the mark, up to ``until`` or else to the newest entry.

        Return None if the mark is not valid for the queue. Raises LookupError if the queue has no
        entry ``until`` yet.
        """
        with self.snapshot():
            last, suits = self.last(), self.suits(mark)
        if until is not None and until > last:
            raise LookupError(until)
        return max(0, (until or last) - mark.applied) if suits else None


def lock_of(path: Path, table: str) -> str:
    """Return the path of the lock that all watches of a queue share."""
    return lock_path(str(path), "queue", table.lower())


def _name(table: str, event: str = "") -> str:
    return f"{PREFIX}{table}{event and '_'}{event}"
