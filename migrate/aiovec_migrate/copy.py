"""Copying one table: reading and writing overlap, and neither runs ahead of the other."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing

import pyarrow as pa

from aiovec.backend.contract import BulkLoad, StaleTableError
from aiovec.backend.rows import NewRows
from aiovec.errors import DuplicateIdError, MigrationError

from .ends import OpenTable, RunContext, everything, row_bytes
from .limits import Limits
from .state import TableState

Batch = tuple[pa.RecordBatch, bytes]


class Buffer:
    """Batches between the reader and the writer, bounded by bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._rows = 0
        self._over = False
        self._changed = asyncio.Event()

    async def put(self, batch: Batch) -> None:
        """Add a batch as soon as there is any room: it may be larger than all of it."""
        while self._bytes >= self._most:
            await self._change()
        self._batches.append(batch)
        self._bytes += batch[0].nbytes
        self._rows += batch[0].num_rows
        self._changed.set()

    def end(self) -> None:
        """Say that no more will come."""
        self._over = True
        self._changed.set()

    async def take(self, most_bytes: int, most_rows: int) -> list[Batch]:
        """As many batches as make one write; fewer at the end, and none behind it."""
        while not self._over and self._bytes < most_bytes and self._rows < most_rows:
            await self._change()
        taken: list[Batch] = []
        size = rows = 0
        while self._batches:
            batch, _ = self._batches[0]
            if taken and (size + batch.nbytes > most_bytes or rows + batch.num_rows > most_rows):
                break
            taken.append(self._batches.popleft())
            size += batch.nbytes
            rows += batch.num_rows
        self._bytes -= size
        self._rows -= rows
        self._changed.set()
        return taken

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class TableFill:
    """Writes new rows into the goal's table; after a kill the first may be there already."""

    def __init__(self, table: OpenTable, limits: Limits, *, again: bool) -> None:
        self._table = table
        self._again = again
        self._load: BulkLoad | None = None
        bulk = table.backend.supports("bulk-load")
        self.most_bytes = limits.bulk_bytes if bulk else limits.insert_bytes
        self.most_rows = limits.bulk_rows if bulk else limits.insert_rows

    async def write(self, rows: pa.Table) -> None:
        table = self._table
        if not self._again:
            try:
                await self._add(rows)
            except DuplicateIdError:
                # They were deleted and inserted again in the source since they were copied.
                pass
            else:
                return
        await table.do(lambda handle: table.backend.upsert(handle, NewRows(handle.schema, rows)))
        self._again = False
        self._load = None  # it would not know what came in beside it

    async def _add(self, rows: pa.Table) -> None:
        table = self._table
        backend = table.backend
        if not backend.supports("bulk-load"):
            await table.do(lambda handle: backend.insert(handle, NewRows(handle.schema, rows)))
            return
        for _ in range(2):
            if self._load is None:
                self._load = backend.bulk_load(table.handle)
            try:
                await self._load.add(rows)
            except StaleTableError:
                await table.reopen()
                self._load = None
            else:
                return
        raise MigrationError(
            f"the table {table.handle.name!r} changed while it was filled; try again"
        )


async def copy_table(work: RunContext, state: TableState) -> None:
    """Copy what is behind the cursor, and write down each step."""
    source = await work.ends.source_table(state.name)
    target = await work.ends.target_table(state.name)
    filler = TableFill(target, work.host.limits, again=state.rows > 0 or await target.count() > 0)
    buffer = Buffer(filler.most_bytes)
    size = max(1, min(work.state.options.batch_size, filler.most_bytes // await row_bytes(source)))
    reading = asyncio.ensure_future(_read(source, state.cursor, buffer, size))
    try:
        while batches := await buffer.take(filler.most_bytes, filler.most_rows):
            await work.step("copy:read")
            rows = pa.Table.from_batches([batch for batch, _ in batches])
            await filler.write(await work.changed(rows))
            await work.step("copy:written")
            state.cursor = batches[-1][1]
            state.rows += rows.num_rows
            work.progress(state.name, state.rows, state.total)
            await work.save(state)
            await work.step("copy:journalled")
            del batches, rows
        await reading
    finally:
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
    state.copied = True
    state.total = state.rows
    await work.save(state)
    work.tell("table", table=state.name, rows=state.rows, total=state.total)


async def _read(table: OpenTable, after: bytes | None, buffer: Buffer, size: int) -> None:
    """Fill the buffer with all rows behind the cursor, so many of them at once."""
    try:
        while True:
            rows = table.backend.export(
                table.handle,
                where=None,
                columns=everything(table.schema),
                after=after,
                batch_size=size,
            )
            try:
                async with aclosing(rows) as batches:
                    async for batch, cursor in batches:
                        await buffer.put((batch, cursor))
                        after = cursor
            except StaleTableError:
                await table.reopen()
            else:
                return
    finally:
        buffer.end()
