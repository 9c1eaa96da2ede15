"""Inserting, replacing, changing and deleting rows: each one commit of Lance.

They run alone among all writers of the table (see ``writer``), so what was looked up still holds
when it is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import TableHandle
from aiovec.errors import DuplicateIdError
from aiovec.filters import Expr
from aiovec.measuring import is_extreme
from aiovec.schema import Schema

from . import literals
from .filters import id_range_to_sql, ids_to_sql, to_sql
from .layout import EXTREME, PAYLOAD
from .rows import matrix_of, off_loop, payload_array, stored_form, texts_of
from .session import Opened, Session
from .writer import ALONE, Work

# Ids of an upsert up to which it pays to see whether any of them exists.
_WORTH_A_LOOK = 100
# Microseconds that an id takes in an IN, most of them to parse and plan it, and those that a row
# of the table takes where all ids are read: what is less decides how ids are looked up.
_COST_IN_LIST, _COST_IN_TABLE = 10.0, 0.15
# Ids in one IN, and rows in a batch of those that are read.
_BLOCK = 10_000
_BATCH = 2**17


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Rows in the form in which they are written, and what is asked about them."""

    rows: pa.Table
    ids: Sequence[str]
    extreme: bool

    @classmethod
    async def of(cls, rows: pa.Table, schema: Schema) -> Prepared:
        """Looked at before their turn to be written: other calls' commits go on meanwhile."""
        return await off_loop(rows.num_rows, partial(cls.now, rows, schema))

    @classmethod
    def now(cls, rows: pa.Table, schema: Schema) -> Prepared:
        vectors = matrix_of(rows.column(schema.vector))
        ids = rows.column("id").to_pylist()
        return cls(stored_form(rows, schema), ids, is_extreme(vectors))


@dataclass(frozen=True, slots=True, eq=False)
class RowsWrite(Work):
    """An ``insert``, or with ``replace`` an ``upsert``."""

    handle: TableHandle
    prepared: Prepared
    replace: bool

    @property
    def size(self) -> int:
        return len(self.prepared.ids)

    def joins(self, other: Work) -> bool:
        return (
            isinstance(other, RowsWrite)
            and other.replace is self.replace
            and _same_table(other.handle, self.handle)
        )

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        works = [self, *(other for other in others if isinstance(other, RowsWrite))]
        table = await session.opened(self.handle)
        every_id = [id for work in works for id in work.prepared.ids]
        if self.replace:
            rows = pa.concat_tables([work.prepared.rows for work in works])
            if others:
                rows = _last_of_each_id(rows, every_id)
            merge = await self._needs_merge(session, table, every_id)
            await self._write(session, table, works, rows, merge=merge)
            return [None] * len(works)
        there = await existing_ids(session, table, every_id)
        outcomes: list[Any] = []
        accepted = []
        for work in works:
            own = work.prepared.ids
            twice = [id for id in own if id in there]
            if twice:
                outcomes.append(DuplicateIdError(self.handle.name, twice))
                continue
            there.update(own)
            accepted.append(work)
            outcomes.append(None)
        if accepted:
            rows = pa.concat_tables([work.prepared.rows for work in accepted])
            await self._write(session, table, accepted, rows, merge=False)
        return outcomes

    @staticmethod
    async def _needs_merge(session: Session, table: Opened, ids: Sequence[str]) -> bool:
        """Whether some ids may exist. Adding takes a fifth of a merge's time, looking the rest."""
        if len(ids) > _WORTH_A_LOOK:
            return bool(await session.run(table.lance.count_rows()))
        return bool(await existing_ids(session, table, ids))

    @staticmethod
    async def _write(
        session: Session, table: Opened, works: Sequence[RowsWrite], rows: pa.Table, *, merge: bool
    ) -> None:
        if any(work.prepared.extreme for work in works):
            await note_extreme(session, table)
        if not merge:
            await session.run(table.lance.add(rows))
            return
        builder = table.lance.merge_insert("id")
        builder = builder.when_matched_update_all().when_not_matched_insert_all()
        await session.run(builder.execute(rows))


def _same_table(one: TableHandle, other: TableHandle) -> bool:
    return one.name == other.name and one.token == other.token


async def note_extreme(session: Session, table: Opened) -> None:
    """Mark the table before it gets a vector that Lance's sums cannot rank."""
    if table.extreme:
        return
    await session.run(
        table.lance.update_field_metadata({"path": table.schema.vector, "metadata": {EXTREME: "1"}})
    )


def _last_of_each_id(rows: pa.Table, ids: Sequence[str]) -> pa.Table:
    last = dict(zip(ids, range(len(ids)), strict=True))
    return rows if len(last) == len(ids) else rows.take(sorted(last.values()))


