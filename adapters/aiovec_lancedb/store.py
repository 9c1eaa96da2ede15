"""LancedbBackend: LanceDB tables in a folder, memory, object storage, or the managed service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from aiovec.backend import Expr, Float32Array, Schema
from aiovec.backend.changes import (
    AddField,
    Delete,
    DropField,
    IndexField,
    Insert,
    RenameField,
    RowChange,
    SchemaChange,
    UnindexField,
    Update,
    UpdateRows,
    Upsert,
)
from aiovec.backend.contract import (
    NO_NOTES,
    Backend,
    Bounds,
    Changes,
    Columns,
    Count,
    Find,
    FromEach,
    Get,
    IndexInfo,
    Query,
    Read,
    TableHandle,
    TableStats,
    Values,
)
from aiovec.backend.cost import cost_of
from aiovec.backend.limits import Slot, current_deadline, export_gate, renewed
from aiovec.backend.marks import OPEN, MoveRecord
from aiovec.backend.threads import hop, in_thread
from aiovec.errors import AiovecError, ConfigError, StoreClosedError, UnsupportedError

from . import operations, reads, summaries, tables
from .backup import restore_backup, write_backup
from .changes import Plans, changes, newest_number
from .commit import SeparateWrite, TableWork, WriteOperation
from .engines import Filling, TablePlace
from .export import Export
from .index import info
from .index.effort import MOST_QUESTIONS
from .layout import notes_in
from .session import Session
from .table import Versions
from .target import StoreTarget
from .text.hybrid import search_hybrid
from .text.keyword_search import search_text
from .upkeep.loop import OpenTables, Table
from .vector_search import search_vectors

if TYPE_CHECKING:
    import pyarrow as pa

    from .settings import LancedbSettings


_T = TypeVar("_T")

_ABLE = frozenset({
    "text", "indexes", "snapshots", "changes", "backup", "restore", "read-only",
    "bulk-load", "questions",
})  # fmt: skip

# The share of busy_timeout within which the locks of several tables must all be free.
_SHARE_OF_PATIENCE = 1 / 2


class LancedbBackend(Backend):
    """The backend for LanceDB tables. ``target`` is a folder or a URL.

    A power cut may lose or damage data: Lance does not flush its files to the disk.
    """

    name: ClassVar[str] = "lancedb"
    tunings = frozenset({"nprobes", "ef", "refine", "measure", "oversample"})
    hints: ClassVar[Mapping[str, str]] = {
        "backup": "it copies files, and this store has none here; export its tables",
    }

    def __init__(
        self,
        target: str | Path,
        settings: LancedbSettings,
    ) -> None:
        self._target = StoreTarget(str(target))
        self._settings = settings
        self._session = Session(self._target, settings, in_use=True)
        self.busy_timeout = settings.busy_timeout
        self._exports = export_gate()
        self._tables = OpenTables(self._session)
        self._followers = Plans()

    @property
    def target(self) -> str:
        return self._target.shown

    @property
    def address(self) -> str:
        return self.target if self._target.folder is None else f"{self.name}://{self.target}"

    # Life

    async def open(self) -> None:
        if self.read_only:
            await self._check_exists()
        await self._session.open()
        if self.read_only:
            return
        # The managed service does its own upkeep.
        upkeep = self.upkeep and self._settings.upkeep == "here" and not self._target.managed
        if self._session.folder is not None and upkeep:
            await in_thread(tables.remove_dropped, self._session.folder)
        self._tables.background = upkeep

    async def _check_exists(self) -> None:
        folder = self._target.folder
        if self._target.in_memory or (folder is not None and not await in_thread(folder.is_dir)):
            raise ConfigError(
                f"there is no store at {self.target}, and read_only=True creates none", key="target"
            )

    def supports(self, ability: str) -> bool:
        if ability == "backup" and (self._target.in_memory or self._target.managed):
            return False  # there are no files to copy
        return ability in _ABLE or (ability == "moves" and self._session.mark.supported)

    async def close(self) -> None:
        if self._session.forked:  # work in progress belongs to the parent
            return
        self._session.admission.close(StoreClosedError(self.target))
        self._tables.gate.close(StoreClosedError(self.target))
        self._exports.close(StoreClosedError(self.target))
        await self._tables.close()
        await self._session.close()

    async def ping(self) -> None:
        await self._session.run(self._session.check().list_tables(limit=1))
        await self._session.check_folder()
        await self._session.mark.check_here()

    def writing(self, size: int) -> Slot:
        self._session.check()
        return self._tables.gate.enter(current_deadline(self.busy_timeout), size)

    def _check_writable(self) -> None:
        if self.read_only:
            raise UnsupportedError("write", self.name, "it was opened with read_only=True")

    async def _write(self, table: str, work: WriteOperation) -> Any:
        async with self.writing(0):
            return await self._commit(table, work)

    async def _commit(self, name: str, work: WriteOperation) -> Any:
        table = self._writable(name)
        result = await table.writes.commit(work)
        table.upkeep.wrote()
        return result

    def _writable(self, table: str) -> Table:
        """Return a table for a call that changes it or its indexes."""
        self._check_writable()
        return self._tables[table]

    def _locked(self, tables: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """Hold the write locks of the tables."""
        return self._session.locked(tables, _SHARE_OF_PATIENCE * self._settings.busy_timeout)

    # Tables

    async def tables(self) -> list[str]:
        await self._session.mark.check_here()
        return await self._session.names()

    async def open_table(self, name: str) -> TableHandle:
        table = await self._session.newest(name)
        self._tables[name].upkeep.opened()
        return table.handle

    async def create_table(self, name: str, schema: Schema) -> None:
        self._check_writable()
        await self._session.mark.check_here()
        await tables.check_free(self._session, name)
        await self._alter(name, tables.create_table, self._session, name, schema)

    async def _alter(
        self, name: str, act: TableWork, *args: object, table: TableHandle | None = None
    ) -> None:
        await self._write(name, SeparateWrite(act, table, changes_schema=True, args=args))

    async def alter(self, table: TableHandle, change: SchemaChange) -> None:
        match change:
            case IndexField() | UnindexField():
                field = change.apply(table.schema).fields[change.name]
                await self._writable(table.name).upkeep.index_field(table, change.name, field)
            case AddField():
                added = change.name, change.field
                await self._alter(table.name, tables.add_field, *added, table=table)
            case DropField() | RenameField():
                async with self._writable(table.name).upkeep.locked():
                    await self._alter(table.name, tables.drop_or_rename, change, table=table)

    async def rename_table(self, old: str, new: str) -> None:
        folder = self._session.folder
        if folder is None:
            raise UnsupportedError(
                "rename_table",
                self.name,
                f"a table can be renamed only in a folder, and {self.target} is not one; export "
                "the table and insert its rows into a new one",
            )
        async with self._writable(old).upkeep.dropping():
            renamed = self._session, folder, old, new, self._locked
            await self._alter(old, tables.rename_table, *renamed)
        self._writable(new).upkeep.wrote()

    async def drop_table(self, name: str) -> None:
        self._check_writable()
        await self._session.mark.check_here()
        await tables.check_exists(self._session, name)
        async with self._writable(name).upkeep.dropping():
            await self._alter(name, tables.drop_table, self._session, name)

    # Engines

    def place_of(self, table: str) -> TablePlace:
        """Return a table's address in Lance; raise UnsupportedError if an engine cannot open it."""
        if self._target.in_memory or self._target.managed:
            raise UnsupportedError("engines", self.name, f"not on {self.target}")
        return TablePlace(
            f"{self._target.written.rstrip('/')}/{table}.lance", self._settings.storage_options
        )

    @asynccontextmanager
    async def filling(
        self, table: TableHandle, run: str, sweep: Callable[[], Awaitable[Any]]
    ) -> AsyncIterator[Filling]:
        """Begin a load: nobody else writes to the table until the load commits or is abandoned.

        ``sweep`` removes the files that no version of the table refers to.
        """
        filled = self._writable(table.name)
        async with filled.upkeep.locked():
            load = Filling(filled.writes, table, run, sweep)
            await load.begin()
            yield load
        filled.upkeep.wrote()

    async def by_engine(self, table: TableHandle, compact: Callable[[], Awaitable[None]]) -> None:
        """Let an engine compact a table, then rebuild incomplete indexes over ids and fields."""
        await self._writable(table.name).upkeep.by_engine(table, compact)

    # Writing

    async def write(self, table: TableHandle, change: RowChange) -> int:
        match change:
            case Insert(rows) | Upsert(rows):
                work = await hop(cost_of(rows), operations.put, table, change)
                return int(await self._commit(table.name, work))
            case UpdateRows(parts):
                work = await hop(cost_of(*parts), operations.update_rows, table, change)
                return int(await self._commit(table.name, work))
            case Delete():
                return int(await self._write(table.name, operations.delete(table, change)))
            case Update():
                return await self._update(table, change)

    async def _update(self, table: TableHandle, change: Update) -> int:
        # A change of payloads takes its share of the memory before it queues as a write, because
        # other calls may hold a share while they queue.
        most = None if change.ids is None else len(change.ids)
        dim = 0 if change.vector is None else len(change.vector)
        versions = self._versions(table)
        async with await versions.changing(table, most, dim) if change.payload else nullcontext():
            return int(await self._write(table.name, operations.update(table, change)))

    async def bulk_add(self, table: TableHandle, rows: pa.Table) -> None:
        await self._write(table.name, await hop(cost_of(rows), operations.add, table, rows))
        self._tables[table.name].upkeep.loading()

    # Reading

    def _versions(self, table: TableHandle) -> Versions:
        return self._tables[table.name].versions

    async def read(self, table: TableHandle, read: Read[_T]) -> _T:
        result: Any
        versions, wanted = self._versions(table), cast("Read[Any]", read)
        match wanted:
            case Get(ids, columns, finish):
                async with versions.reading(table, len(ids), columns) as opened:
                    result = await reads.get(opened, ids, columns, finish)
            case Find():
                most = wanted.limit + wanted.offset
                async with versions.reading(table, most, wanted.columns) as opened:
                    result = await reads.find(opened, wanted)
            case Count(where):
                async with versions.reading(table) as opened:
                    result = await reads.count(opened, where)
            case Values(where, ref, limit):
                result = await summaries.value_counts(versions, table, ref, where, limit)
            case Bounds(where, ref):
                async with versions.reading(table) as opened:
                    result = await summaries.bounds(opened, ref, where)
            case _:
                raise self._lacks(type(read).__name__)
        return cast("_T", result)

    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        first, searched = queries[0], self._tables[table.name]
        if first.by_words:
            return await search_text(searched.versions, table, first, finish)
        searched.upkeep.searched(query.vector for query in queries[-MOST_QUESTIONS:])
        if first.by_both:
            return await search_hybrid(searched.versions, table, first, finish)
        return await search_vectors(searched.versions, table, queries, finish)

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        async with self._exports.enter(current_deadline(self.busy_timeout)):
            export = Export(self._versions(table), table, where, columns, batch_size)
            async with aclosing(export.batches(after)) as batches:
                async for batch in batches:
                    self._session.check()
                    yield batch

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        upkeep = self._tables[table.name].upkeep
        async with self._session.reading(table) as opened:
            doing = upkeep.builds.doing
            return await info.stats(opened, doing, upkeep.failure, upkeep.optimized)

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        await self._writable(table.name).upkeep.create(table, kind, options, wait=wait)

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        async with self._session.reading(table) as opened:
            return await info.infos_of(opened)

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._writable(table.name).upkeep.drop(table, name)

    async def optimize(self, table: TableHandle) -> None:
        await self._writable(table.name).upkeep.optimize(table)

    async def measure(self, table: TableHandle, questions: Float32Array) -> None:
        await self._writable(table.name).upkeep.measure(table, questions)

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        async with self._session.reading(table) as opened:
            kept = await opened.versions()
        return [{"version": version.number, "created": version.created} for version in kept]

    async def revert(self, table: TableHandle, version: int) -> None:
        await self._session.check_folder()  # a pin would create the folder again
        async with self._versions(table).pin(version):
            await tables.check_whole(self._session, table, version)
            with renewed():  # the time spent reading the version does not count as waiting
                # A revert ends an engine's load: Lance refuses every commit that began before it.
                change = SeparateWrite(
                    tables.revert, table, changes_schema=True, fills=True, args=(version,)
                )
                await self._write(table.name, change)

    async def backup(self, path: Path) -> None:
        locked = self._session.lock_folder is not None and not self.read_only
        alone = self._locked if locked else lambda _: nullcontext()
        generation = (await self.move_record()).generation
        await write_backup(self._session, path, self._tables.pins, alone, generation)

    # Moving away

    async def move_record(self) -> MoveRecord:
        self._session.check()
        await self._session.check_folder()
        return await in_thread(self._session.mark.read)

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        self._session.check()
        await self._session.check_folder()
        self._check_writable()
        before, after = await in_thread(partial(self._session.mark.change, change, anew=anew))
        if after.mark is None and before.mark is not None and not before.mark.filling:
            with suppress(AiovecError):  # a sign that remains only costs readers a check
                await self._set_signs(self._settings.busy_timeout)
        return before, after

    async def flush_writers(self, limit: float) -> None:
        mark = (await self.move_record()).mark
        if mark is not None and mark.state == OPEN:
            await self._set_signs(limit)
        # In a bucket, a write that has read an earlier mark reads the current one before it is
        # acknowledged.
        elif self._session.exclusive:
            for name in await self._session.names():
                async with self._session.locked([name], limit):
                    pass  # every later holder of the lock sees the mark

    async def _set_signs(self, limit: float) -> None:
        """Update each table's sign, which makes readers check the mark, once the table's earlier
        writes have finished."""
        names = await self._session.names()
        changes = [
            self._tables[name].writes.commit(
                SeparateWrite(tables.set_sign, args=(self._session, name)), limit
            )
            for name in names
        ]
        await asyncio.gather(*changes)

    def act_for(self, run: str | None) -> None:
        self._session.mark.run = run

    async def change_number(self, table: TableHandle) -> int:
        async with self._session.reading(table) as opened:
            return await newest_number(opened)

    async def notes(
        self, table: TableHandle, change: Mapping[str, str | None] = NO_NOTES
    ) -> Mapping[str, str]:
        if change:
            await self._write(table.name, SeparateWrite(partial(tables.put_notes, change), table))
        async with self._session.reading(table) as opened:
            return notes_in(opened.arrow)

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        async with self._session.reading(table) as opened:
            return await changes(opened, since, limit, self._followers)

    def owns(self, path: Path) -> bool:
        folder = self._target.folder
        if folder is None:
            return False
        folder, path = folder.resolve(), path.resolve()
        return path == folder or folder in path.parents

    async def restore_from(self, backup: Path, *, overwrite: bool) -> Path | None:
        folder = self._target.folder
        if folder is None:
            hint = "a restore needs a folder; copy the backup with the tools of the object storage"
            raise UnsupportedError("restore", self.name, hint)
        return await restore_backup(backup, folder, self._settings, overwrite=overwrite)
