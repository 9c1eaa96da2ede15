"""The section ``[retrieval.sqlite]``, and the names of a store's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from aiovec.backend.settings import BackendSettings, MemorySize, bytes_of
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


_PAGE_SIZES = tuple(512 << n for n in range(8))  # those that SQLite knows


def _page_size(value: int) -> int:
    if value not in _PAGE_SIZES:
        raise PydanticCustomError("page_size", "not a page size that SQLite knows")
    return value


class SqliteSettings(BackendSettings):
    """The settings of the SQLite backend."""

    durability: Literal["full", "normal"] = Field(
        default="full",
        description='What a write survives once its call has returned: "full" also a power loss, '
        '"normal" only a crash.\n'
        '"full": each commit waits for the disk.\n'
        '"normal": a power loss may undo the newest writes; the file stays intact. For data that '
        "can be computed again.",
    )
    busy_timeout: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a call waits for other calls and other processes before it fails "
        "with StoreBusyError.\n"
        "0 does not wait.",
    )
    readers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Connections that read at once. Readers never wait for writers.\n"
        "More than the machine has processor cores help only if reads wait for the disk.",
    )
    page_size: Annotated[
        int,
        AfterValidator(_page_size),
        WithJsonSchema({"type": "integer", "enum": list(_PAGE_SIZES)}),
    ] = Field(
        default=16_384,
        description="Bytes per page of a new file: a power of two from 512 to 65_536.\n"
        "Large pages suit vectors. An existing file keeps its page size.",
    )
    chunk_size: int = Field(
        default=256,
        ge=8,
        le=4096,
        multiple_of=8,
        description="Vectors that a new table stores side by side.\n"
        "An existing table keeps its chunk size. 128 to 256 write fastest.",
    )
    cache_mb: int = Field(
        default=64,
        ge=1,
        le=65_536,
        description="MiB of pages that the writing connection keeps in memory.",
    )
    reader_cache_mb: int = Field(
        default=2,
        ge=1,
        le=65_536,
        description="MiB of pages that each reading connection keeps in memory.\n"
        "The system caches the file too. With 16, find() by an index is one microsecond per row "
        "faster, and many concurrent searches need a few percent less processor time.",
    )
    write_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Writing calls in progress at once, with 64 MiB of rows together; further ones "
        "wait.\n"
        "They wait for up to busy_timeout, so a burst of writes cannot fill the memory.",
    )
    keep_deletes: int = Field(
        default=1_000_000,
        ge=0,
        le=1_000_000_000,
        description="Deletions that each table remembers for readers of its change feed.\n"
        "A reader that is further behind, such as another process or a migration, reads the whole "
        "table again.",
    )
    scan: Literal["auto", "bit", "disk"] = Field(
        default="auto",
        description='How tables are searched: "auto" in memory, "disk" in the file, "bit" by bit '
        "codes, approximately.\n"
        '"auto": tables that are searched are kept in memory, up to scan_memory. The results are '
        "exact.\n"
        '"disk": every search reads the file. The results are exact and the same.\n'
        '"bit": tables whose schema says quantized="bit" are searched in the file by the signs of '
        "their components, approximately. Other tables are searched as with "
        '"auto".',
    )
    scan_memory: MemorySize = Field(
        default="auto",
        description='Memory for all tables that are searched in memory, such as "512 MiB" or "2 '
        'GiB".\n'
        "A table takes its rows times (dim + 20) bytes, and five times as much while there is room "
        'for its vectors. "auto" is a quarter of the machine\'s '
        "memory, at most 4 GiB.",
    )
    preload: list[str] = Field(
        default=[],
        description="Tables that are loaded into memory when the store opens, not at their first "
        "search.",
    )

    def scan_bytes(self) -> int | None:
        """``scan_memory`` in bytes; None for auto."""
        return bytes_of(self.scan_memory)
