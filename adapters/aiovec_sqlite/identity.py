"""Which file a store has open, to notice when its name leads to another one."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from aiovec.backend import look_at
from aiovec.errors import StoreReplacedError

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
    def of(cls, path: Path, db: sqlite3.Connection, *, read_only: bool = False) -> OpenFile:
        """The file that a connection has just opened."""
        # SQLite makes the WAL when it first reads.
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
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
            raise StoreReplacedError(self.target, f"the file was {what}")
        # As long as a process has the file open, SQLite leaves its WAL where it is.
        if self.wal is not None and _inode(self.wal_path) != self.wal:
            raise StoreReplacedError(self.target, f"its WAL {self.wal_path} was removed")
        if self.unchanged is not None and (
            self.unchanged != _state(self.target) or _inode(self.wal_path) is not None
        ):
            raise StoreReplacedError(
                self.target, "somebody writes to it, where this process can only read"
            )


def _inode(path: str) -> _Inode | None:
    found = look_at(path)
    return None if found is None else (found.st_dev, found.st_ino)


def _state(path: str) -> _State | None:
    found = look_at(path)
    return None if found is None else (found.st_size, found.st_mtime_ns)
