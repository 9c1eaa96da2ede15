"""A copy of a store while it is in use: every table's present version, written anew."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from aiovec.backend import in_thread, to_its_end
from aiovec.errors import AiovecError, CorruptStoreError, InvalidArgumentError, StoreBusyError

from .driver import lancedb
from .errors import translated
from .layout import at_rest
from .locks.local import FOLDER, LockedFile
from .memory import ReadAdmission, stream_bytes
from .session import Session
from .upkeep.retention import Pins

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

_BYTES = 64 * 2**20


async def write_backup(session: Session, path: Path, pins: Pins, admission: ReadAdmission) -> None:
    """Write to a folder beside ``path`` that gets its name when it is whole.

    StoreMovedError where a migration has moved the store: its rows are old.
    All tables are opened first, and each stays at that version. A backup that fails or is
    cancelled leaves nothing behind.
    """
    await session.check_here()
    # A name of its own: what a killed backup left is in nobody's way.
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        await in_thread(_prepare, path, partial)
        async with AsyncExitStack() as stack:
            opened = [(name, *await session.open_any(name)) for name in await session.names()]
            for name, table, _ in opened:
                version = await session.run(table.version())
                await stack.enter_async_context(pins.held(name, version))
            async with admission.share(stream_bytes()):
                await _copy(session, opened, partial, str(path))
        await in_thread(_finish, partial, path)
    except BaseException:
        await to_its_end(in_thread(remove_folder, partial))
        raise


async def _copy(
    session: Session, tables: list[tuple[str, AsyncTable, pa.Schema]], partial: Path, path: str
) -> None:
    with translated(path):
        copy = await lancedb.connect_async(partial)
    try:
        for name, table, schema in tables:
            with translated(path):
                target = await to_its_end(copy.create_table(name, schema=at_rest(schema)))
            batches = await session.run(table.query().to_batches())
            waiting: list[pa.RecordBatch] = []
            size = 0
            while True:
                with session.guarded():
                    batch = await anext(batches, None)
                if batch is not None:
                    waiting.append(batch)
                    size += batch.nbytes
                if waiting and (batch is None or size > _BYTES):
                    with translated(path):
                        # Lance's threads would go on with a write that is cancelled.
                        await to_its_end(target.add(pa.Table.from_batches(waiting)))
                    waiting, size = [], 0
                if batch is None:
                    break
    finally:
        copy.close()  # type: ignore[no-untyped-call]


def _prepare(path: Path, partial: Path) -> None:
    with translated(str(path)):
        if os.path.lexists(path):
            raise AiovecError(f"{path} already exists; name a path that does not exist yet")
        partial.mkdir(parents=True)


def _finish(partial: Path, path: Path) -> None:
    with translated(str(path)):
        partial.rename(path)


def remove_folder(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)


def copy_beside(backup: Path, folder: Path, *, overwrite: bool) -> tuple[Path, Path]:
    """Copy a backup beside a store's folder; the copy, and the folder to put it in place of."""
    folder = folder.resolve()
    backup = backup.resolve()
    if folder == backup or backup in folder.parents or folder in backup.parents:
        raise InvalidArgumentError("backup", str(backup), "a folder outside the target")
    if not tables_in(backup):
        raise CorruptStoreError(str(backup), "this is not a LanceDB backup: it has no tables")
    if folder.exists() and not overwrite and any(folder.iterdir()) and not tables_in(folder):
        raise CorruptStoreError(
            str(folder),
            "this is not a LanceDB store; pass overwrite=True to replace it anyway",
        )
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.partial")
    with translated(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Locks and notes of the store that was copied are not the new one's.
        shutil.copytree(backup, partial, ignore=lambda at, names: {FOLDER} & set(names))
    return partial, folder


def put_in_place(partial: Path, folder: Path, *, overwrite: bool) -> Path | None:
    """Put the copy in the place of the folder; where the old one was kept."""
    with translated(str(folder)):
        if not folder.exists():
            partial.rename(folder)
            return None
        _check_unused(folder)
        name = f"{folder.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S')}"
        kept = folder.with_name(name)
        if kept.exists():
            kept = folder.with_name(f"{name}-{uuid.uuid4().hex[:6]}")
        folder.rename(kept)
        try:
            partial.rename(folder)
        except BaseException:
            kept.rename(folder)
            raise
    if not overwrite:
        return kept
    remove_folder(kept)
    return None


def tables_in(folder: Path) -> list[str]:
    """The names of the tables that lie in a folder. Imports nothing and opens nothing."""
    return sorted(path.parent.stem for path in folder.glob("*.lance/_versions") if path.is_dir())


def _check_unused(folder: Path) -> None:
    """Raise StoreBusyError where a process writes to a table or reads for long."""
    own = folder / FOLDER
    for path in [*own.glob("*.lock"), *own.glob("readers/*/*")]:
        try:
            file = LockedFile.at(path, create=False)
        except FileNotFoundError:
            continue
        if file is None:
            raise StoreBusyError(
                f"{folder} is in use by this process or another one; close the store there", 0.0
            )
        file.close()
