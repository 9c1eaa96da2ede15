"""Backups: copy the store to a new file, and replace a store with a backup."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from aiovec.backend.files import create_like, flush_folder, remove_abandoned, rename_new
from aiovec.errors import AiovecError, CorruptStoreError, InvalidArgumentError, StoreBusyError

from .connection import Ticket
from .driver import connect, load_driver
from .errors import copying_to, failures, is_busy, translated
from .layout import (
    APPLICATION_ID,
    check_contents,
    check_header,
    faults_of,
    newest_change,
    read_header,
)
from .moves import forget_mark
from .opening import connect_read_only, count_on
from .settings import BESIDE, SqliteSettings, check_free_name, make_folder_of

_PAGES_AT_ONCE = 4096
# A change number of at least this much is ignored: a damaged file may contain any number.
_NO_COUNT = 2**61


def backup(db: sqlite3.Connection, ticket: Ticket, path: Path) -> None:
    """Write the store's current state to a new file, atomically."""
    reason = f"{path} exists already; name a path that does not exist yet"
    taken = InvalidArgumentError("path", str(path), reason=reason)
    if os.path.lexists(path):
        raise taken
    check_free_name(str(path))
    if not path.parent.is_dir():
        raise InvalidArgumentError("path", str(path), "a file in a folder that exists")
    remove_abandoned(path.parent, f".{path.name}.", ".partial")
    partial = path.with_name(f".{path.name}.{os.getpid()}-{id(db)}.partial")
    try:
        with copying_to(str(path)):
            (store,) = db.execute("SELECT file FROM pragma_database_list").fetchone()
            create_like(partial, store)
            db.execute("VACUUM INTO ?", (str(partial),))
            with closing(connect(str(partial))) as copy:
                forget_mark(copy)  # a migration's mark is for the store, not its copy
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            ticket.check()
            try:
                rename_new(partial, path)
            except FileExistsError:
                raise taken from None
            flush_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


def restore(
    backup: Path, target: Path, settings: SqliteSettings, *, overwrite: bool
) -> Path | None:
    """Replace ``target`` with a checked copy of ``backup``.

    Returns the path at which the old file was kept, or None.
    """
    # Replace a symbolic link's target, because SQLite keeps its other files next to the target.
    target = target.resolve()
    if target.exists() and backup.exists() and os.path.samefile(backup, target):
        raise InvalidArgumentError("backup", str(backup), "a file other than the target")
    if backup.is_dir():
        raise CorruptStoreError(
            str(backup),
            "this is a folder, and a backup of SQLite is a file; restore one of LanceDB to an "
            "address such as lancedb://PATH",
        )
    if not check_header(backup, to_read=True):
        raise CorruptStoreError(str(backup), "this is not a backup: it is empty")
    make_folder_of(target)
    remove_abandoned(target.parent, f".{target.name}.", ".partial")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    kept: Path | None = None
    try:
        with (
            translated(str(backup)),
            closing(connect_read_only(backup, settings.busy_timeout)) as source,
            copying_to(str(target)),
        ):
            create_like(partial, target if target.exists() else backup)
            _copy(source, partial, str(backup))
        with _held_alone(target, overwrite=overwrite) as newest:
            with translated(str(target)), copying_to(str(target)):
                _count_on_from(partial, newest or 0)
            kept = None if overwrite or newest is None else _keep(target)
            for end in BESIDE:
                Path(f"{target}{end}").unlink(missing_ok=True)
            flush_folder(target.parent)
            if os.name != "nt":
                os.replace(partial, target)
        if os.name == "nt":  # Windows cannot replace an open file
            os.replace(partial, target)
        flush_folder(target.parent)
        return kept
    except OSError as exc:
        raise AiovecError(f"{target} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if kept is not None and partial.exists():
            _take_back(kept, target)
        for end in ("", *BESIDE):
            with suppress(OSError):
                Path(f"{partial}{end}").unlink()


def _copy(source: sqlite3.Connection, partial: Path, backup: str) -> None:
    """Copy a backup, with the changes in any WAL next to it, and check the copy."""
    with closing(connect(str(partial))) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        source.backup(copy, pages=_PAGES_AT_ONCE)
        copy.execute("PRAGMA journal_mode = DELETE").fetchone()
        if faults := faults_of(copy, "integrity_check"):
            raise CorruptStoreError(backup, f"the backup is damaged: {'; '.join(faults)}")
        check_contents(copy)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())


def _count_on_from(partial: Path, newest: int) -> None:
    """Raise the copy's change number above the number of the replaced store.

    The first process that opens the store for writing also raises the number, using the clock. But
    a process may open the store for reading first, or the clock may have been set back.
    """
    with closing(connect(str(partial))) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        count_on(copy, newest)


@contextmanager
def _held_alone(target: Path, *, overwrite: bool) -> Iterator[int | None]:
    """Lock a file against the connections of all processes.

    Yields the file's newest change number: 0 if it is unknown, None if the file does not exist.
    """
    if not target.exists() or not target.stat().st_size:
        yield 0 if target.exists() else None
        return
    db = _alone(target, overwrite=overwrite)
    try:
        yield 0 if db is None else _newest_in(db)
    finally:
        if db is not None:
            db.close()


def _newest_in(db: sqlite3.Connection) -> int:
    try:
        newest = newest_change(db)
    except failures():  # damaged, or not a store
        return 0
    return newest if newest < _NO_COUNT else 0


def _alone(target: Path, *, overwrite: bool) -> sqlite3.Connection | None:
    try:
        header = read_header(target)
        if header is not None and header.application_id != APPLICATION_ID and not overwrite:
            raise CorruptStoreError(str(target), "this is a database of another application")
    except CorruptStoreError as exc:
        if not overwrite:
            raise CorruptStoreError(
                str(target), f"{exc.reason}; pass overwrite=True to replace it anyway"
            ) from exc
    with translated(str(target)):
        # Connect without sqlite-vec, because another application may have created the database.
        db: sqlite3.Connection = load_driver().connect(str(target), timeout=0, isolation_level=None)
    try:
        # In WAL mode, every connection holds a lock, even between transactions. Exclusive mode
        # fails if there is another connection, and keeps the lock after the transaction.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
    except failures() as exc:
        db.close()
        if is_busy(exc):
            raise StoreBusyError(
                f"{target} is in use by this process or another one; close the store there", 0.0
            ) from exc
        return None  # damaged: no process can open it, so no lock is needed
    try:
        # After this, the old file is complete without its WAL, and closing it does not remove the
        # new file's WAL.
        db.execute("PRAGMA journal_mode = DELETE").fetchone()
    except failures():
        db.close()
        return None
    return db


def _keep(target: Path) -> Path:
    """Give the old file a second name, and rename its WAL, which only a damaged store still has."""
    name = f"{target.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S')}"
    kept = target.with_name(name)
    for number in range(2, 1000):
        try:
            os.link(target, kept)
            break
        except FileExistsError:
            kept = target.with_name(f"{name}-{number}")
        except OSError:  # a file system without hard links: the store is missing for a moment
            target.rename(kept)
            break
    with suppress(FileNotFoundError):
        os.rename(f"{target}-wal", f"{kept}-wal")
    return kept


def _take_back(kept: Path, target: Path) -> None:
    """Rename the kept file back to the target after a failed replacement."""
    with suppress(FileNotFoundError):
        os.rename(f"{kept}-wal", f"{target}-wal")
    os.replace(kept, target)
    # If both names are hard links to the same file, the call above changes nothing.
    with suppress(FileNotFoundError):
        kept.unlink()
