"""The disk of a model store: tables, the mark of a migration, and locks.

Backends of many processes look at one ``Disk``. Each of its methods is one step that nothing
interrupts, as a commit is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from aiovec import Schema
from aiovec.backend.contract import Changes
from aiovec.backend.marks import MoveMark, MoveRecord

from .loop import Process

Row = dict[str, Any]

pa.array(())  # the first one looks for pandas, which must not happen on a guarded loop


@dataclass
class ModelTable:
    schema: Schema
    epoch: object
    rows: dict[str, Row] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    """The newest change of each row."""
    deleted: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    twice: set[str] = field(default_factory=set)
    """Ids that a load brought in a second time, behind the back of its checks."""

    def put(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.newest += 1
            self.rows[row["id"]] = row
            self.numbers[row["id"]] = self.newest
            self.deleted.pop(row["id"], None)

    def remove(self, ids: Iterable[str]) -> int:
        gone = [id for id in ids if id in self.rows]
        for id in gone:
            self.newest += 1
            del self.rows[id], self.numbers[id]
            self.deleted[id] = self.newest
        return len(gone)

    def changes(self, number: int, ids: list[str], *, complete: bool) -> Changes:
        """A page of the change feed: these rows as they are now."""
        kept = [self.rows[id] for id in ids if id in self.rows]
        rows = pa.Table.from_pylist(kept, schema=self.schema.to_arrow())
        return Changes(number, rows, [id for id in ids if id not in self.rows], complete)


def place_of(id: str) -> int:
    """Return the place of a row in exports: any, and always the same."""
    return zlib.crc32(id.encode())


class Disk:
    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.tables: dict[str, ModelTable] = {}
        self.record = MoveRecord()
        self.locks: dict[str, Process | None] = {}
        """Of a lake: who holds the lock of each name of a table that was ever locked."""

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
                table.epoch = object()
        return before, self.record

    def killed(self, process: Process) -> None:
        """The locks that a killed process held are free."""
        for table, holder in self.locks.items():
            if holder is process:
                self.locks[table] = None
