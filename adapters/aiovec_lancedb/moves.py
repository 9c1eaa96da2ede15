"""What holds the writes and reads of one store to the mark of a migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aiovec.backend import (
    PAUSED,
    Changes,
    ChangesPrunedError,
    Columns,
    MoveMark,
    MoveRecord,
    StaleTableError,
    TableHandle,
    in_thread,
    off_loop,
    unreadable_mark,
)
from aiovec.errors import CorruptStoreError, UnsupportedError

from .errors import translated
from .layout import MOVING, is_moving
from .marks import Marks, Noted, folder_of
from .reads import rows_by_id
from .rows import effort_of
from .writer import Touched, Work

if TYPE_CHECKING:
    from .session import Session

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
                f"{self._target} has no lock that all its writers take",
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

    async def note(self, mark: MoveMark, table: str, ids: Sequence[str]) -> None:
        if ids:
            await in_thread(self._note, folder_of(mark), table, ids)

    def _note(self, folder: str, table: str, ids: Sequence[str]) -> None:
        with self._reach() as marks:
            for start in range(0, len(ids), _IDS_IN_A_NOTE):
                marks.note(folder, table, ids[start : start + _IDS_IN_A_NOTE])


@dataclass(frozen=True, slots=True, eq=False)
class Flush(Work):
    """Takes its turn among the writes of a table, and so returns behind all that came before.

    With ``fence`` it sets the sign by which reads of the table know that there is a mark to heed,
    or removes it where there is none.
    """

    table: str
    fence: Fence | None = None

    async def touches(self, session: Session, others: Sequence[Work]) -> Touched:
        return ()

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        if self.fence is None:
            return [None]
        try:
            lance, arrow = await session.open_any(self.table)
        except StaleTableError:
            return [None]
        # As it is now: another run may have begun, or ended, since the caller's look.
        moving = (await in_thread(self.fence.read)).mark is not None
        if is_moving(arrow) != moving:
            await session.confirm()
            metadata = {MOVING: "1" if moving else None}
            await session.run(lance.update_field_metadata({"path": "id", "metadata": metadata}))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Newest(Work):
    """The notes of the run, and the number up to which all of a table's are written."""

    handle: TableHandle
    fence: Fence

    async def touches(self, session: Session, others: Sequence[Work]) -> Touched:
        return ()

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
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
        rows = await off_loop(effort_of(found), _in_layout, found, layout)
    else:
        async with session.reading(table):
            pass  # raises where the table is no longer what the handle says

    def deleted() -> list[str]:
        there = set(rows.column("id").to_pylist())
        return [id for id in noted.ids if id not in there]

    return Changes(noted.number, rows, await off_loop(len(noted.ids), deleted), noted.complete)


def _in_layout(found: pa.Table, layout: pa.Schema) -> pa.Table:
    arrays = [found.column(field.name).combine_chunks() for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)
