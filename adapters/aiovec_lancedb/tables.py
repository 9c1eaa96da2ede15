"""Creating, altering and dropping tables: writes like others, alone under the table's lock."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aiovec.backend import Field, Schema
from aiovec.backend.contract import StaleTableError, TableHandle, TableStats
from aiovec.backend.marks import MoveMark
from aiovec.backend.threads import in_thread
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    InvalidArgumentError,
    InvalidNameError,
    OutcomeUnknownError,
    TableExistsError,
    TableNotFoundError,
)

from .changes import number_anew
from .errors import NoSuchTableError, TableThereError
from .export import RowsOf
from .index.fields import drop_unwanted, index_fields
from .layout import added_column, goes, incarnation_in, new_table, options_of, renamable
from .locks.moves import Fence
from .session import Opened, Session
from .upkeep.retention import versions_of
from .writer import WriteOperation

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import AsyncTable


# The name that the folder of a table has while it is removed; no other one is taken for it.
_DROPPED = ".{}.{}.dropped"
_IS_DROPPED = re.compile(r"\.[a-z][a-z0-9_-]{0,62}\.[0-9a-f]{32}\.dropped")


@dataclass(frozen=True, slots=True, eq=False)
class CreateTable(WriteOperation):
    name: str
    schema: Schema
    fence: Fence

    changes_schema: ClassVar[bool] = True

    async def refused(self, session: Session, mark: MoveMark) -> Exception:
        if self.name in await session.names():
            return TableExistsError(self.name)
        return mark.frozen_error()

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        connection = session.check()
        # Made by a migration in a store with a mark: those who read it have to look for that.
        moving = self.fence.run is not None and await self.fence.concerns_reads()
        made = new_table(self.schema, moving=moving)
        try:
            with session.translated():
                table = await connection.create_table(self.name, schema=made)
        except TableThereError as exc:
            raise TableExistsError(self.name) from exc.__cause__
        except AiovecError:
            found = await _found(session, self.name)
            if found is None or incarnation_in(found[1]) != incarnation_in(made):
                raise
            table = found[0]
        await _index_now_or_later(session, table, self.schema.fields, self.schema.analyzer)
        return [None]


@dataclass(slots=True, eq=False)
class DropTable(WriteOperation):
    name: str
    incarnation: Hashable = None
    """That of the table which was found first: if others drop it, theirs of this name stays."""

    changes_schema: ClassVar[bool] = True
    brings_files: ClassVar[bool] = False

    async def refused(self, session: Session, mark: MoveMark) -> Exception:
        names = await session.names()
        if self.name not in names:
            return TableNotFoundError(self.name, names)
        return mark.frozen_error()

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        connection = session.check()
        try:
            with session.translated():
                # In memory, lancedb drops what is not there without a word.
                table = await connection.open_table(self.name)
                found = incarnation_in(await table.schema())
            if self.incarnation not in (None, found):
                names = [name for name in await session.names() if name != self.name]
                raise TableNotFoundError(self.name, names)
            self.incarnation = found
            await _remove(session, self.name)
        except NoSuchTableError as exc:
            names = await session.names()
            if self.name not in names:
                raise TableNotFoundError(self.name, names) from exc.__cause__
            # Without a readable version it is damaged: this removes the rest.
            await _remove(session, self.name)
        return [None]


async def _remove(session: Session, name: str) -> None:
    """Remove a table: in a folder in one step, so that a kill meanwhile leaves no half of it."""
    folder = session.folder
    if folder is None or not await in_thread(_put_away, folder, name):
        await session.run(session.check().drop_table(name))


def _put_away(folder: Path, name: str) -> bool:
    """Return False where the table's folder cannot be renamed: on Windows, one with open files."""
    away = folder / _DROPPED.format(name, uuid.uuid4().hex)
    try:
        os.rename(folder / f"{name}.lance", away)
    except OSError:
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def remove_dropped(folder: Path) -> None:
    """Remove what processes have left that ended while they dropped a table."""
    for left in folder.glob(_DROPPED.format("*", "*")):
        if _IS_DROPPED.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True, slots=True, eq=False)