def _stored(value: Any) -> Any:
    """As ``stored_form`` does with a column."""
    return value + 0.0 if isinstance(value, float) else value


async def existing_ids(session: Session, table: Opened, ids: Sequence[str]) -> set[str]:
    """Those of the ids that the table has."""
    count = await session.run(table.lance.count_rows())
    if not count or not ids:
        return set()
    found: set[str] = set()
    if len(ids) * _COST_IN_LIST > count * _COST_IN_TABLE:
        wanted = pa.array(ids, pa.utf8())
        query = table.lance.query().select(["id"]).where(id_range_to_sql(min(ids), max(ids)))
        batches = await session.run(query.to_batches(max_batch_length=_BATCH))
        with session.guarded():
            async for batch in batches:
                found.update(await off_loop(batch.num_rows, partial(_common, batch, wanted)))
        return found
    for start in range(0, len(ids), _BLOCK):
        condition = ids_to_sql(ids[start : start + _BLOCK])
        rows = await session.fetch(table.lance.query().where(condition).select(["id"]))
        found.update(rows.column("id").to_pylist())
    return found


def _common(batch: pa.RecordBatch, wanted: pa.Array) -> list[str]:
    column = batch.column("id")
    return cast("list[str]", column.filter(pc.is_in(column, value_set=wanted)).to_pylist())


async def selection(ids: Sequence[str] | None, where: Expr | None) -> str | None:
    """The condition for the rows that both select; None for every row."""
    parts = []
    if ids is not None:
        parts.append(ids_to_sql(ids))
    if where is not None:
        sql = await off_loop(where.literals, partial(to_sql, where))
        parts.append(f"({sql})" if parts else sql)
    return " AND ".join(parts) or None


@dataclass(frozen=True, slots=True, eq=False)
class Delete(Work):
    handle: TableHandle
    ids: Sequence[str] | None
    where: Expr | None

    @property
    def size(self) -> int:
        return ALONE if self.ids is None or self.where is not None else len(self.ids)

    def joins(self, other: Work) -> bool:
        return (
            isinstance(other, Delete)
            and _same_table(other.handle, self.handle)
            and None not in (self.ids, other.ids)
            and self.where is other.where is None
        )

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        if not others:
            condition = await selection(self.ids, self.where) or "TRUE"
            count = await session.run(table.lance.count_rows(condition))
            if count:
                await session.run(table.lance.delete(condition))
            return [count]
        calls = [work.ids or () for work in (self, *others) if isinstance(work, Delete)]
        there = await existing_ids(session, table, [id for ids in calls for id in ids])
        if there:
            await session.run(table.lance.delete(ids_to_sql(sorted(there))))
        counts = []
        for ids in calls:
            gone = there.intersection(ids)
            there -= gone  # of calls with one id the first deleted it
            counts.append(len(gone))
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Update(Work):
    handle: TableHandle
    values: Mapping[str, Any]
    payload: Mapping[str, Any]
    ids: Sequence[str] | None
    where: Expr | None

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        condition = await selection(self.ids, self.where)
        if self.payload:
            return [await self._merge(session, table, condition)]
        fields = table.schema.fields
        values = {
            name: literals.assigned(_stored(value), fields[name].kind)
            for name, value in self.values.items()
        }
        result = await session.run(table.lance.update(updates_sql=values, where=condition))
        return [int(result.rows_updated)]

    async def _merge(self, session: Session, table: Opened, condition: str | None) -> int:
        """Set keys of each row's own payload. Lance cannot, so the payloads are read for it."""
        query = table.lance.query().select(["id", PAYLOAD])
        if condition is not None:
            query = query.where(condition)
        found = await session.fetch(query)
        if not found.num_rows:
            return 0
        rows = await off_loop(found.num_rows, lambda: self._changed(found, table.schema))
        builder = table.lance.merge_insert("id").when_matched_update_all()
        await session.run(builder.execute(rows))
        return int(found.num_rows)

    def _changed(self, found: pa.Table, schema: Schema) -> pa.Table:
        """The columns that change, with the ids."""
        texts: list[str | None] = [
            json.dumps(
                {**(json.loads(text) if text else {}), **self.payload},
                ensure_ascii=False,
                separators=(",", ":"),
            )
            for text in texts_of(found.column(PAYLOAD))
        ]
        layout = schema.to_arrow()
        columns = [found.column("id"), payload_array(texts)]
        named = [layout.field("id"), layout.field(PAYLOAD)]
        for name, value in self.values.items():
            field = layout.field(name)
            one = pa.array([_stored(value)], type=field.type)
            columns.append(pa.concat_arrays([one]).take(pa.array([0] * found.num_rows)))
            named.append(field)
        return pa.Table.from_arrays(columns, schema=pa.schema(named))
