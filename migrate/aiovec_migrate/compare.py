"""Find the rows in which two tables differ, and copy the differences.

Both tables are streamed at the same time, and only two hashes per row (``hashes``), 16 bytes, stay
in memory. Tables with more rows than ``Limits.compared_rows`` are read several times, each time for
another part of the ids, to limit memory use.

The tables may change during the comparison. Each table is read in a separate snapshot, so the
caller must apply later changes, and then compare the differing rows again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa

from aiovec.backend import Schema, UInt64Array
from aiovec.backend.changes import Delete, Upsert
from aiovec.backend.contract import Columns, Get
from aiovec.backend.rows import Batch
from aiovec.backend.threads import in_thread, together
from aiovec.errors import MigrationError

from .hashes import Hasher, Hashes, among, unlike
from .tables import OpenTable, everything, row_bytes
from .work import Limits

Progress = Callable[[int], None]
"""Called with the number of rows just read from either table."""

Change = Callable[[pa.Table], Awaitable[pa.Table]]
"""Turns rows of the source into rows of the target."""

# Bytes hashed or written at a time: enough rows to make calls on whole columns worthwhile, but only
# a few times the size of a core's cache.
_BATCH_BYTES = 8 * 2**20
_MOST_ROWS = 4096
# Ids read at a time, and rows looked up at a time.
_MOST_IDS = 2**14
_LOOKED_UP = 512
# If more than this share of the rows is needed, read all rows instead of single rows.
_MANY = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences of two tables.

    ``missing`` counts the rows that only the source has, ``extra`` the rows that only the target
    has, and ``different`` the rows whose values differ. The tuples list the first ids of each kind.
    """

    source_rows: int = 0
    target_rows: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    missing_ids: tuple[str, ...] = ()
    extra_ids: tuple[str, ...] = ()
    different_ids: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """The number of rows that differ."""
        return self.missing + self.extra + self.different

    @property
    def ids(self) -> tuple[str, ...]:
        """The listed ids of all three kinds."""
        return self.missing_ids + self.different_ids + self.extra_ids


@dataclass(frozen=True, slots=True)
class Unlike:
    """The numbers of rows in both tables, and the sorted hashes of the ids whose rows differ."""

    source_rows: int
    target_rows: int
    missing: UInt64Array
    extra: UInt64Array
    different: UInt64Array


