"""Insert, replace, change and delete rows; each operation takes effect in one Lance commit.

On a folder, no other writer runs at the same time (see ``commit``), so a row that was looked up is
still current when it is written. For a group, the rows that its calls name are read, the calls are
applied to them in memory in order, and the resulting rows are written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Expr, PayloadPatch, Schema, payload_texts, python_values, without_vector
from aiovec.backend.changes import Delete, Insert, Update, UpdateRows, Upsert
from aiovec.backend.contract import Columns, TableHandle, stored_rows
from aiovec.backend.cost import cost_of
from aiovec.backend.limits import copy_of_error
from aiovec.backend.rows import Batch, partition_fields
from aiovec.backend.threads import INLINE_LIMIT, hop, in_thread
from aiovec.errors import AiovecError, CorruptStoreError, DuplicateIdError

from .changes import CREATED
from .commit import ALONE, WriteOperation
from .errors import ConflictError, unknown_outcome
from .layout import PAYLOAD
from .net_rows import NetRows, Row, is_known, looked_at, rows_of
from .reads import ADDRESS, condition_of, rows_by_id
from .session import Snapshot
from .sql import values as sql
from .sql.filters import id_range_to_sql, ids_to_sql

if TYPE_CHECKING:
    from lancedb.merge import LanceMergeInsertBuilder

# Upserts of up to this many ids first check whether any of them exists, because an append takes a
# third of a merge's time. They skip the check after an upsert that replaced rows: the next upsert
# probably does so too, and the check takes a tenth to a third of a merge's time, or more if many
# rows are not indexed.
_WORTH_A_CHECK = 100
# Microseconds per id in an IN, mostly for parsing and planning, and per row of the table when all
# ids are read. The smaller total decides how ids are looked up.
_COST_IN_LIST, _COST_IN_TABLE = 10.0, 0.15
# Rows in a batch.
_BATCH = 2**17
# The largest size in bytes of rows that a merge looks up in the index over the ids. With the index,
# Lance holds several copies of the rows in a pool of 150 MB per core, and fails if they do not fit.
# Without the index there is no limit.
_MOST_BY_INDEX = 32 * 2**20
# Rows of the table per merged row above which the index is faster than reading all ids. Merging 53
# rows into 40,000 took 26 ms with the index and 19 ms without, but 50 and 60 ms into 200,000.
_ROWS_BY_INDEX = 3000
# Up to this many ids are always looked up by an IN, even in a small table.
_FEW = 64
# The number of rows whose payloads are changed at a time.
_CHANGED_AT_ONCE = 512
# A change of up to this many rows may join a group, which reads and rewrites whole rows. Each
# changed row counts as several rows of the group, so at most 256 old rows are in memory.
_MOST_CHANGED = 64
_SIZE_OF_CHANGED = 32
# For ``hop``: the number of values to process for each row of a group.
_COLUMNS_A_ROW = 8


def stored_form(rows: pa.Table, schema: Schema) -> pa.Table:
    """Return the rows with each -0.0 replaced by 0.0, because Lance would sort it before 0.0."""
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
    items = pc.add(lists.flatten(), 0.0)  # without the values under a null
    return pa.ListArray.from_arrays(pa.array(offsets), items, mask=lists.is_null())


# The condition of a merge that replaces no row.
_NEVER = "FALSE"
OnConflict = Literal["fail", "skip", "replace", "move"]
"""``move`` is like ``replace``, but may also change a row's partition."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsOperation(WriteOperation):
    """A write to one table's rows. Its result is a number of rows.

    In a group, ``apply`` applies the write in memory to the rows with the ids in ``named``, or
    raises an error and changes nothing. ``direct`` lets Lance do the write in a separate commit,
    and is used if the write has a filter or too many ids, or if no other write has joined the group
    and no row has to be read.
    """

    handle: TableHandle
    kind: Literal["fail", "skip", "replace", "move", "change", "delete"]
    named: Sequence[str]
    apply: Callable[[NetRows], int]
    direct: Callable[[Snapshot], Awaitable[int]] | None
    size: int
    by_rows: bool = False
    """True if the write is applied in memory even when it is alone in its group: to merge a column
    of one row among 40,000, Lance reads all rows, which takes 340 ms."""

    by_hand = True

    @property
    def repeatable(self) -> bool:
        """True if the write may be applied in memory in a bucket.

        In a bucket, a write is retried if another writer commits first. A change of several rows is
        not applied in memory: readers could see only some of the changed rows.
        """
        return self.kind != "change" or len(self.named) == 1

    def joins(self, other: WriteOperation, *, exclusive: bool) -> bool:
        if not isinstance(other, RowsOperation) or self.handle.epoch != other.handle.epoch:
            return False
        return exclusive or (self.repeatable and other.repeatable)

    async def do(self, table: Snapshot, others: Sequence[WriteOperation]) -> list[Any]:
        by_rows = self.by_rows and (table.session.exclusive or self.repeatable)
        if self.direct is not None and not others and not by_rows:
            return [await self.direct(table)]
        group = [work for work in (self, *others) if isinstance(work, RowsOperation)]
        return await _apply(table, group)


