"""Create, alter and drop tables, while nobody else writes to the same table."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiovec.backend import Field, Schema
from aiovec.backend.changes import DropField, RenameField
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    InvalidArgumentError,
    InvalidNameError,
    TableExistsError,
    TableNotFoundError,
)

from .changes import renumber
from .driver import lancedb
from .errors import LanceTableExistsError, Translated, unknown_outcome
from .export import stream_of
from .index.fields import drop_unwanted, index_fields
from .layout import (
    LOADED,
    MOVING,
    added_column,
    as_notes,
    incarnation_in,
    is_moving,
    load_in,
    new_table,
    options_of,
    renamable,
)
from .session import Session, Snapshot

if TYPE_CHECKING:
    import pyarrow as pa


# The name of a table's folder while it is being removed. No other folder has a name like this.
_DROPPED = ".{}.{}.dropped"
_IS_DROPPED = re.compile(r"\.[a-z][a-z0-9_-]{0,62}\.[0-9a-f]{32}\.dropped")


async def create_table(session: Session, name: str, schema: Schema) -> None:
    connection = session.check()
    # In a store with a mark, readers of a table that a migration creates have to check the mark.
    moving = session.mark.run is not None and await session.mark.concerns_reads()
    layout = new_table(schema, moving=moving)
    if session.exclusive:
        try:
            await session.run(connection.create_table(name, schema=layout))
        except LanceTableExistsError as exc:
            raise TableExistsError(name) from exc.__cause__
    else:
        await _create_in_bucket(session, name, layout)
        with unknown_outcome(session.target, "the new table cannot be read"):
            _, stored = await session.open_any(name)
        if incarnation_in(stored) != incarnation_in(layout):
            raise TableExistsError(name)
    await _index_now_or_later(session, name, schema.fields, schema.analyzer)


async def _create_in_bucket(session: Session, name: str, layout: pa.Schema) -> None:
    """Write the first version of a table, unless it exists.

    LanceDB's ``create_table`` checks for the table, checks again when it commits, and overwrites a
    table that another process has created in between, even one with rows. So the version is created
    in a local folder, and its only file, the manifest, is put into the bucket by one conditional
    write. Afterwards the caller checks who created the table: this works even if the response was
    lost, or if upkeep has already removed the first version of the other process's table.
    """
    with session.guarded:
        folder = Path(await in_thread(tempfile.mkdtemp, "", "aiovec-"))
    try:
        with Translated(str(folder)):
            local = await to_its_end(
                lancedb.connect_async(folder, storage_options=session.new_tables)
            )
            try:
                await to_its_end(local.create_table(name, schema=layout))
            finally:
                local.close()  # type: ignore[no-untyped-call]

        def put() -> None:
            [manifest] = folder.glob("*/_versions/*.manifest")
            path = manifest.relative_to(folder).as_posix()
            session.bucket.put(path, manifest.read_bytes())

        await in_thread(put)
    finally:
        await to_its_end(in_thread(shutil.rmtree, folder, True))


async def check_free(session: Session, name: str) -> None:
    """Raise TableExistsError if the name is taken."""
    if await session.has(name):
        raise TableExistsError(name)


async def check_exists(session: Session, name: str) -> None:
    """Raise TableNotFoundError if no table has this name."""
    if not await session.has(name):
        raise TableNotFoundError(name, await session.names())


async def drop_table(session: Session, name: str) -> None:
    """Drop a table, even a damaged one. In a folder, the table normally disappears in one step, so
    a killed drop leaves the whole table or nothing."""
    await check_exists(session, name)
    folder = session.folder
    if folder is None or not await in_thread(_put_away, folder, name):
        await session.run(session.check().drop_table(name))


def _put_away(folder: Path, name: str) -> bool:
    """Rename a table's folder and remove it. Return False if the folder cannot be renamed, as on
    Windows while one of its files is open."""
    away = folder / _DROPPED.format(name, uuid.uuid4().hex)
    try:
        os.rename(folder / f"{name}.lance", away)
    except OSError:
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def remove_dropped(folder: Path) -> None:
    """Remove folders that killed calls of ``drop_table`` have left behind."""
    for left in folder.glob(_DROPPED.format("*", "*")):
        if _IS_DROPPED.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


async def add_field(name: str, field: Field, table: Snapshot) -> None:
    if name in table.schema.fields:
        raise InvalidNameError(name, "field", "a field with this name exists")
    await table.session.run(table.lance.add_columns(added_column(name, field)))
    await _index_now_or_later(table.session, table.name, {name: field}, table.schema.analyzer)


async def alter_field(name: str, field: Field, table: Snapshot) -> None:
    """Give a field new options, and drop the indexes that it no longer needs."""
    await table.session.annotate(table.lance, name, options_of(field))
    # The field is already altered. If this fails, the old indexes stay, which changes no results.
    with suppress(AiovecError):
        await drop_unwanted(table.session, table.lance, name, field)


async def drop_or_rename(change: DropField | RenameField, table: Snapshot) -> None:
    name = change.name
    if isinstance(change, DropField):
        await table.session.run(table.lance.drop_columns([name]))
        return
    # The note comes first, so that the column is a field under either name. Until the column
    # is renamed, the note changes nothing.
    await table.session.annotate(table.lance, name, renamable(table.schema, name))
    renaming: Any = {"path": name, "rename": change.new}
    await table.session.run(table.lance.alter_columns(renaming))


async def rename_table(
    session: Session,
    folder: Path,
    old: str,
    new: str,
    alone: Callable[[Sequence[str]], AbstractAsyncContextManager[None]],
) -> None:
    """Rename a table's folder, while no other call can create a table with the new name."""
    # Also check before waiting for the lock on the new name: otherwise, calls that swap two names
    # would wait for each other.
    await check_exists(session, old)
    await check_free(session, new)
    async with alone([new]):
        await check_exists(session, old)
        await check_free(session, new)
        with session.guarded:
            await in_thread(_rename, folder, old, new)


