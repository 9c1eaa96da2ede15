"""A lock file beside a store that keeps a second migrator out. It ends with its process."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from aiovec.backend.files import try_lock
from aiovec.errors import MigrationError


def lock_file(source: Path | None, target: Path | None, run: str) -> Path:
    """Return the file to lock: beside the source, or the target if the source is remote."""
    beside = source or target
    if beside is None:
        return Path(tempfile.gettempdir()) / f"aiovec-migrate-{run}.lock"
    return beside.with_name(f".{beside.name}.migrate.lock")


def take_lock(file: Path) -> IO[bytes]:
    """Take the lock. Raises MigrationError if another process holds it."""
    try:
        while True:
            stream = file.open("a+b")
            if not try_lock(stream.fileno()):
                stream.close()
                raise MigrationError(
                    f"another migrator is at work: it holds {file}; wait until it ends"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), os.stat(file)):
                    return stream
            stream.close()  # its last holder has just removed the file
    except OSError as exc:
        raise MigrationError(f"{file} cannot be locked: {exc.strerror or exc}") from exc


def release_lock(file: Path, stream: IO[bytes]) -> None:
    with suppress(OSError):
        file.unlink()
    stream.close()