class AddField(WriteOperation):
    handle: TableHandle
    name: str
    field: Field

    changes_schema: ClassVar[bool] = True

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        if self.name in table.schema.fields:
            raise InvalidNameError(self.name, "field", "a field with this name exists")
        lance = table.lance
        try:
            await session.run(lance.add_columns(added_column(self.name, self.field)))
        except AiovecError:
            found = await _found(session, self.handle.name)
            if found is None or self.name not in found[1].names:
                raise
            lance = found[0]
        analyzer = table.schema.analyzer
        await _index_now_or_later(session, lance, {self.name: self.field}, analyzer)
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class AlterField(WriteOperation):
    """Gives a field other options, and drops the indexes that it does not want any more."""

    handle: TableHandle
    name: str
    field: Field

    changes_schema: ClassVar[bool] = True

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        lance = table.lance
        try:
            await session.run(lance.update_field_metadata(options_of(self.name, self.field)))
        except AiovecError:
            try:
                found = await session.handle(self.handle.name)
            except AiovecError as exc:
                raise OutcomeUnknownError(session.target, str(exc)) from exc
            if found.schema.fields.get(self.name) != self.field:
                raise
        # The table is altered; upkeep does what is left of this.
        with suppress(AiovecError):
            await drop_unwanted(session, lance, self.name, self.field)
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class DropField(WriteOperation):
    handle: TableHandle
    field: str

    changes_schema: ClassVar[bool] = True

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        # First, so that its absence is no damage. As long as the column is there, nothing changes.
        noted = goes(await session.run(table.lance.schema()), self.field)
        if noted:
            await session.run(table.lance.update_field_metadata(*noted))
        try:
            await session.run(table.lance.drop_columns([self.field]))
        except AiovecError:
            found = await _found(session, self.handle.name)
            if found is None or self.field in found[1].names:
                raise
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class RenameField(WriteOperation):
    handle: TableHandle
    old: str
    new: str

    changes_schema: ClassVar[bool] = True

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        # First, so that the column is a field under either name. This alone changes nothing.
        noted = goes(await session.run(table.lance.schema()), self.old)
        noted.append(renamable(table.schema, self.old))
        await session.run(table.lance.update_field_metadata(*noted))
        try:
            renaming: Any = {"path": self.old, "rename": self.new}
            await session.run(table.lance.alter_columns(renaming))
        except AiovecError:
            found = await _found(session, self.handle.name)
            if found is None or self.old in found[1].names:
                raise
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class RenameTable(WriteOperation):
    """Renames the folder of a table, while nobody makes one of the new name."""

    old: str
    new: str
    folder: Path
    alone: Callable[[Sequence[str]], AbstractAsyncContextManager[None]]

    changes_schema: ClassVar[bool] = True

    async def refused(self, session: Session, mark: MoveMark) -> Exception:
        return await self._impossible(session) or mark.frozen_error()

    async def _impossible(self, session: Session) -> Exception | None:
        names = await session.names()
        if self.old not in names:
            return TableNotFoundError(self.old, names)
        return TableExistsError(self.new) if self.new in names else None

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        # Looked at before the new name is waited for, too: of two calls that want to give each
        # other's names, one ends here.
        if (error := await self._impossible(session)) is not None:
            raise error
        async with self.alone([self.new]):
            if (error := await self._impossible(session)) is not None:
                raise error
            with session.translated():
                await in_thread(_rename, self.folder, self.old, self.new)
        return [None]


def _rename(folder: Path, old: str, new: str) -> None:
    # What a creation that was killed has left there, which is no table.
    if (folder / f"{new}.lance").exists():
        _put_away(folder, new)
    os.rename(folder / f"{old}.lance", folder / f"{new}.lance")


@dataclass(frozen=True, slots=True, eq=False)
class IndexFields(WriteOperation):
    """Makes the indexes that a field wants and that a process which ended did not come to."""

    handle: TableHandle

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        schema = table.schema
        await index_fields(session, table.lance, schema.fields, schema.analyzer, filled=False)
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Restore(WriteOperation):
    handle: TableHandle
    version: int

    changes_schema: ClassVar[bool] = True
    brings_files: ClassVar[bool] = False

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        newest = await _check_out(session, table, self.version)
        lance = table.lance
        try:
            await session.run(lance.restore())
        except AiovecError:
            found = await _found(session, self.handle.name)
            if found is None or await session.run(found[0].version()) == newest:
                raise
            lance = found[0]
        await number_anew(session, lance)
        return [None]


async def check_whole(session: Session, handle: TableHandle, version: int, rows_of: RowsOf) -> None:
    """Read all of a version. InvalidArgumentError where that cannot be done.

    Upkeep that was ended while it removed the version has left its manifest, which Lance would
    make the newest whatever is missing of it.
    """
    try:
        async with session.reading(handle) as table:
            await _check_out(session, table, version)
            async with aclosing(rows_of(table.lance)) as blocks:
                async for _ in blocks:
                    session.check()
            for index in await session.run(table.lance.list_indices()):
                await session.run(table.lance.prewarm_index(index.name))
    except CorruptStoreError as exc:
        expected = "a version whose files all exist; upkeep removed some of this one's"
        raise InvalidArgumentError("version", version, expected) from exc


async def _check_out(session: Session, table: Opened, version: int) -> int:
    """Look at a version that is kept; the number of the newest one."""
    kept = [one.number for one in await versions_of(session, table)]
    if version not in kept:
        expected = f"a version that still exists, from {kept[0]} to {kept[-1]}"
        raise InvalidArgumentError("version", version, expected)
    await session.run(table.lance.checkout(version))
    return kept[-1]


async def _found(session: Session, name: str) -> tuple[AsyncTable, pa.Schema] | None:
    """A table whose change failed, which may come behind the commit; None where there is none."""
    try:
        return await session.open_any(name)
    except StaleTableError:
        return None
    except AiovecError as exc:
        raise OutcomeUnknownError(session.target, str(exc)) from exc


async def _index_now_or_later(
    session: Session, lance: Any, fields: Mapping[str, Field], analyzer: str
) -> None:
    """Index columns that are there. What fails is left to upkeep: it is no failure of the call."""
    with suppress(AiovecError):
        await index_fields(session, lance, fields, analyzer, filled=True)


async def stats(session: Session, table: Opened, backend: str) -> TableStats:
    # A mapping, whatever its annotation says.
    found: Any = await session.run(table.lance.stats())
    versions = await versions_of(session, table)
    return TableStats(
        table=table.name,
        backend=backend,
        rows=int(found["num_rows"]),
        bytes=int(found["total_bytes"]),
        index="none",
        unindexed_rows=int(found["num_rows"]),
        scan_memory=0,
        last_optimize=None,
        details={
            "fragments": int(found["fragment_stats"]["num_fragments"]),
            "versions": len(versions),
        },
    )


async def versions(session: Session, table: Opened) -> list[Mapping[str, Any]]:
    """Every version that is kept, the oldest first, with the time of its commit."""
    return [
        {"version": one.number, "created": one.created} for one in await versions_of(session, table)
    ]
