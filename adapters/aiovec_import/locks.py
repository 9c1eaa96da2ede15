"""Locks between processes: SQLite's locks on empty files, released when a process ends."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from hashlib import blake2b

from aiovec.errors import AiovecError


class FileLock:
    """A lock that this process holds until ``close``, or until the process ends."""

    def __init__(self, path: str, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db

    @classmethod
    def take(cls, path: str, *, shared: bool = False) -> FileLock | None:
        """Lock a file; return None if another process has the lock, unless both share it."""
        while True:
            before, db = _number(path), None
            try:
                # No timeout: callers that wait try again. BEGIN alone takes no shared lock; the
                # query does.
                db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                db.execute("BEGIN" if shared else "BEGIN EXCLUSIVE")
                db.execute("SELECT 1 FROM sqlite_master").fetchone()
            except sqlite3.Error as exc:
                if db is not None:
                    db.close()
                if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                    return None
                raise AiovecError(f"the lock {path} cannot be taken: {exc}") from exc
            # If the file was created or removed in between, the lock may be on another file.
            if before is not None and _number(path) == before:
                return cls(path, db)
            db.close()

    def close(self) -> None:
        """Release the lock, and remove its file unless the lock is still shared."""
        with suppress(sqlite3.Error, OSError):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
                self._db.execute("BEGIN EXCLUSIVE")
                os.unlink(self._path)
        self._db.close()


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def lock_path(place: str, *named: str) -> str:
    """Return the path of the lock with these names, next to a file or folder.

    If the path is not on this machine, or its folder is not writable, the lock is in the folder for
    temporary files.
    """
    folder, name = os.path.split(os.path.realpath(place))
    if not (os.path.exists(place) and os.access(folder, os.W_OK)):
        folder, name = tempfile.gettempdir(), place
    known = "\0".join([name, *named]).encode(errors="surrogateescape")
    return os.path.join(folder, f".aiovec-{blake2b(known, digest_size=12).hexdigest()}.lock")
