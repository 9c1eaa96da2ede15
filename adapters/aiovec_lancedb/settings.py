"""The settings in the section ``[retrieval.lancedb]`` of the TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from aiovec.backend.settings import BackendSettings, Key, key, memory_size, not_empty, parsed_size

_DURATION = r"^[0-9]+ (second|minute|hour|day)s?$"


class LancedbSettings(BackendSettings):
    """The settings of the LanceDB backend."""

    storage_options: Mapping[str, str] = key({}, of=Key("", secret=True))
    """Credentials, region and endpoint of the object storage at s3://, gs:// or az://, under
    LanceDB's names.

    For example { aws_access_key_id = "…", aws_secret_access_key = "…", aws_region = "eu-central-1"
    }. Options that are missing here come from environment variables such as AWS_ACCESS_KEY_ID,
    which are the better place for secrets."""

    region: str = not_empty("us-east-1")
    """Region of a db:// address. The environment variable LANCEDB_API_KEY contains the key."""

    host: str = ""
    """Address of the service behind db://. Empty means LanceDB's own service."""

    busy_timeout: float = key(30.0, at_least=0, at_most=86_400)
    """Seconds that a call waits for writes and for other processes before it fails with
    StoreBusyError. With 0, it does not wait.

    A read waits for other reads of its process without limit; asyncio.timeout sets one."""

    write_queue: int = key(1024, at_least=1, at_most=1_000_000)
    """Maximum number of concurrent write calls, which hold at most 64 MiB of rows in total.

    Further calls wait for up to busy_timeout, so a burst of writes cannot fill the memory."""

    keep_versions: str = key(
        "1 day", pattern=_DURATION, accepted="a time such as '30 minutes' or '1 day'"
    )
    """Time for which earlier versions of a table are kept, such as "30 minutes" or "2 days".

    revert() cannot go back further, and an export that takes longer may fail."""

    max_versions: int = key(100, at_least=1, at_most=1_000_000)
    """Maximum number of versions of a table to keep, however new they are.

    Every write makes a version with its own files. After many small writes in a short time, the
    oldest versions are removed first."""

    search_memory: str = memory_size("auto")
    """Memory for concurrent exports, large reads and searches without an index, such as "512 MiB".

    Calls for which no memory is left wait, and a call that needs more than the whole amount runs
    alone. "auto" is a quarter of the machine's memory, at most 4 GiB."""

    scan_limit: str = memory_size("1 GiB")
    """Maximum size of the vectors that a search without a usable index may read, such as "4 GiB".

    A search that would read more raises UnsupportedError, unless it has exact=True. "auto" is 1
    GiB, which takes about a second to read from a disk."""

    index_cache: str = memory_size("auto")
    """Memory for the parts of indexes that searches use repeatedly, such as "2 GiB".

    "auto" is a quarter of the machine's memory, at most 4 GiB."""

    metadata_cache: str = memory_size("auto")
    """Memory for the metadata of tables and files, such as "256 MiB".

    More memory saves requests to object storage if a store has many tables or files. "auto" is 64
    MiB."""

    read_freshness: float = key(0.0, at_least=0, at_most=3600)
    """Seconds for which a read may miss the writes of other stores and processes, such as 1.0.

    With a value above 0, each read saves a request to object storage. With 0, a read sees every
    write that was acknowledged before it began. A store always sees its own writes."""

    upkeep: Literal["here", "elsewhere"] = key("here", choices=("here", "elsewhere"))
    """The processes that compact files, build indexes and remove old versions in the background.

    "here": each process that opens the store for writing, one process at a time for each table.

    "elsewhere": not this process, but `aiovec optimize --every`. optimize() and create_index() work
    in every process."""

    index: Literal["auto", "none", "hnsw_sq", "ivf_pq", "ivf_flat", "ivf_rq"] = key(
        "auto", choices=("auto", "none", "hnsw_sq", "ivf_pq", "ivf_flat", "ivf_rq")
    )
    """The vector index that is built in the background for each table of at least index_from rows.

    "auto": a kind that is chosen for each table.

    "none": no index; only create_index() builds one.

    Otherwise, a kind: "hnsw_sq", "ivf_pq", "ivf_flat" or "ivf_rq"."""

    index_from: int = key(20_000, at_least=256, at_most=1_000_000_000)
    """The number of rows from which a table gets a vector index.

    With fewer rows, a search without an index is fast enough: about 10 ms for 20_000 rows of 384
    dimensions."""

    recall_target: float = key(0.95, above=0, below=1)
    """Share of the true nearest rows that a search with an index should find.

    After a build, searches with and without the index are compared, and the table keeps the
    smallest effort that reaches this recall. create_index(recall=…) sets a different recall for a
    table."""

    def scan_bytes(self) -> int:
        """``scan_limit`` in bytes."""
        size = parsed_size(self.scan_limit)
        return 2**30 if size is None else size

    def kept_versions(self) -> timedelta:
        """``keep_versions`` as a timedelta."""
        number, unit = self.keep_versions.split()
        return timedelta(**{unit.rstrip("s") + "s": int(number)})
