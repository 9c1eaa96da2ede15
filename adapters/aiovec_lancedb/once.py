"""The keys of writes, beside the tables of a folder.

Lance takes nothing into a commit that names the write, so a key cannot be committed with it. It is
noted as begun before the commit and as done behind it. A process that is killed between the two
leaves a key that was begun, and only the rows tell whether its write was done.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiovec.backend.keys import Kept, WriteKey
from aiovec.errors import AiovecError, CorruptStoreError, InvalidArgumentError, StoreBusyError

FILE = "_writes.sqlite"

_CREATE = """CREATE TABLE IF NOT EXISTS writes (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    begun INTEGER NOT NULL, done INTEGER NOT NULL, outcome INTEGER
)"""
# How long a key is kept, in seconds, and how many are: a client that repeats a write does so soon.
_KEEP_SECONDS = 24 * 3600
_KEEP_NUMBER = 100_000
# Keys that are looked at to forget them for each one that is noted.
_FORGET = 4
# Seconds for which other processes, which note a few keys at a time, are waited for at most.
_PATIENCE = 10.0
# And at least, for those of this process do so at once.
_LEAST = 0.25


@dataclass(slots=True)
class Noted:
    """A key that is looked up before its write begins, and what was found.

    ``kept`` is the trace of an earlier write; ``new`` says that there was none.
    """

    key: WriteKey
    kept: Kept | None = None
    new: bool = False
    error: InvalidArgumentError | None = None


class Keys:
    """The keys of one store. Every method reads the disk.

    The file is open only while it is used, so that no fork and no folder put in its place finds it
    open. Nothing is flushed, as Lance flushes nothing.
    """

    def __init__(self, folder: Path, target: str, busy_timeout: float) -> None:
        self._file = folder / FILE
        self._target = target
        self._patience = min(_PATIENCE, max(_LEAST, busy_timeout))

    def find(self, key: WriteKey) -> Kept | None:
        """Return the trace of the write that has the key; None where there is none."""
        if not self._file.exists():
            return None
        with self._opened() as db:
            return _kept(db, key)

    def begin(self, noted: Sequence[Noted]) -> None:
        """Look up keys and note those that are new, as begun."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        now = int(time.time())
        with self._opened() as db:
            for one in noted:
                try:
                    one.kept = _kept(db, one.key)
                except InvalidArgumentError as exc:
                    one.error = exc
                    continue
                if one.kept is None:
                    one.new = True
                    sql = "INSERT INTO writes (key, digest, begun, done) VALUES (?, ?, ?, 0)"
                    number = db.execute(sql, (one.key.name, one.key.digest, now)).lastrowid or 0
                    db.execute(
                        "DELETE FROM writes WHERE number IN ("
                        "SELECT number FROM writes ORDER BY number LIMIT ?"
                        ") AND (number <= ? OR begun < ?)",
                        (_FORGET, number - _KEEP_NUMBER, now - _KEEP_SECONDS),
                    )

    def end(self, done: Sequence[tuple[WriteKey, int | None]], undone: Sequence[WriteKey]) -> None:
        """Note the outcomes of writes, and forget the keys of those that were not done."""
        with self._opened() as db:
            db.executemany(
                "UPDATE writes SET done = 1, outcome = ? WHERE key = ?",
                [(outcome, key.name) for key, outcome in done],
            )
            db.executemany("DELETE FROM writes WHERE key = ?", [(key.name,) for key in undone])

    def note(self, key: WriteKey) -> None:
        """Note a write without an outcome as done."""
        noted = Noted(key)
        self.begin([noted])
        if noted.error is not None:
            raise noted.error
        self.end([(key, None)], [])

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        is_new = not self._file.exists()
        try:
            with closing(
                sqlite3.connect(self._file, timeout=self._patience, isolation_level=None)
            ) as db:
                db.execute("PRAGMA synchronous = OFF")
                db.execute("BEGIN IMMEDIATE")
                db.execute(_CREATE)
                yield db
                db.execute("COMMIT")
            if is_new:
                # SQLite lets nobody but its owner write to a new file, whatever the umask.
                with suppress(OSError):
                    os.chmod(self._file, self._file.parent.stat().st_mode & 0o666)
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc):
                raise StoreBusyError(f"{self._file.name} is locked", self._patience) from exc
            raise AiovecError(f"{self._target}: {FILE} cannot be used: {exc}") from exc
        except sqlite3.Error as exc:
            raise CorruptStoreError(
                self._target, f"{FILE}, which has the keys of writes, is damaged; remove it"
            ) from exc


def _kept(db: sqlite3.Connection, key: WriteKey) -> Kept | None:
    row = db.execute(
        "SELECT digest, done, outcome FROM writes WHERE key = ?", (key.name,)
    ).fetchone()
    if row is None:
        return None
    digest, done, outcome = row
    if type(digest) is not bytes or type(outcome) not in (int, type(None)):
        raise sqlite3.DatabaseError("a column of another type")
    key.check(digest)
    return Kept(outcome, done=bool(done))
