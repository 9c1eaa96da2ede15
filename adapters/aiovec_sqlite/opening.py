"""Open the file: check it before changing it, set up connections, and remember its identity."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend.files import look_at
from aiovec.errors import (
    AiovecError,
    ConfigError,
    StoreBusyError,
    StoreReplacedError,
)

from .connection import Ticket, check_not_inherited
from .driver import connect, load_driver
from .errors import (
    CANTOPEN,
    READONLY,
    code_of,
    is_busy,
    translated,
)
from .layout import (
    check_header,
    create_store,
    has_contents,
    newest_change,
)
from .sql.schema import check_schema

if TYPE_CHECKING:
    from .settings import SqliteSettings


_Inode = tuple[int, int]
_State = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OpenFile:
    """The identity of the file and its WAL when the store was opened.

    A process that has a file open can still read and write it after it was replaced or removed, but
    these writes are lost once no process has the file open. A check calls ``stat`` twice, which
    takes 15 µs on a loaded machine.
    """

    target: str
    inode: _Inode
    wal_path: str
    # None if SQLite keeps no WAL: on file systems without shared memory, and when it reads the file
    # as immutable.
    wal: _Inode | None
    # The size and the modification time of a file that is read as immutable.
    unchanged: _State | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        db: sqlite3.Connection,
        ticket: Ticket,
        patience: float = 0.0,
        *,
        read_only: bool = False,
    ) -> OpenFile:
        """Return the identity of the file that a connection has just opened.

        Waits up to ``patience`` seconds while another process holds a lock on the file, for example
        because that process is the last to close it.
        """
        # SQLite creates the WAL when a connection first reads.
        wait = _Patience(path, patience, ticket)
        wait.until_free(lambda: db.execute("SELECT 1 FROM sqlite_master").fetchone())
        # A check follows a symbolic link, to notice a new target. The WAL is next to the target.
        wal = f"{path.resolve()}-wal"
        inode = _inode(str(path))
        if inode is None:
            raise StoreReplacedError(str(path), "the file was removed")
        wal_inode = _inode(wal)
        # In WAL mode but without a WAL, the file can only be read as immutable.
        unchanged = _state(str(path)) if read_only and wal_inode is None else None
        return cls(str(path), inode, wal, wal_inode, unchanged)

    def check(self) -> None:
        """Raise StoreReplacedError if the file, or its WAL, was replaced or removed.

        Also raises StoreReplacedError if a file that is read as immutable has changed, and
        AiovecError if a system call fails.
        """
        inode = _inode(self.target)
        if inode != self.inode:
            change = "removed or renamed" if inode is None else "replaced by another one"
            raise StoreReplacedError(self.target, f"the file was {change}{_REACHED}")
        # While a process has the file open, SQLite leaves its WAL in place.
        if self.wal is not None and _inode(self.wal_path) != self.wal:
            raise StoreReplacedError(self.target, f"its WAL {self.wal_path} was removed{_REACHED}")
        if self.unchanged is not None and (
            self.unchanged != _state(self.target) or _inode(self.wal_path) is not None
        ):
            raise StoreReplacedError(
                self.target, "another process writes to it, and this one can only read"
            )


_REACHED = " (backup() of this store still copies what it has open)"


def _inode(path: str) -> _Inode | None:
    status = look_at(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _state(path: str) -> _State | None:
    status = look_at(path)
    return None if status is None else (status.st_size, status.st_mtime_ns)


_RETRY = 0.01


def open_writer(
    path: Path, settings: SqliteSettings, ticket: Ticket, *, kept: bool = True
) -> sqlite3.Connection:
    """Return a connection that writes; create the store if it does not exist.

    Raises CorruptStoreError, and does not change the file, if it is foreign, damaged, or from a
    newer version. Unless ``kept``, the file is temporary, so no commit waits for the disk.
    """
    check_not_inherited(path)
    exists = check_header(path)
    with translated(str(path)):
        db = connect(str(path))
        try:
            wait = _Patience(path, settings.busy_timeout, ticket)
            if not exists:
                wait.until_free(lambda: create_store(db))
            wait.until_free(lambda: check_schema(db, str(path)))
            wait.until_free(lambda: _to_wal(db))
            _set_durability(db, settings.durability if kept else "none")
            db.execute("PRAGMA cache_size = -65536")  # KiB
            # Checkpoints truncate a WAL that grew during a long read to this size in bytes.
            db.execute("PRAGMA journal_size_limit = 67108864")
            return db
        except BaseException:
            db.close()
            raise


def _to_wal(db: sqlite3.Connection) -> None:
    """Switch the file to WAL mode, which a store keeps once it has been opened.

    A file with changes but without WAL mode is a backup, or an old store that ``restore`` kept.
    Before it is used, its change number is raised above the numbers of any store that it may
    replace: otherwise readers with that store's cursors and change numbers would skip rows.
    """
    if not _has_wal_mode(db) and newest_change(db):
        db.execute("BEGIN IMMEDIATE")
        try:
            if not _has_wal_mode(db):  # another process may have done it first
                count_on(db)
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
    db.execute("PRAGMA journal_mode = WAL").fetchone()


def count_on(db: sqlite3.Connection, replaced: int = 0) -> None:
    """Raise the change number above all numbers of this file and of any store that it replaces.

    ``replaced`` is the change number of that store. Readers of the change feed start again, because
    their numbers may come from the replaced store.
    """
    number = _number_above(max(newest_change(db), replaced))
    db.execute("UPDATE aiovec_state SET value = ? WHERE key = 'change'", (number,))
    db.execute("UPDATE aiovec_tables SET floor = ?", (number,))


def _number_above(number: int) -> int:
    """Return a change number above the numbers of all stores that came from the same backup.

    A backup may be restored twice, so the number comes from the clock, which runs faster than any
    store counts. If the clock is slow, the number is raised by more than a store uses in days.
    """
    now = int(time.time() * _CHANGES_A_SECOND)
    return now if now > number else number + _CHANGES_OF_DAYS


# More change numbers than a store uses in a second, and in days. The numbers of the year 2200 are
# still exact in a float.
_CHANGES_A_SECOND = 2**20
_CHANGES_OF_DAYS = 2**32


def _has_wal_mode(db: sqlite3.Connection) -> bool:
    (mode,) = db.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal")


def open_read_only(
    path: Path, settings: SqliteSettings, file: OpenFile | None = None
) -> sqlite3.Connection:
    """Return a connection that cannot write.

    Raises StoreReplacedError if the path no longer names the store's ``file``.
    """
    return _set_up(lambda: connect_read_only(path, settings.busy_timeout), file)


def check_store_to_read(path: Path) -> None:
    """Raise ConfigError if there is no file, and CorruptStoreError if it is not a store."""
    if not check_header(path, to_read=True):
        raise ConfigError(
            f"there is no store at {path}, and read_only=True creates none", key="target"
        )


def connect_read_only(
    path: Path, timeout: float, check: Callable[[sqlite3.Connection, str], None] = check_schema
) -> sqlite3.Connection:
    """Return a connection that cannot write, but reads a WAL next to the file.

    SQLite needs a lock file to read a database in WAL mode. If it cannot create one, for example on
    a read-only medium, the file is read as immutable. In this case, AiovecError is raised if there
    is a rollback journal, or if there is a WAL, since its changes would be missing. ``check``
    checks the schema.
    """
    uri = path.absolute().as_uri()
    try:
        return _opened(f"{uri}?mode=ro", path, timeout, check)
    except load_driver().Error as exc:
        if code_of(exc) not in (CANTOPEN, READONLY) or not path.exists():
            raise
        if has_contents(path, "-journal"):
            raise AiovecError(
                f"{path} has an unfinished transaction, which a killed program left in "
                f"{path.name}-journal, and it can only be rolled back in a writable file; open it "
                "once with that program"
            ) from exc
        if has_contents(path, "-wal"):
            raise AiovecError(
                f"{path} has changes in {path.name}-wal which can only be read in a writable "
                "folder; copy both files to one"
            ) from exc
        return _opened(f"{uri}?mode=ro&immutable=1", path, timeout, check)


def roll_back(path: Path, timeout: float) -> None:
    """Roll back a killed program's transaction, as the next writer would.

    Does nothing if there is no journal, or no permission to write.
    """
    if has_contents(path, "-journal") and os.access(path, os.W_OK):
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(connect(uri, uri=True, timeout=timeout)) as db:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()


def _opened(
    uri: str, path: Path, timeout: float, check: Callable[[sqlite3.Connection, str], None]
) -> sqlite3.Connection:
    db = connect(uri, uri=True, timeout=timeout)
    try:
        check(db, str(path))
    except BaseException:
        db.close()
        raise
    return db


def open_reader(
    path: Path, settings: SqliteSettings, file: OpenFile | None = None
) -> sqlite3.Connection:
    """Return a connection for reads, checkpoints and backups. Does not create the file.

    Raises StoreReplacedError if the path no longer names the store's ``file``.
    """
    check_not_inherited(path)
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return _set_up(lambda: connect(uri, uri=True, timeout=settings.busy_timeout), file)


def _set_up(
    connected: Callable[[], sqlite3.Connection], file: OpenFile | None
) -> sqlite3.Connection:
    try:
        db = connected()
        try:
            if file is not None:
                file.check()
            # This reads the file, so SQLite opens the WAL: if the WAL is removed later, SQLite
            # still reads it and creates no new one.
            db.execute("PRAGMA cache_size = -2048")  # KiB: the system caches the file too
        except BaseException:
            db.close()
            raise
    except load_driver().Error:
        if file is not None:
            file.check()
        raise
    return db


_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL", "none": "OFF"}


def _set_durability(db: sqlite3.Connection, durability: str) -> None:
    full = durability == "full"
    db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    # On macOS, fsync alone leaves data in the drive's cache.
    db.execute(f"PRAGMA fullfsync = {int(full)}")
    db.execute(f"PRAGMA checkpoint_fullfsync = {int(full)}")


class _Patience:
    """The total time that opening a store may wait while other processes lock the file.

    Waiting ends if the caller is cancelled.
    """

    def __init__(self, path: Path, seconds: float, ticket: Ticket) -> None:
        self._path = path
        self._began = time.monotonic()
        self._seconds = seconds
        self._ticket = ticket

    def until_free(self, work: Callable[[], object]) -> None:
        """Do work that locks the file, and retry while another process holds the lock."""
        while True:
            self._ticket.check()
            try:
                work()
            except load_driver().Error as exc:
                if not is_busy(exc):
                    raise
                waited = time.monotonic() - self._began
                if waited > self._seconds:
                    busy = f"{self._path} is locked by another process"
                    raise StoreBusyError(busy, waited) from exc
                time.sleep(_RETRY)
            else:
                return
