"""One table of one store, read row by row or all at once, with the hashes of its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from aiovec.backend import Backend, Columns, Rows, Schema, TableHandle

from .digests import Digest, Kept, Limits, among, bucket_of
from .hashing import BoolArray, Hasher, Hashes, UInt64Array
from .host import Host

_T = TypeVar("_T")
_S = TypeVar("_S")

Seen = Callable[[pa.RecordBatch], None]
"""Gets every batch of a table, in a thread, one after the other."""

Progress = Callable[[int], None]
"""Told, each time, how many rows more were read, on either side."""

# What is hashed, or written, at once: enough for columns to be worth their calls, and few times
# the space of a core's cache.
_BATCH_BYTES = 8 * 2**20
_MOST_ROWS = 4096
# Ids that are looked up at once.
LOOKED_UP = 512
_MOST_IDS = 2**14


def no_progress(rows: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Side:
    """A table of one store."""

    backend: Backend
    handle: TableHandle
    hasher: Hasher
    host: Host
    vector: bool
    progress: Progress
    size: int
    """How many rows to read at once."""

    @property
    def schema(self) -> Schema:
        return self.handle.schema

    @property
    def columns(self) -> Columns:
        """All of a row that counts."""
        return Columns(tuple(self.schema.fields), self.schema.payload, self.vector)

    @property
    def whole(self) -> Columns:
        """All of a row."""
        return Columns(tuple(self.schema.fields), self.schema.payload, True)

    def export(self, columns: Columns, size: int) -> AsyncGenerator[tuple[pa.RecordBatch, bytes]]:
        return self.backend.export(
            self.handle, where=None, columns=columns, after=None, batch_size=size
        )

    async def walk(
        self,
        take: Callable[[pa.RecordBatch, Hashes], None],
        columns: Columns | None = None,
    ) -> None:
        """Give every batch and its hashes to ``take``, in a thread, while the next one is read."""
        chosen = columns or self.columns

        def work(batch: pa.RecordBatch) -> None:
            take(batch, self.hasher.rows(batch))

        under_way: asyncio.Task[None] | None = None
        try:
            async with aclosing(self.export(chosen, self.size)) as batches:
                async for batch, _ in batches:
                    if under_way is not None:
                        await under_way
                    self.progress(batch.num_rows)
                    under_way = asyncio.ensure_future(self.host.in_thread(work, batch))
            if under_way is not None:
                await under_way
        finally:
            if under_way is not None and not under_way.done():
                under_way.cancel()
                await asyncio.wait([under_way])

    async def digest(self, limits: Limits, seen: Seen | None = None) -> Digest:
        """The sums of all rows. ``seen`` gets each batch, with the vectors."""
        digest = Digest(limits)
        if seen is None:
            await self.walk(digest.add)
            return digest

        def take(batch: pa.RecordBatch, hashes: Hashes) -> None:
            digest.add(batch, hashes)
            seen(batch)

        await self.walk(take, self.whole)
        return digest

    async def collect(self, chosen: BoolArray) -> Hashes:
        """The hashes of all rows in the chosen buckets."""
        kept = Kept()

        def take(batch: pa.RecordBatch, hashes: Hashes) -> None:
            kept.add(hashes, chosen[bucket_of(hashes.ids, len(chosen))])

        await self.walk(take)
        return kept.all()

    async def ids_of(self, hashes: UInt64Array) -> AsyncGenerator[list[str], None]:
        """The ids that have these hashes, which are sorted; in parts."""
        if not len(hashes):
            return

        def work(batch: pa.RecordBatch) -> list[str]:
            ids = batch.column("id")
            found: list[str] = ids.filter(pa.array(among(self.hasher.ids(ids), hashes))).to_pylist()
            return found

        async with aclosing(self.export(Columns(()), _MOST_IDS)) as batches:
            async for batch, _ in batches:
                found = await self.host.in_thread(work, batch)
                if found:
                    yield found

    async def first_ids(self, hashes: UInt64Array, most: int) -> tuple[str, ...]:
        """Some of the ids that have these hashes, which are sorted."""
        named: list[str] = []
        if most < 1:
            return ()
        async with aclosing(self.ids_of(hashes)) as parts:
            async for ids in parts:
                named += ids[: most - len(named)]
                if len(named) >= min(most, len(hashes)):
                    break
        return tuple(named)

    async def get(self, ids: Sequence[str]) -> pa.Table:
        """The whole rows that there are."""
        rows = await self.backend.get(self.handle, ids, self.whole)
        return await self.host.in_thread(rows_to_arrow, rows, self.schema)

    async def looked_up(self, ids: Sequence[str]) -> dict[str, int]:
        """The hash of each row that there is."""
        rows = await self.backend.get(self.handle, ids, self.columns)

        def work() -> dict[str, int]:
            hashes = self.hasher.rows(rows_to_arrow(rows, self.schema, vector=self.vector))
            return dict(zip(rows.ids, hashes.rows.tolist(), strict=True))

        return await self.host.in_thread(work)


async def both(one: Coroutine[Any, Any, _T], other: Coroutine[Any, Any, _S]) -> tuple[_T, _S]:
    """The results of two that run at once; where one fails, the other is stopped first."""
    try:
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(one)
            second = tasks.create_task(other)
    except BaseExceptionGroup as group:
        error = group.exceptions[0]
        raise error from error.__cause__
    return first.result(), second.result()


def rows_to_arrow(rows: Rows, schema: Schema, *, vector: bool = True) -> pa.Table:
    """Whole rows, or whole but for their vectors, in the layout of ``Schema.to_arrow()``."""
    layout = schema.to_arrow()
    columns: dict[str, pa.Array] = {"id": pa.array(rows.ids, type=pa.utf8())}
    if vector and rows.vectors is not None:
        flat = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1), type=pa.float32())
        columns[schema.vector] = pa.FixedSizeListArray.from_arrays(flat, schema.dim)
    for name, field in schema.fields.items():
        columns[name] = pa.array(rows.fields[name], type=field.arrow_type())
    if schema.payload:
        texts = rows.payloads if rows.payloads is not None else [None] * len(rows.ids)
        stored = pa.array(texts, type=pa.utf8())
        columns["payload"] = pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), stored)
    chosen = [field for field in layout if field.name in columns]
    return pa.Table.from_arrays(
        [columns[field.name] for field in chosen],
        schema=pa.schema(chosen, metadata=layout.metadata),
    )


def batch_rows(each: int) -> int:
    """How many rows of about so many bytes to read at once."""
    return max(64, min(_MOST_ROWS, _BATCH_BYTES // each))
