"""The section ``[retrieval.lancedb]``."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from aiovec.backend import BackendSettings, Duration, MemorySize, bytes_of, timedelta_of


class LancedbSettings(BackendSettings):
    """The settings of a LanceDB store: access, writing, memory, indexes and upkeep."""

    storage_options: dict[str, str] = Field(
        default={},
        repr=False,  # they hold secrets
        description="What the object storage of an s3://, gs:// or az:// place needs, by LanceDB's "
        "names: credentials, region, endpoint.",
    )
    region: str = Field(
        default="us-east-1",
        min_length=1,
        description="The region of a db:// place. Its key comes from the variable LANCEDB_API_KEY.",
    )
    host: str = Field(
        default="",
        description="The address of the service behind a db:// place. Empty: LanceDB's own.",
    )
    bucket_lock: bool = Field(
        default=True,
        description="Whether writers to object storage take turns by a lock object beside the "
        "tables, so that ids stay unique when several processes write. Only where one process "
        "writes may it be false, which saves two requests a write.",
    )
    busy_timeout: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a call waits for its turn, behind other calls and other "
        "processes, before it fails with StoreBusyError.",
    )
    write_queue: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Writing calls that may be under way at once, with 64 MiB of rows together; "
        "further ones wait for a place, up to busy_timeout.",
    )
    keep_versions: Duration = Field(
        default="1 day",
        description="How long the earlier versions of a table are kept, as in '30 minutes' or "
        "'2 days'. A restore goes back no further.",
    )
    max_versions: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Versions of a table that are kept at most, however young they are: of many "
        "small writes in a short time, the oldest versions go first.",
    )
    close_timeout: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Seconds that close() may take for the index builds and compactions that are "
        "due of tables that the store wrote to. The next store that opens such a table does the "
        "rest. 0: close() leaves all of it to the next.",
    )
    search_memory: MemorySize = Field(
        default="auto",
        description="What searches that scan, exports and other large reads may take together, as "
        "in '512 MiB' or '2 GiB'; further ones wait. auto: a quarter of the machine's memory, at "
        "most 4 GiB.",
    )
    index: Literal[
        "auto", "none", "ivf_flat", "ivf_pq", "ivf_sq", "ivf_rq", "hnsw", "hnsw_sq", "hnsw_pq"
    ] = Field(
        default="auto",
        description="The vector index that a table gets by itself, in the background, once it has "
        "index_from rows. auto: the kind that suits the table. none: only create_index builds one.",
    )
    index_from: int = Field(
        default=20_000,
        ge=256,
        le=1_000_000_000,
        description="Rows from which a table gets an index by itself. With fewer, a search that "
        "looks at every row is fast enough.",
    )
    recall_target: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="The part of the true nearest rows that a search with an index finds. The "
        "smallest effort that does so is found by measuring. A table or a search may say another.",
    )
    build_memory: MemorySize = Field(
        default="auto",
        description="What building an index may take, as in '512 MiB' or '2 GiB'. One that would "
        "need more is refused. auto: half of the machine's memory.",
    )

    def build_bytes(self) -> int | None:
        """``build_memory`` in bytes; None for auto."""
        return bytes_of(self.build_memory)

    def search_bytes(self) -> int | None:
        """``search_memory`` in bytes; None for auto."""
        return bytes_of(self.search_memory)

    def kept_versions(self) -> timedelta:
        """``keep_versions`` as a time."""
        return timedelta_of(self.keep_versions)
