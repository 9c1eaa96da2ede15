"""Tables for reads that may take much memory: opened when it is their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiovec.backend import Columns, StaleTableError, TableHandle, VectorQuery
from aiovec.errors import CorruptStoreError

from .admission import Admission, result_bytes, scan_bytes
from .session import Opened, Session

# Reads of no more rows than this are not counted.
_FEW = 1000


class Reader:
    """Opens the tables of one store, with a share of the memory for what is read."""

    def __init__(self, session: Session, admission: Admission) -> None:
        self._session = session
        self._admission = admission
        # By the table's name: of which version, and how many rows a search by an index scans.
        self._unindexed: dict[str, tuple[int, int]] = {}

    @asynccontextmanager
    async def search(
        self, handle: TableHandle, queries: Sequence[VectorQuery]
    ) -> AsyncIterator[Opened]:
        """For queries that are answered one after another."""
        limit = max((query.limit for query in queries), default=0)
        exact = any(query.exact for query in queries)

        async def size(table: Opened) -> int:
            everything = exact or table.extreme
            rows = await (self._rows(table) if everything else self._scanned(table))
            return scan_bytes(rows, table.schema.dim, limit)

        async with self._opened(handle, size) as opened:
            yield opened

    @asynccontextmanager
    async def rows(self, handle: TableHandle, most: int, columns: Columns) -> AsyncIterator[Opened]:
        """For a read that finds so many rows at most."""

        async def size(table: Opened) -> int:
            if most <= _FEW:
                return 0
            dim = table.schema.dim if columns.vector else 0
            return result_bytes(await self._rows(table), most, dim)

        async with self._opened(handle, size) as opened:
            yield opened

    @asynccontextmanager
    async def _opened(
        self, handle: TableHandle, size_of: Callable[[Opened], Awaitable[int]]
    ) -> AsyncIterator[Opened]:
        async with self._read(handle) as opened:
            size = await size_of(opened)
            if self._admission.free(size):
                async with self._admission.share(size):
                    yield opened
                return
        # What is opened before the wait would be old behind it.
        async with self._admission.share(size), self._read(handle) as opened:
            yield opened

    @asynccontextmanager
    async def _read(self, handle: TableHandle) -> AsyncIterator[Opened]:
        """The table for a read that is repeated where its version is removed meanwhile."""
        async with self._session.reading(handle) as opened:
            try:
                yield opened
            except CorruptStoreError:
                present = await self._session.opened(handle)
                if await self._version(present) == await self._version(opened):
                    raise
                raise StaleTableError(handle.name) from None

    async def _version(self, table: Opened) -> int:
        return int(await self._session.run(table.lance.version()))

    async def _rows(self, table: Opened) -> int:
        return int(await self._session.run(table.lance.count_rows()))

    async def _scanned(self, table: Opened) -> int:
        """The rows that no index on the vector covers."""
        version = await self._version(table)
        known = self._unindexed.get(table.name)
        if known is not None and known[0] == version:
            return known[1]
        rows = await self._rows(table)
        for index in await self._session.run(table.lance.list_indices()):
            if list(index.columns) == [table.schema.vector]:
                stats = await self._session.run(table.lance.index_stats(index.name))
                if stats is not None:
                    rows = int(stats.num_unindexed_rows)
        self._unindexed[table.name] = version, rows
        return rows
