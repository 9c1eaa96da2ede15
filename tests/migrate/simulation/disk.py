"""What a model store has on its disk: tables, the mark of a migration, and the writes under way.

Backends of many processes look at one ``Disk``. Each of its methods is one step that nothing
interrupts, as a commit is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from aiovec.backend import MoveMark
from aiovec.errors import MigrationError
from aiovec.schema import Schema

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


class Disk:
    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.tables: dict[str, ModelTable] = {}
        self.mark: MoveMark | None = None
        self.pause = 0
        """Counts the pauses, so that a waiting writer tells this one from the next."""
        self.limit = 0.0
        self.under_way: dict[object, Process] = {}
        """The writes that have begun and are not committed, each with its process."""

    # The mark

    def state(self) -> str:
        return "" if self.mark is None else self.mark.state

    def _own_mark(self, run: str) -> MoveMark:
        if self.mark is None:
            raise MigrationError(f"no migration of {self.name} is open")
        if self.mark.run != run:
            raise MigrationError(f"{self.name} is being moved by the run {self.mark.run}")
        return self.mark

    def begin_move(self, run: str) -> None:
        if self.mark is None:
            self.mark = MoveMark(run, "open")
        self._own_mark(run)

    def pause_writers(self, run: str, limit: float) -> None:
        mark = self._own_mark(run)
        if mark.state == "moved":
            raise MigrationError(f"{self.name} has moved already")
        self.mark = replace(mark, state="paused")
        self.pause += 1
        self.limit = limit

    def resume_writers(self, run: str) -> bool:
        mark = self._own_mark(run)
        if mark.state != "paused":
            return False
        self.mark = replace(mark, state="open")
        return True

    def end_pause(self, pause: int) -> None:
        """What a writer does that has waited for the limit."""
        if self.mark is not None and self.mark.state == "paused" and self.pause == pause:
            self.mark = replace(self.mark, state="open")

    def set_moved(self, run: str, moved_to: str, backend: str, config: str) -> bool:
        mark = self._own_mark(run)
        if mark.state == "open":
            return False
        if mark.state == "paused":
            self.mark = MoveMark(run, "moved", moved_to, backend, config)
        return True

    def end_move(self, run: str) -> None:
        if self.mark is not None:
            self._own_mark(run)
            self.mark = None

    def killed(self, process: Process) -> None:
        """The writes that a killed process had begun are rolled back."""
        self.under_way = {key: who for key, who in self.under_way.items() if who is not process}
