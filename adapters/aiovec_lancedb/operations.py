"""Inserting, replacing, changing and deleting rows: each one commit of Lance, or one of a group.

They run alone among all writers of the table (see ``commit``), so what was looked up still holds
when it is written. In a group, the rows that its calls name are read, the calls are done to them in
memory in their order, and what became of each row is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import (
    Expr,
    Float32Array,
    PayloadPatch,
    Schema,
    from_matrix,
    payload_array,
    payload_texts,
    python_values,
    without_vector,
)
from aiovec.backend.contract import Columns, TableHandle
from aiovec.backend.limits import copy_of_error
from aiovec.backend.rows import NewRows, partition_fields
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import (
    AiovecError,
    CorruptStoreError,
    DuplicateIdError,
)

from .changes import CREATED
from .commit import ALONE, WriteOperation
from .errors import ConflictError, unknown_outcome
from .layout import PAYLOAD
from .net_rows import NetRows, Row, is_known, looked_at
from .reads import ADDRESS, condition_of, rows_by_id
from .reads import rows_of as stored_rows
from .session import Opened
from .sql import values as sql
from .sql.filters import id_range_to_sql, ids_to_sql

# Ids of upserts up to which it pays to see whether any of them exists: adding takes a fifth of a
# merge's time.
_WORTH_A_LOOK = 100
# Microseconds that an id takes in an IN, most of them to parse and plan it, and those that a row
# of the table takes where all ids are read: what is less decides how ids are looked up.
_COST_IN_LIST, _COST_IN_TABLE = 10.0, 0.15
# Rows in a batch of those that are read.
_BATCH = 2**17
# Bytes of rows up to which a merge goes by the index over the ids. Lance then holds the rows,
# several times over, in a pool of 150 MB for each core, or fails. Without it there is no bound.
_MOST_BY_INDEX = 32 * 2**20
# Rows of the table for each row that is merged from which the index is faster than to read all ids:
# 53 rows took 26 ms by it and 19 ms without among 40,000, 50 and 60 ms among 200,000.
_ROWS_BY_INDEX = 3000
# Rows of a table that are taken from it, to be in a group.
_FEW = 64
# Rows whose payloads are changed at once.
_CHANGED_AT_ONCE = 512
# Rows up to which a change of rows may be in a group, where they are read whole and written anew;
# each counts for as many rows of the group, so no more than 256 old rows are in memory.
_MOST_CHANGED = 64
_SIZE_OF_CHANGED = 32
# For ``hop``: values to look at for each row of a group.
_COLUMNS_A_ROW = 8


def stored_form(rows: pa.Table, schema: Schema) -> pa.Table:
    """The rows as they are written: a negative zero as zero, for Lance would sort it before."""
    columns = rows.columns
    for place, name in enumerate(rows.column_names):
        field = schema.fields.get(name)
        if field is None or field.item_kind != "float":
            continue
        column = columns[place]
        if field.is_list:
            column = pa.chunked_array(map(_without_negative_zeros, column.chunks), column.type)
        else:
            column = pc.add(column, 0.0)
        columns[place] = column
    return pa.Table.from_arrays(columns, schema=rows.schema)


def _without_negative_zeros(lists: pa.ListArray) -> pa.ListArray:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    items = pc.add(lists.flatten(), 0.0)  # without what lies below a null
    return pa.ListArray.from_arrays(pa.array(offsets), items, mask=lists.is_null())


# The condition by which a merge replaces no row.
_NEVER = "FALSE"
OnConflict = Literal["fail", "skip", "replace", "move"]
"""To move is to replace, also in another partition."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsOperation(WriteOperation):
    """A write of rows of one table, whose result is a number of rows.

    ``apply`` does it to the rows that it names, in memory and in a group, or raises its error and
    does nothing. ``direct`` has Lance do it, by itself: for an operation that selects rows by a
    filter or names too many, and for a lone one that need not read a row.
    """

    handle: TableHandle
    kind: Literal["fail", "skip", "replace", "move", "change", "delete"]
    named: Sequence[str]
    apply: Callable[[NetRows], int]
    direct: Callable[[Opened], Awaitable[int]] | None
    size: int
    by_rows: bool = False
    """True if it is applied to rows in memory also when it is alone: to merge a column of one row,
    Lance reads all of 40,000 in 340 ms."""

    by_hand = True

    @property
    def repeatable(self) -> bool:
        """True if it may be applied to rows in memory in a bucket, where this is done anew if
        others were faster: of a change to several rows, readers would see some before the others.
        """
        return self.kind != "change" or len(self.named) == 1

    def joins(self, other: WriteOperation, *, exclusive: bool) -> bool:
        if not isinstance(other, RowsOperation) or self.handle.token != other.handle.token:
            return False
        return exclusive or (self.repeatable and other.repeatable)

    async def do(self, table: Opened, others: Sequence[WriteOperation]) -> list[Any]:
        by_rows = self.by_rows and (table.session.exclusive or self.repeatable)
        if self.direct is not None and not others and not by_rows:
            return [await self.direct(table)]
        group = [one for one in (self, *others) if isinstance(one, RowsOperation)]
        return await _apply(table, group)


