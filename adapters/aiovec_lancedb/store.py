"""LancedbBackend: tables of LanceDB, wherever they lie."""

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
from typing import TYPE_CHECKING, Any, ClassVar

from aiovec.backend import (
    Expr,
    Field,
    FieldIndex,
    Float32Array,
    PayloadPatch,
    Ref,
    Schema,
    Value,
)
from aiovec.backend.contract import (
    Backend,
    Changes,
    Columns,
    Found,
    IndexInfo,
    Order,
    StoredRows,
    TableHandle,
    TableStats,
    TextQuery,
    VectorQuery,
)
from aiovec.backend.limits import Place, current_deadline, export_gate, renewed, write_gate
from aiovec.backend.marks import OPEN, MoveRecord
from aiovec.backend.rows import NewRows
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import (
    AiovecError,
    ConfigError,
    StoreClosedError,
    UnsupportedError,
)

from . import (
    reads,
    summaries,
    tables,
    writes,
)
from .backup import restore_backup, write_backup
from .changes import Plans, changes, newest_number
from .engines import Filling, TablePlace
from .export import Export
from .index import info
from .locks import moves
from .locks.local import FOLDER, TableLock
from .locks.moves import BucketMarks, FolderMarks, Marks
from .reads import TableReader
from .search import VectorSearch
from .session import Session
from .target import StoreTarget
from .text import search as text
from .tuning import MOST_QUESTIONS
from .upkeep.loop import Upkeep
from .upkeep.retention import Pins, retention_of
from .writer import Change, WriteOperation, Writers

if TYPE_CHECKING:
    import pyarrow as pa

    from .settings import LancedbSettings


_ABLE = frozenset({
    "text", "indexes", "snapshots", "changes", "backup", "restore", "read-only",
    "bulk-load", "questions",
})  # fmt: skip

# So much of the time that a writer waits for others may go into holding writers off.
_SHARE_OF_PATIENCE = 1 / 2


