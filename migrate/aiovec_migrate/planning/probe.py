"""Measure how fast rows are read, and written into a store of the target's kind in memory."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from aiovec.backend.contract import Backend, Columns, TableHandle
from aiovec.backend.rows import NewRows
from aiovec.backend.threads import to_its_end

from ..host import Host
from .report import Rates

if TYPE_CHECKING:
    import pyarrow as pa


# The probe ends at whichever comes first.
_MOST_SECONDS = 1.0
_MOST_ROWS = 20_000
_MOST_BYTES = 64 * 2**20

_SHORTEST = 1e-4  # so that a clock with coarse ticks does not promise wonders


async def probe(
    source: Backend,
    table: TableHandle,
    memory: Backend | None,
    *,
    batch_size: int,
    host: Host,
) -> Rates:
    """Read the first rows of a table, and write them into memory. Leaves nothing on a disk.

    ``memory`` is not open yet; None where the target has no kind in memory.
    """
    columns = Columns(tuple(table.schema.fields), payload=table.schema.payload, vector=True)
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    began = host.now()
    reading = source.export(table, where=None, columns=columns, after=None, batch_size=batch_size)
    async with aclosing(reading) as pages:
        async for batch, _ in pages:
            batches.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            if rows >= _MOST_ROWS or size >= _MOST_BYTES or host.now() - began >= _MOST_SECONDS:
                break
    read = rows / max(_SHORTEST, host.now() - began)
    write = None
    if memory is not None and rows:
        write = await _written(memory, table, batches, host)
    return Rates(table.name, rows, read, write)


async def _written(
    memory: Backend, table: TableHandle, batches: list[pa.RecordBatch], host: Host
) -> float:
    """Rows a second that a store in memory takes."""
    merged = await host.in_thread(_merged, batches)
    try:
        await memory.open()
        await memory.create_table(table.name, table.schema)
        handle = await memory.open_table(table.name)
        began = host.now()
        if memory.supports("bulk-load"):
            await memory.bulk_load(handle).add(merged)
        else:
            await memory.insert(handle, NewRows(table.schema, merged))
        return float(merged.num_rows) / max(_SHORTEST, host.now() - began)
    finally:
        await to_its_end(memory.close())


def _merged(batches: list[pa.RecordBatch]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(batches).combine_chunks()
