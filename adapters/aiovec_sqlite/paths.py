"""Where a store lies: its file, and the names that SQLite uses beside it."""

from __future__ import annotations

import os
from pathlib import Path

from aiovec.errors import ConfigError

MEMORY = ":memory:"
STORE_FILE = "vectors.sqlite"
BESIDE = ("-wal", "-shm", "-journal")
"""Endings that SQLite adds to a file's name for the files that it keeps beside it."""


def store_file(path: str) -> str:
    """Return the file that a path means.

    A directory holds ``vectors.sqlite``, and a path without a suffix is such a directory, unless a
    file lies there.
    """
    if "\0" in path:
        raise ConfigError(f"{path!r} cannot hold a store: the path contains a NUL")
    is_directory = (
        path.endswith(os.sep)
        or os.path.isdir(path)
        or (not os.path.splitext(path)[1] and not os.path.isfile(path))
    )
    if is_directory:
        return os.path.join(path, STORE_FILE)
    check_free_name(path)
    return path


def check_free_name(path: str) -> None:
    """Raise ConfigError if SQLite takes a file of this name for a part of another database."""
    for end in BESIDE:
        if path.endswith(end):
            raise ConfigError(
                f"{path} is a name that SQLite uses for a part of the database "
                f"{path.removesuffix(end)} and may remove; choose a name that does not end in "
                f"{end}",
                accepted="another name",
            )


def make_folder_of(file: Path) -> None:
    """Create the missing folders above a store's file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{str(file)!r} cannot hold a store: a part of the path is a file, not a folder"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot hold a store: {exc.strerror or exc}") from exc
