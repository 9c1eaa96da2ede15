"""Where the mark of a migration lies, and the notes of what changed meanwhile: beside the tables.

Lance has no change feed. While a migration is open, each write first notes the ids that it will
touch, under its table's lock. So the notes of a table, read under the same lock, name every row
that may have changed; a note of a write that failed names a row that did not, which does no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiovec.backend import MoveMark, check_table_name, flush_folder
from aiovec.errors import InvalidNameError, StoreBusyError

from .locks import LockedFile

# Seconds for which the change of a mark waits for another one, and between two looks.
_PATIENCE = 30.0
_POLL = 0.002
# Windows refuses to replace or open a file for the moments in which somebody else has it.
_TRIES, _BETWEEN_TRIES = (100, 0.01) if sys.platform == "win32" else (1, 0.0)


@dataclass(frozen=True, slots=True)
class Noted:
    """A page of notes: the ids, each once, and where the next page begins."""

    ids: Sequence[str]
    number: int
    complete: bool


class Marks(ABC):
    """The mark and the notes of one store. Every method does I/O: not on the event loop."""

    poll: float
    """Seconds between two looks at a mark that lets writers wait."""

    @abstractmethod
    def read(self) -> bytes | None:
        """The record as it lies there; None where there is none."""

    @abstractmethod
    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the record in one step. ``change`` may be called again; None changes nothing."""

    @abstractmethod
    def locked_tables(self) -> list[str]:
        """The tables that somebody has ever locked: one of them may be about to be created."""

    @abstractmethod
    def note(self, folder: str, table: str, ids: Sequence[str]) -> None:
        """Note ids behind all that were noted before. The table's lock is held."""

    @abstractmethod
    def newest(self, folder: str, table: str) -> int:
        """The number of the newest note; 0 where there is none."""

    @abstractmethod
    def noted(self, folder: str, table: str, since: int, until: int, limit: int) -> Noted:
        """Some ``limit`` ids that were noted after ``since`` and up to ``until``."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The folders in which notes lie."""

    @abstractmethod
    def forget(self, folder: str) -> None:
        """Remove the notes of one folder."""


def folder_of(mark: MoveMark) -> str:
    """The folder of the notes that belong to a mark, whatever its run is called.

    No other mark has the same, not even a later one of the same run. So what a process knows of
    the notes of an earlier mark, or removes of them late, does not concern those of this one.
    """
    return hashlib.sha256(f"{mark.run}\n{mark.begun}".encode()).hexdigest()[:32]


def text_of(ids: Sequence[str]) -> bytes:
    return json.dumps(list(ids), ensure_ascii=True).encode() + b"\n"


def ids_of(line: bytes) -> list[str]:
    """The ids of one note. A note that is cut short belongs to a write that was never done."""
    with suppress(ValueError):
        ids = json.loads(line)
        if isinstance(ids, list):
            return [id for id in ids if isinstance(id, str)]
    return []


def table_of_lock(name: str) -> str | None:
    """The table whose lock a file or an object of this name is."""
    table, dot, rest = name.partition(".")
    if (dot, rest) != (".", "lock"):
        return None
    with suppress(InvalidNameError):
        return check_table_name(table)
    return None


class FolderMarks(Marks):
    """In a folder: a file for the record, one for the notes of each table."""

    poll = 0.01

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "_move.json"
        self._notes = folder / "_moves"

    def read(self) -> bytes | None:
        for left in reversed(range(_TRIES)):
            try:
                return self._file.read_bytes()
            except FileNotFoundError:
                return None
            except PermissionError:
                if not left:
                    raise
                time.sleep(_BETWEEN_TRIES)
        return None

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _PATIENCE
        while (lock := LockedFile.at(self._folder / "_move.lock")) is None:
            if time.monotonic() > until:
                raise StoreBusyError("another process is changing the mark", _PATIENCE)
            time.sleep(_POLL)
        try:
            text = change(self.read())
            if text is not None:
                self._replace(text)
        finally:
            lock.close()

    def _replace(self, text: bytes) -> None:
        descriptor, name = tempfile.mkstemp(".partial", "_move.", self._folder)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            for left in reversed(range(_TRIES)):
                try:
                    partial.replace(self._file)
                    break
                except PermissionError:
                    if not left:
                        raise
                    time.sleep(_BETWEEN_TRIES)
            flush_folder(self._folder)
        finally:
            partial.unlink(missing_ok=True)

    def locked_tables(self) -> list[str]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [table for name in names if (table := table_of_lock(name)) is not None]

    def _log(self, folder: str, table: str) -> Path:
        return self._notes / folder / f"{table}.log"

    def note(self, folder: str, table: str, ids: Sequence[str]) -> None:
        path = self._log(folder, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text_of(ids)
        with path.open("ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    text = b"\n" + text  # its writer was killed, or found no room
            rest = memoryview(text)
            while rest:
                rest = rest[file.write(rest) :]

    def newest(self, folder: str, table: str) -> int:
        try:
            with self._log(folder, table).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                # Behind the last whole note. A number that was told must be one that stays.
                while size:
                    start = max(0, size - 2**16)
                    file.seek(start)
                    end = file.read(size - start).rfind(b"\n")
                    if end >= 0:
                        return start + end + 1
                    size = start
                return 0
        except FileNotFoundError:
            return 0

    def noted(self, folder: str, table: str, since: int, until: int, limit: int) -> Noted:
        ids: dict[str, None] = {}
        number = since
        try:
            with self._log(folder, table).open("rb") as file:
                file.seek(since)
                while number < until and len(ids) < limit:
                    line = file.readline()
                    if not line:
                        break
                    number += len(line)
                    ids.update(dict.fromkeys(ids_of(line)))
        except FileNotFoundError:
            number = until
        return Noted(list(ids), number, number >= until)

    def folders(self) -> list[str]:
        try:
            return os.listdir(self._notes)
        except FileNotFoundError:
            return []

    def forget(self, folder: str) -> None:
        shutil.rmtree(self._notes / folder, ignore_errors=True)
