"""Copy one table into an empty one: reading and writing overlap, and neither runs far ahead."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pyarrow as pa

from aiovec.backend.changes import Insert
from aiovec.backend.cost import cost_of
from aiovec.backend.rows import Batch
from aiovec.backend.threads import hop, together

from .tables import OpenTable, everything, row_bytes
from .work import Work

# Rows read at a time.
_BATCH = 1000


async def copy_table(work: Work, source: OpenTable, target: OpenTable) -> None:
    """Copy all rows of one snapshot. After a StaleTableError or DuplicateIdError, the table has to
    be compared instead."""
    limits, backend = work.limits, target.backend
    bulk = backend.supports("bulk-load")
    most_bytes = limits.bulk_bytes if bulk else limits.insert_bytes
    most_rows = limits.bulk_rows if bulk else limits.insert_rows
    size = max(1, min(_BATCH, most_rows, most_bytes // await row_bytes(source)))
    report = work.progress(source.name, await source.count())
    writes: asyncio.Queue[pa.Table | None] = asyncio.Queue(maxsize=1)

    async def read() -> None:
        columns = everything(source.schema)
        rows = source.backend.export(
            source.handle, where=None, columns=columns, after=None, batch_size=size
        )
        waiting: list[pa.RecordBatch] = []
        bytes_, count = 0, 0
        async with aclosing(rows) as batches:
            async for batch, _ in batches:
                waiting.append(batch)
                bytes_, count = bytes_ + batch.nbytes, count + batch.num_rows
                if bytes_ >= most_bytes or count + size > most_rows:
                    await writes.put(pa.Table.from_batches(waiting))
                    waiting, bytes_, count = [], 0, 0
        if waiting:
            await writes.put(pa.Table.from_batches(waiting))
        await writes.put(None)

    async def write() -> None:
        while (rows := await writes.get()) is not None:
            await work.step("copy:read")
            changed = await work.changed(rows)
            if bulk:
                await backend.bulk_add(target.handle, changed)
            else:
                new = await hop(cost_of(changed), Batch.of_table, changed, target.schema)
                await backend.write(target.handle, Insert(new))
            await work.step("copy:written")
            report(rows.num_rows)

    await together([read, write])