async def _apply(table: Opened, group: Sequence[RowsOperation]) -> list[Any]:
    """Apply operations in their order to the rows that they name, and write what became of these.

    Each operation is done by one commit, whatever happens between these. In a bucket other
    processes may write in between: operations on rows that they have written get a ConflictError.
    """
    rows_named = sum(len(one.named) for one in group)
    effort = rows_named * _COLUMNS_A_ROW
    changed, asked, unknown = await hop(rows_named, _to_look_up, table, group)
    columns = _all(table.schema)
    found, existing = await asyncio.gather(
        rows_by_id(table, changed, columns, address=True),
        existing_rows(table, asked),
    )

    def apply() -> tuple[NetRows, list[Any]]:
        rows = NetRows(table.schema, stored_rows(found, columns, table.schema.vector), existing)
        outcomes: list[Any] = []
        for one in group:
            try:
                outcomes.append(one.apply(rows))
            except AiovecError as exc:
                outcomes.append(exc)
        return rows, outcomes

    rows, outcomes = await hop(effort, apply)

    async def write(ids: Collection[str], condition: str | None, **options: bool) -> None:
        def new() -> pa.Table:
            return stored_form(rows.to_write(ids).table, table.schema)

        await _write(table, await hop(effort, new), condition, **options)

    async def put(ids: Collection[str]) -> None:
        moves = any(one.kind == "move" for one in group)
        if table.session.exclusive:
            merge = rows.replaces or (unknown and await table.rows() > 0)
            await write(ids, None, merge=merge)
        else:
            await write(ids, await hop(effort, _replaced, rows, ids, moves))

    async def change(ids: Collection[str]) -> None:
        await write(ids, _unchanged(rows, found), inserts=False)

    async def delete(ids: Collection[str]) -> None:
        await table.session.run(table.lance.delete(ids_to_sql(sorted(ids))))

    changes = set() if table.session.exclusive else rows.changes
    done = False
    for act, kind, ids in (
        (put, None, rows.written.keys() - changes if changes else rows.written.keys()),
        (change, "change", changes),
        (delete, "delete", rows.gone),
    ):
        if ids:
            try:
                await act(ids)
            except AiovecError as exc:
                if not done:
                    raise
                for place, one in enumerate(group):
                    if one.kind == kind and not ids.isdisjoint(one.named):
                        outcomes[place] = copy_of_error(exc)
            done = True
    return outcomes


def _to_look_up(table: Opened, group: Sequence[RowsOperation]) -> tuple[list[str], list[str], bool]:
    """Return the ids of rows to read, those of rows to look up, and True if there are others, of
    which it is not asked whether they exist: they are merged."""
    named: dict[str, set[str]] = {}
    for one in group:
        named.setdefault(one.kind, set()).update(one.named)
    changed = named.pop("change", set())
    upserted = named.pop("replace", set()) | named.pop("move", set())
    asked = set().union(*named.values()) - changed
    unknown = upserted - changed - asked
    worth = table.session.exclusive and not changed and len(unknown) <= _WORTH_A_LOOK
    if partition_fields(table.schema) or worth:
        asked, unknown = asked | unknown, set()
    if changed and len(asked) <= _MOST_CHANGED:  # to read them too costs less than another request
        changed, asked = changed | asked, set()
    return list(changed), list(asked), bool(unknown)


