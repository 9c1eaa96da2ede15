"""Creating, altering and dropping tables: each alone among the writes of its table."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiovec.backend import Field, Schema
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.threads import in_thread
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    InvalidArgumentError,
    InvalidNameError,
    OutcomeUnknownError,
    StoreClosedError,
    TableExistsError,
    TableNotFoundError,
)

from .changes import number_anew
from .errors import NoSuchTableError, TableThereError
from .export import whole_rows
from .index.fields import drop_unwanted, index_fields
from .layout import (
    LEFT,
    MOVING,
    added_column,
    handle_of,
    incarnation_in,
    is_moving,
    new_table,
    options_of,
    renamable,
)
from .locks.moves import Fence
from .session import Opened, Session
from .upkeep.retention import versions_of

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import AsyncTable


# The name that the folder of a table has while it is removed; no other one is taken for it.
_DROPPED = ".{}.{}.dropped"
_IS_DROPPED = re.compile(r"\.[a-z][a-z0-9_-]{0,62}\.[0-9a-f]{32}\.dropped")


async def create_table(session: Session, name: str, schema: Schema, fence: Fence) -> None:
    connection = session.check()
    # Made by a migration in a store with a mark: those who read it have to look for that.
    moving = fence.run is not None and await fence.concerns_reads()
    made = new_table(schema, moving=moving)

    async def is_made(_: AsyncTable, arrow: pa.Schema) -> bool:
        return incarnation_in(arrow) == incarnation_in(made)

    async def make() -> None:
        try:
            with session.translated():
                await connection.create_table(name, schema=made)
        except TableThereError as exc:
            raise TableExistsError(name) from exc.__cause__

    await _change(session, name, make(), is_made)
    table, _ = await session.open_any(name)
    await _index_now_or_later(session, table, schema.fields, schema.analyzer)


async def _change(
    session: Session,
    name: str,
    work: Awaitable[object],
    is_done: Callable[[AsyncTable, pa.Schema], Awaitable[bool]],
) -> None:
    """Do work that changes a table. Its error may come behind its commit, so this looks then."""
    try:
        with session.guarded():
            await work
    except (TableExistsError, StoreClosedError):
        raise
    except AiovecError:
        try:
            done = await is_done(*await session.open_any(name))
        except StaleTableError:
            done = False
        except AiovecError as exc:
            raise OutcomeUnknownError(session.target, str(exc)) from exc
        if not done:
            raise


async def why_not_created(session: Session, name: str) -> Exception | None:
    """Return the error of making a table whose name is taken."""
    return TableExistsError(name) if name in await session.names() else None


async def why_not_there(session: Session, name: str) -> Exception | None:
    """Return the error of dropping or renaming a table that is not there."""
    names = await session.names()
    return None if name in names else TableNotFoundError(name, names)


class Dropping:
    """Drops a table. Called again, it drops the one that it found first, and no later one."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name
        self._incarnation: Hashable = None

    async def __call__(self) -> None:
        session, name = self._session, self._name
        connection = session.check()
        try:
            with session.translated():
                # In memory, lancedb drops what is not there without a word.
                table = await connection.open_table(name)
                found = incarnation_in(await table.schema())
            if self._incarnation not in (None, found):
                names = [other for other in await session.names() if other != name]
                raise TableNotFoundError(name, names)
            self._incarnation = found
            await _remove(session, name)
        except NoSuchTableError as exc:
            error = await why_not_there(session, name)
            if error is not None:
                raise error from exc.__cause__
            # Without a readable version it is damaged: this removes the rest.
            await _remove(session, name)


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


async def add_field(session: Session, handle: TableHandle, name: str, field: Field) -> None:
    table = await session.opened(handle)
    if name in table.schema.fields:
        raise InvalidNameError(name, "field", "a field with this name exists")

    async def is_added(_: AsyncTable, arrow: pa.Schema) -> bool:
        return name in arrow.names

    await _change(
        session, handle.name, table.lance.add_columns(added_column(name, field)), is_added
    )
    lance, _ = await session.open_any(handle.name)
    await _index_now_or_later(session, lance, {name: field}, table.schema.analyzer)


async def alter_field(session: Session, handle: TableHandle, name: str, field: Field) -> None:
    """Give a field other options, and drop the indexes that it does not want any more."""
    table = await session.opened(handle)

    async def is_altered(_: AsyncTable, arrow: pa.Schema) -> bool:
        return handle_of(handle.name, arrow, session.target).schema.fields.get(name) == field

    work = table.lance.update_field_metadata(options_of(name, field))
    await _change(session, handle.name, work, is_altered)
    # The table is altered; upkeep does what is left of this.
    with suppress(AiovecError):
        await drop_unwanted(session, table.lance, name, field)


