"""Opening the file: checks before it is touched, the set-up of connections, and its identity."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
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

from .connection import check_not_inherited
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
    check_header_to_read,
    create_store,
    has_wal,
    newest_change,
)

if TYPE_CHECKING:
    from .settings import SqliteSettings


_Inode = tuple[int, int]
_State = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OpenFile:
    """The file and its WAL as they were when the store was opened.

    Who has a file open reads and writes it also after it was replaced or removed; what is written
    then is gone with the last process that has it open. A look costs two calls of ``stat``: 15 us
    on a loaded machine.
    """

    target: str
    inode: _Inode
    wal_path: str
    # None where SQLite keeps none: on file systems without shared memory, and where it reads the
    # file as one that nobody changes.
    wal: _Inode | None
    # Of a file that is read as one that nobody changes.
    unchanged: _State | None = None

    @classmethod
    def of(
        cls, path: Path, db: sqlite3.Connection, patience: float = 0.0, *, read_only: bool = False
    ) -> OpenFile:
        """The file that a connection has just opened; ``patience`` in seconds is for others that
        hold it, such as one that is the last to close it."""
        # SQLite makes the WAL when it first reads.
        began = time.monotonic()
        _patiently(
            lambda: db.execute("SELECT 1 FROM sqlite_master").fetchone(), path, began, patience
        )
        # A link that leads elsewhere is noticed, but the WAL lies beside the file itself.
        wal = f"{path.resolve()}-wal"
        inode = _inode(str(path))
        if inode is None:
            raise StoreReplacedError(str(path), "the file was removed")
        found = _inode(wal)
        # Without a WAL, what is in WAL mode can be read in no other way.
        unchanged = _state(str(path)) if read_only and found is None else None
        return cls(str(path), inode, wal, found, unchanged)

    def check(self) -> None:
        """Raise StoreReplacedError where another file, or none, is there now.

        AiovecError where the system does not tell.
        """
        inode = _inode(self.target)
        if inode != self.inode:
            what = "removed or renamed" if inode is None else "replaced by another one"
            raise StoreReplacedError(self.target, f"the file was {what}{_REACHED}")
        # As long as a process has the file open, SQLite leaves its WAL where it is.
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
    found = look_at(path)
    return None if found is None else (found.st_dev, found.st_ino)


def _state(path: str) -> _State | None:
    found = look_at(path)
    return None if found is None else (found.st_size, found.st_mtime_ns)


_RETRY = 0.01
_LOOKS, _BETWEEN_LOOKS = 20, 0.05


def open_writer(path: Path, settings: SqliteSettings, *, kept: bool = True) -> sqlite3.Connection:
    """The connection that writes; creates the store where there is none.

    A file that is not ours, newer or damaged raises CorruptStoreError and is not touched. One that
    goes with the store is not ``kept``: no commit waits for the disk.
    """
    check_not_inherited(path)
    exists = check_header(path)
    with translated(str(path)):
        db = connect(str(path))
        try:
            began, patience = time.monotonic(), settings.busy_timeout
            if not exists:
                _patiently(lambda: create_store(db, settings.page_size), path, began, patience)
            _patiently(lambda: _to_wal(db), path, began, patience)
            _set_durability(db, settings.durability if kept else "none")
            db.execute(f"PRAGMA cache_size = {-1024 * settings.cache_mb}")
            # A WAL that grew during a long read is cut back once it is brought into the file.
            db.execute("PRAGMA journal_size_limit = 67108864")
            return db
        except BaseException:
            db.close()
            raise


def _to_wal(db: sqlite3.Connection) -> None:
    """Have the file keep a WAL, as every store does from its first opening on.

    One with changes that does not is a backup, or a store that a restore has put aside. Put into
    use, its changes are numbered behind those of any store in whose place it may be: cursors and
    change numbers that were given there would pass over rows.
    """
    if not _has_wal_mode(db) and newest_change(db):
        db.execute("BEGIN IMMEDIATE")
        try:
            if not _has_wal_mode(db):  # another process may have been faster
                count_on(db)
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
    db.execute("PRAGMA journal_mode = WAL").fetchone()


def count_on(db: sqlite3.Connection, behind: int = 0) -> None:
    """Number further changes behind those so far, and behind a store that the file replaces.

    Readers of the change feed begin anew, since their numbers may be of that other store.
    """
    number = _number_behind(max(newest_change(db), behind))
    db.execute("UPDATE aiovec_state SET value = ? WHERE key = 'change'", (number,))
    db.execute("UPDATE aiovec_tables SET floor = ?", (number,))


def _number_behind(number: int) -> int:
    """A change number behind those of a store that may have come from the same backup.

    By the clock, which runs faster than any store counts: a backup may be put into use again. A
    clock that is behind tells nothing, and the number is raised by more than a store takes in days.
    """
    now = int(time.time() * _CHANGES_A_SECOND)
    return now if now > number else number + _CHANGES_OF_DAYS


# No store takes so many for long. What is reached in the year 2200 is still exact in a float.
_CHANGES_A_SECOND = 2**20
_CHANGES_OF_DAYS = 2**32


def _has_wal_mode(db: sqlite3.Connection) -> bool:
    (mode,) = db.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal")


def open_read_only(
    path: Path, settings: SqliteSettings, file: OpenFile | None = None
) -> sqlite3.Connection:
    """A connection that can write nothing.

    StoreReplacedError where the path no longer leads to the ``file`` of the store.
    """
    return _set_up(lambda: connect_read_only(path, settings.busy_timeout), settings, file)


def check_store_to_read(path: Path) -> None:
    """ConfigError where there is no store, CorruptStoreError where it is none of ours."""
    exists = check_header_to_read(path)
    if not exists:
        raise ConfigError(
            f"there is no store at {path}, and read_only=True creates none",
            key="target",
            accepted="the path of an existing store",
        )


def connect_read_only(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection that can write nothing, with a WAL beside the file read too.

    SQLite needs a lock file to read a database in WAL mode. Where none can be made, on a medium
    that cannot be written, the file is read as one that nobody changes; but only if there is no
    WAL, without which its last changes would be missing.
    """
    uri = path.absolute().as_uri()
    try:
        return _opened(f"{uri}?mode=ro", timeout)
    except load_driver().Error as exc:
        if code_of(exc) not in (CANTOPEN, READONLY) or not path.exists():
            raise
        if has_wal(path):
            raise AiovecError(
                f"{path} has changes in {path.name}-wal which can only be read in a writable "
                "folder; copy both files to one"
            ) from exc
        return _opened(f"{uri}?mode=ro&immutable=1", timeout)