def _all(schema: Schema) -> Columns:
    return Columns(tuple(schema.fields), schema.payload, vector=True)


def _replaced(rows: NetRows, ids: Collection[str], moves: bool) -> str | None:
    """Return the condition by which a merge replaces a row, in a bucket; None without any."""
    stays = None if moves else _same_partition(rows.schema)
    free = rows.free.intersection(ids)
    if len(free) == len(ids):
        return stays
    if not free:
        return _NEVER
    condition = f"source.{ids_to_sql(sorted(free))}"
    return f"{condition} AND {stays}" if stays else condition


def _unchanged(rows: NetRows, found: pa.Table) -> str:
    """Return the condition that a row is as it was found: one written since lies elsewhere."""
    places = zip(found["id"].to_pylist(), found[ADDRESS].to_pylist(), strict=True)
    changed = [str(place) for id, place in places if id in rows.changes]
    return f"target.{ADDRESS} IN ({', '.join(changed)})"


async def _write(
    table: Opened,
    rows: pa.Table,
    condition: str | None,
    *,
    merge: bool = True,
    inserts: bool = True,
) -> None:
    """Write rows that were looked up.

    The writer of a folder is alone, so what was found still holds. In a bucket Lance alone keeps
    ids unique, among merges that use no index: there a row that exists is replaced only where the
    ``condition`` holds, and one that does not is not made unless the merge ``inserts``. Where that
    leaves rows out, because others were faster, new ones are taken back: ConflictError, and who
    does it anew replaces the others with the same again.
    """
    session = table.session
    if session.exclusive and not merge:
        await session.run(table.lance.add(rows))
        return
    builder = table.lance.merge_insert("id").use_index(
        session.exclusive
        and await table.rows() > _ROWS_BY_INDEX * rows.num_rows
        and rows.get_total_buffer_size() <= _MOST_BY_INDEX
    )
    if session.exclusive:
        builder = builder.when_matched_update_all()
    elif condition != _NEVER:
        builder = builder.when_matched_update_all(where=condition)
    if inserts:
        builder = builder.when_not_matched_insert_all()
    done = await session.run(builder.execute(rows, on_bad_vectors=_bad_vectors(table)))
    if session.exclusive or done.num_inserted_rows + done.num_updated_rows >= rows.num_rows:
        return
    if done.num_inserted_rows:
        with unknown_outcome(session.target, "rows of a call were written, but not all of them"):
            ids = await hop(rows.num_rows, lambda: ids_to_sql(rows["id"].to_pylist()))
            await session.run(table.lance.delete(f"({ids}) AND {CREATED} = {done.version}"))
    raise ConflictError(f"{session.target}: another process wrote some of the rows", 0.0)


def _same_partition(schema: Schema) -> str | None:
    """Return the condition of a merge that a row stays in its partition; None without any."""
    terms = []
    for name in map(sql.name, partition_fields(schema)):
        new, old = f"source.{name}", f"target.{name}"
        terms.append(f"({new} = {old} OR ({new} IS NULL AND {old} IS NULL))")
    return " AND ".join(terms) or None


def put(handle: TableHandle, rows: NewRows, on_conflict: OnConflict) -> RowsOperation:
    """An ``insert``, or an ``upsert`` where rows of ids that exist replace the others."""
    if rows.columns is None and len(rows) <= _FEW:
        columns = stored_rows(rows.table, _all(handle.schema), handle.schema.vector)
        rows = NewRows(handle.schema, columns)
    ids = rows.ids

    def apply(net: NetRows) -> int:
        if on_conflict == "replace":
            net.check_partitions(rows)
        if on_conflict in ("replace", "move"):
            net.put(rows, ids, replaces=True)
            return len(ids)
        new, kept = rows, ids
        if existing := net.existing(ids):
            if on_conflict == "fail":
                raise DuplicateIdError(handle.name, existing)
            places = [place for place, id in enumerate(ids) if id not in net]
            new, kept = rows.take(places), [ids[place] for place in places]
        net.put(new, kept, replaces=False)
        return len(kept)

    # Those that come as a table are worth a commit of their own.
    size = len(ids) if rows.columns is not None else ALONE
    return RowsOperation(handle, on_conflict, ids, apply, None, size)