async def _apply(table: Snapshot, group: Sequence[RowsOperation]) -> list[Any]:
    """Apply operations in order to the rows that they name, and write the results.

    Each operation takes effect in one commit. In a bucket, other processes may write between two
    commits: operations on rows that those processes have written get a ConflictError.
    """
    rows_named = sum(len(operation.named) for operation in group)
    cost = rows_named * _COLUMNS_A_ROW
    changed, looked_up, unknown = await hop(rows_named, _to_look_up, table, group)
    schema = table.schema
    columns = Columns(tuple(schema.fields), schema.payload, vector=True)
    existing = await existing_rows(table, looked_up)
    old = await rows_by_id(table, changed, columns, address=True) if changed else None

    def apply() -> tuple[NetRows, list[Any]]:
        if old is not None:
            existing.update(rows_of(schema, stored_rows(old, schema, columns)))
        rows = NetRows(schema, existing)
        outcomes: list[Any] = []
        for operation in group:
            try:
                outcomes.append(operation.apply(rows))
            except AiovecError as exc:
                outcomes.append(exc)
        return rows, outcomes

    rows, outcomes = await hop(cost, apply)

    async def act(ids: Collection[str], kind: str) -> None:
        if kind == "delete":
            await table.session.run(table.lance.delete(ids_to_sql(sorted(ids))))
            return
        new = await hop(cost, lambda: _table_of(rows.to_write(ids, columns), schema))
        if kind == "change":
            await _write(table, new, _unchanged(rows, old), inserts=False)
        elif table.session.exclusive:
            merge = rows.replaces or (unknown and await table.rows() > 0)
            replaced = await _write(table, new, None, merge=merge)
            if replaced:
                table.session.replacing.add(table.name)
            elif rows.free:
                table.session.replacing.discard(table.name)
        else:
            moves = any(operation.kind == "move" for operation in group)
            await _write(table, new, await hop(cost, _replaced, rows, ids, moves))

    changes = set() if table.session.exclusive else rows.changes
    done = False
    for kind, ids in (
        ("put", rows.written.keys() - changes if changes else rows.written.keys()),
        ("change", changes),
        ("delete", rows.gone),
    ):
        if ids:
            try:
                await act(ids, kind)
            except AiovecError as exc:
                if not done:
                    raise
                for place, operation in enumerate(group):
                    if operation.kind == kind and not ids.isdisjoint(operation.named):
                        outcomes[place] = copy_of_error(exc)
            done = True
    return outcomes


def _to_look_up(
    table: Snapshot, group: Sequence[RowsOperation]
) -> tuple[list[str], list[str], bool]:
    """Return the ids of rows to read whole, the ids to look up, and whether any other ids are
    merged without a check."""
    named: dict[str, set[str]] = {}
    for operation in group:
        named.setdefault(operation.kind, set()).update(operation.named)
    changed = named.pop("change", set())
    upserted = named.pop("replace", set()) | named.pop("move", set())
    existing = set().union(*named.values()) - changed
    unknown = upserted - changed - existing
    few = table.session.exclusive and not changed and len(unknown) <= _WORTH_A_CHECK
    worth = few and table.name not in table.session.replacing
    if partition_fields(table.schema) or worth:
        existing, unknown = existing | unknown, set()
    # Reading these rows whole as well is cheaper than another request.
    if changed and len(existing) <= _MOST_CHANGED:
        changed, existing = changed | existing, set()
    return list(changed), list(existing), bool(unknown)


def _replaced(rows: NetRows, ids: Collection[str], moves: bool) -> str | None:
    """Return the condition under which a merge in a bucket replaces a row; None if it always
    does."""
    stays = None if moves else _same_partition(rows.schema)
    free = rows.free.intersection(ids)
    if len(free) == len(ids):
        return stays
    if not free:
        return _NEVER
    condition = f"source.{ids_to_sql(sorted(free))}"
    return f"{condition} AND {stays}" if stays else condition


