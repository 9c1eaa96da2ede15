"""SqliteBackend: a store in one file, with exact searches by sqlite-vec."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aiovec.backend import (
    Expr,
    Schema,
    contract,
)
from aiovec.backend.changes import Delete, RowChange, SchemaChange, Update, changes_text
from aiovec.backend.context import Kept, WriteKey, new_meter, write_key
from aiovec.backend.contract import (
    NO_NOTES,
    Backend,
    Bounds,
    Changes,
    Columns,
    Count,
    Find,
    FromEach,
    FromRows,
    Get,
    Query,
    TableHandle,
    TableStats,
    Values,
    index_behind_change,
)
from aiovec.backend.limits import Slot, Steps, current_deadline, export_gate, write_gate
from aiovec.backend.marks import MoveRecord
from aiovec.backend.memory import default_budget
from aiovec.backend.threads import Background, in_thread
from aiovec.errors import (
    AiovecError,
    ConfigError,
    StoreClosedError,
    StoreMovedError,
    StoreReplacedError,
    UnsupportedError,
)

from . import backup as backups
from . import moves, reads, tables, text_index, upkeep, writes
from .connection import (
    Connection,
    Read,
    ReaderPool,
    Ticket,
    Transaction,
)
from .copies import file_scan
from .copies.kernel.library import load
from .copies.resident import ResidentSearch
from .copies.scanfile import ScanFiles
from .keyword_search import search_text
from .layout import current_table, notes_of, put_note, put_token
from .opening import (
    OpenFile,
    check_store_to_read,
    open_read_only,
    open_reader,
    open_writer,
)
from .settings import BESIDE, MEMORY, make_folder_of
from .writer import Writer, find_key

if TYPE_CHECKING:
    import pyarrow as pa

    from .settings import SqliteSettings

LOG = logging.getLogger("aiovec.sqlite")
_T = TypeVar("_T")


class SqliteBackend(Backend):
    """Tables in one SQLite file. ``target`` is its path, or ``:memory:``."""

    name: ClassVar[str] = "sqlite"
    tunings = frozenset({"dims", "oversample"})
    hints: ClassVar[Mapping[str, str]] = {
        "indexes": "it needs none, since its searches are exact; 'aiovec advise' shows when a "
        "table is too large for that",
        "questions": "its searches are exact, so there is no recall to measure",
        "snapshots": "LanceDB keeps versions; here, backup() copies the store",
    }

    def __init__(
        self,
        target: str | Path,
        settings: SqliteSettings,
    ) -> None:
        self._target = str(target)
        self._in_memory = self._target == MEMORY
        self._path = Path(self._target)
        self._settings = settings
        self._connection: Connection | None = None
        self._writer: Writer | None = None
        self._readers: ReaderPool | None = None
        self._resident: ResidentSearch | None = None
        self._builds = Background()
        self._exports = export_gate()
        self._writing = write_gate(settings.write_queue)
        self.busy_timeout = settings.busy_timeout
        self._closed = False
        self._file: OpenFile | None = None
        self._remove_file: Callable[[], object] | None = None
        # The migration run that this backend acts for; the run's mark in the file does not stop it.
        self._run: str | None = None
        kept = not self._in_memory and settings.durability == "full"
        able = {"changes", "backup", "restore", "moves", "read-only", "once", "quantized"}
        able |= {"payload-indexes", "text"}
        if kept:
            able.add("power-loss")
        self.abilities = frozenset(able)

    @property
    def target(self) -> str:
        return self._target

    # Lifecycle

    async def open(self) -> None:
        if self._in_memory:
            if self.read_only:
                raise ConfigError(
                    "a store in memory starts empty, so it cannot be opened with read_only=True"
                )
            self._path = await in_thread(self._make_private_file)
        # ``close`` closes the connection, even if opening fails.
        connection = self._connection = Connection(self._open_file, self._target, kept=True)
        settings = self._settings
        readers = self._readers = ReaderPool(self._new_reader, self._target, settings.readers)
        look = partial(self._look_at_file, readers)
        incomplete = await connection.read(look, snapshot=False)
        if not self.read_only:
            self._writer = Writer(
                connection,
                self._target,
                gate=self._writing,
                busy_timeout=settings.busy_timeout,
                check_file=self._check_file,
            )
            if incomplete and self.upkeep:
                self._builds.start(self._complete_text(incomplete))

    def _make_private_file(self) -> Path:
        """Create the file of an in-memory store; it is removed with this object or at exit."""
        folder = tempfile.mkdtemp(prefix="aiovec-")
        self._remove_file = weakref.finalize(self, _remove_folder, folder, os.getpid())
        return Path(folder) / "memory.sqlite"

    def _open_file(self, ticket: Ticket) -> sqlite3.Connection:
        """Open the first connection, which stays open: it writes, unless the store is read-only."""
        if not self.read_only:
            make_folder_of(self._path)
            return open_writer(self._path, self._settings, ticket, kept=not self._in_memory)
        check_store_to_read(self._path)
        return open_read_only(self._path, self._settings)

    def _look_at_file(
        self, readers: ReaderPool, db: sqlite3.Connection, ticket: Ticket
    ) -> list[str]:
        """Remember the opened file, and prepare in-memory searches.

        Return the tables whose text index is incomplete.
        """
        settings, read_only = self._settings, self.read_only
        patience = settings.busy_timeout
        self._file = OpenFile.of(self._path, db, ticket, patience, read_only=read_only)
        if settings.scan != "disk" and load() is not None:
            files = None
            if not self._in_memory:
                files = ScanFiles(self._path, read_only=read_only, patience=patience)
            self._resident = ResidentSearch(
                self._target,
                readers,
                files=files,
                check_file=self._check_file,
                put_token=self._put_token,
                memory=default_budget(),
                workers=min(settings.readers, os.cpu_count() or 1),
                busy_timeout=patience,
            )
        return text_index.incomplete(db)

    def _check_file(self) -> None:
        """Raise StoreReplacedError if the target no longer names the open file."""
        if self._file is not None:
            self._file.check()

    async def _put_token(self, table: TableHandle, kind: str, token: str | None) -> None:
        """Make the store accept only the table's scan file with this token; with None, no file."""
        await self._write(
            lambda tx: put_token(tx.db, current_table(tx.db, table).name, kind, token)
        )

    def _new_reader(self) -> Connection:
        opener = open_read_only if self.read_only else open_reader
        return Connection(
            lambda _: opener(self._path, self._settings, self._file),
            self._target,
            check_file=self._check_file,
        )

    async def close(self) -> None:
        self._closed = True
        self._writing.close(StoreClosedError(self._target))
        self._exports.close(StoreClosedError(self._target))
        if self._writer is not None:
            await self._writer.close()
        await self._builds.wait()  # each build ends at its next step, because the store is closed
        if self._resident is not None:
            await self._resident.close()
        if self._readers is not None:
            await self._readers.close()
        if self._connection is not None:
            if self._writer is not None and not self._in_memory:
                with suppress(AiovecError):
                    await self._connection.read(self._bring_in_wal, snapshot=False)
            await self._connection.close()
        if self._remove_file is not None:
            await in_thread(self._remove_file)

    def _bring_in_wal(self, db: sqlite3.Connection, ticket: Ticket) -> None:
        """Copy the WAL into the file now: the driver would do so on closing, and hold the GIL."""
        self._check_file()  # leave the WAL of a replaced file alone
        upkeep.checkpoint(db, ticket)

    async def ping(self) -> None:
        await self._read(lambda db, _: moves.check_here(db, self._target, self._run))

    def _read(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> Coroutine[Any, Any, _T]:
        if self._readers is None or self._closed:
            raise StoreClosedError(self._target)
        return self._readers.read(work)

    async def _read_unmoved(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a read without a table handle. Raises StoreMovedError if the store has moved.

        Reads with a handle need no check, because a move makes all handles stale.
        """

        def read(db: sqlite3.Connection, _: Ticket) -> _T:
            moves.check_here(db, self._target, self._run)
            return work(db)

        return await self._read(read)

    def writing(self, size: int) -> Slot:
        self._usable_writer()
        return self._writing.enter(current_deadline(self.busy_timeout), size)

    async def _write(self, work: Callable[[Transaction], _T]) -> _T:
        async with self.writing(0):
            return await self._usable_writer().run(work)

    async def _write_once(
        self, work: Callable[[Transaction], _T], *, text_of: str | None = None
    ) -> _T:
        """Write under the call's idempotency key, if it has one.

        ``text_of`` names the table whose text index is built afterwards.
        """
        try:
            async with self.writing(0):
                result = await self._usable_writer().run(work, key=write_key(), text_of=text_of)
            if text_of is not None:
                await self._build_text_after_change(text_of)
        except asyncio.CancelledError:
            if text_of is not None:  # the change may be committed, so the build continues
                self._builds.start(self._complete_text([text_of]))
            raise
        return result

    def _usable_writer(self) -> Writer:
        if self.read_only:
            raise UnsupportedError("write", self.name, "it was opened with read_only=True")
        if self._writer is None or self._closed:
            raise StoreClosedError(self._target)
        return self._writer

    # Tables

    async def tables(self) -> list[str]:
        return await self._read_unmoved(tables.table_names)

    async def open_table(self, name: str) -> TableHandle:
        return await self._read_unmoved(lambda db: tables.open_table(db, name))

    async def create_table(self, name: str, schema: Schema) -> None:
        await self._alter(tables.create_table, name, schema, self._settings.chunk_size)

    async def alter(self, table: TableHandle, change: SchemaChange) -> None:
        text_of = table.name if changes_text(change, table.schema) else None
        await self._alter(tables.alter, table, change, text_of=text_of)

    async def _alter(
        self, work: Callable[..., None], *args: object, text_of: str | None = None
    ) -> None:
        """Change a schema, and then build the text index of the table ``text_of``."""

        def alter(tx: Transaction) -> None:
            work(tx, *args, self._schemas_free)
            if text_of is not None:  # if the table is small, the commit has its whole index
                text_index.advance(tx, text_of)

        await self._write_once(alter, text_of=text_of)

    async def _build_text(self, name: str, step: Steps) -> None:
        """Build the text index that a table's schema requires, in short transactions."""
        while await step(self._write(lambda tx: text_index.advance(tx, name))):
            pass

    async def _build_text_after_change(self, name: str) -> None:
        with index_behind_change(self._target, name):
            await self._build_text(name, Steps())

    async def _complete_text(self, names: Sequence[str]) -> None:
        """Continue text index builds. If a build fails, the next opening of the store retries."""
        for name in names:
            try:
                await self._build_text(name, Steps())
            except (StoreClosedError, StoreMovedError):
                return
            except AiovecError as exc:
                say = "the text index of %r could not be completed; optimize completes it: %s"
                await in_thread(LOG.warning, say, name, exc)

    async def rename_table(self, old: str, new: str) -> None:
        # A build under the old name ends when it no longer finds the table.
        await self._alter(tables.rename_table, old, new, text_of=new)
        self._forget_copy(old)

    async def drop_table(self, name: str) -> None:
        await self._alter(tables.drop_table, name)
        self._forget_copy(name)

    def _forget_copy(self, table: str) -> None:
        if self._resident is not None:
            self._resident.forget(table)

    def _schemas_free(self, tx: Transaction) -> None:
        moves.check_schemas_free(tx, self._target, self._run)

    # Writing

    def write(self, table: TableHandle, change: RowChange) -> Coroutine[Any, Any, int]:
        work = writes.work_of(table, change, self._settings.keep_deletes)
        if isinstance(change, (Update, Delete)):
            return self._write_once(work)
        return self._usable_writer().run(work, key=write_key())

    async def kept(self, key: WriteKey) -> Kept | None:
        record = await self._read(lambda db, _: find_key(db, key))
        if record is None:
            return None
        kept, text_of = record
        if text_of is not None and not self.read_only:
            with suppress(StoreMovedError):  # the new store builds its own index
                await self._build_text_after_change(text_of)
        return kept

    # Reading

    def read(self, table: TableHandle, read: contract.Read[_T]) -> Coroutine[Any, Any, _T]:
        wanted: contract.Read[Any] = read
        meter = new_meter(wanted.limit) if isinstance(wanted, Values) else None

        def result(db: sqlite3.Connection, ticket: Ticket) -> Any:
            match wanted:
                case Get(ids, columns, finish):
                    return finish(reads.get(db, ticket, table, ids, columns))
                case Find():
                    return wanted.finish(reads.find(db, ticket, table, wanted))
                case Count(where):
                    return reads.count(db, table, where)
                case Values(where, ref, limit):
                    return reads.value_counts(db, table, ref, where, limit, meter)
                case Bounds(where, ref):
                    return reads.bounds(db, table, ref, where)
            raise self._lacks(type(read).__name__)

        return self._read(result)

    def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> Coroutine[Any, Any, _T]:
        if queries[0].by_words:
            if self._resident is not None:
                return self._resident.search_text(table, queries[0], finish)
            return self._read(
                lambda db, ticket: finish([search_text(db, ticket, table, queries[0])])
            )
        scan = self._settings.scan
        exact = all(file_scan.is_exact(query, table.schema, scan) for query in queries)
        if self._resident is not None and exact:
            return self._resident.search(table, queries, finish)
        return self._read(
            lambda db, ticket: finish(file_scan.search(db, ticket, table, queries, scan=scan))
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
        async with self._snapshot() as (read, wal):
            walk = await read(
                lambda db, _: reads.Export(db, table, where, columns, after, batch_size, wal)
            )
            while (batch := await read(lambda _, ticket: walk.next_batch(ticket))) is not None:
                yield batch

    async def rows(
        self, table: TableHandle, *, where: Expr | None, columns: Columns, finish: FromRows[_T]
    ) -> AsyncGenerator[_T, None]:
        def following(walk: reads.Walk, ticket: Ticket) -> _T | None:
            rows = walk.next_rows(ticket)
            return None if rows is None else finish(rows)

        async with self._snapshot() as (read, wal):
            walk = await read(lambda db, _: reads.Walk(db, table, where, columns, wal))
            while (part := await read(lambda _, ticket: following(walk, ticket))) is not None:
                yield part

    @asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[tuple[Read, str], None]:
        """Yield a function for reads in one snapshot, and the path of the WAL, which may grow."""
        if self._readers is None or self._closed:
            raise StoreClosedError(self._target)
        wal = "" if self._file is None else self._file.wal_path
        gate = self._exports.enter(current_deadline(self.busy_timeout))
        async with gate, self._readers.aside() as read:
            yield read, wal

    async def notes(
        self, table: TableHandle, change: Mapping[str, str | None] = NO_NOTES
    ) -> Mapping[str, str]:
        def put(tx: Transaction) -> dict[str, str]:
            name = current_table(tx.db, table).name
            for key, text in change.items():
                put_note(tx.db, name, key, text)
            return notes_of(tx.db, name)

        if change:
            return await self._write(put)
        return await self._read(lambda db, _: notes_of(db, current_table(db, table).name))

    # Changes

    async def change_number(self, table: TableHandle) -> int:
        return await self._read(lambda db, _: reads.change_number(db, table))

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        return await self._read(lambda db, ticket: reads.changes(db, ticket, table, since, limit))

    # Moving away

    async def move_record(self) -> MoveRecord:
        return await self._read(lambda db, _: moves.read_record(db, self._target))

    async def change_move(
        self, change: Callable[[MoveRecord], MoveRecord], *, anew: bool = False
    ) -> tuple[MoveRecord, MoveRecord]:
        return await self._usable_writer().run(
            lambda tx: moves.change(tx, self._target, change, anew=anew), changes_mark=True
        )

    async def flush_writers(self, limit: float) -> None:
        """Do nothing, because each write checks the mark in its transaction."""

    def act_for(self, run: str | None) -> None:
        self._run = run
        if self._writer is not None:
            self._writer.run_acted_for = run

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        stats = await self._read(lambda db, _: upkeep.stats(db, table, self.name))
        if self._settings.scan == "bit" and table.schema.quantized == "bit":
            stats = replace(stats, index="bit codes: approximate")
        if self._resident is None:
            return stats
        return replace(
            stats,
            scan_memory=self._resident.nbytes(table.name),
            details={**stats.details, **self._resident.details(table)},
        )

    async def optimize(self, table: TableHandle) -> None:
        step = Steps()
        chunks = await self._read(lambda db, ticket: upkeep.sparse_chunks(db, ticket, table))
        while chunks:
            done = await step(
                self._write(partial(upkeep.empty_chunks, handle=table, chunks=chunks))
            )
            chunks = chunks[done:]
        await self._build_text(table.name, step)
        merge = partial(text_index.merge_some, name=table.name)
        first = True
        while await step(self._write(partial(merge, first=first))):
            first = False
        await step(
            self._write(lambda tx: upkeep.finish_optimize(tx, table, self._settings.keep_deletes))
        )
        while await step(self._write(upkeep.give_back)):
            pass
        if self._readers is not None:
            await step(self._readers.read(upkeep.checkpoint, snapshot=False))

    async def backup(self, path: Path) -> None:
        if self._readers is None or self._connection is None or self._closed:
            raise StoreClosedError(self._target)

        def copy(db: sqlite3.Connection, ticket: Ticket) -> None:
            moves.check_here(db, self._target, self._run)
            backups.backup(db, ticket, path)

        reader: Connection | ReaderPool = self._readers
        try:
            await in_thread(self._check_file)
        except StoreReplacedError:
            # Only this file has the acknowledged rows, and a new reader cannot reach it.
            reader = self._connection
        await reader.read(copy, snapshot=False)

    def owns(self, path: Path) -> bool:
        file, path = self._path.resolve(), path.resolve()
        if path in {file.with_name(file.name + end) for end in ("", *BESIDE)}:
            return True
        return os.path.exists(path) and os.path.exists(file) and os.path.samefile(path, file)

    async def restore_from(self, backup: Path, *, overwrite: bool) -> Path | None:
        if self._in_memory:
            raise UnsupportedError("restore", self.name, "a store in memory ends with its process")
        return await in_thread(
            partial(backups.restore, backup, self._path, self._settings, overwrite=overwrite)
        )


def _remove_folder(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked child must not remove its parent's folder
        shutil.rmtree(folder, ignore_errors=True)
