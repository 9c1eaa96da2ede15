"""Find the rows in which two tables differ, and make the tables equal.

Both tables are streamed at once and each row becomes two hashes (``hashes``). They are summed in
buckets of the id's hash, so the order of rows does not count, and neither side waits for the
other's. Where the sums of a bucket differ, its rows' hashes are read once more and kept side by
side; up to ``Limits.kept`` rows they are kept at once, and the second reading is saved. Last the
ids are read, to name those whose hashes differ. What is held does not grow with the tables.

The tables may change meanwhile: each side is a snapshot of its own, so what differs has to be
looked at again with ``verify_ids`` when the changes were applied. An answer "equal" is about
these two snapshots.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from aiovec.backend import (
    BoolArray,
    Schema,
    UInt64Array,
    from_matrix,
    payload_array,
    without_vector,
)
from aiovec.backend.contract import Backend, Columns, StaleTableError, StoredRows, TableHandle
from aiovec.backend.rows import NewRows
from aiovec.errors import MigrationError

from ..ends import OpenTable, least_bytes, row_bytes
from ..host import Host
from .hashes import LIMITS, Digest, Hasher, Hashes, Kept, Limits, among, bucket_of, in_parts, unlike

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

    table: OpenTable
    hasher: Hasher
    host: Host
    vector: bool
    progress: Progress
    size: int
    """The number of rows to read at once."""

    @property
    def backend(self) -> Backend:
        return self.table.backend

    @property
    def handle(self) -> TableHandle:
        return self.table.handle

    @property
    def schema(self) -> Schema:
        return self.table.schema

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


def rows_to_arrow(rows: StoredRows, schema: Schema, *, vector: bool = True) -> pa.Table:
    """Whole rows, or whole but for their vectors, in the layout of ``Schema.to_arrow()``."""
    layout = schema.to_arrow()
    columns: dict[str, pa.Array] = {"id": pa.array(rows.ids, type=pa.utf8())}
    if vector and rows.vectors is not None:
        missing = without_vector(rows.vectors) if schema.vector_nullable else None
        columns[schema.vector] = from_matrix(rows.vectors, missing)
    for name, field in schema.fields.items():
        columns[name] = pa.array(rows.fields[name], type=field.arrow_type())
    if schema.payload:
        texts = rows.payloads if rows.payloads is not None else [None] * len(rows.ids)
        columns["payload"] = payload_array(texts)
    chosen = [field for field in layout if field.name in columns]
    return pa.Table.from_arrays(
        [columns[field.name] for field in chosen],
        schema=pa.schema(chosen, metadata=layout.metadata),
    )


def batch_rows(each: int) -> int:
    """Return the number of rows of about so many bytes to read at once."""
    return max(64, min(_MOST_ROWS, _BATCH_BYTES // each))


Transform = Callable[[pa.Table], Awaitable[pa.Table]]
"""Turns rows of the source into those of the target."""

Leave = Callable[[], Awaitable[None]]
"""Awaited right before each write to the target: NoLeaveError keeps the write from being done."""


class NoLeaveError(MigrationError):
    """Nothing more may be written to the target: it is in use, or a migration is open."""


async def always() -> None:
    """Gives leave to every write."""


# A share of the rows from which on ``sync`` reads them all rather than one by one.
_MANY = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences of two tables.

    ``missing`` counts the rows that only the source has, ``extra`` those that only the target has,
    ``different`` those that differ in any value; the ids are the first of each. ``copied`` and
    ``deleted`` count what ``sync`` did about it.
    """

    source_rows: int
    target_rows: int
    missing: int = 0
    extra: int = 0
    different: int = 0
    missing_ids: tuple[str, ...] = ()
    extra_ids: tuple[str, ...] = ()
    different_ids: tuple[str, ...] = ()
    copied: int = 0
    deleted: int = 0

    @property
    def total(self) -> int:
        """The number of rows that differ."""
        return self.missing + self.extra + self.different

    @property
    def ids(self) -> tuple[str, ...]:
        """All the named ids."""
        return self.missing_ids + self.different_ids + self.extra_ids


async def differing_ids(
    source: OpenTable,
    target: OpenTable,
    *,
    host: Host,
    ignore_vector: bool = False,
    most: int = 100,
    progress: Progress = no_progress,
    limits: Limits = LIMITS,
) -> Difference:
    """Compare every row of a table, and name at most this many ids of each kind of difference."""
    sides = await Sides.of(source, target, host=host, vector=not ignore_vector, progress=progress)
    with unaltered(source.name):
        return await sides.named(await sides.compared(limits), most)


