"""Back up or restore a store: copy the files of every table's current version to a new folder.

The copy includes the tables' indexes. A manifest lists the files of its version by their paths
relative to the table's folder.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend.contract import StaleTableError
from aiovec.backend.files import lock_file, remove_abandoned, unlock_file
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import CorruptStoreError, InvalidArgumentError, StoreBusyError

from .driver import lancedb
from .errors import Translated
from .export import stream_of
from .layout import notes_of_copy
from .locks.local import FOLDER
from .manifests import Manifests, needs, version_of
from .marks import generation_in, write_generation
from .retention import Pins, check_kept
from .session import Session
from .target import StoreTarget

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

    from .settings import LancedbSettings

# Bytes copied at a time, and the limit of each of Lance's caches while the copy is checked.
_PIECE, _CACHE = 8 * 2**20, 64 * 2**20

Alone = Callable[[Sequence[str]], AbstractAsyncContextManager[None]]
"""Returns a context manager that holds the write locks of the given tables."""


async def write_backup(
    session: Session, path: Path, pins: Pins, alone: Alone, generation: int
) -> None:
    """Write a backup to a folder next to ``path``, and rename the folder when it is complete.

    All tables are opened first, and the backup copies each table at the version it has at that
    time. The backup keeps only the ``generation`` from a migration's record, so apps that a
    migration sent to this store accept a restored copy. A backup that fails leaves no files. Raises
    StoreMovedError if a migration has moved the store, because the rows in this store are outdated,
    and StaleTableError if a table was created, renamed or dropped during the backup.
    """
    await session.mark.check_here()
    # A unique name, so that files left by a killed backup cannot clash with this one.
    partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        await in_thread(_prepare, path, partial)
        async with AsyncExitStack() as stack:
            names = await session.names()
            versions = {}
            async with alone(names):
                for name in names:
                    table, _ = await session.open_any(name)
                    versions[name] = int(await session.run(table.version()))
                    await stack.enter_async_context(pins.pin(name, versions[name]))
                await _check_names(session, names)
            try:
                await _copy(session, versions, partial, str(path), generation)
            except CorruptStoreError:
                await _check_names(session, names)
                for name, version in versions.items():
                    await check_kept(session, name, version)
                raise
            await _check_names(session, names)
        with Translated(str(path)):
            await in_thread(partial.rename, path)
    except BaseException:
        await to_its_end(in_thread(_remove, partial))
        raise


async def _check_names(session: Session, names: list[str]) -> None:
    """Raise StaleTableError if tables were created, dropped or renamed.

    If a table is renamed during a backup, the backup may contain it twice.
    """
    if await session.names() != names:
        raise StaleTableError


async def restore_backup(
    backup: Path, folder: Path, settings: LancedbSettings, *, overwrite: bool
) -> Path | None:
    """Replace a store's folder with a copy of a backup.

    Every row of the copy is read first, so that a damaged copy never replaces the store. Returns
    the new path of the old folder; None if there is no old folder, or if ``overwrite`` removed it.
    """
    backup, folder, generation = await in_thread(_checked, backup, folder, overwrite)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.partial")
    session = Session(StoreTarget(str(backup)), settings)
    try:
        await session.open()
        versions = {}
        for name in await session.names():
            versions[name] = await (await session.newest(name)).version()
        await _copy(session, versions, partial, str(folder), generation)
        return await in_thread(_put_in_place, partial, folder, overwrite)
    finally:
        await session.close()
        await in_thread(_remove, partial)


async def _copy(
    session: Session, tables: Mapping[str, int], partial: Path, path: str, generation: int
) -> None:
    """Copy the files of each table, at the given version, to a new store in the folder
    ``partial``."""
    with Translated(path):
        # Connecting creates the folder even if the call is cancelled.
        caches = await in_thread(lancedb.Session, _CACHE, _CACHE)
        copy = await to_its_end(lancedb.connect_async(partial, session=caches))
    try:
        for name, version in tables.items():
            await _copy_files(session, name, version, partial, path)
            await _finish(session, await session.run(copy.open_table(name)), partial, name)
    finally:
        copy.close()  # type: ignore[no-untyped-call]
    with Translated(path):
        await in_thread(write_generation, partial / FOLDER, generation)


async def _copy_files(session: Session, table: str, version: int, partial: Path, path: str) -> None:
    """Copy a version's manifest, and the files to which it refers."""
    folder = f"{table}.lance"
    with Translated(session.target):
        names = await in_thread(_files_below, session, folder)
        manifest = next((name for name in names if version_of(name) == version), None)
        if manifest is None:
            raise CorruptStoreError(session.target, f"version {version} of {table!r} is missing")
        pieces = _pieces(session, f"{folder}/{manifest}")
        content = await in_thread(lambda: b"".join(pieces))
    for name in [manifest, *(name for name in names if needs(content, name))]:
        session.check()
        stop = threading.Event()
        pieces = _pieces(session, f"{folder}/{name}")
        with Translated(path):
            await in_thread(_write, pieces, partial / folder / name, stop, stop=stop.set)