def _unchanged(rows: NetRows, old: pa.Table) -> str:
    """Return the condition that a row still has the address it had when it was read. Any rewrite
    changes the address."""
    places = zip(old["id"].to_pylist(), old[ADDRESS].to_pylist(), strict=True)
    changed = [str(place) for id, place in places if id in rows.changes]
    return f"target.{ADDRESS} IN ({', '.join(changed)})"


async def _write(
    table: Snapshot,
    rows: pa.Table,
    condition: str | None,
    *,
    merge: bool = True,
    inserts: bool = True,
) -> int:
    """Write rows whose ids have been looked up; return how many existing rows they replaced.

    A folder has one writer at a time, so the look-up is still valid. In a bucket, only Lance
    keeps ids unique, and only if all merges work without an index. An existing row is replaced only
    if it meets the ``condition``, and a new row is written only if the merge ``inserts``. If some
    rows are not written, because other writers were faster, this deletes the inserted rows and
    raises ConflictError. The caller can repeat the call, which writes the replaced rows again with
    the same values.
    """
    session = table.session
    if session.exclusive and not merge:
        await session.run(table.lance.add(rows))
        return 0
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
    done = await session.run(_merge(table, builder, rows))
    if session.exclusive or done.num_inserted_rows + done.num_updated_rows >= rows.num_rows:
        return int(done.num_updated_rows)
    if done.num_inserted_rows:
        with unknown_outcome(session.target, "rows of a call were written, but not all of them"):
            ids = await hop(rows.num_rows, lambda: ids_to_sql(rows["id"].to_pylist()))
            await session.run(table.lance.delete(f"({ids}) AND {CREATED} = {done.version}"))
    raise ConflictError(f"{session.target}: another process wrote some of the rows", 0.0)


def _same_partition(schema: Schema) -> str | None:
    """Return the condition that a merge leaves a row in its partition; None without partitions."""
    terms = []
    for name in map(sql.name, partition_fields(schema)):
        new, old = f"source.{name}", f"target.{name}"
        terms.append(f"({new} = {old} OR ({new} IS NULL AND {old} IS NULL))")
    return " AND ".join(terms) or None


def put(handle: TableHandle, change: Insert | Upsert) -> RowsOperation:
    rows, on_conflict = change.rows, _conflict_of(change)
    ids, alone = rows.ids, cost_of(rows) > INLINE_LIMIT

    def apply(net: NetRows) -> int:
        if on_conflict == "replace":
            net.check_partitions(rows)
        if on_conflict in ("replace", "move"):
            net.put(rows, replaces=True, alone=alone)
            return len(ids)
        new = rows
        if existing := net.existing(ids):
            if on_conflict == "fail":
                raise DuplicateIdError(handle.name, existing)
            new = rows.take([place for place, id in enumerate(ids) if id not in net])
        net.put(new, replaces=False, alone=alone)
        return len(new)

    # Many rows are worth a separate commit.
    size = ALONE if alone else len(ids)
    return RowsOperation(handle, on_conflict, ids, apply, None, size)


def _conflict_of(change: Insert | Upsert) -> OnConflict:
    if isinstance(change, Upsert):
        return "move" if change.moves else "replace"
    return "skip" if change.skip_existing else "fail"


def add(handle: TableHandle, rows: pa.Table) -> RowsOperation:
    """Return an operation that appends rows whose ids the table certainly lacks."""
    new = stored_form(rows, handle.schema)

    async def direct(table: Snapshot) -> int:
        await table.session.run(table.lance.add(new))
        return int(new.num_rows)

    return RowsOperation(handle, "fail", (), lambda _: 0, direct, ALONE)


def _stored(value: Any) -> Any:
    """Return the value with each -0.0 replaced by 0.0, like ``stored_form``."""
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return value + 0.0 if isinstance(value, float) else value


async def existing_rows(table: Snapshot, ids: Sequence[str]) -> dict[str, Row]:
    """Return the existing rows with these ids, with only their ``looked_at`` fields."""
    rows_of_ids: dict[str, Row] = {}

    def add(rows: pa.Table | pa.RecordBatch, wanted: pa.Array | None = None) -> None:
        if wanted is not None:
            rows = rows.filter(pc.is_in(rows.column("id"), value_set=wanted))
        values = zip(*(python_values(rows.column(name)) for name in ("id", *columns)), strict=True)
        rows_of_ids.update((id, dict(zip(columns, row, strict=True))) for id, *row in values)

    if not ids:
        return rows_of_ids
    columns = looked_at(table.schema)
    query = table.lance.query().select(["id", *columns])
    many = len(ids) > _FEW and len(ids) * _COST_IN_LIST > await table.rows() * _COST_IN_TABLE
    if many:
        wanted = await hop(len(ids), pa.array, ids, pa.utf8())
        within = await hop(len(ids), lambda: id_range_to_sql(min(ids), max(ids)))
        async for batch in await table.session.batches(query, _BATCH, within):
            await hop(cost_of(batch), add, batch, wanted)
    else:
        rows = await rows_by_id(table, ids, Columns(tuple(columns)))
        await hop(cost_of(rows), add, rows)
    return rows_of_ids