async def sync(
    source: OpenTable,
    target: OpenTable,
    *,
    host: Host,
    most: int = 100,
    transform: Transform | None = None,
    progress: Progress = no_progress,
    limits: Limits = LIMITS,
    leave: Leave = always,
) -> Difference:
    """Make the target's table equal to the source's; what differed, and what was done.

    Only what differs is written, and it may be done again at any time. Where the source takes
    writes meanwhile, do it again until nothing differs, or apply the changes since before it
    began. Nothing else may write to the target. With a ``transform``, which makes new vectors,
    the vectors themselves are not compared.
    """
    check_same_model(source, target, transform)
    sides = await Sides.of(source, target, host=host, vector=transform is None, progress=progress)
    with unaltered(source.name):
        found = await sides.compared(limits)
        difference = await sides.named(found, most)
        if not difference.total:
            return difference
        deleted = await sides.delete_extra(found, leave)
        copied = await sides.copy(found, transform, leave)
        return replace(difference, copied=copied, deleted=deleted)


async def verify_ids(
    source: OpenTable,
    target: OpenTable,
    ids: Sequence[str],
    *,
    host: Host,
    ignore_vector: bool = False,
    each: int | None = None,
) -> list[str]:
    """Those of the ids whose rows are not the same, or on one side only, as of now.

    The sides are read at the same time, not in one transaction: under writes look again. ``each``
    is about what a row takes, where that is known.
    """
    differing: list[str] = []
    if not ids:
        return differing
    sides = await Sides.of(source, target, host=host, vector=not ignore_vector, each=each)
    distinct = list(dict.fromkeys(ids))
    # Where ids have no index, each look reads them all.
    together = sides.source.size
    with unaltered(source.name):
        for start in range(0, len(distinct), together):
            block = distinct[start : start + together]
            mine, theirs = await both(sides.source.looked_up(block), sides.target.looked_up(block))
            differing += [id for id in block if mine.get(id) != theirs.get(id)]
    return differing


