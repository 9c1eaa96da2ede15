"""A lock file beside a store that keeps a second migrator out. It ends with its process."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiovec.backend.files import lock_file, unlock_file
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import MigrationError

from .places import OpenPlace
from .work import run_of


@asynccontextmanager
async def migrator_lock(source: OpenPlace, target: OpenPlace) -> AsyncIterator[None]:
    """Keep other migrators of these stores out. Raises MigrationError if one is at work.

    The locked file lies beside the source, or the target if the source is remote.
    """
    beside = source.path or target.path
    file = Path(tempfile.gettempdir()) / f"aiovec-migrate-{run_of(source, target)}.lock"
    if beside is not None:
        file = beside.with_name(f".{beside.name}.migrate.lock")
    lock = await in_thread(_take, file)
    try:
        yield
    finally:
        await to_its_end(in_thread(_release, file, lock))


def _take(file: Path) -> int:
    try:
        lock = lock_file(file)
    except OSError as exc:
        raise MigrationError(f"{file} cannot be locked: {exc.strerror or exc}") from exc
    if lock is None:
        raise MigrationError(f"another migrator is at work: it holds {file}; wait until it ends")
    return lock


def _release(file: Path, lock: int) -> None:
    with suppress(OSError):
        file.unlink()
    unlock_file(lock)
