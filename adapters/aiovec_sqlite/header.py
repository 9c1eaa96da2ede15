"""The first page of a file, read through SQLite.

POSIX drops all locks that a process holds on a file as soon as it closes any descriptor of that
file. SQLite knows the descriptors that it opened itself and keeps them while a lock is held; one of
ours it cannot know. After an ``open`` and ``close`` of a store that this process uses, another
process would take the store for unused and delete its WAL, with acknowledged rows in it. So no code
here opens a file by itself that may be a database.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiovec.errors import AiovecError, CorruptStoreError, ExtensionUnavailableError

from .driver import load_driver
from .errors import CANTOPEN, CORRUPT, NOTADB, code_of

_HEADER_BYTES = 100
_NO_DATABASE = "this is no SQLite database"


@dataclass(frozen=True, slots=True)
class Header:
    """The numbers that tell whose database a file is; ``is_cut`` where pages are missing."""

    application_id: int
    version: int
    is_cut: bool


def read_header(path: Path) -> Header | None:
    """Return what the file says of itself; None where it is missing or empty.

    Leaves nothing beside the file. CorruptStoreError where it is no database.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _unreadable(path, exc.strerror or str(exc)) from exc
    if not stat.S_ISREG(found.st_mode):
        raise CorruptStoreError(str(path), "this is no file but a directory or a device")
    if not found.st_size:
        return None
    if found.st_size < _HEADER_BYTES:  # SQLite takes a single byte for an empty database
        raise CorruptStoreError(str(path), _NO_DATABASE)
    driver = _any_driver()
    try:
        with opened_as_it_lies(path) as db:
            # A file that is cut short could not be read at all otherwise.
            db.execute("PRAGMA writable_schema = ON")
            application, version = (
                int(db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("application_id", "user_version")
            )
        return Header(application & 0xFFFFFFFF, version, _is_cut(path))
    except UnicodeDecodeError as exc:  # in the message about a damaged file
        raise CorruptStoreError(str(path), "the file is damaged") from exc
    except driver.Error as exc:
        code = code_of(exc)
        if code in (NOTADB, CORRUPT):
            raise CorruptStoreError(str(path), _NO_DATABASE) from exc
        if code == CANTOPEN and not path.exists():
            return None
        reason = str(exc)
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            reason = "Permission denied"
        raise _unreadable(path, reason) from exc


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database, whoever wrote it."""
    try:
        return read_header(path) is not None
    except AiovecError:
        return False


@contextmanager
def opened_as_it_lies(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads the file alone, without its WAL, and locks and makes nothing.

    What it reads is torn where somebody writes to the file meanwhile.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    driver = _any_driver()
    db = cast("sqlite3.Connection", driver.connect(uri, uri=True, isolation_level=None))
    with closing(db):
        yield db


def _is_cut(path: Path) -> bool:
    with opened_as_it_lies(path) as db:
        try:
            pages, page_size = (
                int(db.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "page_size")
            )
        except UnicodeDecodeError:  # in the message about a damaged file
            return True
        except _any_driver().Error as exc:
            if code_of(exc) != CORRUPT:
                raise
            return True
    # SQLite takes the beginning of a page for a page.
    return path.stat().st_size < pages * page_size


def _any_driver() -> Any:
    """The driver of stores: only that one knows which locks they hold.

    Where none can open a store here, a database is still told from another file.
    """
    try:
        return load_driver()
    except ExtensionUnavailableError:
        return sqlite3


def _unreadable(path: Path, reason: str) -> AiovecError:
    return AiovecError(f"{path} cannot be read: {reason}")
