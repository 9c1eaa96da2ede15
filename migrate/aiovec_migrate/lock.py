"""A lock beside a store that keeps a second migrator out. It ends with its process."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from aiovec.errors import MigrationError


def lock_file(source: Path | None, target: Path | None, run: str) -> Path:
    """Return the file that is locked: beside the source, or the target if that is remote."""
    beside = source or target
    if beside is None:
        return Path(tempfile.gettempdir()) / f"aiovec-migrate-{run}.lock"
    return beside.with_name(f".{beside.name}.migrate.lock")


def take_lock(file: Path) -> IO[bytes]:
    """Take the lock. Raises MigrationError if another process holds it."""
    try:
        while True:
            stream = file.open("a+b")
            if not _try_lock(stream):
                stream.close()
                raise MigrationError(
                    f"another migrator is at work: it holds {file}; wait until it ends"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), os.stat(file)):
                    return stream
            stream.close()  # its last holder has removed the file meanwhile
    except OSError as exc:
        raise MigrationError(f"{file} cannot be locked: {exc.strerror or exc}") from exc


def release_lock(file: Path, stream: IO[bytes]) -> None:
    with suppress(OSError):
        file.unlink()
    stream.close()


if sys.platform == "win32":
    import msvcrt

    def _try_lock(stream: IO[bytes]) -> bool:
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(stream: IO[bytes]) -> bool:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