class LancedbBackend(Backend):
    """Tables of LanceDB. ``target`` is a folder or a URL.

    It makes no promise against power loss: Lance does not flush its files to the disk.
    """

    name: ClassVar[str] = "lancedb"

    def __init__(
        self,
        target: str | Path,
        settings: LancedbSettings,
    ) -> None:
        self._target = StoreTarget(str(target))
        self._settings = settings
        self._session = Session(self._target, settings)
        self._reader = TableReader(self._session, settings.read_freshness)
        self._writing = write_gate(settings.write_queue)
        self.busy_timeout = settings.busy_timeout
        self._exports = export_gate()
        self._followers = Plans()
        self._searching = VectorSearch(self._session, self._reader, settings.recall_target)
        self._fence = moves.Fence(self.target, self._marks())
        self._session.check_here = self._fence.check_here
        self._key = ""
        # A migration follows the changes since it began, however long that takes.
        self._pins = Pins(self._own_folder, self._fence.is_open)
        self._writers = Writers(
            self._session, self._lock, self.busy_timeout, self._fence, self._writing
        )
        retention = retention_of(settings, on_folder=self._own_folder is not None)
        self._upkeep = Upkeep(
            self._session, settings, self._apply, self._lock, retention, self._pins
        )

    @property
    def target(self) -> str:
        return self._target.shown

    @property
    def address(self) -> str:
        return self.target if self._target.folder is None else f"{self.name}://{self.target}"

    # Life

    async def open(self) -> None:
        if self.read_only:
            await self._check_there()
        await self._session.open()
        self._key = await in_thread(self._read_key)
        if self.read_only:
            self._pins = Pins(None)
            return
        if self._session.folder is not None and self.upkeep:
            await in_thread(tables.remove_dropped, self._session.folder)
        self._upkeep.background = self.upkeep and not self._target.managed  # there the service does

    async def _check_there(self) -> None:
        folder = self._target.folder
        if self._target.in_memory or (folder is not None and not await in_thread(folder.is_dir)):
            raise ConfigError(
                f"there is no store at {self.target}, and read_only=True creates none",
                key="target",
                accepted="an existing store",
            )

    @property
    def _own_folder(self) -> Path | None:
        folder = self._target.folder
        return None if folder is None else folder / FOLDER

    def _read_key(self) -> str:
        """The same for every store of this process on the same tables. Reads the disk."""
        # Each store in memory is its own.
        return f"{self._target.key} {id(self)}" if self._target.in_memory else self._target.key

    def _lock(self, table: str) -> TableLock:
        folder = self._own_folder
        file = None if folder is None else folder / f"{table}.lock"
        return TableLock(f"{self._key}\n{table}", file, self._session.look_at_place)

    def _marks(self) -> Callable[[], Marks] | None:
        """Return the place of a migration's mark; None without a lock that all writers take."""
        folder = self._own_folder
        if folder is not None:
            return partial(FolderMarks, folder)
        return self._bucket_marks if self._target.in_bucket else None

    def _bucket_marks(self) -> Marks:
        """Imports, so it runs in a thread."""
        return BucketMarks(self._session.bucket)

    def supports(self, ability: str) -> bool:
        return ability in _ABLE or (ability == "moves" and self._fence.supported)

    async def close(self) -> None:
        if self._session.forked:  # what is under way belongs to the parent
            return
        self._session.admission.close(StoreClosedError(self.target))
        self._writing.close(StoreClosedError(self.target))
        self._exports.close(StoreClosedError(self.target))
        await self._upkeep.close()
        await self._writers.close()
        self._session.end()
        await in_thread(self._session.close)  # which drops what Lance has cached

    async def ping(self) -> None:
        await self._session.run(self._session.check().list_tables(limit=1))
        await self._session.check_place()
        await self._fence.check_here()

    def writing(self, size: int) -> Place:
        self._session.check()
        return self._writing.enter(current_deadline(self.busy_timeout), size)

    def _check_writable(self) -> None:
        if self.read_only:
            raise UnsupportedError("write", self.name, "it was opened with read_only=True")

    async def _write(self, table: str, work: WriteOperation) -> Any:
        async with self.writing(0):
            return await self._commit(table, work)

    async def _commit(self, table: str, work: WriteOperation) -> Any:
        result = await self._apply(table, work)
        self._open_upkeep().wrote(table)
        return result

    async def _apply(self, table: str, work: WriteOperation) -> Any:
        self._check_writable()
        try:
            return await self._writers.run(table, work)
        finally:  # also one whose outcome nobody knows
            self._reader.wrote(table)

    def _alone(self, tables: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """Nobody writes to the tables meanwhile, as far as writers take locks."""
        return self._writers.holding_off(tables, _SHARE_OF_PATIENCE * self._settings.busy_timeout)

    def _open_upkeep(self) -> Upkeep:
        self._check_writable()
        return self._upkeep

    # Tables

    async def tables(self) -> list[str]:
        await self._fence.check_here()
        return await self._session.names()

    async def open_table(self, name: str) -> TableHandle:
        handle = await self._session.handle(name)
        self._upkeep.opened(name)
        return handle

    async def create_table(self, name: str, schema: Schema) -> None:
        self._check_writable()
        await self._fence.check_here()
        await tables.check_free(self._session, name)
        change = partial(tables.create_table, self._session, name, schema, self._fence)
        await self._write(name, Change(change, changes_schema=True))

    async def _alter(self, table: TableHandle, act: Callable[[], Awaitable[None]]) -> None:
        await self._write(table.name, Change(act, changes_schema=True))

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        await self._alter(table, partial(tables.add_field, self._session, table, name, field))

    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        await self._open_upkeep().index_field(
            table, field, table.schema.fields[field].with_index(kind)
        )

    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        altered = table.schema.fields[field].without_index(kind)
        await self._open_upkeep().index_field(table, field, altered)

    async def drop_field(self, table: TableHandle, field: str) -> None:
        async with self._open_upkeep().alone(table.name):
            await self._alter(table, partial(tables.drop_field, self._session, table, field))

    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        async with self._open_upkeep().alone(table.name):
            await self._alter(table, partial(tables.rename_field, self._session, table, old, new))

    async def rename_table(self, old: str, new: str) -> None:
        folder = self._session.folder
        if folder is None:
            raise UnsupportedError(
                "rename_table",
                self.name,
                f"a table can be renamed only in a folder, and {self.target} is none; export the "
                "table and insert its rows into a new one",
            )
        async with self._open_upkeep().dropping(old):
            act = partial(tables.rename_table, self._session, folder, old, new, self._alone)
            await self._write(old, Change(act, changes_schema=True))
        self._open_upkeep().wrote(new)

    async def drop_table(self, name: str) -> None:
        self._check_writable()
        await self._fence.check_here()
        await tables.check_there(self._session, name)
        async with self._open_upkeep().dropping(name):
            act = partial(tables.drop_table, self._session, name)
            await self._write(name, Change(act, changes_schema=True, brings_files=False))

    # Engines

    def place_of(self, table: str) -> TablePlace:
        """Return where Lance finds a table. UnsupportedError where only this process finds it."""
        if self._target.in_memory or self._target.managed:
            raise UnsupportedError("engines", self.name, f"not on {self.target}")
        return TablePlace(
            f"{self._target.target.rstrip('/')}/{table}.lance", self._settings.storage_options
        )

    @asynccontextmanager
    async def filling(
        self, table: TableHandle, run: str, sweep: Callable[[], Awaitable[Any]]
    ) -> AsyncIterator[Filling]:
        """Begin a load: nobody else writes to the table until it commits or is abandoned.

        ``sweep`` removes the files that no version of the table has.
        """
        async with self._open_upkeep().alone(table.name):
            load = Filling(self._session, table, run, self._apply, sweep)
            await load.begin()
            yield load
        self._open_upkeep().wrote(table.name)

    async def by_engine(self, table: TableHandle, compact: Callable[[], Awaitable[None]]) -> None:
        """Have an engine compact a table, and build its indexes over ids and fields anew."""
        await self._open_upkeep().by_engine(table, compact)

    # Writing

    async def insert(
        self, table: TableHandle, rows: NewRows, *, skip_existing: bool = False
    ) -> int:
        return await self._put(table, rows, "skip" if skip_existing else "fail")

    async def upsert(self, table: TableHandle, rows: NewRows, *, moves: bool = False) -> None:
        await self._put(table, rows, "move" if moves else "replace")

    async def _put(self, table: TableHandle, rows: NewRows, on_conflict: writes.OnConflict) -> int:
        work = await hop(len(rows), writes.put, table, rows, on_conflict)
        return int(await self._commit(table.name, work))

    async def bulk_add(self, table: TableHandle, rows: pa.Table) -> None:
        await self._write(table.name, await hop(weight(rows), writes.add, table, rows))
        self._upkeep.loading(table.name)

    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: PayloadPatch,
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
        vector: Float32Array | None = None,
    ) -> int:
        work = writes.update(table, values, payload, ids, where, vector)
        # Changing payloads takes a share before its turn among the writers, for some of which
        # others hold one.
        most = None if ids is None else len(ids)
        dim = 0 if vector is None else len(vector)
        async with await self._reader.changing(table, most, dim) if payload else nullcontext():
            return int(await self._write(table.name, work))

    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        work = writes.set_vectors(table, ids, vectors)
        return int(await self._commit(table.name, work))

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        work = writes.delete(table, ids, where)
        return int(await self._write(table.name, work))

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        async with self._reader.reading(table, len(ids), columns) as opened:
            return await reads.get(self._session, opened, ids, columns)

    async def find(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        order_by: Sequence[Order],
        limit: int,
        offset: int,
        columns: Columns,
    ) -> StoredRows:
        async with self._reader.reading(table, limit + offset, columns) as opened:
            return await reads.find(self._session, opened, where, order_by, limit, offset, columns)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        self._upkeep.searched(table.name, (one.vector for one in queries[-MOST_QUESTIONS:]))
        return await self._searching.search(table, queries)

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        return await text.search_text(self._session, self._reader, table, query)

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        async with self._reader.reading(table) as opened:
            return await reads.count(self._session, opened, where)

    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> list[tuple[Value, int]]:
        async with self._reader.reading(table) as opened:
            return await summaries.value_counts(self._session, opened, ref, where, limit)

    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        async with self._reader.reading(table) as opened:
            return await summaries.bounds(self._session, opened, ref, where)

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
            export = Export(self._session, table, where, columns, batch_size, self._pins)
            async with aclosing(export.batches(after)) as batches:
                async for found in batches:
                    self._session.check()
                    yield found

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        facts = self._upkeep.facts(table.name)
        async with self._session.reading(table) as opened:
            return await info.stats(self._session, opened, self._settings.recall_target, *facts)

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        await self._open_upkeep().create(table, kind, options, wait=wait)

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        async with self._session.reading(table) as opened:
            return await info.infos_of(self._session, opened, self._settings.recall_target)

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._open_upkeep().drop(table, name)

    async def optimize(self, table: TableHandle) -> None:
        await self._open_upkeep().optimize(table)

    async def measure(self, table: TableHandle, questions: Float32Array) -> None:
        await self._open_upkeep().measure(table, questions)

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        async with self._session.reading(table) as opened:
            found = await self._session.versions(opened)
        return [{"version": one.number, "created": one.created} for one in found]

    async def revert(self, table: TableHandle, version: int) -> None:
        await self._session.check_place()  # a pin would be made in its place
        async with self._pins.held(table.name, version):
            await tables.check_whole(self._session, table, version)
            with renewed():  # what was read is no time that it waited for others
                act = partial(tables.revert, self._session, table, version)
                await self._write(table.name, Change(act, changes_schema=True, brings_files=False))

    async def backup(self, path: Path) -> None:
        locked = self._own_folder is not None or self._target.in_memory
        alone = self._alone if locked and not self.read_only else lambda _: nullcontext()
        generation = (await self.move_record()).generation
        await write_backup(self._session, path, self._pins, alone, generation)

    # Moving away

    async def move_record(self) -> MoveRecord:
        self._session.check()
        await self._session.check_place()
        return await in_thread(self._fence.read)

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        self._session.check()
        await self._session.check_place()
        self._check_writable()
        before, after = await in_thread(partial(self._fence.change, change, anew=anew))
        if after.mark is None and before.mark is not None and not before.mark.filling:
            with suppress(AiovecError):  # the sign for readers only costs them a look
                await self._set_signs(self._settings.busy_timeout)
        return before, after

    async def flush_writers(self, limit: float) -> None:
        mark = (await self.move_record()).mark
        if mark is not None and mark.state == OPEN:
            await self._set_signs(limit)
        # In a bucket, a write that read an earlier mark reads this one before it is acknowledged.
        elif self._session.exclusive:
            for name in await self._session.names():
                async with self._writers.holding_off([name], limit):
                    pass  # who takes its lock from now on sees the mark

    async def _set_signs(self, limit: float) -> None:
        """Have reads of each table look for the mark, behind all writes that came before."""
        names = await self._session.names()
        works = [
            Change(partial(tables.set_sign, self._session, name, self._fence), brings_files=False)
            for name in names
        ]
        await asyncio.gather(*map(self._writers.run, names, works, [limit] * len(names)))

    def act_for(self, run: str | None) -> None:
        self._fence.run = run

    async def change_number(self, table: TableHandle) -> int:
        async with self._session.reading(table) as opened:
            return await newest_number(self._session, opened)

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        async with self._session.reading(table) as opened:
            return await changes(self._session, opened, since, limit, self._followers)

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