def add(handle: TableHandle, rows: pa.Table) -> RowsOperation:
    """Rows of ids that the table certainly lacks."""
    new = stored_form(rows, handle.schema)

    async def direct(table: Opened) -> int:
        await table.session.run(table.lance.add(new))
        return int(new.num_rows)

    return RowsOperation(handle, "fail", (), lambda _: 0, direct, ALONE)


def _stored(value: Any) -> Any:
    """As ``stored_form`` does with a column."""
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


async def existing_rows(table: Opened, ids: Sequence[str]) -> dict[str, Row]:
    """The rows that the table has of these ids, with the values of ``looked_at`` alone."""
    found: dict[str, Row] = {}

    def add(rows: pa.Table | pa.RecordBatch, wanted: pa.Array | None = None) -> None:
        if wanted is not None:
            rows = rows.filter(pc.is_in(rows.column("id"), value_set=wanted))
        values = zip(*(python_values(rows.column(name)) for name in ("id", *columns)), strict=True)
        found.update((id, dict(zip(columns, row, strict=True))) for id, *row in values)

    if not ids:
        return found
    columns = looked_at(table.schema)
    query = table.lance.query().select(["id", *columns])
    if len(ids) * _COST_IN_LIST > await table.rows() * _COST_IN_TABLE:
        wanted = await hop(len(ids), pa.array, ids, pa.utf8())
        within = await hop(len(ids), lambda: id_range_to_sql(min(ids), max(ids)))
        async for batch in await table.session.batches(query, _BATCH, within):
            await hop(weight(batch), add, batch, wanted)
    else:
        rows = await rows_by_id(table, ids, Columns(tuple(columns)))
        await hop(weight(rows), add, rows)
    return found


async def selection(ids: Sequence[str] | None, where: Expr | None) -> str | None:
    """The condition for the rows that both select; None for every row."""
    parts = []
    if ids is not None:
        parts.append(await hop(len(ids), ids_to_sql, ids))
    sql = await condition_of(where)
    if sql is not None:
        parts.append(f"({sql})" if parts else sql)
    return " AND ".join(parts) or None


def delete(handle: TableHandle, ids: Sequence[str] | None, where: Expr | None) -> RowsOperation:
    async def direct(table: Opened) -> int:
        condition = await selection(ids, where) or "TRUE"
        # To count them first takes most of the time of a delete.
        done: Any = await table.session.run(table.lance.delete(condition))  # not all of it is typed
        return int(done.num_deleted_rows)

    def apply(rows: NetRows) -> int:
        there = rows.matching(ids or (), where)
        for id in there:
            rows.drop(id)
        return len(there)

    size = ALONE if ids is None or not is_known(where, handle.schema) else len(ids)
    return RowsOperation(handle, "delete", ids or (), apply, direct, size)


def update(
    handle: TableHandle,
    values: Mapping[str, Any],
    payload: PayloadPatch,
    ids: Sequence[str] | None,
    where: Expr | None,
    vector: Float32Array | None = None,
) -> RowsOperation:
    change = _Update(handle, values, payload, ids, where, vector)
    few = ids is not None and is_known(where, handle.schema) and len(ids) <= _MOST_CHANGED
    size = len(ids or ()) * _SIZE_OF_CHANGED if few else ALONE
    by_rows = few and bool(payload)
    return RowsOperation(handle, "change", ids or (), change.apply, change.direct, size, by_rows)


def set_vectors(handle: TableHandle, ids: Sequence[str], vectors: Float32Array) -> RowsOperation:
    """New vectors for rows of these ids, which are distinct. Its result is how many existed."""

    def apply(rows: NetRows) -> int:
        found = [place for place, id in enumerate(ids) if id in rows]
        for place in found:
            rows.change(ids[place], {rows.schema.vector: vectors[place]})
        return len(found)

    async def direct(table: Opened) -> int:
        layout = table.schema.to_arrow()
        fields = [layout.field("id"), layout.field(table.schema.vector)]
        columns = [pa.array(ids, pa.utf8()), from_matrix(vectors)]
        return await _set_columns(table, pa.Table.from_arrays(columns, schema=pa.schema(fields)))

    few = len(ids) <= _MOST_CHANGED
    size = len(ids) * _SIZE_OF_CHANGED if few else ALONE
    return RowsOperation(handle, "change", ids, apply, direct, size, few)