async def _finish(session: Session, table: AsyncTable, partial: Path, name: str) -> None:
    """Read every row of a copied table, drop its damaged indexes, and renumber its changes.

    The copy's earlier versions, which have the old numbers, are then removed.
    """
    async with aclosing(stream_of(session, table)) as blocks:
        async for _ in blocks:
            session.check()
    # Lance's threads would continue a cancelled write, so wait until it ends.
    for index in await session.run(table.list_indices()):
        try:
            await to_its_end(session.run(table.prewarm_index(index.name)))
        except CorruptStoreError:
            await to_its_end(session.run(table.drop_index(index.name)))
    if notes := notes_of_copy(await session.run(table.schema())):
        await to_its_end(session.annotate(table, "id", notes))
    files = Manifests(partial, name)
    await in_thread(files.keep_newest)


def _files_below(session: Session, folder: str) -> list[str]:
    """Return the paths of a table's files, relative to its folder."""
    if session.folder is None:
        return session.bucket.files(f"{folder}/")
    root = session.folder / folder
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _pieces(session: Session, path: str) -> Iterator[bytes]:
    """Read a file of the store piece by piece; raise CorruptStoreError if it is missing."""
    if session.folder is None:
        yield from session.bucket.pieces(path, _PIECE)
        return
    try:
        with (session.folder / path).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except FileNotFoundError as exc:
        raise CorruptStoreError(session.target, f"the file {path} is missing") from exc


def _write(pieces: Iterable[bytes], path: Path, stop: threading.Event) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for piece in pieces:
            if stop.is_set():
                return
            file.write(piece)


def _prepare(path: Path, partial: Path) -> None:
    with Translated(str(path)):
        if os.path.lexists(path):
            reason = f"{path} exists already; name a path that does not exist yet"
            raise InvalidArgumentError("path", str(path), reason=reason)
        remove_abandoned(path.parent, f"{path.name}.partial-", "")
        partial.mkdir(parents=True)


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)


def _checked(backup: Path, folder: Path, overwrite: bool) -> tuple[Path, Path, int]:
    """Return both resolved paths, and the higher of the two stores' generations.

    Raises an error if ``backup`` is not a backup or if ``folder`` must not be replaced with a copy.
    """
    folder, backup = folder.resolve(), backup.resolve()
    if folder == backup or backup in folder.parents or folder in backup.parents:
        raise InvalidArgumentError("backup", str(backup), "a folder outside the target")
    if not _is_store(backup):
        file = "; a file is a backup of SQLite: restore it to a path" if backup.is_file() else ""
        raise CorruptStoreError(
            str(backup), f"this is not a LanceDB backup, a folder with tables{file}"
        )
    if folder.exists() and not overwrite and any(folder.iterdir()) and not _is_store(folder):
        raise CorruptStoreError(
            str(folder),
            "this is not a LanceDB store; pass overwrite=True to replace it anyway",
        )
    with Translated(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, f".{folder.name}.", ".partial")
    return backup, folder, max(generation_in(store / FOLDER) for store in (backup, folder))


def _put_in_place(partial: Path, folder: Path, overwrite: bool) -> Path | None:
    """Replace the folder with the copy; return the old folder's new path, or None if it has
    none."""
    with Translated(str(folder)):
        if not folder.exists():
            partial.rename(folder)
            return None
        _check_unused(folder)
        name = f"{folder.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S')}"
        kept = folder.with_name(name)
        if kept.exists():
            kept = folder.with_name(f"{name}-{uuid.uuid4().hex[:6]}")
        partial.rename(kept)
        if not _exchanged(kept, folder):
            kept.rename(partial)
            folder.rename(kept)
            try:
                partial.rename(folder)
            except BaseException:
                kept.rename(folder)
                raise
    if not overwrite:
        return kept
    _remove(kept)
    return None


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange the names of two folders atomically; return False if the system cannot.

    With two renames, the store would be missing in between, and an app that opened it at that
    moment would create an empty store.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a Linux from before 2018
        return False
    at, exchange = -100, 2
    return bool(rename(at, os.fsencode(first), at, os.fsencode(second), exchange) == 0)


def _is_store(folder: Path) -> bool:
    tables = folder.glob("*.lance/_versions")
    return any(path.is_dir() for path in tables) or (folder / FOLDER).is_dir()


def _check_unused(folder: Path) -> None:
    """Raise StoreBusyError if a process is writing to a table or has pinned a version."""
    lock_folder = folder / FOLDER
    for path in [*lock_folder.glob("*.lock"), *lock_folder.glob("readers/*/*")]:
        try:
            lock = lock_file(path, create=False)
        except FileNotFoundError:
            continue
        if lock is None:
            raise StoreBusyError(
                f"{folder} is in use by this process or another one; close the store there", 0.0
            )
        unlock_file(lock)
