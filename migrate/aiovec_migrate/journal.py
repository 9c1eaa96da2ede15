"""Where a run writes down each step before it counts."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiovec.errors import CorruptStoreError, MigrationError, StoreFullError

from .host import Host
from .state import RunState, TableState

_T = TypeVar("_T")

FOLDER = ".aiovec"
FILE = "migration.db"

_LAYOUT = """
CREATE TABLE IF NOT EXISTS run (one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS holder (one INTEGER PRIMARY KEY CHECK (one = 1), pid INTEGER NOT NULL);
"""
_TABLES = {"run", "tables", "holder"}
# How long, in seconds, a reader in another terminal may hold up a write.
_PATIENCE = 10.0
# How long, in seconds, a migrator waits for the lock. SQLite takes an exclusive lock in steps: of
# two that ask at once and wait for nobody, each may find the other halfway, and neither gets it.
_TURN = 1.0


class Journal(ABC):
    """One run's record, on something that outlives the process."""

    @property
    def place(self) -> str:
        """Where it lies, as a user would name it."""
        return ""

    @abstractmethod
    async def load(self) -> RunState | None:
        """The run that is written there; None where there is none. Needs no lock."""

    @abstractmethod
    async def save(self, state: RunState, *tables: TableState) -> None:
        """Write down the run without its tables, and these tables, in one step."""

    @abstractmethod
    async def remove(self) -> None:
        """Forget the run."""

    @abstractmethod
    async def lock(self) -> None:
        """Keep other migrators out until ``unlock``; MigrationError where one is at work."""

    @abstractmethod
    async def unlock(self) -> None: ...

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        await self.lock()
        try:
            yield
        finally:
            await self.unlock()


def default_file(config: str | os.PathLike[str] | None) -> Path:
    """Where the journal lies by default: beside the TOML, else in the current folder."""
    if config is None:
        return Path.cwd() / FOLDER / FILE
    # Of the real file: a link to it leads to the same run.
    return Path(os.path.realpath(Path(config).expanduser())).parent / FOLDER / FILE


class FileJournal(Journal):
    """The journal as a SQLite file. A second one beside it is locked while a migrator runs."""

    def __init__(self, file: Path, host: Host) -> None:
        self._file = file
        self._host = host
        self._lock: sqlite3.Connection | None = None

    @property
    def file(self) -> Path:
        return self._file

    @property
    def place(self) -> str:
        return str(self._file)

    async def load(self) -> RunState | None:
        return await self._host.in_thread(self._load)

    async def save(self, state: RunState, *tables: TableState) -> None:
        # As text at once: the state goes on changing.
        run = state.to_json()
        listed = [(table.name, table.to_json()) for table in tables]
        await self._host.in_thread(self._save, run, listed)

    async def remove(self) -> None:
        await self._host.in_thread(self._remove)

    async def lock(self) -> None:
        await self._host.in_thread(self._take_lock)

    async def unlock(self) -> None:
        await self._host.in_thread(self._give_lock)

    # In a thread

    def _load(self) -> RunState | None:
        if not self._is_there():
            return None

        def read(db: sqlite3.Connection) -> RunState | None:
            # A killed migrator may have left a file without tables.
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone():
                return None
            row = db.execute("SELECT state FROM run").fetchone()
            if row is None:
                return None
            return RunState.from_json(row[0], dict(db.execute("SELECT name, state FROM tables")))

        return self._with(read)

    def _save(self, run: str, tables: list[tuple[str, str]]) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO run VALUES (1, ?)", (run,))
            db.executemany("INSERT OR REPLACE INTO tables VALUES (?, ?)", tables)

        self._with(write)

    def _remove(self) -> None:
        def forget(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM run")
            db.execute("DELETE FROM tables")

        if self._is_there():
            self._with(forget)

    def _is_there(self) -> bool:
        try:
            self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise MigrationError(
                f"the journal {self._file} cannot be used: {exc.strerror or exc}"
            ) from exc
        return True

    def _with(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Work in one transaction. The file is opened each time: nothing is held in between."""
        try:
            db = sqlite3.connect(self._file, timeout=_PATIENCE, isolation_level=None)
            try:
                self._check_own(db)
                if self._lock is not None:
                    db.executescript(_LAYOUT)
                    db.execute("BEGIN IMMEDIATE")
                result = work(db)
                if db.in_transaction:
                    db.execute("COMMIT")
                return result
            finally:
                db.close()
        except sqlite3.Error as exc:
            raise self._told(exc) from exc
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise self._damaged(exc) from exc

    def _check_own(self, db: sqlite3.Connection) -> None:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not {name for (name,) in names} <= _TABLES:
            raise MigrationError(
                f"{self._file} is a database, but not a journal of a migration; name another file "
                "(--journal)"
            )

    def _told(self, error: sqlite3.Error) -> Exception:
        if "full" in str(error):
            return StoreFullError(str(self._file), str(error))
        if isinstance(error, sqlite3.OperationalError):
            return MigrationError(f"the journal {self._file} cannot be used: {error}")
        return self._damaged(error)

    def _damaged(self, reason: Exception) -> CorruptStoreError:
        return CorruptStoreError(
            str(self._file),
            f"the journal cannot be read: {reason}. If it is not a journal, name another file "
            "(--journal). Remove that file if it is one; the marks in the stores are then enough "
            "to end the run (aiovec migrate abort before the switch, finish after it)",
        )

    def _take_lock(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MigrationError(
                f"the journal cannot be written in {self._file.parent}: {exc}"
            ) from exc
        if self._is_there():  # nothing is left beside a file of somebody else's
            self._with(lambda db: None)
        file = self._file.with_name(self._file.name + ".lock")
        try:
            lock = sqlite3.connect(
                file, timeout=_TURN, isolation_level=None, check_same_thread=False
            )
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as exc:
                lock.close()
                if "locked" not in str(exc):
                    raise
                raise MigrationError(
                    f"another migrator is at work with {self._file}{self._holder()}"
                ) from exc
        except sqlite3.Error as exc:
            raise self._told(exc) from exc
        self._lock = lock
        try:
            self._with(
                lambda db: db.execute("INSERT OR REPLACE INTO holder VALUES (1, ?)", (os.getpid(),))
            )
        except BaseException:
            self._give_lock()
            raise

    def _holder(self) -> str:
        """Whose process it is, where that can be told."""
        with contextlib.suppress(sqlite3.Error):
            db = sqlite3.connect(self._file, timeout=1.0)
            try:
                row = db.execute("SELECT pid FROM holder").fetchone()
            finally:
                db.close()
            if row is not None:
                return f" (process {row[0]})"
        return ""

    def _give_lock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
