"""Inserting, replacing, changing and deleting rows: each one commit of Lance.

They run alone among all writers of the table (see ``writer``), so what was looked up still holds
when it is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import (
    Expr,
    Float32Array,
    PayloadPatch,
    Schema,
    from_matrix,
    is_extreme,
    last_of_each_id,
    payload_array,
    payload_texts,
    to_matrix,
    without_vector,
)
from aiovec.backend.contract import TableHandle
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import AiovecError, CorruptStoreError, DuplicateIdError

from .index import extremes
from .layout import PAYLOAD
from .reads import condition_of, filtered
from .rows import stored_form
from .session import Opened, Session
from .sql import values as sql
from .sql.filters import id_range_to_sql, ids_to_sql
from .writer import ALONE, Touched, WriteOperation

# Ids of an upsert up to which it pays to see whether any of them exists.
_WORTH_A_LOOK = 100
# Microseconds that an id takes in an IN, most of them to parse and plan it, and those that a row
# of the table takes where all ids are read: what is less decides how ids are looked up.
_COST_IN_LIST, _COST_IN_TABLE = 10.0, 0.15
# Ids in one IN, and rows in a batch of those that are read.
_BLOCK = 10_000
_BATCH = 2**17
# Bytes of rows up to which a merge goes by the index over the ids. Lance then holds the rows,
# several times over, in a pool of 150 MB for each core, or fails. Without it there is no bound.
_MOST_BY_INDEX = 32 * 2**20
# Rows whose payloads are changed at once.
_CHANGED_AT_ONCE = 512


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Rows in the form in which they are written, and what is asked about them."""

    rows: pa.Table
    ids: Sequence[str]
    extreme: bool

    @classmethod
    async def of(cls, rows: pa.Table, schema: Schema) -> Prepared:
        """Looked at before their turn to be written: other calls' commits go on meanwhile."""
        return await hop(weight(rows), partial(cls.now, rows, schema))

    @classmethod
    def now(cls, rows: pa.Table, schema: Schema) -> Prepared:
        vectors = to_matrix(rows.column(schema.vector))
        ids = rows.column("id").to_pylist()
        if schema.vector_nullable:
            vectors = vectors[~without_vector(vectors)]
        return cls(stored_form(rows, schema), ids, is_extreme(vectors))


OnConflict = Literal["fail", "skip", "replace"]


@dataclass(frozen=True, slots=True, eq=False)
class RowsWrite(WriteOperation):
    """An ``insert``, or an ``upsert`` where rows of ids that exist replace the others.

    Its result is how many rows were written.
    """

    handle: TableHandle
    prepared: Prepared
    on_conflict: OnConflict

    @property
    def size(self) -> int:
        return len(self.prepared.ids)

    def joins(self, other: WriteOperation) -> bool:
        return (
            isinstance(other, RowsWrite)
            and other.on_conflict == self.on_conflict
            and _same_table(other.handle, self.handle)
        )

    def _with(self, others: Sequence[WriteOperation]) -> tuple[list[RowsWrite], Sequence[str]]:
        """This and the others, and all their ids: of several calls there are not many."""
        works = [self, *(other for other in others if isinstance(other, RowsWrite))]
        if len(works) == 1:
            return works, self.prepared.ids
        return works, [id for work in works for id in work.prepared.ids]

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return self._with(others)[1]

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        works, every_id = self._with(others)
        table = await session.opened(self.handle)
        if self.on_conflict == "replace":
            rows = pa.concat_tables([work.prepared.rows for work in works])
            if others:
                rows = last_of_each_id(rows, every_id)
            merge = await self._needs_merge(session, table, every_id)
            await self._write(session, table, works, rows, merge=merge)
            return [work.size for work in works]
        there = await existing_ids(session, table, every_id)
        if self.on_conflict == "skip":
            added = await hop(len(every_id), _absent, works, there)
        else:
            added = await hop(len(every_id), _accepted, works, there)
        parts = [part for part in added if isinstance(part, pa.Table) and part.num_rows]
        if parts:
            await self._write(session, table, works, pa.concat_tables(parts), merge=False)
        return [part.num_rows if isinstance(part, pa.Table) else part for part in added]

    @staticmethod
    async def _needs_merge(session: Session, table: Opened, ids: Sequence[str]) -> bool:
        """Return whether some ids may exist. Adding takes a fifth of a merge's time."""
        if len(ids) > _WORTH_A_LOOK:
            return bool(await session.run(table.lance.count_rows()))
        return bool(await existing_ids(session, table, ids))

    @staticmethod
    async def _write(
        session: Session, table: Opened, works: Sequence[RowsWrite], rows: pa.Table, *, merge: bool
    ) -> None:
        if any(work.prepared.extreme for work in works):
            await extremes.mark(session, table)
        if not merge:
            await session.run(table.lance.add(rows))
            return
        builder = table.lance.merge_insert("id").use_index(_uses_index(rows))
        builder = builder.when_matched_update_all().when_not_matched_insert_all()
        # LanceDB takes a null for a bad vector, and all of ours are checked.
        nulls = "null" if table.schema.vector_nullable else "error"
        await session.run(builder.execute(rows, on_bad_vectors=nulls))