@dataclass(slots=True, eq=False)
class Comparison:
    """Compares one table in two stores, any number of times.

    ``size`` is the number of rows that are hashed or written at a time. With ``ids_alone``, only
    ids are compared, so the schemas may differ. Every method may raise StaleTableError.
    """

    source: OpenTable
    target: OpenTable
    limits: Limits
    vector: bool = True
    size: int = _MOST_IDS
    ids_alone: bool = False
    _hasher: Hasher = field(init=False)

    def __post_init__(self) -> None:
        # Both tables are hashed by the source's fields; other parts of the schemas are ignored.
        schema = Schema(1, payload=False) if self.ids_alone else self.source.schema
        self._hasher = Hasher(schema, vector=self.vector)

    @classmethod
    async def of(
        cls, source: OpenTable, target: OpenTable, limits: Limits, *, vector: bool = True
    ) -> Comparison:
        """Return a comparison. Raises MigrationError if the tables' rows can never be equal."""
        _check_comparable(source, target, vector)
        each = await row_bytes(source, target)
        size = max(1, min(_MOST_ROWS, _BATCH_BYTES // each))
        return cls(source, target, limits, vector=vector, size=size)

    async def unlike(self, progress: Progress = lambda rows: None) -> Unlike:
        """Compare every row of both tables; return the hashes of the ids whose rows differ."""
        rows = [await table.count() for table in (self.source, self.target)]
        passes = 1 + max(rows) // self.limits.compared_rows
        parts: list[tuple[UInt64Array, UInt64Array, UInt64Array]] = []
        for part in range(passes):
            hashes = partial(self._hashes, part=part, passes=passes, progress=progress)
            (rows[0], source_hashes), (rows[1], target_hashes) = await together(
                partial(hashes, table) for table in (self.source, self.target)
            )
            parts.append(await in_thread(unlike, source_hashes, target_hashes))
        kinds = (np.sort(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        return Unlike(rows[0], rows[1], *kinds)

    async def _hashes(
        self, table: OpenTable, part: int, passes: int, progress: Progress
    ) -> tuple[int, Hashes]:
        """Return the table's number of rows, and the hashes of the rows with ids in this part.

        A thread hashes each batch while the next batch is read.
        """
        kept: list[Hashes] = []
        rows = 0

        def work(batch: pa.RecordBatch) -> None:
            hashes = self._hasher.rows(batch)
            if passes > 1:
                chosen = hashes.ids % np.uint64(passes) == np.uint64(part)
                hashes = Hashes(hashes.ids[chosen], hashes.rows[chosen])
            kept.append(hashes)

        hashing: asyncio.Task[None] | None = None
        try:
            columns = everything(table.schema, vector=self.vector)
            every = self._export(table, Columns(()) if self.ids_alone else columns)
            async with aclosing(every) as batches:
                async for batch in batches:
                    if hashing is not None:
                        await hashing
                    rows += batch.num_rows
                    progress(batch.num_rows)
                    hashing = asyncio.ensure_future(in_thread(work, batch))
            if hashing is not None:
                await hashing
        finally:
            if hashing is not None and not hashing.done():
                hashing.cancel()
                await asyncio.wait([hashing])
        nothing = np.empty(0, dtype=np.uint64)
        ids = np.concatenate([nothing, *(each.ids for each in kept)])
        return rows, Hashes(ids, np.concatenate([nothing, *(each.rows for each in kept)]))

    async def _export(
        self, table: OpenTable, columns: Columns, size: int = 0
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        rows = table.backend.export(
            table.handle, where=None, columns=columns, after=None, batch_size=size or self.size
        )
        async with aclosing(rows) as batches:
            async for batch, _ in batches:
                yield batch

    async def _ids_of(self, table: OpenTable, hashes: UInt64Array) -> AsyncGenerator[list[str]]:
        """Yield lists of the table's ids whose hashes are in the sorted array ``hashes``."""

        def work(batch: pa.RecordBatch) -> list[str]:
            ids = batch.column("id")
            return list(ids.filter(pa.array(among(self._hasher.ids(ids), hashes))).to_pylist())

        if len(hashes):
            async with aclosing(self._export(table, Columns(()), _MOST_IDS)) as batches:
                async for batch in batches:
                    if ids := await in_thread(work, batch):
                        yield ids

    async def named(self, unlike: Unlike, most: int = 100) -> Difference:
        """Count the rows that differ, and list up to ``most`` ids of each kind."""

        async def first(table: OpenTable, hashes: UInt64Array) -> tuple[str, ...]:
            named: list[str] = []
            async with aclosing(self._ids_of(table, hashes)) as parts:
                async for ids in parts:
                    named += ids[: most - len(named)]
                    if len(named) >= min(most, len(hashes)):
                        break
            return tuple(named)

        return Difference(
            unlike.source_rows,
            unlike.target_rows,
            len(unlike.missing),
            len(unlike.extra),
            len(unlike.different),
            await first(self.source, unlike.missing),
            await first(self.target, unlike.extra),
            await first(self.source, unlike.different),
        )

    async def bring_over(self, unlike: Unlike, change: Change) -> None:
        """Delete the rows that only the target has, and write the missing and different rows.

        A backend with bulk loads adds missing rows without checking whether they exist, because
        nobody else writes to the target. After an error, some of these rows may exist, so the
        caller must compare the tables again.
        """
        target, backend = self.target, self.target.backend
        async with aclosing(self._ids_of(target, unlike.extra)) as parts:
            async for ids in parts:
                await backend.write(target.handle, Delete(ids))
        # Ids with the same hash may be in both lists.
        missing = np.setdiff1d(unlike.missing, unlike.different)
        bulk = backend.supports("bulk-load")
        together = np.union1d(missing, unlike.different)
        for wanted, adds in (
            ((missing, True), (unlike.different, False)) if bulk else ((together, False),)
        ):
            async with aclosing(self._rows_of(wanted, unlike.source_rows, adds)) as tables:
                async for rows in tables:
                    changed = await change(rows)
                    if adds:
                        await backend.bulk_add(target.handle, changed)
                    else:
                        new = await in_thread(Batch.of_table, changed, target.schema)
                        await backend.write(target.handle, Upsert(new, moves=True))

    def _rows_of(
        self, wanted: UInt64Array, rows: int, bulk: bool
    ) -> AsyncGenerator[pa.Table, None]:
        """Yield the source's rows whose ids have these hashes, as tables that are never empty."""
        if len(wanted) <= max(_LOOKED_UP, _MANY * rows):
            return self._single(wanted)
        limits = self.limits
        most = (limits.bulk_rows, limits.bulk_bytes) if bulk else (self.size, _BATCH_BYTES)
        return self._filtered(wanted, *most)

    async def _single(self, wanted: UInt64Array) -> AsyncGenerator[pa.Table, None]:
        source = self.source
        async with aclosing(self._ids_of(source, wanted)) as parts:
            async for ids in parts:
                for start in range(0, len(ids), min(_LOOKED_UP, self.size)):
                    block = ids[start : start + min(_LOOKED_UP, self.size)]
                    as_table = partial(Batch.table, schema=source.schema)
                    read = Get(block, everything(source.schema), as_table)
                    rows = await source.backend.read(source.handle, read)
                    if rows.num_rows:
                        yield rows

    async def _filtered(
        self, wanted: UInt64Array, most_rows: int, most_bytes: int
    ) -> AsyncGenerator[pa.Table, None]:
        layout = self.source.schema.to_arrow()

        def chosen(batch: pa.RecordBatch) -> pa.Table:
            rows = pa.Table.from_batches([batch]).cast(layout)
            return rows.filter(pa.array(among(self._hasher.ids(batch.column("id")), wanted)))

        waiting: list[pa.Table] = []
        count = bytes_ = 0
        everywhere = self._export(self.source, everything(self.source.schema))
        async with aclosing(everywhere) as batches:
            async for batch in batches:
                rows = await in_thread(chosen, batch)
                if count and (
                    count + rows.num_rows > most_rows or bytes_ + rows.nbytes > most_bytes
                ):
                    yield pa.concat_tables(waiting)
                    waiting, count, bytes_ = [], 0, 0
                waiting.append(rows)
                count, bytes_ = count + rows.num_rows, bytes_ + rows.nbytes
        if count:
            yield pa.concat_tables(waiting)

    # Single rows

    async def unlike_among(self, ids: Sequence[str]) -> list[str]:
        """Return the ids whose rows differ now, or exist in only one table."""
        differing: list[str] = []
        for start in range(0, len(ids), self.size):
            block = ids[start : start + self.size]
            source_rows, target_rows = await together(
                partial(self._looked_up, table, block) for table in (self.source, self.target)
            )
            differing += [id for id in block if source_rows.get(id) != target_rows.get(id)]
        return differing

    async def unlike_changes(self, upserted: pa.Table, deleted: Sequence[str]) -> list[str]:
        """Return the ids whose rows in the target do not match these changes.

        This does not read the source again, so it works however fast apps write to the source.
        """
        wanted: dict[str, int | None] = dict.fromkeys(deleted)
        if upserted.num_rows:
            hashes = await in_thread(self._hasher.rows, upserted)
            ids = upserted.column("id").to_pylist()
            wanted.update(zip(ids, hashes.rows.tolist(), strict=True))
        every, differing = list(wanted), []
        for start in range(0, len(every), self.size):
            block = every[start : start + self.size]
            stored = await self._looked_up(self.target, block)
            differing += [id for id in block if stored.get(id) != wanted[id]]
        return differing

    async def _looked_up(self, table: OpenTable, ids: Sequence[str]) -> dict[str, int]:
        """Return the hash of each row that exists, by its id."""
        columns = everything(table.schema)

        def hashed(rows: Batch) -> dict[str, int]:
            if not rows.ids:
                return {}
            hashes = self._hasher.rows(rows.table(table.schema))
            return dict(zip(rows.ids, hashes.rows.tolist(), strict=True))

        read = Get(ids, columns, hashed)
        return await table.do(lambda handle: table.backend.read(handle, read))


def _check_comparable(source: OpenTable, target: OpenTable, vector: bool) -> None:
    """Raise MigrationError if the rows of the two tables can never be equal."""

    def shape(schema: Schema) -> list[object]:
        kinds = {name: field.kind for name, field in schema.fields.items()}
        return [kinds, schema.payload, (schema.vector, schema.dim) if vector else None]

    if shape(source.schema) != shape(target.schema):
        raise MigrationError(
            f"the rows of table {source.name!r} cannot be compared, because the target has another "
            "schema: " + "; ".join(target.schema.differences(source.schema))
        )
