"""The section ``[retrieval.sqlite]``, and the names of a store's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from aiovec.backend.settings import BackendSettings, key
from aiovec.errors import ConfigError, StorePermissionError

MEMORY = ":memory:"
STORE_FILE = "vectors.sqlite"
BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps next to a database."""


def store_file(path: str) -> str:
    """Return the store's file for a path.

    In a directory, this is ``vectors.sqlite``. A path without a suffix is a directory, unless it is
    an existing file.
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
    """Raise ConfigError if SQLite would take a file of this name for part of another database."""
    for end in BESIDE:
        if path.endswith(end):
            raise ConfigError(
                f"{path} is a name that SQLite uses for a part of the database "
                f"{path.removesuffix(end)} and may remove; choose a name that does not end in "
                f"{end}"
            )


def make_folder_of(file: Path) -> None:
    """Create the missing folders above a store's file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{str(file)!r} cannot hold a store: a part of the path is a file, not a folder"
        ) from None
    except PermissionError as exc:
        reason = f"this process may not create the folder {file.parent}"
        raise StorePermissionError(str(file), reason) from exc
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot hold a store: {exc.strerror or exc}") from exc


class SqliteSettings(BackendSettings):
    """The settings of the SQLite backend."""

    durability: Literal["full", "normal"] = key("full", choices=("full", "normal"))
    """The failures that a completed write survives: with "full" a crash or a power loss, with
    "normal" only a crash.

    "full": each commit waits for the disk.

    "normal": a power loss may undo the newest writes; the file stays intact. Use "normal" for
    data that can be computed again."""

    busy_timeout: float = key(30.0, at_least=0, at_most=86_400)
    """Seconds that a call waits for writes and for other processes before it fails with
    StoreBusyError. With 0, it does not wait.

    A read waits for other reads of its process without limit; asyncio.timeout sets one."""

    readers: int = key(4, at_least=1, at_most=64)
    """Number of connections that read at the same time. Readers never wait for writers.

    More readers than processor cores help only if reads wait for the disk."""

    chunk_size: int = key(256, at_least=8, at_most=4096, multiple_of=8)
    """Maximum number of vectors in each chunk of a new table. sqlite-vec stores vectors in chunks.

    An existing table keeps its chunk size. 128 to 256 write fastest."""

    write_queue: int = key(1024, at_least=1, at_most=1_000_000)
    """Maximum number of concurrent write calls, which hold at most 64 MiB of rows in total.

    Other calls wait for up to busy_timeout, so a burst of writes cannot fill the memory."""

    keep_deletes: int = key(1_000_000, at_least=0, at_most=1_000_000_000)
    """Number of deletions that each table remembers for readers of its change feed.

    A reader that is further behind, such as another process or a migration, reads the whole table
    again."""

    scan: Literal["auto", "bit", "disk"] = key("auto", choices=("auto", "bit", "disk"))
    """The search method: "auto" and "disk" are exact, and "auto" is faster; "bit" is approximate.

    "auto": a table's first search starts to round its vectors to codes. Codes and vectors are kept
    in memory or, from 32 MiB on, in a scan file next to the store, which all processes share. They
    take rows times (5 * dim + 20) bytes. In private memory, they take at most a quarter of the
    machine's memory, and at most 4 GiB. The results are exact.

    "disk": every search reads the file, and needs no memory or disk for codes. The results are
    exact, and the same as with "auto".

    "bit": tables whose schema says quantized="bit" are searched in the file by the signs of their
    components, approximately. Other tables are searched as with "auto"."""