def _opened(uri: str, timeout: float) -> sqlite3.Connection:
    db = connect(uri, uri=True, timeout=timeout)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def open_reader(
    path: Path, settings: SqliteSettings, file: OpenFile | None = None
) -> sqlite3.Connection:
    """A connection that only reads, but for checkpoints and backups. Makes no file.

    StoreReplacedError where the path no longer leads to the ``file`` of the store.
    """
    check_not_inherited(path)
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return _set_up(lambda: connect(uri, uri=True, timeout=settings.busy_timeout), settings, file)


def _set_up(
    connected: Callable[[], sqlite3.Connection], settings: SqliteSettings, file: OpenFile | None
) -> sqlite3.Connection:
    try:
        db = connected()
        try:
            if file is not None:
                file.check()
            # It reads the file, for which SQLite opens the WAL: one that is removed later is read
            # on, and none is made in its place.
            db.execute(f"PRAGMA cache_size = {-1024 * settings.reader_cache_mb}")
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
    # On macOS fsync alone leaves data in the drive's own cache.
    db.execute(f"PRAGMA fullfsync = {int(full)}")
    db.execute(f"PRAGMA checkpoint_fullfsync = {int(full)}")


def _patiently(work: object, path: Path, began: float, patience: float) -> None:
    """Do what needs the file for itself, again while another process is at it.

    It may take ``patience`` seconds from ``began`` on.
    """
    while True:
        try:
            work()  # type: ignore[operator]
        except load_driver().Error as exc:
            if not is_busy(exc):
                raise
            waited = time.monotonic() - began
            if waited > patience:
                raise StoreBusyError(f"{path} is locked by another process", waited) from exc
            time.sleep(_RETRY)
        else:
            return
