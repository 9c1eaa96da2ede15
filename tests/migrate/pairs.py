"""Two stores with a table each, for whatever compares or copies."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from aiovec import Schema
from aiovec._input.rows import to_table
from aiovec.backend import Backend, Columns
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.settings import LancedbSettings
from aiovec_migrate.ends import OpenTable
from aiovec_sqlite import SqliteBackend
from aiovec_sqlite.settings import SqliteSettings

KINDS = ("sqlite", "lancedb")
PAIRS = tuple(itertools.product(KINDS, KINDS))


@asynccontextmanager
async def opened(path: Path, kind: str) -> AsyncIterator[Backend]:
    """A backend of the kind, in a folder of its own."""
    backend: Backend
    if kind == "sqlite":
        backend = SqliteBackend(f"{path}.db", SqliteSettings())
    else:
        backend = LancedbBackend(f"{path}.lance", LancedbSettings())
    try:
        await backend.open()
        yield backend
    finally:
        await backend.close()


@dataclass(frozen=True)
class Pair:
    source: Backend
    target: Backend

    async def tables(self, name: str = "notes") -> tuple[OpenTable, OpenTable]:
        """A table of both, opened anew."""
        return await OpenTable.open(self.source, name), await OpenTable.open(self.target, name)

    async def fill(
        self, schema: Schema, rows: Sequence[dict[str, Any]], *, table: str = "notes"
    ) -> None:
        """The same rows on both sides, in another order on the target's."""
        for backend, given in ((self.source, rows), (self.target, list(reversed(rows)))):
            await backend.create_table(table, schema)
            if given:
                await backend.insert(await backend.open_table(table), to_table(given, schema))


@asynccontextmanager
async def pair_of(path: Path, source: str, target: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        yield Pair(
            await stack.enter_async_context(opened(path / "source", source)),
            await stack.enter_async_context(opened(path / "target", target)),
        )


async def upsert(backend: Backend, rows: Sequence[dict[str, Any]], table: str = "notes") -> None:
    handle = await backend.open_table(table)
    await backend.upsert(handle, to_table(list(rows), handle.schema))


async def delete(backend: Backend, ids: Sequence[str], table: str = "notes") -> None:
    assert await backend.delete(await backend.open_table(table), ids=ids, where=None) == len(ids)


async def all_rows(backend: Backend, table: str = "notes") -> pa.Table:
    """Every row, in the order of ids."""
    handle = await backend.open_table(table)
    columns = Columns(tuple(handle.schema.fields), handle.schema.payload, True)
    batches = [
        batch
        async for batch, _ in backend.export(
            handle, where=None, columns=columns, after=None, batch_size=1000
        )
    ]
    schema = handle.schema.to_arrow()
    return pa.Table.from_batches(batches, schema=schema).sort_by("id").combine_chunks()
