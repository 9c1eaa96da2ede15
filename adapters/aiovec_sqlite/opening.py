"""Opening the file: what is checked before it is touched, and how connections are set up."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.errors import StoreBusyError

from .driver import connect, load_driver
from .errors import DamageError, failures, is_busy, translated
from .layout import check_header, create_store, read_table

if TYPE_CHECKING:
    from aiovec.settings import SqliteSettings

_RETRY = 0.01


def open_writer(path: Path, settings: SqliteSettings) -> sqlite3.Connection:
    """The connection that writes; creates the store where there is none.

    A file that is not ours, newer or cut short raises CorruptStoreError and is not touched.
    """
    exists = check_header(path)
    with translated(str(path)):
        if exists:
            _check_readable_again(path)
        db = connect(str(path))
        try:
            deadline = time.monotonic() + settings.busy_timeout
            if not exists:
                _patiently(lambda: create_store(db, settings.page_size), path, deadline)
            _patiently(lambda: db.execute("PRAGMA journal_mode = WAL").fetchone(), path, deadline)
            _set_durability(db, settings)
            db.execute(f"PRAGMA cache_size = {-1024 * settings.cache_mb}")
            # A WAL that grew during a long read is cut back once it is brought into the file.
            db.execute("PRAGMA journal_size_limit = 67108864")
            return db
        except BaseException:
            db.close()
            raise


def open_memory(settings: SqliteSettings) -> sqlite3.Connection:
    """The only connection to a store in memory."""
    db = connect(":memory:")
    try:
        create_store(db, settings.page_size)
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path, settings: SqliteSettings) -> sqlite3.Connection:
    """A connection that only reads, but for checkpoints and backups."""
    db = connect(str(path), timeout=settings.busy_timeout)
    db.execute(f"PRAGMA cache_size = {-1024 * settings.reader_cache_mb}")
    return db


def _check_readable_again(path: Path) -> None:
    try:
        _check_readable(path)
    except failures():
        # Another process may just have opened the file, and written it.
        time.sleep(_RETRY)
        _check_readable(path)


def _check_readable(path: Path) -> None:
    """Find damage before anything is written."""
    path = path.resolve()
    # Where nobody has the file open there is no WAL. Then even its lock files, which a reader
    # would leave beside a file that is refused, need not be made.
    options = "mode=ro"
    if not path.with_name(f"{path.name}-wal").exists():
        options += "&immutable=1"
    db = connect(f"{path.as_uri()}?{options}", uri=True, timeout=5.0)
    try:
        row = db.execute("SELECT value FROM aiovec_state WHERE key = 'change'").fetchone()
        if row is None or not isinstance(row[0], int):
            raise DamageError("there is no change number")
        for name in db.execute("SELECT name FROM aiovec_tables").fetchall():
            read_table(db, name[0])
    finally:
        db.close()


def _set_durability(db: sqlite3.Connection, settings: SqliteSettings) -> None:
    full = settings.durability == "full"
    db.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
    # On macOS fsync alone leaves data in the drive's own cache.
    db.execute(f"PRAGMA fullfsync = {int(full)}")
    db.execute(f"PRAGMA checkpoint_fullfsync = {int(full)}")


def _patiently(work: object, path: Path, deadline: float) -> None:
    """Do what needs the file for itself, again while another process is at it."""
    while True:
        try:
            work()  # type: ignore[operator]
        except load_driver().Error as exc:
            if not is_busy(exc):
                raise
            if time.monotonic() > deadline:
                raise StoreBusyError(f"{path} is locked by another process", 0.0) from exc
            time.sleep(_RETRY)
        else:
            return