async def verify_changes(
    target: OpenTable,
    upserted: pa.Table,
    deleted: Sequence[str],
    *,
    host: Host,
    ignore_vector: bool = False,
) -> list[str]:
    """Those ids of some changes whose rows in the target are not as the changes left them.

    The source is not read again, so it may take writes at any rate.
    """
    schema = target.schema
    hasher = Hasher(schema, vector=not ignore_vector)
    together = batch_rows(max(least_bytes(schema), upserted.nbytes // max(1, upserted.num_rows)))
    side = Side(target, hasher, host, not ignore_vector, no_progress, together)
    wanted: dict[str, int | None] = dict.fromkeys(deleted)
    if upserted.num_rows:
        hashes = await host.in_thread(hasher.rows, upserted)
        wanted.update(zip(upserted.column("id").to_pylist(), hashes.rows.tolist(), strict=True))
    ids = list(wanted)
    differing: list[str] = []
    with unaltered(target.name):
        for start in range(0, len(ids), together):
            block = ids[start : start + together]
            there = await side.looked_up(block)
            differing += [id for id in block if there.get(id) != wanted[id]]
    return differing


@dataclass(frozen=True, slots=True)
class Found:
    """The sums of both sides, and the ids' hashes of what differs, each sorted."""

    source: Digest
    target: Digest
    missing: UInt64Array
    extra: UInt64Array
    different: UInt64Array


@dataclass(frozen=True, slots=True)
class Sides:
    """A table of the source and that of the target."""

    source: Side
    target: Side
    host: Host

    @classmethod
    async def of(
        cls,
        source: OpenTable,
        target: OpenTable,
        *,
        host: Host,
        vector: bool,
        progress: Progress = no_progress,
        each: int | None = None,
    ) -> Sides:
        check_comparable(source.name, source.schema, target.schema, vector)
        size = batch_rows(await row_bytes(source, target) if each is None else each)

        def side(table: OpenTable) -> Side:
            hasher = Hasher(table.schema, vector=vector)
            return Side(table, hasher, host, vector, progress, size)

        return cls(side(source), side(target), host)

    async def compared(self, limits: Limits, seen: Seen | None = None) -> Found:
        """Look at every row of both. ``seen`` gets the target's batches, with the vectors."""
        mine, theirs = await both(self.source.digest(limits), self.target.digest(limits, seen))
        buckets = mine.differing(theirs)
        parts: list[tuple[UInt64Array, UInt64Array, UInt64Array]] = []
        if not buckets.any():
            pass
        elif mine.kept is not None and theirs.kept is not None:
            parts.append(await self.host.in_thread(unlike, mine.kept.all(), theirs.kept.all()))
        else:
            for chosen in in_parts(buckets, mine.counts + theirs.counts, limits.collected):
                hashes = await both(self.source.collect(chosen), self.target.collect(chosen))
                parts.append(await self.host.in_thread(unlike, *hashes))
        mine.kept = theirs.kept = None
        nothing = np.empty(0, dtype=np.uint64)
        missing, extra, different = (
            np.sort(np.concatenate([nothing, *(part[kind] for part in parts)])) for kind in range(3)
        )
        return Found(mine, theirs, missing, extra, different)

    async def named(self, found: Found, most: int) -> Difference:
        """Count the differing rows, and name the first of them."""
        return Difference(
            found.source.rows,
            found.target.rows,
            len(found.missing),
            len(found.extra),
            len(found.different),
            await self.source.first_ids(found.missing, most),
            await self.target.first_ids(found.extra, most),
            await self.source.first_ids(found.different, most),
        )

    async def delete_extra(self, found: Found, leave: Leave = always) -> int:
        """Delete what the source does not have, as of now."""
        deleted = 0
        async with aclosing(self.target.ids_of(found.extra)) as parts:
            async for ids in parts:
                for start in range(0, len(ids), LOOKED_UP):
                    block = ids[start : start + LOOKED_UP]
                    there = await self.source.backend.get(self.source.handle, block, Columns(()))
                    gone = sorted(set(block) - set(there.ids))
                    if gone:
                        await leave()
                        deleted += await self.target.backend.delete(
                            self.target.handle, ids=gone, where=None
                        )
        return deleted

    async def copy(
        self, found: Found, transform: Transform | None = None, leave: Leave = always
    ) -> int:
        """Write what the target does not have, or has otherwise."""
        wanted = np.union1d(found.missing, found.different)
        if not len(wanted):
            return 0
        if len(wanted) > LOOKED_UP and len(wanted) > _MANY * found.source.rows:
            rows = self._all_rows(wanted)
        else:
            rows = self._single_rows(wanted)
        copied = 0
        async with aclosing(rows) as tables:
            async for table in tables:
                if table.num_rows:
                    changed = table if transform is None else await transform(table)
                    await leave()
                    handle = self.target.handle
                    await self.target.backend.upsert(handle, NewRows(handle.schema, changed))
                    copied += table.num_rows
        return copied

    async def _single_rows(self, wanted: UInt64Array) -> AsyncGenerator[pa.Table, None]:
        size = min(LOOKED_UP, self.source.size)
        async with aclosing(self.source.ids_of(wanted)) as parts:
            async for ids in parts:
                for start in range(0, len(ids), size):
                    yield await self.source.get(ids[start : start + size])

    async def _all_rows(self, wanted: UInt64Array) -> AsyncGenerator[pa.Table, None]:
        layout = self.source.schema.to_arrow()
        hasher = self.source.hasher

        def chosen(batch: pa.RecordBatch) -> pa.Table:
            rows = pa.Table.from_batches([batch]).cast(layout)
            return rows.filter(pa.array(among(hasher.ids(batch.column("id")), wanted)))

        waiting: list[pa.Table] = []
        size = self.source.size
        async with aclosing(self.source.export(self.source.whole, size)) as batches:
            async for batch, _ in batches:
                waiting.append(await self.host.in_thread(chosen, batch))
                if sum(table.num_rows for table in waiting) >= size:
                    yield pa.concat_tables(waiting)
                    waiting = []
        if waiting:
            yield pa.concat_tables(waiting)


@contextmanager
def unaltered(table: str) -> Iterator[None]:
    """Raise MigrationError, in words, if the table is altered meanwhile."""
    try:
        yield
    except StaleTableError as exc:
        raise MigrationError(
            f"the table {table!r} was altered during the comparison; try again"
        ) from exc


def check_same_model(source: OpenTable, target: OpenTable, transform: Transform | None) -> None:
    """MigrationError where vectors of one model would be written among those of another."""
    mine, theirs = source.schema.model, target.schema.model
    if transform is None and mine != theirs:
        raise MigrationError(
            f"the vectors of table {source.name!r} are of the model {mine!r} in the source and of "
            f"{theirs!r} in the target, so no rows are written from one to the other"
        )


def check_comparable(table: str, mine: Schema, theirs: Schema, vector: bool) -> None:
    """Refuse tables whose rows can never be the same."""

    def shape(schema: Schema) -> list[object]:
        kinds = {name: field.kind for name, field in schema.fields.items()}
        return [kinds, schema.payload, (schema.vector, schema.dim) if vector else None]

    if shape(mine) != shape(theirs):
        raise MigrationError(
            f"the rows of table {table!r} cannot be compared, because the target has another "
            "schema: " + "; ".join(theirs.differences(mine))
        )
