"""One store's connection, and tables opened through it.

A call works on one version of its table, the newest when it begins, so it sees every acknowledged
write of every process. Each way to open a table does more than the previous one:

- ``Session.open_any`` returns lancedb's table and its Arrow schema, whichever program created it.
- ``Session.newest`` opens a table by name, for callers without a handle.
- ``Session.opened`` opens it by handle, for writes and upkeep, or raises StaleTableError if the
  handle is outdated.
- ``Session.reading`` opens it by handle for a read, during which others may drop the table.
- ``Versions.reading`` (``table``) is for an app's reads: it keeps the newest version between
  reads, and waits for memory.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa

from aiovec.backend import Schema, check_table_name
from aiovec.backend.contract import StaleTableError, TableHandle
from aiovec.backend.files import look_at
from aiovec.backend.limits import Deadline
from aiovec.backend.memory import default_budget, give_back
from aiovec.backend.settings import parsed_size
from aiovec.backend.threads import Background, hop, in_thread
from aiovec.errors import (
    AiovecError,
    BackendNotInstalledError,
    ConfigError,
    CorruptStoreError,
    InvalidNameError,
    StoreBusyError,
    StoreClosedError,
    StoreReplacedError,
    StoreUnreachableError,
    TableNotFoundError,
)

from .driver import first_process, lancedb, without_blobs
from .errors import NoSuchTableError, Translated
from .layout import epoch_of, handle_of, incarnation_in, incarnation_of, is_moving, load_in
from .locks.lease import UpkeepLease
from .locks.local import FOLDER, ONE_TRY, TableLock
from .manifests import Manifests, version_of
from .marks import MarkFile, MarkObject, MarkStorage, StoreMark
from .memory import ReadAdmission
from .target import StoreTarget

if TYPE_CHECKING:
    from lancedb import AsyncConnection
    from lancedb.table import AsyncTable

    from .locks.bucket import Bucket
    from .settings import LancedbSettings

_T = TypeVar("_T")
_PAGE = 1000
# For ``hop``: how many characters of SQL lancedb parses in the time that copying a value takes.
_CHARACTERS_A_VALUE = 8
# Timeout in seconds for the first requests to a server, which LanceDB would retry for minutes.
_PATIENCE = 60.0
_FORKED = (
    "LanceDB does not survive a fork. Open stores after the fork, or start processes with spawn or "
    "forkserver"
)
# The size in bytes of Lance's cache of manifests and file footers. Every commit adds entries and
# evicts old ones.
_METADATA_CACHE = 64 * 2**20
# The number of replaced indexes after which the caches are created again. Lance's cache counts only
# bytes: until it is full, it keeps parts of each replaced index, and up to three open descriptors
# of the index's removed files.
_REPLACED = 16
# Seconds after which calls that use earlier caches have ended.
_UNDER_WAY = 2.0
# The most call results that are cached for one version.
_MOST_ANSWERS = 4096
# Pauses in seconds between checks for a table's missing files, because a drop may be in progress.
_LOOKS = (0.02, 0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table at one version, which ``lance`` has checked out. Caches facts about the version."""

    session: Session
    name: str
    lance: AsyncTable
    schema: Schema
    arrow: pa.Schema
    """Lance's schema, with the notes about the table's state that ``layout`` reads."""
    answers: dict[str, Any] = field(default_factory=dict, compare=False)

    def check_not_filled(self) -> None:
        """Raise StoreBusyError while an engine fills the table."""
        load = load_in(self.arrow)
        if load is not None and load.filling:
            raise StoreBusyError(
                f"`aiovec import --engine` ({load.run}) is filling the table {self.name!r}; if it "
                "was interrupted, run the same command again, or undo it: revert() to the version "
                "before, or drop the table", 0.0,
            )  # fmt: skip

    @property
    def handle(self) -> TableHandle:
        return TableHandle(self.name, self.schema, epoch_of(self.arrow))

    async def advanced(self) -> Snapshot:
        """Return the table at the version that a commit through ``lance`` has just made."""
        await self.session.check_folder()
        arrow = await self.session.run(self.lance.schema())
        schema = handle_of(self.name, arrow, self.session.target).schema
        return Snapshot(self.session, self.name, self.lance, schema, arrow)

    async def version(self) -> int:
        """Return the version's number."""
        return int(await self.once("version", self.lance.version))

    async def rows(self, condition: str | None = None) -> int:
        """Return the number of the version's rows, or of the rows that match a condition."""
        count = partial(self.lance.count_rows, condition)
        return int(await self.once(f"rows {condition or ''}", count))

    async def indexes(self) -> list[Any]:
        """Return Lance's descriptions of the version's indexes."""
        known = "indexes" in self.answers
        indexes: list[Any] = await self.once("indexes", self.lance.list_indices)
        if not known:
            await self.session.note_indexes(self.name, indexes)
        return indexes

    async def stats(self) -> Mapping[str, Any]:
        """Return Lance's statistics of the version, such as its size in bytes."""
        sizes: Mapping[str, Any] = await self.once("stats", self.lance.stats)
        return sizes

    async def referred_to(self) -> list[int]:
        """Return the versions with a tag or at the start of a branch, which any program may have
        created."""
        with self.session.guarded:
            tags, branches = await self.lance.tags.list(), await self.lance.branches.list()
        return [tag["version"] for tag in tags.values()] + [
            branch["parent_version"] for branch in branches.values()
        ]

    async def once(self, question: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a question about the version, which is asked once."""
        if question not in self.answers:
            if len(self.answers) >= _MOST_ANSWERS:
                self.answers.clear()
            with self.session.guarded:
                self.answers[question] = await ask()
        return self.answers[question]

    async def versions(self) -> list[Version]:
        """Return every kept version, the oldest first, by reading all manifests."""

        async def look() -> list[Mapping[str, Any]]:
            return await self.session.run(self.lance.list_versions())  # type: ignore[no-untyped-call]

        # Upkeep may remove a manifest before it is read.
        versions = await _looked_up(look)
        return [Version(int(v["version"]), v["timestamp"].astimezone(UTC)) for v in versions]


class Version(NamedTuple):
    number: int
    created: datetime


class Newest(NamedTuple):
    """A table's newest version, for handles with the same ``epoch``.

    It is current as long as its manifest is the newest. Until ``fresh_until``, it counts as current
    without a check, unless this store has written to the table since.
    """

    table: Snapshot
    epoch: object
    manifest: object
    writes: int
    fresh_until: float


@dataclass(slots=True)
class Connections:
    """A store's lancedb connections, and data that lives as long as they do."""

    writer: AsyncConnection
    reader: AsyncConnection
    """Reads a folder with less CPU time, but must not write: see ``StoreTarget.written``."""
    newest: dict[str, Newest] = field(default_factory=dict)
    """Each table's newest version, kept for later reads. The versions refer to Lance's caches."""
    uuids: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """The UUIDs of each table's indexes when last listed, by table and index name."""
    replaced: int = 0
    """The number of indexes that have been replaced since the connections were opened."""

    def kept(self, handle: TableHandle) -> Newest | None:
        """Return the table's kept version; None if there is none, or if it does not belong to the
        handle's epoch."""
        kept = self.newest.get(handle.name)
        return kept if kept is not None and kept.epoch == handle.epoch else None

    def note(self, table: str, indexes: Sequence[Any]) -> None:
        """Add to ``replaced`` the number of indexes replaced since the last call for the table."""
        for index in indexes:
            key, uuid = (table, index.name), index.index_uuid
            self.replaced += self.uuids.get(key, uuid) != uuid
            self.uuids[key] = uuid


def _is_name(name: str) -> bool:
    """Return whether aiovec could have created a table with this name."""
    try:
        check_table_name(name)
    except InvalidNameError:
        return False
    return True


def _caches(settings: LancedbSettings) -> Any:
    """Return Lance's caches of indexes and metadata. Lance's defaults are 6 GiB and 1 GiB."""
    index = parsed_size(settings.index_cache)
    metadata = parsed_size(settings.metadata_cache)
    return lancedb.Session(
        index_cache_size_bytes=default_budget() if index is None else index,
        metadata_cache_size_bytes=_METADATA_CACHE if metadata is None else metadata,
    )


async def _freed(connection: AsyncConnection) -> None:
    """Let Lance free a connection's caches, once calls in progress have had time to end.

    Python would hold the GIL while freeing them: 50 ms for 12,000 index parts. So a running
    call holds the last reference to the caches, and Lance drops it in one of its own threads.
    """
    await asyncio.sleep(_UNDER_WAY)
    last = asyncio.ensure_future(connection.list_tables(limit=1))
    await asyncio.sleep(0)  # the call begins
    connection.close()  # type: ignore[no-untyped-call]
    with suppress(Exception):  # for example, the folder was removed
        await last
    await in_thread(give_back)


async def _looked_up(
    look: Callable[[], Awaitable[_T]], missing: type[Exception] = CorruptStoreError
) -> _T:
    """Return the result of ``look``; retry it after each pause while it raises ``missing``."""
    for pause in _LOOKS:
        with suppress(missing):
            return await look()
        await asyncio.sleep(pause)
    return await look()


class _Guarded(Translated):
    def __init__(self, session: Session) -> None:
        super().__init__(session.target, session.secrets)
        self._session = session

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        try:
            super().__exit__(kind, error, trace)
        except NoSuchTableError as exc:
            raise StaleTableError(str(exc)) from exc.__cause__
        except Exception as exc:
            self._session.check_not_closed(exc)
            raise
        if isinstance(error, Exception):
            self._session.check_not_closed(error)


class Session:
    """Makes all calls to lancedb, and translates its errors."""

    def __init__(
        self, target: StoreTarget, settings: LancedbSettings, *, in_use: bool = False
    ) -> None:
        """With ``in_use``, the session obeys a migration's mark; otherwise it ignores the mark."""
        self._target = target
        self.settings = settings
        self.target = target.shown
        self.folder = target.folder
        """The folder that contains the tables, or None."""
        self.exclusive = not target.in_bucket
        """True if a table has one writer at a time; in a bucket, other processes may write too."""
        self.admission = ReadAdmission()
        """Gives reads shares of the memory."""
        self._connections: Connections | None = None
        self._earlier = Background()
        self._process = 0
        self._inode: tuple[int, int] | None = None
        self._let_go: Callable[[], object] = lambda: None
        self._closed = False
        self.closing = False
        """True once no new call may begin; calls in progress continue."""
        self._key = ""
        self.replacing: set[str] = set()
        """The names of the tables whose last upsert replaced rows."""
        # Names in a bucket that are known to be tables.
        self._known: set[str] = set()
        # Waits for locks use separate threads, so that they do not delay other work.
        self._lock_threads = asyncio.Semaphore(16)
        self.mark = StoreMark(self.target, self._mark_storage() if in_use else None)
        """A migration's mark, as this store sees it."""
        self.secrets = target.secrets(settings)
        self.guarded = _Guarded(self)
        """A context manager that translates lancedb's errors and removes this store's secrets from
        them. In a closed store, any error becomes a StoreClosedError."""

    @property
    def forked(self) -> bool:
        """True if this process is a forked child, which must not use the session."""
        return self._process not in (0, os.getpid())

    async def open(self) -> None:
        folder = self._target.folder
        if folder is not None and await in_thread(folder.is_file):
            raise ConfigError(f"{folder} is a file; LanceDB stores in a folder")
        self._process = os.getpid()
        if first_process() != self._process:
            raise AiovecError(
                f"{self.target}: LanceDB was in use before this process was forked. {_FORKED}"
            )
        memory = parsed_size(self.settings.search_memory)
        self.admission.allow(await in_thread(default_budget) if memory is None else memory)
        try:
            async with asyncio.timeout(None if folder is not None else _PATIENCE):
                with self.guarded:
                    self._connections = await self._connect()
                    await self._connections.writer.list_tables(limit=1)
            await self.check_folder()
            # Stores on the same tables have equal keys; each store in memory has a unique key.
            self._key = await in_thread(lambda: self._target.key)
            self._key += f" {id(self)}" if self._target.in_memory else ""
        except TimeoutError:
            reason = f"the server did not answer within {_PATIENCE:.0f} s"
            raise StoreUnreachableError(self.target, reason) from None

    async def _connect(self) -> Connections:
        options = self._target.connection_options(self.settings)
        if not self._target.managed:
            options["session"] = await in_thread(_caches, self.settings)
        writer = reader = await lancedb.connect_async(self._target.written, **options)
        if self._target.folder is not None:
            reader = await lancedb.connect_async(self._target.target, **options)
        return Connections(writer, reader)

    async def note_indexes(self, table: str, indexes: Sequence[Any]) -> None:
        """Note a version's indexes. After many replacements, renew the connections and caches.

        Calls in progress continue with the old connections.
        """
        connections = self.connections
        connections.note(table, indexes)
        lasting = not (self._target.managed or self._target.in_memory)
        if connections.replaced >= _REPLACED and lasting:
            connections.replaced = 0
            await self.check_folder()  # lancedb creates a missing folder
            with self.guarded:
                renewed = await self._connect()
            self.check()  # the store may have been closed
            self._connections = renewed
            connections.newest.clear()
            self._earlier.start(_freed(connections.writer))

    async def check_folder(self) -> None:
        """Raise StoreReplacedError if the folder was removed or replaced after it was opened.

        Lance creates missing folders, so a write would begin an empty store there.
        """
        if self._target.folder is not None:
            await in_thread(self.check_folder_here)

    def check_folder_here(self) -> None:
        """Check the folder like ``check_folder``, but in the calling thread."""
        folder = self._target.folder
        if folder is None:
            return
        if self._inode is None:
            self._inode = self._hold(folder)
            return
        inode = _inode(folder)
        if inode != self._inode:
            change = "removed or renamed" if inode is None else "replaced by another one"
            raise StoreReplacedError(self.target, f"the folder was {change}")

    def _hold(self, folder: Path) -> tuple[int, int] | None:
        """Keep the folder open, and return its inode, which no other folder can then get.

        If the folder were not open, a folder created after its removal could get the same inode.
        """
        with suppress(OSError, AttributeError):  # Windows cannot open folders
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self._let_go = weakref.finalize(self, os.close, descriptor)
            status = os.fstat(descriptor)
            return status.st_dev, status.st_ino
        return _inode(folder)

    @property
    def new_tables(self) -> dict[str, str]:
        """The storage options, including those that define how Lance creates a table."""
        return dict(self._target.connection_options(self.settings)["storage_options"])

    async def close(self) -> None:
        """Close the connections, and free Lance's caches in a thread."""
        self._closed = True
        await self._earlier.cancel()
        await in_thread(self._close)

    def _close(self) -> None:
        if self._connections is not None and self._process == os.getpid():
            for connection in {self._connections.writer, self._connections.reader}:
                connection.close()  # type: ignore[no-untyped-call]
            self._connections = None
            give_back()
        self._let_go()

    def check_not_closed(self, error: Exception) -> None:
        """Raise StoreClosedError if the store was closed during the call that caused the error."""
        if self._closed and not isinstance(error, StoreClosedError):
            raise StoreClosedError(self.target) from error

    def check(self) -> AsyncConnection:
        """Return the connection for writes; raise StoreClosedError if the session cannot be
        used."""
        return self.connections.writer

    @property
    def connections(self) -> Connections:
        """The current connections. Raises StoreClosedError if the session cannot be used."""
        if self._connections is None or self._closed:
            raise StoreClosedError(self.target)
        if self._process != os.getpid():
            # lancedb's threads do not exist in this process, so a call would never end.
            raise StoreClosedError(
                self.target, f"it was opened before this process was forked. {_FORKED}"
            )
        return self._connections

    async def run(self, call: Awaitable[_T]) -> _T:
        """Return the result of a call to lancedb, and translate its errors."""
        with self.guarded:
            return await call

    # Locks and the mark

    @property
    def lock_folder(self) -> Path | None:
        """The folder of the locks, next to the tables."""
        return None if self.folder is None else self.folder / FOLDER

    def lock(self, table: str) -> TableLock:
        """Return a table's lock, which all stores on these tables share."""
        file = None if self.lock_folder is None else self.lock_folder / f"{table}.lock"
        return TableLock(f"{self._key}\n{table}", file, self.check_folder_here, self._lock_threads)

    async def lease(self, table: str) -> UpkeepLease | None:
        """Return the lease that stops other processes' upkeep in a bucket; None elsewhere."""
        if not self._target.in_bucket:
            return None
        return UpkeepLease(await in_thread(lambda: self.bucket), table)

    @asynccontextmanager
    async def locked(self, tables: Sequence[str], limit: float) -> AsyncIterator[None]:
        """Hold the write locks of the tables.

        If not all locks are free within ``limit`` seconds, release those already taken and raise
        StoreBusyError, so that other calls that wait for them do not fail as well.
        """
        deadline = Deadline(limit)
        async with AsyncExitStack() as locks:
            for table in sorted(tables):
                lock = self.lock(table)
                while not await lock.take(ONE_TRY):
                    if deadline.left() <= 0:
                        raise deadline.error(f"the table {table!r} is locked by other writers")
                locks.push_async_callback(lock.release)
            yield

    def _mark_storage(self) -> Callable[[], MarkStorage] | None:
        """Return a function that creates the mark's storage; None if some writers use no locks."""
        if self.lock_folder is not None:
            return partial(MarkFile, self.lock_folder)
        return (lambda: MarkObject(self.bucket)) if self._target.in_bucket else None

    # Tables

    @cached_property
    def bucket(self) -> Bucket:
        """The client for conditional writes in a bucket. Access this in a thread, because it may
        import the client."""
        try:
            from .locks.bucket import Bucket
        except ImportError as exc:
            raise BackendNotInstalledError("lancedb", "aiovec[lancedb]") from exc
        return Bucket(self._target.key, self.target, self.settings.storage_options)

    async def has(self, name: str) -> bool:
        """Return whether a table of this name exists, even a damaged one."""
        self.check()
        if self.folder is not None:
            await self.check_folder()
            with self.guarded:
                return await in_thread(_is_table, self.folder / f"{name}.lance")
        if self._target.in_bucket:
            return await in_thread(self._has_more_than_a_transaction, name)
        return name in await self.names()

    def _has_more_than_a_transaction(self, name: str) -> bool:
        """Return whether a table in a bucket has any files except transactions. Only transactions
        exist if LanceDB was killed while it created the table."""
        return bool(self.bucket.folders(f"{name}.lance/") - {"_transactions"})

    async def names(self) -> list[str]:
        connection = self.check()
        if self.folder is not None:
            await self.check_folder()
            with self.guarded:
                return await in_thread(_tables_in, self.folder)
        names: list[str] = []
        token: str | None = None
        while True:
            page = await self.run(connection.list_tables(page_token=token, limit=_PAGE))
            names += filter(_is_name, page.tables)
            token = page.page_token
            if not token:
                break
        if self._target.in_bucket:
            # Each check is a request, and each thread makes one at a time. Each table is checked
            # once.
            known = self._known.intersection(names)
            new = [name for name in names if name not in known]
            exist = await asyncio.gather(*map(self.has, new))
            known.update(name for name, is_table in zip(new, exist, strict=True) if is_table)
            self._known, names = known, list(known)
        return sorted(names)

    async def open_any(self, name: str, *, reads: bool = False) -> tuple[AsyncTable, pa.Schema]:
        """Return a table and its schema in Lance, or raise StaleTableError if it does not exist.

        A table opened for ``reads`` must not be used for writing.
        """

        async def look() -> tuple[AsyncTable, pa.Schema]:
            connection = self.connections.reader if reads else self.check()
            with self.guarded:
                table = await connection.open_table(name)
                return table, await table.schema()

        try:  # files are also missing while another call drops or recreates the table
            return await _looked_up(look)
        except CorruptStoreError as exc:
            files = None if self.folder is None else Manifests(self.folder, name)
            if files is None or (fix := await in_thread(files.empty_version)) is None:
                raise
            reason = f"the newest version of table {name!r} is empty, as after a power cut; {fix}"
            raise CorruptStoreError(self.target, reason) from exc

    async def listed_versions(self, table: Snapshot) -> list[Version]:
        """Return every kept version, the oldest first, with its manifest's modification time.

        In a folder or a bucket, this reads no manifest. In a bucket, it takes one request for each
        thousand versions.
        """
        if self.folder is not None:
            times = await in_thread(Manifests(self.folder, table.name).times)
        elif self._target.in_bucket:
            folder = f"{table.name}.lance/"
            files = await in_thread(lambda: self.bucket.times(folder, f"{folder}_versions/"))
            times = [(number, at) for name, at in files if (number := version_of(name))]
        else:
            return await table.versions()
        return [Version(number, datetime.fromtimestamp(at, UTC)) for number, at in sorted(times)]

    async def newest(self, name: str) -> Snapshot:
        """Open a table by name; raise TableNotFoundError if it does not exist."""

        async def look() -> tuple[AsyncTable, pa.Schema]:
            try:
                return await self.open_any(name)
            except StaleTableError as exc:
                await self.check_folder()
                names = await self.names()
                if name in names:
                    raise
                await self.mark.check_here()
                raise TableNotFoundError(name, names) from exc.__cause__

        try:  # a new table is listed shortly before it can be read
            table, arrow = await _looked_up(look, StaleTableError)
        except StaleTableError as exc:
            reason = f"no version of table {name!r} can be read"
            raise CorruptStoreError(self.target, reason) from exc.__cause__
        await self.check_folder()
        if is_moving(arrow):
            await self.mark.check_here()
        return Snapshot(self, name, table, handle_of(name, arrow, self.target).schema, arrow)

    async def opened(
        self,
        handle: TableHandle,
        *,
        altered: bool = False,
        reads: bool = False,
        checked: bool = False,
    ) -> Snapshot:
        """Return the table's newest version; raise StaleTableError if the handle is outdated.

        With ``altered``, the handle may have other fields, as long as the table was not dropped.
        With ``checked``, the caller checks the store's folder.
        """
        table, arrow = await self.open_any(handle.name, reads=reads)
        if not checked:  # the handle may refer to another folder, or to an older copy
            await self.check_folder()
        if epoch_of(arrow) != handle.epoch:
            if not altered or incarnation_in(arrow) != incarnation_of(handle):
                raise StaleTableError(handle.name)
            handle = handle_of(handle.name, arrow, self.target)
        if is_moving(arrow):
            await self.mark.check_here()
        return Snapshot(self, handle.name, table, handle.schema, arrow)

    @asynccontextmanager
    async def reading(self, handle: TableHandle) -> AsyncIterator[Snapshot]:
        """Open the table for a read, during which others may drop it."""
        try:
            yield await self.opened(handle)
        except CorruptStoreError:
            await self.check_not_dropped(handle)
            raise

    async def check_not_dropped(self, handle: TableHandle) -> None:
        """Raise StaleTableError if the table was dropped, so that its files are missing.

        In a bucket, a drop removes one object after another, so it may still be in progress.
        """
        for pause in () if self.exclusive else _LOOKS:
            await self.opened(handle)
            await asyncio.sleep(pause)
        await self.opened(handle)

    async def annotate(self, table: AsyncTable, column: str, notes: Mapping[str, Any]) -> None:
        """Keep notes with a column of the table; a value of None removes a note."""
        await self.run(table.update_field_metadata({"path": column, "metadata": notes}))

    async def batches(
        self, query: Any, length: int | None = None, where: str | None = None
    ) -> Batches:
        """Begin to read a query's rows that match ``where``, in batches of ``length`` rows."""
        with self.guarded:
            prepared = await self._prepared(query, where)
            return Batches(self, await prepared.to_batches(max_batch_length=length))

    async def fetch(
        self, query: Any, most: int | None = None, where: str | None = None
    ) -> pa.Table:
        """Return all of a query's rows that match ``where``. With ``most``, the largest possible
        number of rows, this saves the last request, which would only find the end."""
        batches: list[pa.RecordBatch] = []
        with self.guarded:
            stream = await (await self._prepared(query, where)).to_batches()
            async for batch in stream:
                batches.append(batch)
                if most is not None and sum(map(len, batches)) >= most:
                    break
        return pa.Table.from_batches(batches, schema=stream.schema)

    async def _prepared(self, query: Any, where: str | None) -> Any:
        if where is not None:  # lancedb parses it immediately, in this thread
            query = await hop(len(where) // _CHARACTERS_A_VALUE, query.where, where)
        return without_blobs(query)


@dataclass(frozen=True, slots=True)
class Batches:
    """An iterator over batches of rows that translates lancedb's errors."""

    session: Session
    stream: Any

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        with self.session.guarded:
            return await anext(self.stream)


def _inode(folder: Path) -> tuple[int, int] | None:
    status = look_at(folder)
    return None if status is None else (status.st_dev, status.st_ino)


def _tables_in(folder: Path) -> list[str]:
    """Return the names of the tables in a folder, sorted."""
    paths = (path for path in folder.glob("*.lance") if _is_name(path.stem))
    return sorted(path.stem for path in paths if _is_table(path))


def _is_table(path: Path) -> bool:
    """Return whether a folder has a version, or is a damaged table with rows but no version.

    Any other folder is left over from a killed or failed creation.
    """
    versions, data = path / "_versions", path / "data"
    return _has(versions, lambda name: bool(version_of(f"_versions/{name}"))) or _has(data, bool)


def _has(folder: Path, wanted: Callable[[str], bool]) -> bool:
    """Return whether a folder has a file with a matching name.

    Stops at the first match, because there may be thousands of files.
    """
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return any(wanted(entry.name) for entry in entries)
    return False
