"""The section ``[retrieval.sqlite]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from aiovec.backend import BackendSettings, MemorySize, bytes_of

_PAGE_SIZES = tuple(512 << n for n in range(8))  # those that SQLite knows


def _page_size(value: int) -> int:
    if value not in _PAGE_SIZES:
        raise PydanticCustomError("page_size", "not a page size that SQLite knows")
    return value


class SqliteSettings(BackendSettings):
    """The settings of a SQLite store: writing, reading, waiting."""

    durability: Literal["full", "normal"] = Field(
        default="full",
        description="What a write survives once its call has returned. full: power loss too. "
        "normal: the end of the process only, at the price of fewer waits for the disk.",
    )
    busy_timeout: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a call waits for its turn, behind other calls and other "
        "processes, before it fails with StoreBusyError.",
    )
    readers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Connections that read at once. Readers never wait for writers.",
    )
    page_size: Annotated[
        int,
        AfterValidator(_page_size),
        WithJsonSchema({"type": "integer", "enum": list(_PAGE_SIZES)}),
    ] = Field(
        default=16_384, description="Bytes of a page of a new file. A file keeps the size it has."
    )
    chunk_size: int = Field(
        default=256,
        ge=8,
        le=4096,
        multiple_of=8,
        description="Vectors that a new table stores side by side. A table keeps the size it has.",
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
        description="MiB of pages that each reading connection keeps in memory.",
    )
    write_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Writing calls that may be under way at once, with 64 MiB of rows together; "
        "further ones wait for a place, up to busy_timeout.",
    )
    keep_deletes: int = Field(
        default=1_000_000,
        ge=0,
        le=1_000_000_000,
        description="Deletions that each table remembers for readers of its change feed. A reader "
        "that is further behind has to read the whole table anew.",
    )
    scan: Literal["auto", "bit", "disk"] = Field(
        default="auto",
        description="auto: tables that are searched are scanned in memory, as far as scan_memory "
        "goes, with the same exact results. bit: the same, but tables that keep bit codes are "
        "searched by these: approximately, in about a sixth of the memory. disk: every search "
        "reads the file.",
    )
    scan_memory: MemorySize = Field(
        default="auto",
        description="What the tables in memory may take together, as in '512 MiB' or '2 GiB'. "
        "auto: a quarter of the machine's memory, at most 4 GiB.",
    )
    preload: list[str] = Field(
        default=[],
        description="Tables that are brought into memory when the store opens, not when they are "
        "first searched.",
    )

    def scan_bytes(self) -> int | None:
        """``scan_memory`` in bytes; None for auto."""
        return bytes_of(self.scan_memory)