async def _set_columns(table: Opened, rows: pa.Table) -> int:
    """Replace columns of the rows with these ids that exist; return how many do.

    Not by the index of ids: Lance would write the columns of all rows of a file anew, and take the
    file out of their indexes.
    """
    builder = table.lance.merge_insert("id").use_index(False).when_matched_update_all()
    done = await table.session.run(builder.execute(rows, on_bad_vectors=_bad_vectors(table)))
    return int(done.num_updated_rows)


def _bad_vectors(table: Opened) -> str:
    """LanceDB takes a null for a bad vector, and all of ours are checked."""
    return "null" if table.schema.vector_nullable else "error"


@dataclass(frozen=True, slots=True)
class _Update:
    handle: TableHandle
    values: Mapping[str, Any]
    payload: PayloadPatch
    ids: Sequence[str] | None
    where: Expr | None
    vector: Float32Array | None

    def apply(self, rows: NetRows) -> int:
        values = {name: _stored(value) for name, value in self.values.items()}
        if self.vector is not None:
            values[rows.schema.vector] = self.vector
        found = rows.matching(self.ids or (), self.where)
        if self.payload:
            texts = self._patched([rows.payload(id) for id in found], found)
            for id, text in zip(found, texts, strict=True):
                rows.change(id, {**values, PAYLOAD: text})
        else:
            for id in found:
                rows.change(id, values)
        return len(found)

    async def direct(self, table: Opened) -> int:
        condition = await selection(self.ids, self.where)
        if self.payload:
            return await self._merge(table, condition)
        effort = weight(dict(self.values), self.vector)
        values = await hop(effort, self._assigned, table.schema)
        result = await table.session.run(table.lance.update(updates_sql=values, where=condition))
        return int(result.rows_updated)

    def _assigned(self, schema: Schema) -> dict[str, str]:
        """Each column's new value as SQL."""
        values = {
            name: sql.encoded(sql.assigned(_stored(value), schema.fields[name].kind))
            for name, value in self.values.items()
        }
        if self.vector is not None and without_vector(self.vector[None, :])[0]:
            values[schema.vector] = "NULL"
        elif self.vector is not None:
            # Each number is that of a float32, so Lance's float64 and its cast keep it exactly.
            numbers = ",".join(map(repr, self.vector.astype(float).tolist()))
            values[schema.vector] = f"[{numbers}]"
        return values

    async def _merge(self, table: Opened, condition: str | None) -> int:
        """Set keys of each row's own payload. Lance cannot, so the payloads are read for it, as
        Python values a block of rows at a time."""
        query = table.lance.query().select(["id", PAYLOAD])
        found = await table.session.batches(query, _CHANGED_AT_ONCE, condition)
        blocks = [await in_thread(self._changed, batch, table.schema) async for batch in found]
        return await _set_columns(table, pa.Table.from_batches(blocks)) if blocks else 0

    def _changed(self, found: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
        """The columns that change, with the ids."""
        ids = found.column("id").to_pylist()
        texts = self._patched(payload_texts(found.column(PAYLOAD)), ids)
        layout = schema.to_arrow()
        columns = [found.column("id"), payload_array(texts)]
        named = [layout.field("id"), layout.field(PAYLOAD)]
        for name, value in self.values.items():
            field = layout.field(name)
            one = pa.array([_stored(value)], type=field.type)
            columns.append(pa.concat_arrays([one]).take(pa.array([0] * found.num_rows)))
            named.append(field)
        if self.vector is not None:
            matrix = np.tile(self.vector, (found.num_rows, 1))
            columns.append(from_matrix(matrix, without_vector(matrix)))
            named.append(layout.field(schema.vector))
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(named))

    def _patched(self, payloads: Sequence[str | None], ids: Sequence[str]) -> list[str | None]:
        try:
            return [self.payload.apply(*row) for row in zip(payloads, ids, strict=True)]
        except (ValueError, RecursionError) as exc:
            if isinstance(exc, AiovecError):
                raise
            reason = f"a payload of the table {self.handle.name!r} is not a JSON object"
            raise CorruptStoreError(self.handle.name, reason) from exc
