"""What a model store has on its disk: tables, the mark of a migration, locks and notes.

Backends of many processes look at one ``Disk``. Each of its methods is one step that nothing
interrupts, as a commit is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiovec import Schema
from aiovec.backend import MoveMark, MoveRecord

from .loop import Process

Row = dict[str, Any]


@dataclass
class ModelTable:
    schema: Schema
    token: object
    rows: dict[str, Row] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    """The newest change of each row."""
    deleted: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    floor: int = 0
    versions: int = 1
    twice: set[str] = field(default_factory=set)
    """Ids that a load brought in a second time, behind the back of its checks."""

    def put(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.newest += 1
            self.rows[row["id"]] = row
            self.numbers[row["id"]] = self.newest
            self.deleted.pop(row["id"], None)
        self.versions += 1

    def remove(self, ids: Iterable[str]) -> int:
        gone = [id for id in ids if id in self.rows]
        for id in gone:
            self.newest += 1
            del self.rows[id], self.numbers[id]
            self.deleted[id] = self.newest
        if gone:
            self.versions += 1
        return len(gone)

    def forget_changes(self, number: int) -> None:
        self.deleted = {id: n for id, n in self.deleted.items() if n > number}
        self.floor = max(self.floor, min(number, self.newest))


def place_of(id: str) -> int:
    """Where a row stands in an export: anywhere, and always at the same place."""
    return zlib.crc32(id.encode())


@dataclass
class ModelLock:
    """The lock of one table of a lake. ``term`` counts how often it was taken over."""

    holder: Process | None = None
    since: float = 0.0
    term: int = 0
    fenced: ClassVar[bool] = True
    """Whether a commit that was begun before the lock was taken over fails."""


class Disk:
    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.tables: dict[str, ModelTable] = {}
        self.record = MoveRecord()
        self.locks: dict[str, ModelLock] = {}
        """Of a lake: one for each name of a table that was ever locked."""
        self.notes: dict[tuple[str, str], list[list[str]]] = {}
        """Of a lake: the ids that were noted, by run and table."""

    @property
    def mark(self) -> MoveMark | None:
        return self.record.mark

    def change(self, change: Callable[[MoveRecord], MoveRecord]) -> tuple[MoveRecord, MoveRecord]:
        before = self.record
        self.record = change(before)
        left = self.record.mark is not None and self.record.mark.left
        if left and not (before.mark and before.mark.left):
            # No handle is good any more.
            for table in self.tables.values():
                table.token = object()
        return before, self.record

    def killed(self, process: Process) -> None:
        """The locks that a killed process held are free, unless they are objects in a bucket."""
        for lock in self.locks.values():
            if lock.holder is process and self.kind != "bucket":
                lock.holder = None
