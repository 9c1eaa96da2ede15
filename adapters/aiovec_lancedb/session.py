"""The connection of one store, and tables opened through it.

Each call opens its table anew: that costs 0.15 ms on a folder, sees every acknowledged write of
every process, and holds still for the whole call, since nothing else moves that handle.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from aiovec.backend import StaleTableError, TableHandle
from aiovec.errors import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    InvalidNameError,
    StoreClosedError,
    TableNotFoundError,
)
from aiovec.memory import default_budget
from aiovec.pool import in_thread
from aiovec.schema import Schema, check_table_name

from .driver import first_process, lancedb, without_blobs
from .effort import Tuned
from .errors import NoSuchTableError, translated
from .layout import handle_of, incarnation_of, is_extreme, token_of, tuned_in
from .place import Place

if TYPE_CHECKING:
    from lancedb import AsyncConnection
    from lancedb.table import AsyncTable

    from aiovec.settings import LancedbSettings

_T = TypeVar("_T")
_PAGE = 1000
# Seconds for the first requests to a server, each of which LanceDB would repeat for minutes.
_PATIENCE = 60.0
# What Lance may keep of manifests and of the files' own tables of contents. Every commit brings new
# ones, which push the old ones out.
_METADATA_CACHE = 64 * 2**20
_FORKED = (
    "it does not survive that. Open stores after the fork, or start processes by spawn or "
    "forkserver"
)
_LOOKS_FOR_DROPPED = (0.0, 0.05, 0.2)


@dataclass(frozen=True, slots=True)
class Opened:
    """A table as it is at one moment: ``lance`` reads that version until it is told otherwise."""

    name: str
    lance: AsyncTable
    schema: Schema
    extreme: bool
    tuned: Tuned | None = None
    incarnation: Hashable = None


def _is_name(name: str) -> bool:
    """Whether a table can be one of ours, and asked for."""
    try:
        check_table_name(name)
    except InvalidNameError:
        return False
    return True


def _caches() -> Any:
    """Lance's caches for one store. By default they may take 6 GiB and 1 GiB."""
    return lancedb.Session(
        index_cache_size_bytes=default_budget(), metadata_cache_size_bytes=_METADATA_CACHE
    )


class Session:
    """Everything that reaches lancedb goes through here, and its errors come out as ours."""

    def __init__(self, place: Place, settings: LancedbSettings) -> None:
        self._place = place
        self._settings = settings
        self._connection: AsyncConnection | None = None
        self._process = 0
        self._closed = False

    @property
    def target(self) -> str:
        return self._place.shown

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that opened it, and has nothing of it."""
        return self._connection is not None and self._process != os.getpid()

    async def open(self) -> None:
        options = self._place.connection_options(self._settings)
        folder = self._place.folder
        if folder is not None and await in_thread(folder.is_file):
            raise ConfigError(f"{folder} is a file; LanceDB stores in a folder")
        self._process = os.getpid()
        if first_process() != self._process:
            raise AiovecError(
                f"{self.target}: LanceDB was in use before this process was forked; {_FORKED}"
            )
        if not self._place.managed:
            options["session"] = await in_thread(_caches)
        try:
            async with asyncio.timeout(None if folder is not None else _PATIENCE):
                with translated(self.target):
                    self._connection = await lancedb.connect_async(self._place.target, **options)
                    await self._connection.list_tables(limit=1)
        except TimeoutError:
            raise AiovecError(
                f"{self.target}: the server gave no answer within {_PATIENCE:.0f} s"
            ) from None

    def end(self) -> None:
        """Take no more calls."""
        self._closed = True

    def close(self) -> None:
        self._closed = True
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()  # type: ignore[no-untyped-call]

    def check(self) -> AsyncConnection:
        """The connection, or why it cannot be used."""
        if self._connection is None or self._closed:
            raise StoreClosedError(self.target)
        if self._process != os.getpid():
            # Its threads are not in this process, so a call would wait for ever.
            raise StoreClosedError(
                self.target, f"it was opened before this process was forked; {_FORKED}"
            )
        return self._connection

    async def run(self, call: Awaitable[_T]) -> _T:
        """What one of lancedb's calls gives."""
        with self.guarded():
            return await call

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Errors of lancedb within are told as ours; those of a store that closes, as that."""
        try:
            with translated(self.target):
                yield
        except NoSuchTableError as exc:
            raise StaleTableError(str(exc)) from exc.__cause__
        except Exception as exc:
            if self._closed and not isinstance(exc, StoreClosedError):
                raise StoreClosedError(self.target) from exc
            raise

    # Tables

    async def names(self) -> list[str]:
        connection = self.check()
        names: list[str] = []
        token: str | None = None
        while True:
            page = await self.run(connection.list_tables(page_token=token, limit=_PAGE))
            names += filter(_is_name, page.tables)
            token = page.page_token
            if not token:
                break
        folder = self._place.folder
        if folder is not None:
            names = await in_thread(_whole, folder, names)
        return sorted(names)

    async def open_any(self, name: str) -> tuple[AsyncTable, pa.Schema]:
        """A table and its schema as Lance has it, or StaleTableError where there is none."""
        connection = self.check()
        with self.guarded():
            table = await connection.open_table(name)
            return table, await table.schema()

    async def handle(self, name: str) -> TableHandle:
        try:
            _, arrow = await self.open_any(name)
        except StaleTableError as exc:
            names = await self.names()
            if name in names:  # its folder is there
                raise CorruptStoreError(
                    self.target, f"of the table {name!r} no version can be read"
                ) from exc.__cause__
            raise TableNotFoundError(name, names) from exc.__cause__
        return handle_of(name, arrow, self.target)

    async def opened(self, handle: TableHandle) -> Opened:
        """The table as it is now, or StaleTableError where it is no longer what the handle says."""
        table, arrow = await self.open_any(handle.name)
        if token_of(arrow) != handle.token:
            raise StaleTableError(handle.name)
        return Opened(
            handle.name,
            table,
            handle.schema,
            is_extreme(arrow, handle.schema),
            tuned_in(arrow, handle.schema),
            incarnation_of(handle),
        )

    @asynccontextmanager
    async def reading(self, handle: TableHandle) -> AsyncIterator[Opened]:
        """The table for a read, during which others may drop it."""
        try:
            yield await self.opened(handle)
        except CorruptStoreError:
            # Files that vanish may be those of a table that is being dropped. Its last files are
            # the ones by which it is found, so it is looked for more than once.
            for pause in _LOOKS_FOR_DROPPED:
                await asyncio.sleep(pause)
                await self.opened(handle)
            raise

    async def fetch(self, query: Any) -> pa.Table:
        """All rows of a query."""
        return await self.run(without_blobs(query).to_arrow())


def _whole(folder: Path, names: list[str]) -> list[str]:
    """Those that are more than what a killed or failed creation left: they have a version, or
    rows, without a version then a damaged table."""

    def holds(path: Path, pattern: str) -> bool:
        return next(path.glob(pattern), None) is not None

    return [
        name
        for name in names
        if holds(folder / f"{name}.lance", "_versions/[0-9]*.manifest")
        or holds(folder / f"{name}.lance", "data/*")
    ]