async def drop_field(session: Session, handle: TableHandle, field: str) -> None:
    table = await session.opened(handle)
    await _without(session, table, field, table.lance.drop_columns([field]))


async def rename_field(session: Session, handle: TableHandle, old: str, new: str) -> None:
    table = await session.opened(handle)
    # First, so that the column is a field under either name. This alone changes nothing.
    await session.run(table.lance.update_field_metadata(renamable(table.schema, old)))
    renaming: Any = {"path": old, "rename": new}
    await _without(session, table, old, table.lance.alter_columns(renaming))


async def _without(session: Session, table: Opened, field: str, work: Awaitable[object]) -> None:
    """Do work behind which a table has no such column."""

    async def is_gone(_: AsyncTable, arrow: pa.Schema) -> bool:
        return field not in arrow.names

    await _change(session, table.name, work, is_gone)


async def why_not_renamed(session: Session, old: str, new: str) -> Exception | None:
    """Return the error of a renaming that is not possible."""
    return await why_not_there(session, old) or await why_not_created(session, new)


async def rename_table(
    session: Session,
    folder: Path,
    old: str,
    new: str,
    alone: Callable[[Sequence[str]], AbstractAsyncContextManager[None]],
) -> None:
    """Rename the folder of a table, while nobody makes one of the new name."""
    # Looked at before the new name is waited for, too: of two calls that want to give each
    # other's names, one ends here.
    if (error := await why_not_renamed(session, old, new)) is not None:
        raise error
    async with alone([new]):
        if (error := await why_not_renamed(session, old, new)) is not None:
            raise error
        with session.translated():
            await in_thread(_rename, folder, old, new)


def _rename(folder: Path, old: str, new: str) -> None:
    # What a creation that was killed has left there, which is no table.
    if (folder / f"{new}.lance").exists():
        _put_away(folder, new)
    os.rename(folder / f"{old}.lance", folder / f"{new}.lance")


async def restore(session: Session, handle: TableHandle, version: int) -> None:
    table = await session.opened(handle)
    newest = await _check_out(session, table, version)

    async def is_restored(lance: AsyncTable, _: pa.Schema) -> bool:
        return bool(await session.run(lance.version()) != newest)

    await _change(session, handle.name, table.lance.restore(), is_restored)
    lance, _ = await session.open_any(handle.name)
    await number_anew(session, lance)


async def set_sign(session: Session, table: str, fence: Fence) -> None:
    """Set the sign by which reads of a table know that there is a mark to heed.

    Where there is none, remove the sign.
    """
    with suppress(StaleTableError):
        lance, arrow = await session.open_any(table)
        # As it is now: another run may have begun, or ended, since the caller's look.
        moving = await fence.concerns_reads()
        if is_moving(arrow) != moving:
            await _note(session, lance, MOVING, "1" if moving else None)


async def make_stale(session: Session, table: str) -> None:
    """Make every handle on a table out of date."""
    # It was dropped meanwhile, or nobody can write to it anyway.
    with suppress(StaleTableError, CorruptStoreError):
        lance, arrow = await session.open_any(table)
        if arrow.get_field_index("id") >= 0:  # another program's table may have none
            await _note(session, lance, LEFT, uuid.uuid4().hex)


async def _note(session: Session, lance: AsyncTable, key: str, value: str | None) -> None:
    await session.run(lance.update_field_metadata({"path": "id", "metadata": {key: value}}))


async def check_whole(session: Session, handle: TableHandle, version: int) -> None:
    """Read all of a version. InvalidArgumentError where that cannot be done.

    Upkeep that was ended while it removed the version has left its manifest, which Lance would
    make the newest whatever is missing of it.
    """
    try:
        async with session.reading(handle) as table:
            await _check_out(session, table, version)
            async with aclosing(whole_rows(session, table.lance)) as blocks:
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


async def _index_now_or_later(
    session: Session, lance: Any, fields: Mapping[str, Field], analyzer: str
) -> None:
    """Index columns that are there. What fails is left to upkeep: it is no failure of the call."""
    with suppress(AiovecError):
        await index_fields(session, lance, fields, analyzer)


async def versions(session: Session, table: Opened) -> list[Mapping[str, Any]]:
    """Every version that is kept, the oldest first, with the time of its commit."""
    return [
        {"version": one.number, "created": one.created} for one in await versions_of(session, table)
    ]