async def selection(ids: Sequence[str] | None, where: Expr | None) -> str | None:
    """Return the condition for the rows with these ids that match ``where``; None for all rows."""
    parts = []
    if ids is not None:
        parts.append(await hop(len(ids), ids_to_sql, ids))
    sql = await condition_of(where)
    if sql is not None:
        parts.append(f"({sql})" if parts else sql)
    return " AND ".join(parts) or None


def delete(handle: TableHandle, change: Delete) -> RowsOperation:
    ids, where = change.ids, change.where

    async def direct(table: Snapshot) -> int:
        condition = await selection(ids, where) or "TRUE"
        # Counting the rows first would take longer than the rest of the delete. The result's type
        # hints are incomplete.
        done: Any = await table.session.run(table.lance.delete(condition))
        return int(done.num_deleted_rows)

    def apply(rows: NetRows) -> int:
        matches = rows.matching(ids or (), where)
        for id in matches:
            rows.drop(id)
        return len(matches)

    size = ALONE if ids is None or not is_known(where, handle.schema) else len(ids)
    return RowsOperation(handle, "delete", ids or (), apply, direct, size)


def update(handle: TableHandle, change: Update) -> RowsOperation:
    act, ids = _Update(handle, change), change.ids
    few = ids is not None and is_known(change.where, handle.schema) and len(ids) <= _MOST_CHANGED
    size = len(ids or ()) * _SIZE_OF_CHANGED if few else ALONE
    by_rows = few and bool(change.payload)
    return RowsOperation(handle, "change", ids or (), act.apply, act.direct, size, by_rows)


def update_rows(handle: TableHandle, change: UpdateRows) -> RowsOperation:
    ids, parts = change.ids, change.parts

    def apply(rows: NetRows) -> int:
        existing = rows.existing(ids)
        change.check(set(existing))
        new: dict[str, Row] = {}
        for part in parts:
            new |= {id: row for id, row in rows_of(rows.schema, part) if id in rows}
        if patched := [id for id in existing if id in change.payloads]:
            patches = [change.payloads[id] for id in patched]
            texts = _patched(handle, patches, [rows.payload(id) for id in patched], patched)
            for id, text in zip(patched, texts, strict=True):
                new[id] = {**new[id], PAYLOAD: text}
        for id, values in new.items():
            rows.change(id, values)
        return len(existing)

    async def direct(table: Snapshot) -> int:
        schema = table.schema
        alike = len({(*part.fields, part.vectors is None) for part in parts}) == 1
        if change.strict:
            await hop(len(ids), change.check, await existing_rows(table, ids))
        if alike and not change.payloads:
            tables = [await hop(cost_of(part), _table_of, part, schema) for part in parts]
            return await _set_columns(table, pa.concat_tables(tables))
        # Lance sets the same columns in all rows, so the missing values are read. The call already
        # holds that many rows in memory, and only one call writes at a time, so this takes no share
        # of the memory.
        named = {name for part in parts for name in part.fields}
        columns = Columns(
            tuple(name for name in schema.fields if name in named),
            bool(change.payloads),
            any(part.vectors is not None for part in parts),
        )
        old = await rows_by_id(table, ids, columns)

        def changed() -> pa.Table:
            rows = NetRows(schema, dict(rows_of(schema, stored_rows(old, schema, columns))))
            apply(rows)
            return _table_of(rows.to_write(rows.written, columns), schema)

        return await _set_columns(table, await hop(cost_of(old), changed)) if len(old) else 0

    few = len(ids) <= _MOST_CHANGED
    size = len(ids) * _SIZE_OF_CHANGED if few else ALONE
    return RowsOperation(handle, "change", ids, apply, direct, size, few)


def _table_of(part: Batch, schema: Schema) -> pa.Table:
    return stored_form(part.table(schema), schema)


async def _set_columns(table: Snapshot, rows: pa.Table) -> int:
    """Write the columns of ``rows`` to existing rows with the same ids; return their number.

    The merge does not use the index over the ids: with it, Lance would rewrite the columns of all
    rows in a file, and remove the file from the columns' indexes.
    """
    builder = table.lance.merge_insert("id").use_index(False).when_matched_update_all()
    done = await table.session.run(_merge(table, builder, rows))
    return int(done.num_updated_rows)


