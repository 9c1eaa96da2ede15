"""The mark of a migration, the notes of what changed meanwhile, and who has to heed them.

Lance has no change feed. While a migration is open, each write first notes the ids that it will
touch, under its table's lock. So the notes of a table, read under the same lock, name every row
that may have changed; a note of a write that failed names a row that did not, which does no harm.
Mark and notes lie beside the tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from aiovec.backend import check_table_name, one_array
from aiovec.backend.contract import (
    Changes,
    ChangesPrunedError,
    Columns,
    StaleTableError,
    TableHandle,
)
from aiovec.backend.files import flush_folder
from aiovec.backend.marks import PAUSED, MoveMark, MoveRecord, unreadable_mark
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import CorruptStoreError, InvalidNameError, StoreBusyError, UnsupportedError

from ..errors import translated
from ..layout import LEFT, MOVING, is_moving
from ..reads import rows_by_id
from ..writer import Touched, WriteOperation
from .local import LockedFile

if TYPE_CHECKING:
    from ..session import Session

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


_RECORD = "_move.json"
_LARGEST_RECORD = 2**20


def generation_in(folder: Path) -> int:
    """The generation that the record in this folder tells; 0 where there is none to be read."""
    file = folder / _RECORD
    with suppress(OSError, ValueError, TypeError, RecursionError):
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= _LARGEST_RECORD:
            return MoveRecord.from_json(file.read_bytes()).generation
    return 0


def write_generation(folder: Path, generation: int) -> None:
    """Have a record that tells a generation and nothing else."""
    if generation:
        text = MoveRecord(generation=generation).to_json()
        (folder / _RECORD).write_text(text, encoding="utf-8")


class FolderMarks(Marks):
    """In a folder: a file for the record, one for the notes of each table."""

    poll = 0.01

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / _RECORD
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
                raise StoreBusyError(
                    "another process is changing the mark of the migration", _PATIENCE
                )
            time.sleep(_POLL)
        try:
            text = change(self.read())
            if text is not None:
                self._replace(text)
        finally:
            lock.close()

    def _replace(self, text: bytes) -> None:
        # Whoever may write to the store reads it, so it is as its other files.
        partial = self._folder / f"_move.{uuid.uuid4().hex}.partial"
        try:
            with partial.open("xb") as file:
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


# What one call touches is noted in parts of this size, for a page of changes has whole notes.
_IDS_IN_A_NOTE = 1000


class Fence:
    """The mark as one store sees it. ``make`` makes its place; None where it can have none."""

    def __init__(self, target: str, make: Callable[[], Marks] | None) -> None:
        self._target = target
        self._make = make
        self._made: Marks | None = None
        self.run: str | None = None
        """The migration's run that this object acts for."""

    @property
    def supported(self) -> bool:
        return self._make is not None

    @property
    def poll(self) -> float:
        """Seconds between two looks at a mark that lets writers wait."""
        return self._marks.poll

    @property
    def _marks(self) -> Marks:
        """Made by the first look at the mark, which is in a thread."""
        if self._make is None:
            raise UnsupportedError(
                "a migration while the app writes", "lancedb",
                f"{self._target} has no lock that all its writers use",
            )  # fmt: skip
        if self._made is None:
            self._made = self._make()
        return self._made

    # In a thread

    @contextmanager
    def _reach(self) -> Iterator[Marks]:
        """The place of the mark. Let no error of the system pass untranslated."""
        with translated(self._target):
            yield self._marks

    def read(self) -> MoveRecord:
        if self._make is None:
            return MoveRecord()
        with self._reach() as marks:
            return self._record(marks.read())

    def _record(self, text: bytes | None) -> MoveRecord:
        try:
            return MoveRecord() if text is None else MoveRecord.from_json(text)
        except (ValueError, TypeError, RecursionError) as exc:
            raise CorruptStoreError(self._target, unreadable_mark(exc)) from exc

    def look(self) -> MoveMark | None:
        """The mark that this object has to heed."""
        mark = self.read().mark
        return None if mark is None or mark.run == self.run else mark

    def change(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        found = [MoveRecord(), MoveRecord()]

        def replace(text: bytes | None) -> bytes | None:
            damaged = False
            try:
                before = self._record(text)
            except CorruptStoreError:
                if not anew:
                    raise
                before, damaged = MoveRecord(), True
            after = change(before)
            found[:] = [before, after]
            return after.to_json().encode() if damaged or after != before else None

        with self._reach() as marks:
            marks.change(replace)
        return found[0], found[1]

    def end_pause(self, paused: MoveMark) -> None:
        self.change(lambda record: record.end_pause(paused.pause))

    def is_over(self, paused: MoveMark) -> bool:
        mark = self.read().mark
        return mark is None or mark.state != PAUSED or mark.pause != paused.pause

    def newest(self, table: str) -> tuple[str, int]:
        """The folder of the notes of this object's run, and the number of a table's newest note.

        No folder and 0 where the run has no mark.
        """
        mark = self.read().mark
        if mark is None or mark.run != self.run:
            return "", 0
        folder = folder_of(mark)
        with self._reach() as marks:
            return folder, marks.newest(folder, table)

    def noted(self, folder: str, table: str, since: int, until: int, limit: int) -> Noted:
        with self._reach() as marks:
            return marks.noted(folder, table, since, until, limit)

    def locked_tables(self) -> list[str]:
        with self._reach() as marks:
            return marks.locked_tables()

    def forget_notes(self) -> None:
        """Remove the notes of all marks but one that is open."""
        with self._reach() as marks:
            folders = marks.folders()
            # A mark that was set after this list has its notes elsewhere.
            mark = self._record(marks.read()).mark
            kept = None if mark is None or mark.left else folder_of(mark)
            for folder in folders:
                if folder != kept:
                    marks.forget(folder)

    # On the event loop

    async def check_here(self) -> None:
        """Raise StoreMovedError where the store has moved, unless this object acts for the run."""
        if self._make is None:
            return
        mark = await in_thread(self.look)
        if mark is not None and mark.left:
            raise mark.moved_error(self._target)

    async def concerns_reads(self) -> bool:
        """Return whether a mark stands that whoever reads has to look for."""
        mark = (await in_thread(self.read)).mark
        return mark is not None and not mark.filling

    async def note(self, mark: MoveMark, table: str, ids: Sequence[str]) -> None:
        if ids:
            await in_thread(self._note, folder_of(mark), table, ids)

    def _note(self, folder: str, table: str, ids: Sequence[str]) -> None:
        with self._reach() as marks:
            for start in range(0, len(ids), _IDS_IN_A_NOTE):
                marks.note(folder, table, ids[start : start + _IDS_IN_A_NOTE])


@dataclass(frozen=True, slots=True, eq=False)
class Flush(WriteOperation):
    """Takes its turn among the writes of a table, and so returns behind all that came before.

    With ``fence`` it sets the sign by which reads of the table know that there is a mark to heed,
    or removes it where there is none.
    """

    brings_files: ClassVar[bool] = False

    table: str
    fence: Fence | None = None

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return ()

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        if self.fence is None:
            return [None]
        try:
            lance, arrow = await session.open_any(self.table)
        except StaleTableError:
            return [None]
        # As it is now: another run may have begun, or ended, since the caller's look.
        moving = await self.fence.concerns_reads()
        if is_moving(arrow) != moving:
            await session.confirm()
            metadata = {MOVING: "1" if moving else None}
            await session.run(lance.update_field_metadata({"path": "id", "metadata": metadata}))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class MakeStale(WriteOperation):
    """Makes every handle on a table out of date."""

    brings_files: ClassVar[bool] = False

    table: str

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return ()

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        # It was dropped meanwhile, or nobody can write to it anyway.
        with suppress(StaleTableError, CorruptStoreError):
            lance, arrow = await session.open_any(self.table)
            if arrow.get_field_index("id") >= 0:  # another program's table may have none
                await session.confirm()
                metadata = {LEFT: uuid.uuid4().hex}
                await session.run(lance.update_field_metadata({"path": "id", "metadata": metadata}))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Newest(WriteOperation):
    """The notes of the run, and the number up to which all of a table's are written."""

    brings_files: ClassVar[bool] = False

    handle: TableHandle
    fence: Fence

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return ()

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        await session.opened(self.handle)
        return [await in_thread(self.fence.newest, self.handle.name)]


async def changes(
    session: Session,
    fence: Fence,
    newest: tuple[str, int],
    table: TableHandle,
    since: int,
    limit: int,
) -> Changes:
    """The rows that were noted, as they are now."""
    folder, until = newest
    if since > until:
        raise ChangesPrunedError(until)
    noted = Noted([], until, True)
    if since < until:
        noted = await in_thread(fence.noted, folder, table.name, since, until, limit)
    layout = table.schema.to_arrow()
    rows = layout.empty_table()
    if noted.ids:
        columns = Columns(tuple(table.schema.fields), table.schema.payload, vector=True)
        async with session.reading(table) as opened:
            found = await rows_by_id(session, opened, noted.ids, columns)
        rows = await hop(weight(found), _in_layout, found, layout)
    else:
        async with session.reading(table):
            pass  # raises where the table is no longer what the handle says

    def deleted() -> list[str]:
        there = set(rows.column("id").to_pylist())
        return [id for id in noted.ids if id not in there]

    return Changes(noted.number, rows, await hop(len(noted.ids), deleted), noted.complete)


def _in_layout(found: pa.Table, layout: pa.Schema) -> pa.Table:
    arrays = [one_array(found.column(field.name)) for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)
