"""SqliteBackend: one file, sqlite-vec, exact search."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aiovec.backend import (
    Backend,
    Backups,
    ChangeFeed,
    Changes,
    Columns,
    Found,
    MoveMark,
    Moves,
    Rows,
    TableHandle,
    TableStats,
    VectorQuery,
)
from aiovec.errors import StoreBusyError, StoreClosedError, StoreMovedError
from aiovec.filters import Expr
from aiovec.memory import default_budget
from aiovec.schema import Field, Schema
from aiovec.telemetry import Place

from . import changes, moves, reads, search, tables, upkeep, writes
from .connection import Connection, Ticket
from .driver import connect
from .errors import failures, translate, translated
from .opening import open_memory, open_reader, open_writer
from .pool import ReaderPool, SharedConnection
from .resident import ResidentSearch
from .transaction import Transaction
from .writer import Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from aiovec.settings import SqliteSettings

_T = TypeVar("_T")

MEMORY = ":memory:"
# Exports at once: each has a connection of its own, so that slow ones keep no search waiting.
_MOST_EXPORTS = 8


class SqliteBackend(Backend, ChangeFeed, Backups, Moves):
    """Tables in one SQLite file. ``target`` is its path, or ``:memory:``."""

    name: ClassVar[str] = "sqlite"

    def __init__(self, target: str | Path, settings: SqliteSettings) -> None:
        self._target = str(target)
        self._settings = settings
        self._connection: Connection | None = None
        self._writer: Writer | None = None
        self._readers: ReaderPool | SharedConnection | None = None
        self._resident: ResidentSearch | None = None
        self._exports = asyncio.Semaphore(_MOST_EXPORTS)
        self._exporting: set[Connection] = set()
        self._closed = False
        # The migration's run that this object acts for, whatever the file's mark says.
        self._run: str | None = None
        kept = self._target != MEMORY and settings.durability == "full"
        self.promises = frozenset({"power-loss"}) if kept else frozenset()

    @property
    def target(self) -> str:
        return self._target

    # Life

    async def open(self) -> None:
        in_memory = self._target == MEMORY
        opener = (
            partial(open_memory, self._settings)
            if in_memory
            else partial(open_writer, Path(self._target), self._settings)
        )
        connection = Connection(opener, "aiovec-sqlite-writer")
        with translated(self._target):
            await connection
        self._connection = connection
        turn: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
        if in_memory:
            self._readers = shared = SharedConnection(connection, self._target)
            turn = shared.turn
        else:
            self._readers = ReaderPool(
                lambda: self._new_reader("aiovec-sqlite-reader"),
                self._target,
                self._settings.readers,
            )
            self._resident = await self._resident_search(connection, self._readers)
        self._writer = Writer(
            connection,
            self._target,
            capacity=self._settings.write_queue,
            busy_timeout=self._settings.busy_timeout,
            turn=turn,
        )
        await self._preload()

    async def _preload(self) -> None:
        """Begin to load the tables that the settings name, of those that exist."""
        if self._resident is None or not self._settings.preload:
            return
        with suppress(StoreMovedError):  # the first call tells, and can follow
            for name in set(self._settings.preload).intersection(await self.tables()):
                self._resident.prepare(await self.open_table(name))

    async def _resident_search(
        self, connection: Connection, readers: ReaderPool
    ) -> ResidentSearch | None:
        if self._settings.scan == "disk":
            return None
        budget = self._settings.scan_bytes()
        if budget is None:  # asking the system may read files
            budget = await connection.run(lambda _: default_budget())
        return ResidentSearch(
            readers.run,
            lambda: self._new_reader("aiovec-sqlite-load"),
            place=Place(self.name, self._target),
            budget=budget,
            workers=min(self._settings.readers, os.cpu_count() or 1),
            bits=self._settings.scan == "bit",
        )

    def _new_reader(self, name: str) -> Connection:
        return Connection(partial(open_reader, Path(self._target), self._settings), name)

    async def close(self) -> None:
        self._closed = True
        if self._writer is not None:
            await self._writer.close()
        if self._resident is not None:
            await self._resident.close()
        for connection in list(self._exporting):
            await connection.close_now()
        if self._readers is not None:
            await self._readers.close()
        if self._connection is not None:
            await self._connection.close()

    async def ping(self) -> None:
        await self._read(lambda db, _: moves.check_here(db, self._target, self._run))

    async def _read(self, work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
        if self._readers is None or self._closed:
            raise StoreClosedError(self._target)
        return await self._readers.run(work)

    async def _read_here(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Read what leads to a table; StoreMovedError where the store has moved.

        Reads that have a handle need not ask: handles are stale after a move.
        """

        def read(db: sqlite3.Connection, _: Ticket) -> _T:
            moves.check_here(db, self._target, self._run)
            return work(db)

        return await self._read(read)

    async def _write(self, work: Callable[[Transaction], _T]) -> _T:
        if self._writer is None or self._closed:
            raise StoreClosedError(self._target)
        return await self._writer.run(work)

    # Tables

    async def tables(self) -> list[str]:
        return await self._read_here(tables.table_names)

    async def open_table(self, name: str) -> TableHandle:
        return await self._read_here(lambda db: tables.open_table(db, name))

    async def create_table(self, name: str, schema: Schema) -> None:
        size = self._settings.chunk_size
        await self._write(lambda tx: tables.create_table(tx, name, schema, size, self._run))

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        await self._write(lambda tx: tables.add_field(tx, table, name, field, self._run))

    async def drop_table(self, name: str) -> None:
        await self._write(lambda tx: tables.drop_table(tx, name, self._run))

    # Writing

    async def insert(self, table: TableHandle, rows: pa.Table) -> None:
        await self._write(writes.RowsWrite(writes.insert, table, rows))

    async def upsert(self, table: TableHandle, rows: pa.Table) -> None:
        await self._write(writes.RowsWrite(writes.upsert, table, rows))

    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: Mapping[str, Any],
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
    ) -> int:
        return await self._write(lambda tx: writes.update(tx, table, values, payload, ids, where))

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        keep = self._settings.keep_deletes
        return await self._write(lambda tx: writes.delete(tx, table, ids, where, keep))

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> Rows:
        return await self._read(lambda db, ticket: reads.get(db, ticket, table, ids, columns))

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
        return await self._read(
            lambda db, ticket: reads.find(
                db, ticket, table, where, order_by, descending, limit, offset, columns
            )
        )

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        if self._resident is not None:
            found = await self._resident.search(table, queries)
            if found is not None:
                return found
        return await self._read(lambda db, ticket: search.search(db, ticket, table, queries))

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        return await self._read(lambda db, _: reads.count(db, table, where))

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        async with self._place_for_export():
            connection = await self._snapshot_connection()
            self._exporting.add(connection)
            # The connection's thread may still be busy when a cancelled caller leaves.
            free = asyncio.Event()
            free.set()

            async def run(work: Callable[[sqlite3.Connection, Ticket], _T]) -> _T:
                if self._closed:
                    raise StoreClosedError(self._target)
                free.clear()
                try:
                    return await connection.run_cancellable(work, free.set)
                except failures() as exc:
                    if self._closed:
                        raise StoreClosedError(self._target) from exc
                    raise translate(exc, self._target) from exc

            def begin(db: sqlite3.Connection, _: Ticket) -> reads.Export:
                db.execute("BEGIN")
                return reads.Export(db, table, where, columns, after, batch_size)

            try:
                walk = await run(begin)
                while (found := await run(lambda _, ticket: walk.next_batch(ticket))) is not None:
                    yield found
            finally:
                self._exporting.discard(connection)
                await asyncio.shield(_close_when_free(connection, free))

    @asynccontextmanager
    async def _place_for_export(self) -> AsyncIterator[None]:
        patience = self._settings.busy_timeout
        try:
            async with asyncio.timeout(patience):
                await self._exports.acquire()
        except TimeoutError:
            raise StoreBusyError(f"{_MOST_EXPORTS} exports are open", patience) from None
        try:
            yield
        finally:
            self._exports.release()

    async def _snapshot_connection(self) -> Connection:
        """A connection of its own to the file, or to a copy of what is only in memory.

        On ``:memory:`` writes share the only connection, so a snapshot has to be a copy.
        """
        if self._target != MEMORY:
            connection = self._new_reader("aiovec-sqlite-export")
            with translated(self._target):
                await connection
            return connection
        copy = await self._read_outside_snapshot(_copy_of_memory)
        connection = Connection(lambda: copy, "aiovec-sqlite-export")
        await connection
        return connection

    async def _read_outside_snapshot(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if not isinstance(self._readers, SharedConnection) or self._connection is None:
            raise StoreClosedError(self._target)
        async with self._readers.turn():
            return await self._connection.run(work)

    # Changes

    async def change_number(self, table: TableHandle) -> int:
        return await self._read(lambda db, _: changes.change_number(db, table))

    async def changes(self, table: TableHandle, since: int, *, limit: int = 10_000) -> Changes:
        return await self._read(lambda db, ticket: changes.changes(db, ticket, table, since, limit))

    # Moving away

    async def move_mark(self) -> MoveMark | None:
        mark = await self._read(lambda db, _: moves.read_mark(db))
        return None if mark is None else mark.told()

    async def begin_move(self, run: str, *, backend: str = "", config: str = "") -> None:
        before = self._run
        self._act_for(run)
        try:
            await self._write(lambda tx: moves.begin(tx, run, backend, config))
        except BaseException:
            self._act_for(before)
            raise

    def _act_for(self, run: str | None) -> None:
        self._run = run
        if self._writer is not None:
            self._writer.run_acted_for = run

    async def pause_writers(self, run: str, limit: float) -> None:
        await self._write(lambda tx: moves.pause(tx, run, limit))

    async def resume_writers(self, run: str) -> bool:
        return await self._write(lambda tx: moves.resume(tx, run))

    async def set_moved(
        self, run: str, moved_to: str, *, backend: str = "", config: str = ""
    ) -> bool:
        return await self._write(lambda tx: moves.set_moved(tx, run, moved_to, backend, config))

    async def end_move(self, run: str) -> None:
        await self._write(lambda tx: moves.end(tx, run))

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        stats = await self._read(lambda db, _: upkeep.stats(db, table, self.name))
        if self._resident is None:
            return stats
        return replace(
            stats,
            index=self._resident.index(table) or stats.index,
            scan_memory=self._resident.nbytes(table.name),
            details={**stats.details, **self._resident.details(table, stats.rows)},
        )

    async def optimize(self, table: TableHandle) -> None:
        chunks = await self._read(lambda db, ticket: upkeep.sparse_chunks(db, ticket, table))
        while chunks:
            done = await self._write(partial(_empty_some, table=table, chunks=chunks))
            chunks = chunks[done:]
        await self._write(lambda tx: upkeep.settle(tx, table, self._settings.keep_deletes))
        while await self._write(upkeep.give_back):
            pass
        if isinstance(self._readers, ReaderPool):
            await self._readers.run_outside_snapshot(upkeep.checkpoint)

    async def backup(self, path: Path) -> None:
        if self._readers is None:
            raise StoreClosedError(self._target)
        await self._readers.run_outside_snapshot(lambda db, ticket: upkeep.backup(db, ticket, path))


def _empty_some(tx: Transaction, *, table: TableHandle, chunks: list[int]) -> int:
    return upkeep.empty_chunks(tx, table, chunks)


def _copy_of_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    copy = connect(MEMORY)
    db.backup(copy)
    return copy


async def _close_when_free(connection: Connection, free: asyncio.Event) -> None:
    await free.wait()
    await connection.close()
