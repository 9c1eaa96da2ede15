"""Choose this process's SQLite driver, and open connections with sqlite-vec loaded."""

from __future__ import annotations

import functools
import importlib
import os
import sqlite3
import sys
import threading
from contextlib import closing
from typing import Any, cast

from aiovec.backend.memory import limit_heaps
from aiovec.errors import ExtensionUnavailableError

from . import stems
from .sql.filters import register
from .sql.folding import count_in

# STRICT tables need 3.37; from 3.38 on, the JSON functions are always built in.
OLDEST_SQLITE = (3, 38, 0)

OPENING = threading.Lock()
"""The lock to hold while a connection opens its file, and while a database is read as an ordinary
file: closing that file would drop the locks of a connection that opened it in the meantime."""
if hasattr(os, "register_at_fork"):  # otherwise a forked child might wait for the lock forever
    os.register_at_fork(
        before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=OPENING.release
    )


@functools.lru_cache(maxsize=1)
def load_driver() -> Any:
    """Return the module that opens stores, with the interface of ``sqlite3``.

    This is Python's own ``sqlite3`` if it can open stores, because apps open files with it, and two
    SQLite libraries in one process release each other's locks. Otherwise it is ``sqlcipher3``.
    """
    reason = why_not_own()
    if reason is None:
        return sqlite3
    try:
        return importlib.import_module("sqlcipher3.dbapi2")
    except ImportError as exc:
        raise ExtensionUnavailableError(
            f"the sqlite3 module of {sys.executable} {reason}",
            "pip install sqlcipher3, or use python.org's, Homebrew's, conda's, uv's or your "
            "distribution's Python",
        ) from exc


def why_not_own() -> str | None:
    """Return what Python's own ``sqlite3`` lacks to open stores, or None."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return f"has SQLite {sqlite3.sqlite_version}, and aiovec needs {oldest} or newer"
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.enable_load_extension(True)
        except (AttributeError, sqlite3.Error):
            return "was built without loadable extensions, which sqlite-vec needs"
        try:
            db.execute("CREATE VIRTUAL TABLE probe USING fts5(body)")
        except sqlite3.Error:
            return "was built without FTS5, which keyword searches need"
    return None


def connect(database: str, *, uri: bool = False, timeout: float = 0.0) -> sqlite3.Connection:
    """Return an autocommit connection with sqlite-vec and aiovec's functions, for any thread."""
    driver = load_driver()
    limit_heaps()
    with OPENING:
        db = cast(
            "sqlite3.Connection",
            driver.connect(
                database, timeout=timeout, isolation_level=None, check_same_thread=False, uri=uri,
                cached_statements=256,
            ),
        )  # fmt: skip
    try:
        # The same with every library: some keep temporary tables in files, which need a folder.
        db.execute("PRAGMA temp_store = MEMORY")
        load_extension(db)
        register(db)
        db.create_function("aiovec_counts", 2, count_in)
        stems.register(db)
    except BaseException:
        db.close()
        raise
    return db


def load_extension(db: sqlite3.Connection) -> None:
    """Load sqlite-vec into a connection, or raise ExtensionUnavailableError with the reason."""
    try:
        import sqlite_vec
    except ImportError as exc:
        raise ExtensionUnavailableError(
            "the package sqlite-vec is not installed",
            "install it with: pip install sqlite-vec (it has no wheel for musl, such as Alpine)",
        ) from exc
    try:
        db.enable_load_extension(True)
        try:
            sqlite_vec.load(db)
        finally:
            db.enable_load_extension(False)
    except load_driver().Error as exc:
        raise ExtensionUnavailableError(
            f"sqlite-vec could not be loaded: {exc}",
            "reinstall it with: pip install --force-reinstall sqlite-vec",
        ) from exc