def _rename(folder: Path, old: str, new: str) -> None:
    # A folder left by a killed creation is not a table.
    if (folder / f"{new}.lance").exists():
        _put_away(folder, new)
    os.rename(folder / f"{old}.lance", folder / f"{new}.lance")


async def put_notes(change: Mapping[str, str | None], table: Snapshot) -> None:
    """Change the notes that callers keep with the table."""
    await table.session.annotate(table.lance, "id", as_notes(change))


async def revert(version: int, table: Snapshot) -> None:
    """Make a version the newest again.

    If the revert is stopped between its commits, the table's rows are unchanged, but followers of
    its changes have to begin again. After the last commit, followers see the revert in the table's
    history.
    """
    session = table.session
    await _check_out(table, version)
    old = await session.run(table.lance.schema())
    newest, _ = await session.open_any(table.name)
    await renumber(session, newest)
    # ``table.lance`` restores the version that it has checked out, whatever was committed since.
    await session.run(table.lance.restore())
    load = load_in(old)
    if load is not None and load.filling:  # the note of a load in that version no longer applies
        with unknown_outcome(session.target, "the table was reverted, but holds writes off"):
            lance, _ = await session.open_any(table.name)
            await session.annotate(lance, "id", {LOADED: None})


async def set_sign(session: Session, table: str) -> None:
    """Flag the table so that readers check the store's migration mark, or remove the flag if no
    mark concerns them."""
    with suppress(StaleTableError):
        lance, arrow = await session.open_any(table)
        # The current mark: another run may have begun or ended since the caller's check.
        moving = await session.mark.concerns_reads()
        if is_moving(arrow) != moving:
            await session.annotate(lance, "id", {MOVING: "1" if moving else None})


async def check_whole(session: Session, handle: TableHandle, version: int) -> None:
    """Read a whole version; raise InvalidArgumentError if some of its files are missing.

    If upkeep was killed while it removed the version, the version's manifest still exists, and
    Lance would restore the version although files are missing.
    """
    try:
        async with session.reading(handle) as table:
            await _check_out(table, version)
            async with aclosing(stream_of(session, table.lance)) as blocks:
                async for _ in blocks:
                    session.check()
            for index in await session.run(table.lance.list_indices()):
                await session.run(table.lance.prewarm_index(index.name))
    except CorruptStoreError as exc:
        expected = "a version whose files all exist; upkeep removed some of this one's"
        raise InvalidArgumentError("version", version, expected) from exc


async def _check_out(table: Snapshot, version: int) -> None:
    """Check out a kept version."""
    kept = [kept.number for kept in await table.session.listed_versions(table)]
    if version not in kept:
        expected = f"a version that still exists, from {kept[0]} to {kept[-1]}"
        raise InvalidArgumentError("version", version, expected)
    await table.session.run(table.lance.checkout(version))


async def _index_now_or_later(
    session: Session, table: str, fields: Mapping[str, Field], analyzer: str
) -> None:
    """Index new columns. If that fails, upkeep indexes them later, and the call still succeeds."""
    with suppress(AiovecError, StaleTableError):
        lance, _ = await session.open_any(table)
        await index_fields(session, lance, fields, analyzer)