def _accepted(works: Sequence[RowsWrite], there: set[str]) -> list[pa.Table | DuplicateIdError]:
    """Return the rows of each insert, or an error if an id exists or is in an insert before it."""
    outcomes: list[pa.Table | DuplicateIdError] = []
    for work in works:
        own = work.prepared.ids
        twice = [id for id in own if id in there]
        if twice:
            outcomes.append(DuplicateIdError(work.handle.name, twice))
        else:
            outcomes.append(work.prepared.rows)
            if work is not works[-1]:
                there.update(own)
    return outcomes


def _absent(works: Sequence[RowsWrite], there: set[str]) -> list[pa.Table]:
    """Return the rows of each insert whose ids do not exist and are in no insert before it."""
    parts = []
    for work in works:
        own = work.prepared.ids
        new = [row for row, id in enumerate(own) if id not in there]
        rows = work.prepared.rows
        parts.append(rows if len(new) == len(own) else rows.take(pa.array(new, pa.int64())))
        if work is not works[-1]:
            there.update(own)
    return parts


def _same_table(one: TableHandle, other: TableHandle) -> bool:
    return one.name == other.name and one.token == other.token


def _stored(value: Any) -> Any:
    """As ``stored_form`` does with a column."""
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


async def existing_ids(session: Session, table: Opened, ids: Sequence[str]) -> set[str]:
    """Those of the ids that the table has."""
    count = await session.run(table.lance.count_rows())
    if not count or not ids:
        return set()
    found: set[str] = set()
    if len(ids) * _COST_IN_LIST > count * _COST_IN_TABLE:
        wanted, between = await hop(len(ids), _sought, ids)
        query = table.lance.query().select(["id"]).where(between)
        batches = await session.run(query.to_batches(max_batch_length=_BATCH))
        with session.guarded():
            async for batch in batches:
                await hop(weight(batch), _add_ids, found, batch, wanted)
        return found
    for start in range(0, len(ids), _BLOCK):
        condition = await selection(ids[start : start + _BLOCK], None)
        rows = await session.fetch(await filtered(table.lance.query().select(["id"]), condition))
        await hop(weight(rows), _add_ids, found, rows)
    return found


def _sought(ids: Sequence[str]) -> tuple[pa.Array, str]:
    """The ids as Arrow has them, and a condition that rows with one of them meet."""
    return pa.array(ids, pa.utf8()), id_range_to_sql(min(ids), max(ids))


def _add_ids(
    found: set[str], rows: pa.Table | pa.RecordBatch, wanted: pa.Array | None = None
) -> None:
    """Add the ids of the rows, without those that are not wanted."""
    column = rows.column("id")
    if wanted is not None:
        column = column.filter(pc.is_in(column, value_set=wanted))
    found.update(column.to_pylist())


