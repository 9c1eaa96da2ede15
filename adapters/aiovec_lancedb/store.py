"""LancedbBackend: tables of LanceDB, wherever they lie."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aiovec.backend import (
    Backend,
    Backups,
    BulkLoads,
    Columns,
    Found,
    IndexInfo,
    Rows,
    Snapshots,
    TableHandle,
    TableStats,
    VectorIndexes,
    VectorQuery,
)
from aiovec.errors import BackendNotInstalledError, StoreClosedError
from aiovec.filters import Expr
from aiovec.memory import default_budget
from aiovec.pool import in_thread
from aiovec.schema import Field, Schema

from . import backups, infos, kinds, reads, search, tables, upkeep, writes
from .admission import Admission
from .admitted import Reader
from .bulk import Load
from .export import Export
from .housekeeping import Housekeeper
from .indexing import Indexing
from .locks import FOLDER, WriteLock
from .pins import Pins
from .place import Place
from .planning import Planner
from .session import Session
from .writer import Work, Writers

if TYPE_CHECKING:
    import pyarrow as pa

    from aiovec.settings import LancedbSettings


class LancedbBackend(Backend, BulkLoads, VectorIndexes, Snapshots, Backups):
    """Tables of LanceDB. ``target`` is a folder or a URL.

    It makes no promise against power loss: Lance does not flush its files to the disk.
    """

    name: ClassVar[str] = "lancedb"

    def __init__(self, target: str | Path, settings: LancedbSettings) -> None:
        self._place = Place(str(target))
        self._settings = settings
        self._session = Session(self._place, settings)
        self._admission = Admission()
        self._reader = Reader(self._session, self._admission, self._place.folder)
        self._planner = Planner(settings.recall_target)
        self._indexing = Indexing(self._session, settings, self._write, self._no_upkeep)
        self._writers: Writers | None = None
        self._housekeeper: Housekeeper | None = None
        self._pins: Pins | None = None

    @property
    def target(self) -> str:
        return self._place.shown

    # Life

    async def open(self) -> None:
        await self._session.open()
        key = await in_thread(self._key)
        lock_of = await in_thread(self._locks, key)
        memory = self._settings.search_bytes()
        if memory is None:
            memory = await in_thread(default_budget)
        self._admission.allow(memory)
        self._writers = Writers(
            self._session,
            lock_of=lock_of,
            capacity=self._settings.write_queue,
            busy_timeout=self._settings.busy_timeout,
        )
        self._pins = Pins(key, self._own_folder)
        if not self._place.managed:  # there the service does it
            self._housekeeper = Housekeeper(
                self._session,
                upkeep.retention(self._settings, on_folder=self._own_folder is not None),
                self._pins,
                self._writers.run,
                lock_of,
                self._admission,
                upkeep.Log(self._own_folder),
                self._settings.busy_timeout,
            )

    @property
    def _own_folder(self) -> Path | None:
        folder = self._place.folder
        return None if folder is None else folder / FOLDER

    def _key(self) -> str:
        """The same for every store of this process on the same tables. Reads the disk."""
        # Each store in memory is its own.
        return f"{self._place.key} {id(self)}" if self._place.in_memory else self._place.key

    def _locks(self, key: str) -> Callable[[str], WriteLock]:
        """What makes the lock of a table. Imports, so it runs in a thread."""
        folder = self._place.folder
        if folder is not None:
            return lambda table: WriteLock(f"{key}\n{table}", folder / FOLDER / f"{table}.lock")
        if self._place.managed or self._place.in_memory or not self._settings.bucket_lock:
            return lambda table: WriteLock(f"{key}\n{table}", None)
        try:
            from . import lease
        except ImportError as exc:
            raise BackendNotInstalledError(self.name, "aiovec[lancedb]") from exc
        bucket = lease.Bucket(key, self.target, self._settings.storage_options)
        return lambda table: lease.LeasedLock(f"{key}\n{table}", bucket, table)

    async def close(self) -> None:
        if self._session.forked:  # what is under way belongs to the parent
            return
        self._admission.close(StoreClosedError(self.target))
        await self._indexing.close()
        if self._housekeeper is not None:
            await self._housekeeper.close()
        if self._writers is not None:
            await self._writers.close()
        self._session.close()

    async def ping(self) -> None:
        await self._session.run(self._session.check().list_tables(limit=1))

    def _open_pins(self) -> Pins:
        if self._pins is None:
            raise StoreClosedError(self.target)
        return self._pins

    async def _write(self, table: str, work: Work) -> Any:
        if self._writers is None:
            raise StoreClosedError(self.target)
        try:
            result = await self._writers.run(table, work)
        finally:
            self._reader.wrote(table)
        if self._housekeeper is not None:
            self._housekeeper.wrote(table)
        return result

    # Tables

    async def tables(self) -> list[str]:
        return await self._session.names()

    async def open_table(self, name: str) -> TableHandle:
        return await self._session.handle(name)

    async def create_table(self, name: str, schema: Schema) -> None:
        await self._write(name, tables.CreateTable(name, schema))

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        await self._write(table.name, tables.AddField(table, name, field))

    async def drop_table(self, name: str) -> None:
        async with self._indexing.dropping(name):
            await self._write(name, tables.DropTable(name))

    # Writing

    async def insert(self, table: TableHandle, rows: pa.Table) -> None:
        prepared = await writes.Prepared.of(rows, table.schema)
        await self._write(table.name, writes.RowsWrite(table, prepared, replace=False))
        self._indexing.wrote(table, rows.num_rows)

    async def upsert(self, table: TableHandle, rows: pa.Table) -> None:
        prepared = await writes.Prepared.of(rows, table.schema)
        await self._write(table.name, writes.RowsWrite(table, prepared, replace=True))
        self._indexing.wrote(table, rows.num_rows)

    def bulk_load(self, table: TableHandle) -> Load:
        return Load(table, self._write, partial(self._indexing.wrote, loading=True))

    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: Mapping[str, Any],
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
    ) -> int:
        work = writes.Update(table, values, payload, ids, where)
        return int(await self._write(table.name, work))

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        return int(await self._write(table.name, writes.Delete(table, ids, where)))

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> Rows:
        return await self._reader.rows(
            table,
            len(ids),
            columns,
            lambda opened: reads.get(self._session, opened, ids, columns),
        )

    async def find(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        order_by: str,
        descending: bool,
        limit: int,
        offset: int,
        columns: Columns,
    ) -> Rows:
        return await self._reader.rows(
            table,
            limit + offset,
            columns,
            lambda opened: reads.find(
                self._session, opened, where, order_by, descending, limit, offset, columns
            ),
        )

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        return await self._reader.search(
            table,
            queries,
            lambda opened, whole: search.search(
                self._session, opened, queries, self._planner, whole=whole
            ),
        )

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        return await self._reader.rows(
            table, 0, Columns(()), lambda opened: reads.count(self._session, opened, where)
        )

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        async with self._open_pins().reading(self._session, table) as opened:
            export = Export(
                self._session, opened, where, columns, after, batch_size, self._admission
            )
            async with aclosing(export.batches()) as batches:
                async for found in batches:
                    self._session.check()
                    yield found

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        async with self._session.reading(table) as opened:
            found = await infos.with_index(
                self._session,
                opened,
                await upkeep.stats(self._session, opened, self.name),
                target=self._planner.target_of(opened.tuned),
                doing=self._indexing.doing(table.name),
                failure=self._indexing.failure(table.name),
            )
        if self._housekeeper is None:
            return found
        return replace(found, last_optimize=await self._housekeeper.last_tidied(table))

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        await self._indexing.create(table, kind, options, wait=wait)

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        return await self._indexing.infos(table)

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._indexing.drop(table, name)

    def index_for(self, schema: Schema, rows: int) -> str:
        return kinds.chosen(schema, rows, self._settings.index_from)

    def _no_upkeep(self, table: str) -> AbstractAsyncContextManager[None]:
        """No upkeep of the table meanwhile, by this process or another."""
        return nullcontext() if self._housekeeper is None else self._housekeeper.alone(table)

    async def optimize(self, table: TableHandle) -> None:
        await self._indexing.tend(table)
        if self._housekeeper is not None:
            await self._housekeeper.optimize(table)

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        async with self._session.reading(table) as opened:
            return await upkeep.versions(self._session, opened)

    async def restore(self, table: TableHandle, version: int) -> None:
        await self._write(table.name, tables.Restore(table, version))

    async def backup(self, path: Path) -> None:
        await backups.backup(self._session, path, self._open_pins(), self._admission)