def _merge(table: Snapshot, builder: LanceMergeInsertBuilder, rows: pa.Table) -> Awaitable[Any]:
    """Merge rows whose vectors have been checked.

    LanceDB's client treats a null as a bad vector. It also treats lists of floats named "vector" as
    vectors, and rejects all lengths except one. It does not inspect an opaque column, but casts it
    to the table's type.
    """
    field = table.schema.fields.get("vector")
    if field is not None and field.kind == "list[float]" and "vector" in rows.column_names:
        column = rows.column("vector")
        opaque = pa.opaque(column.type, "list", "aiovec")
        parts = [pa.ExtensionArray.from_storage(opaque, part) for part in column.chunks]
        place = rows.column_names.index("vector")
        rows = rows.set_column(place, "vector", pa.chunked_array(parts, opaque))
    bad = "null" if table.schema.vector_nullable else "error"
    merged: Awaitable[Any] = builder.execute(rows, on_bad_vectors=bad)
    return merged


@dataclass(frozen=True, slots=True)
class _Update:
    handle: TableHandle
    change: Update

    def apply(self, rows: NetRows) -> int:
        values = dict(self.change.values)
        if self.change.vector is not None:
            values[rows.schema.vector] = self.change.vector
        matches = rows.matching(self.change.ids or (), self.change.where)
        if self.change.payload:
            payloads = [rows.payload(id) for id in matches]
            texts = _patched(self.handle, repeat(self.change.payload), payloads, matches)
            for id, text in zip(matches, texts, strict=True):
                rows.change(id, {**values, PAYLOAD: text})
        else:
            for id in matches:
                rows.change(id, values)
        return len(matches)

    async def direct(self, table: Snapshot) -> int:
        condition = await selection(self.change.ids, self.change.where)
        if self.change.payload:
            return await self._merge(table, condition)
        cost = cost_of(dict(self.change.values), self.change.vector)
        values = await hop(cost, self._assigned, table.schema)
        result = await table.session.run(table.lance.update(updates_sql=values, where=condition))
        return int(result.rows_updated)

    def _assigned(self, schema: Schema) -> dict[str, str]:
        """Return each column's new value as SQL."""
        values = {
            name: sql.encoded(sql.assigned(_stored(value), schema.fields[name].kind))
            for name, value in self.change.values.items()
        }
        if self.change.vector is not None and without_vector(self.change.vector[None, :])[0]:
            values[schema.vector] = "NULL"
        elif self.change.vector is not None:
            # Each number is a float32, so parsing it as a float64 and casting it back is exact.
            numbers = ",".join(map(repr, self.change.vector.astype(float).tolist()))
            values[schema.vector] = f"[{numbers}]"
        return values

    async def _merge(self, table: Snapshot, condition: str | None) -> int:
        """Patch the payloads, and set the other new values. Lance cannot patch payloads, so this
        reads them as Python values, a block of rows at a time."""
        query = table.lance.query().select(["id", PAYLOAD])
        batches = await table.session.batches(query, _CHANGED_AT_ONCE, condition)
        blocks = [await in_thread(self._changed, batch, table.schema) async for batch in batches]
        return await _set_columns(table, pa.concat_tables(blocks)) if blocks else 0

    def _changed(self, rows: pa.RecordBatch, schema: Schema) -> pa.Table:
        """Return the rows' ids and changed columns."""
        ids, vectors = rows.column("id").to_pylist(), self.change.vector
        payloads = payload_texts(rows.column(PAYLOAD))
        texts = _patched(self.handle, repeat(self.change.payload), payloads, ids)
        values = {name: [value] * len(ids) for name, value in self.change.values.items()}
        matrix = None if vectors is None else np.tile(vectors, (len(ids), 1))
        return _table_of(Batch(ids, values, texts, matrix), schema)


def _patched(
    handle: TableHandle,
    patches: Iterable[PayloadPatch],
    payloads: Sequence[str | None],
    ids: Sequence[str],
) -> list[str | None]:
    """Return the payloads with the patches applied."""
    try:
        rows = zip(
            patches, payloads, ids, strict=False
        )  # ``patches`` may repeat one patch endlessly
        return [patch.apply(text, id) for patch, text, id in rows]
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, AiovecError):
            raise
        reason = f"a payload of the table {handle.name!r} is not a JSON object"
        raise CorruptStoreError(handle.name, reason) from exc