async def selection(ids: Sequence[str] | None, where: Expr | None) -> str | None:
    """The condition for the rows that both select; None for every row."""
    parts = []
    if ids is not None:
        parts.append(await hop(len(ids), ids_to_sql, ids))
    sql = await condition_of(where)
    if sql is not None:
        parts.append(f"({sql})" if parts else sql)
    return " AND ".join(parts) or None


async def selected_ids(
    session: Session, handle: TableHandle, ids: Sequence[str] | None, where: Expr | None
) -> Sequence[str]:
    """The ids of the rows that both select, or more of them."""
    if ids is not None:
        return ids
    table = await session.opened(handle)
    query = table.lance.query().select(["id"])
    condition = await selection(None, where)
    if condition is not None:
        query = query.where(condition)
    found = await session.fetch(query)
    column = found.column("id")
    return await hop(len(column), lambda: cast("list[str]", column.to_pylist()))


@dataclass(frozen=True, slots=True, eq=False)
class Delete(WriteOperation):
    handle: TableHandle
    ids: Sequence[str] | None
    where: Expr | None

    @property
    def size(self) -> int:
        return ALONE if self.ids is None or self.where is not None else len(self.ids)

    def joins(self, other: WriteOperation) -> bool:
        return (
            isinstance(other, Delete)
            and _same_table(other.handle, self.handle)
            and None not in (self.ids, other.ids)
            and self.where is other.where is None
        )

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        if not others:
            return await selected_ids(session, self.handle, self.ids, self.where)
        works = [work for work in (self, *others) if isinstance(work, Delete)]
        return [id for work in works for id in work.ids or ()]

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        if not others:
            condition = await selection(self.ids, self.where) or "TRUE"
            if session.managed:  # its answer has no count
                count = await session.run(table.lance.count_rows(condition))
                if count:
                    await session.run(table.lance.delete(condition))
                return [count]
            # To count them first takes most of the time of a delete.
            done: Any = await session.run(table.lance.delete(condition))  # not all of it is typed
            return [int(done.num_deleted_rows)]
        calls = [work.ids or () for work in (self, *others) if isinstance(work, Delete)]
        there = await existing_ids(session, table, [id for ids in calls for id in ids])
        if there:
            condition = await hop(len(there), lambda: ids_to_sql(sorted(there)))
            await session.run(table.lance.delete(condition))
        counts = []
        for ids in calls:
            gone = there.intersection(ids)
            there -= gone  # of calls with one id the first deleted it
            counts.append(len(gone))
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Update(WriteOperation):
    handle: TableHandle
    values: Mapping[str, Any]
    payload: PayloadPatch
    ids: Sequence[str] | None
    where: Expr | None
    vector: Float32Array | None = None

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return await selected_ids(session, self.handle, self.ids, self.where)

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        condition = await selection(self.ids, self.where)
        takes = self.vector is not None and bool(without_vector(self.vector[None, :])[0])
        if self.vector is not None and not takes and is_extreme(self.vector[None, :]):
            await extremes.mark(session, table)
        if self.payload:
            return [await self._merge(session, table, condition)]
        effort = weight(dict(self.values), self.vector)
        values = await hop(effort, self._assigned, table.schema, takes)
        result = await session.run(table.lance.update(updates_sql=values, where=condition))
        return [int(result.rows_updated)]

    def _assigned(self, schema: Schema, takes: bool) -> dict[str, str]:
        """Each column's new value as SQL."""
        values = {
            name: sql.encoded(sql.assigned(_stored(value), schema.fields[name].kind))
            for name, value in self.values.items()
        }
        if takes:
            values[schema.vector] = "NULL"
        elif self.vector is not None:
            # Each number is that of a float32, so Lance's float64 and its cast keep it exactly.
            numbers = ",".join(map(repr, self.vector.astype(float).tolist()))
            values[schema.vector] = f"[{numbers}]"
        return values

    async def _merge(self, session: Session, table: Opened, condition: str | None) -> int:
        """Set keys of each row's own payload. Lance cannot, so the payloads are read for it.

        As Python values a block of rows at a time, and handed on in one commit: Lance holds the
        new payloads once, and each block goes as Lance takes it.
        """
        query = await filtered(table.lance.query().select(["id", PAYLOAD]), condition)
        blocks: deque[pa.RecordBatch] = deque()
        count = 0
        batches = await session.run(query.to_batches(max_batch_length=_CHANGED_AT_ONCE))
        with session.guarded():
            async for batch in batches:
                count += batch.num_rows
                blocks.append(await in_thread(self._changed, batch, table.schema))
        if not count:
            return 0
        layout = blocks[0].schema
        taken = _taken(blocks)
        if self.vector is not None:
            field = table.schema.to_arrow().field(table.schema.vector)
            layout = layout.append(field)
            taken = _with_vector(taken, self.vector, layout)
        reader = pa.RecordBatchReader.from_batches(layout, taken)
        # Not by the index of ids: Lance would write the columns of all rows of a file anew, and
        # take the file out of their indexes.
        builder = table.lance.merge_insert("id").use_index(False)
        nulls = "null" if table.schema.vector_nullable else "error"
        work = builder.when_matched_update_all().execute(reader, on_bad_vectors=nulls)
        await session.run(work)
        return count

    def _changed(self, found: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
        """The columns that change, with the ids."""
        ids = found.column("id").to_pylist()
        payloads = payload_texts(found.column(PAYLOAD))
        try:
            texts = [self.payload.apply(*row) for row in zip(payloads, ids, strict=True)]
        except (ValueError, RecursionError) as exc:
            if isinstance(exc, AiovecError):
                raise
            reason = f"a payload of the table {self.handle.name!r} is not a JSON object"
            raise CorruptStoreError(self.handle.name, reason) from exc
        layout = schema.to_arrow()
        columns = [found.column("id"), payload_array(texts)]
        named = [layout.field("id"), layout.field(PAYLOAD)]
        for name, value in self.values.items():
            field = layout.field(name)
            one = pa.array([_stored(value)], type=field.type)
            columns.append(pa.concat_arrays([one]).take(pa.array([0] * found.num_rows)))
            named.append(field)
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(named))


def _uses_index(rows: pa.Table) -> bool:
    """Return whether a merge of these rows may look their ids up in the index."""
    return bool(rows.get_total_buffer_size() <= _MOST_BY_INDEX)


def _taken(blocks: deque[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while blocks:
        yield blocks.popleft()


def _with_vector(
    blocks: Iterator[pa.RecordBatch], vector: Float32Array, layout: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The blocks with the same vector for each row, made as each of them is taken."""
    for block in blocks:
        matrix = np.tile(vector, (block.num_rows, 1))
        vectors = from_matrix(matrix, without_vector(matrix))
        yield pa.RecordBatch.from_arrays([*block.columns, vectors], schema=layout)


@dataclass(frozen=True, slots=True, eq=False)
class SetVectors(WriteOperation):
    """New vectors for rows of these ids, which are distinct. Its result is how many existed."""

    handle: TableHandle
    ids: Sequence[str]
    vectors: Float32Array
    extreme: bool

    async def touches(self, session: Session, others: Sequence[WriteOperation]) -> Touched:
        return self.ids

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        if self.extreme:
            await extremes.mark(session, table)
        layout = table.schema.to_arrow()
        fields = [layout.field("id"), layout.field(table.schema.vector)]
        columns = [pa.array(self.ids, pa.utf8()), from_matrix(self.vectors)]
        rows = pa.Table.from_arrays(columns, schema=pa.schema(fields))
        builder = table.lance.merge_insert("id").use_index(False)  # as for ``Update``
        result = await session.run(builder.when_matched_update_all().execute(rows))
        return [int(result.num_updated_rows)]
