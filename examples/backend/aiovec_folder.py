"""A backend for aiovec that keeps each table in an Arrow file in a folder.

It is small and exact, not fast: a write replaces the file of its table, and a search compares
every row. Use it as the starting point for your own backend.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from uuid import uuid4

import numpy as np
import pyarrow as pa

from aiovec.backend import (
    ANY_CHARACTER,
    ANY_TEXT,
    And,
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    Float32Array,
    In,
    IsNull,
    IsTrue,
    Like,
    Not,
    Or,
    Ref,
    Schema,
    StartsWith,
    Value,
    distances,
    fold_case,
    nearest_first,
)
from aiovec.backend.changes import (
    AddField,
    Delete,
    DropField,
    Insert,
    RenameField,
    RowChange,
    SchemaChange,
    Update,
    UpdateRows,
    Upsert,
)
from aiovec.backend.context import FEW_ROWS, Meter, new_meter, values_in
from aiovec.backend.contract import (
    LARGEST_BATCH,
    NO_NOTES,
    Backend,
    Bounds,
    Columns,
    Count,
    Find,
    Found,
    FromEach,
    Get,
    Order,
    Query,
    Read,
    StaleTableError,
    TableHandle,
    TableStats,
    Values,
)
from aiovec.backend.files import flush_folder, lock_file, unlock_file, writing_to
from aiovec.backend.limits import (
    Deadline,
    Gate,
    Slot,
    current_deadline,
    export_gate,
    read_gate,
    write_gate,
)
from aiovec.backend.paths import is_url, local_path, path_of_url
from aiovec.backend.plugin import BackendPlugin
from aiovec.backend.rows import Batch, check_partitions, partition_fields
from aiovec.backend.settings import BackendSettings, key
from aiovec.backend.threads import in_thread
from aiovec.errors import (
    CorruptStoreError,
    DuplicateIdError,
    StoreClosedError,
    TableExistsError,
    TableNotFoundError,
)

_T = TypeVar("_T")


class FolderSettings(BackendSettings):
    busy_timeout: float = key(30.0, at_least=0)


class FolderPlugin(BackendPlugin):
    name = "folder"
    settings = FolderSettings

    def create(self, address: str, settings: FolderSettings) -> Backend:
        return FolderBackend(Path(address), settings)

    def locate(self, target: str, base: Path | None = None) -> str:
        return local_path(path_of_url(target) if is_url(target) else target, base)


# Rows, and the state of a table at one moment. Both are immutable: a write makes new ones.


class Row(NamedTuple):
    id: str
    fields: dict[str, Any]
    payload: str | None
    vector: Float32Array
    """NaN if the row has none."""


@dataclass(frozen=True)
class State:
    schema: Schema
    epoch: str
    """Changes with the schema."""
    commit: str
    """Changes with every write."""
    rows: dict[str, Row]
    notes: dict[str, str] = field(default_factory=dict)


class FolderBackend(Backend):
    name = "folder"
    abilities = frozenset({"power-loss"})

    def __init__(self, path: Path, settings: FolderSettings) -> None:
        self._path = path
        self.busy_timeout = settings.busy_timeout
        self._states: dict[str, State] = {}
        self._reads, self._exports, self._queue = read_gate(), export_gate(), write_gate(1_000)
        self._turn = Gate("other writes take too long", calls=1)
        self._closed = False

    @property
    def target(self) -> str:
        return str(self._path)

    @property
    def address(self) -> str:
        return f"folder://{self._path}"

    def owns(self, path: Path) -> bool:
        return self._path.resolve() in path.resolve().parents

    async def open(self) -> None:
        def make() -> None:
            with writing_to(self._path):
                self._path.mkdir(parents=True, exist_ok=True)

        await in_thread(make)

    async def close(self) -> None:
        async with self._turn.enter(None):  # after the accepted writes
            self._closed = True

    async def ping(self) -> None:
        await self._read(self._names)

    # Files. These functions run in threads.

    def _names(self) -> list[str]:
        return sorted(path.stem for path in self._path.glob("*.arrow"))

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.arrow"

    def _load(self, name: str) -> State:
        """Return the newest state of a table, whichever process wrote it."""
        try:
            with open(self._file(name), "rb") as file:
                reader = pa.ipc.open_stream(file)
                metadata = {k.decode(): v.decode() for k, v in reader.schema.metadata.items()}
                known = self._states.get(name)
                if known is not None and known.commit == metadata["commit"]:
                    return known
                table = reader.read_all()
        except FileNotFoundError:
            raise TableNotFoundError(name, self._names()) from None
        except (pa.ArrowInvalid, OSError) as exc:
            raise CorruptStoreError(str(self._file(name)), f"it cannot be read: {exc}") from exc
        schema = Schema.from_json(metadata["schema"])
        rows = {row.id: row for row in rows_of(Batch.of_table(table, schema), schema)}
        notes = json.loads(metadata["notes"])
        state = State(schema, metadata["epoch"], metadata["commit"], rows, notes)
        self._states[name] = state
        return state

    def _state(self, table: TableHandle) -> State:
        try:
            state = self._load(table.name)
        except TableNotFoundError:
            raise StaleTableError(table.name) from None
        if state.epoch != table.epoch:
            raise StaleTableError(table.name)
        return state

    def _save(self, name: str, state: State) -> None:
        """Put a new file in place of the old one: a killed process leaves one or the other."""
        every = Columns(tuple(state.schema.fields), state.schema.payload, vector=True)
        state = replace(state, commit=uuid4().hex)
        metadata = {"schema": state.schema.to_json(), "epoch": state.epoch, "commit": state.commit}
        metadata["notes"] = json.dumps(state.notes)
        table = batch_of([*state.rows.values()], every, state.schema).table(state.schema)
        table = table.replace_schema_metadata(metadata)
        new = self._path / f"{name}.new"  # left by a killed process, it is overwritten
        with writing_to(new):
            with open(new, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self._file(name))
            flush_folder(self._path)
        self._states[name] = state

    # Calls: a read takes a read slot; a write waits for its turn and locks out other processes

    async def _read(self, work: Callable[..., _T], *args: object) -> _T:
        async with self._reads.enter(None):
            self._check_open()
            return await in_thread(work, *args)

    async def _write(self, work: Callable[..., _T], *args: object) -> _T:
        deadline = current_deadline(self.busy_timeout)
        async with self._turn.enter(deadline):
            self._check_open()
            return await in_thread(self._locked, deadline, work, *args)

    def _locked(self, deadline: Deadline, work: Callable[..., _T], *args: object) -> _T:
        lock = lock_file(self._path / ".lock", patience=max(0.0, deadline.left()))
        if lock is None:
            raise deadline.error("another process is writing")
        try:
            return work(*args)
        finally:
            unlock_file(lock)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)

    # Tables

    async def tables(self) -> list[str]:
        return await self._read(self._names)

    async def open_table(self, name: str) -> TableHandle:
        state = await self._read(self._load, name)
        return TableHandle(name, state.schema, state.epoch)

    async def create_table(self, name: str, schema: Schema) -> None:
        def create() -> None:
            if self._file(name).exists():
                raise TableExistsError(name)
            self._save(name, State(schema, uuid4().hex, "", {}))

        await self._write(create)

    async def rename_table(self, old: str, new: str) -> None:
        def rename() -> None:
            self._load(old)
            if self._file(new).exists():
                raise TableExistsError(new)
            self._file(old).rename(self._file(new))
            flush_folder(self._path)

        await self._write(rename)

    async def drop_table(self, name: str) -> None:
        def drop() -> None:
            self._load(name)
            self._file(name).unlink()
            flush_folder(self._path)
            self._states.pop(name, None)

        await self._write(drop)

    async def alter(self, table: TableHandle, change: SchemaChange) -> None:
        def alter() -> None:
            state = self._state(table)
            schema = change.apply(state.schema)
            match change:
                case AddField(name):
                    names: dict[str, str | None] = {**_same(state.schema), name: None}
                case RenameField(old, new):
                    names = {new if name == old else name: name for name in state.schema.fields}
                case DropField(name):
                    names = {each: each for each in state.schema.fields if each != name}
                case _:  # an index, which is not built, because every search reads every row
                    names = _same(state.schema)
            rows = {}
            for id, row in state.rows.items():
                fields = {new: old and row.fields[old] for new, old in names.items()}
                rows[id] = row._replace(fields=fields)
            self._save(table.name, replace(state, schema=schema, epoch=uuid4().hex, rows=rows))

        await self._write(alter)

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Slot]:
        return self._queue.enter(current_deadline(self.busy_timeout), size)

    async def write(self, table: TableHandle, change: RowChange) -> int:
        def write() -> int:
            state = self._state(table)
            changed = changed_rows(state, change, table.name)
            if changed is None:
                return 0
            rows, count = changed
            self._save(table.name, replace(state, rows=rows))
            return count

        return await self._write(write)

    # Reading

    async def read(self, table: TableHandle, read: Read[_T]) -> _T:
        meter = new_meter(read.limit) if isinstance(read, Values) else None

        def result() -> Any:
            match cast("Read[Any]", read):
                case Get(ids, columns, finish):
                    rows = self._state(table).rows
                    matches = [rows[id] for id in ids if id in rows]
                    return finish(batch_of(matches, columns, table.schema))
                case Find(where, order_by, limit, columns, finish, offset):
                    matches = in_order(selected(self._state(table), where), order_by)
                    return finish(batch_of(matches[offset : offset + limit], columns, table.schema))
                case Count(where):
                    return len(selected(self._state(table), where))
                case Values(where, ref, limit):
                    return counted(selected(self._state(table), where), ref, meter)[:limit]
                case Bounds(where, ref):
                    values = (value_of(ref, row) for row in selected(self._state(table), where))
                    known = [value for value in values if sort_key(value) is not None]
                    return (min(known, key=sort_key), max(known, key=sort_key)) if known else None
            raise self._lacks(type(read).__name__)

        return cast("_T", await self._read(result))

    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        def search() -> _T:
            answers, state = [], self._state(table)  # one state for all queries
            for query in queries:
                rows = [row for row in selected(state, query.where) if has_vector(row)]
                matrix = matrix_of(rows, table.schema)
                far = distances(matrix, query.vector, table.schema.metric)
                best = nearest_first(far, query.limit)  # and all rows as near as the last one
                hits = batch_of([rows[n] for n in best], query.columns, table.schema)
                answers.append(Found(hits, far[best].tolist()))
            return finish(answers)

        return await self._read(search)

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        schema = table.schema

        def begin() -> list[Row]:
            rows = [row for row in selected(self._state(table), where) if row.id > start]
            return sorted(rows, key=lambda row: row.id)

        def next_batch(at: int) -> tuple[pa.RecordBatch, int]:
            end, nbytes = at, 0
            while end < min(at + batch_size, len(rows)) and nbytes < LARGEST_BATCH:
                nbytes += size_of(rows[end])
                end += 1
            part = batch_of(rows[at:end], columns, schema).table(schema)
            (batch,) = part.combine_chunks().to_batches()
            return batch, end

        start = "" if after is None else after.decode()
        async with self._exports.enter(current_deadline(self.busy_timeout)):
            rows, at = await self._read(begin), 0
            while at < len(rows):
                batch, at = await self._read(next_batch, at)
                yield batch, rows[at - 1].id.encode()

    async def stats(self, table: TableHandle) -> TableStats:
        def stats() -> TableStats:
            rows = len(self._state(table).rows)
            size = self._file(table.name).stat().st_size
            return TableStats(table.name, self.name, rows, size, "none", rows, 0, None, {})

        return await self._read(stats)

    async def notes(
        self, table: TableHandle, change: Mapping[str, str | None] = NO_NOTES
    ) -> Mapping[str, str]:
        def write() -> Mapping[str, str]:
            state = self._state(table)
            merged = {**state.notes, **change}
            kept = {name: text for name, text in merged.items() if text is not None}
            self._save(table.name, replace(state, notes=kept))
            return kept

        if change:
            return await self._write(write)
        return (await self._read(self._state, table)).notes

    async def optimize(self, table: TableHandle) -> None:
        await self._read(self._state, table)


def changed_rows(state: State, change: RowChange, table: str) -> tuple[dict[str, Row], int] | None:
    """Return the rows after a change and the change's result; None if nothing changes."""
    rows, schema = dict(state.rows), state.schema
    match change:
        case Insert(batch, skip_existing):
            new = [row for row in rows_of(batch, schema) if row.id not in rows]
            if len(new) < len(batch) and not skip_existing:
                raise DuplicateIdError(table, [id for id in batch.ids if id in rows])
        case Upsert(batch, moves):
            new = list(rows_of(batch, schema))
            if not moves:
                names = partition_fields(schema)
                stored = [rows[id] for id in batch.ids if id in rows]
                check_partitions(
                    schema, batch, {row.id: [row.fields[name] for name in names] for row in stored}
                )
        case UpdateRows(parts, payloads):
            change.check(rows)
            new = []
            for part in parts:
                columns = {name: part.values(name) for name in part.fields}
                for n, id in enumerate(part.ids):
                    if id not in rows:
                        continue
                    _, fields, payload, vector = rows[id]
                    values = {name: column[n] for name, column in columns.items()}
                    if change.patches(part):
                        payload = payloads[id].apply(payload, id)
                    if part.vectors is not None:
                        vector = part.vectors[n]
                    new.append(Row(id, {**fields, **values}, payload, vector))
        case Update(ids=ids, where=where) | Delete(ids, where):
            chosen = [rows[id] for id in (rows if ids is None else ids) if id in rows]
            chosen = [row for row in chosen if where is None or truth(where, row) is True]
            if isinstance(change, Delete):
                for row in chosen:
                    del rows[row.id]
                return (rows, len(chosen)) if chosen else None
            new = [
                Row(
                    row.id,
                    {**row.fields, **change.values},
                    change.payload.apply(row.payload, row.id),
                    row.vector if change.vector is None else change.vector,
                )
                for row in chosen
            ]
    rows |= {row.id: row for row in new}
    return (rows, len(new)) if new else None


def selected(state: State, where: Expr | None) -> list[Row]:
    return [row for row in state.rows.values() if where is None or truth(where, row) is True]


def rows_of(batch: Batch, schema: Schema) -> Iterator[Row]:
    names, columns = [*schema.fields], [batch.values(name) for name in schema.fields]
    payloads = batch.payloads or [None] * len(batch)
    vectors = batch.matrix().copy()  # the caller's array may change
    for n, id in enumerate(batch.ids):
        fields = {name: values[n] for name, values in zip(names, columns, strict=True)}
        yield Row(id, fields, payloads[n], vectors[n])


def batch_of(rows: Sequence[Row], columns: Columns, schema: Schema) -> Batch:
    if columns.meter is not None:
        for start in range(0, len(rows), FEW_ROWS):
            part = rows[start : start + FEW_ROWS]
            values = sum(values_in(row.payload or "") for row in part)
            columns.meter.add(sum(map(size_of, part)), values)
    return Batch(
        [row.id for row in rows],
        {name: [row.fields[name] for row in rows] for name in columns.fields},
        [row.payload for row in rows] if columns.payload else None,
        matrix_of(rows, schema) if columns.vector else None,
    )


def matrix_of(rows: Sequence[Row], schema: Schema) -> Float32Array:
    return np.array([row.vector for row in rows], np.float32).reshape(-1, schema.dim)


def size_of(row: Row) -> int:
    values = [row.id, row.payload or "", *row.fields.values()]
    return row.vector.nbytes + sum(len(v) if isinstance(v, (str, list)) else 8 for v in values)


def has_vector(row: Row) -> bool:
    return not np.isnan(row.vector[0])


# Values and filters


def value_of(ref: Ref, row: Row) -> Any:
    if ref.path:
        value = json.loads(row.payload or "{}")
        for key in ref.path:
            value = value.get(key) if isinstance(value, dict) else None
        return value
    if ref.name == "id":
        return row.id
    return row.fields[ref.name] if ref.name in row.fields else has_vector(row) or None


def sort_key(value: Any) -> Any:
    """Return a sort key: numbers and times, then texts, then booleans; None for other values."""
    if isinstance(value, bool):
        return 2, value
    if isinstance(value, (int, float, datetime)):
        return 0, value
    return (1, value) if isinstance(value, str) else None


def in_order(rows: list[Row], order_by: Sequence[Order]) -> list[Row]:
    for order in reversed(order_by):  # a stable sort keeps equal rows in order
        keyed = [(sort_key(value_of(order.ref, row)), row) for row in rows]
        valued = [pair for pair in keyed if pair[0] is not None]
        valued.sort(key=lambda pair: pair[0], reverse=order.descending)
        rows = [row for _, row in valued] + [row for key, row in keyed if key is None]
    return rows


def counted(rows: list[Row], ref: Ref, meter: Meter | None) -> list[tuple[Value, int]]:
    counts: dict[Any, tuple[Value, int]] = {}
    for row in rows:
        value = value_of(ref, row)
        items = value if isinstance(value, list) else [value]
        for place, item in {sort_key(item): item for item in items}.items():
            if place is None:
                continue
            if place not in counts and meter is not None:
                meter.add(len(item) if isinstance(item, str) else 8)
            first, count = counts.get(place, (item, 0))
            counts[place] = first if isinstance(first, int) else item, count + 1
    return [counts[place] for place in sorted(counts, key=lambda each: (-counts[each][1], each))]


def equal(value: Any, literal: Value) -> bool | None:
    return value == literal if comparable(value, literal) else None


def comparable(value: Any, literal: Value) -> bool:
    key, other = sort_key(value), sort_key(literal)
    return key is not None and other is not None and key[0] == other[0]


def truth(where: Expr, row: Row) -> bool | None:
    """Return whether a row matches, or None if the result in SQL is NULL."""
    match where:
        case Const(value):
            return value
        case And(items):
            results = {truth(item, row) for item in items}
            return False if False in results else None if None in results else True
        case Or(items):
            results = {truth(item, row) for item in items}
            return True if True in results else None if None in results else False
        case Not(item):
            result = truth(item, row)
            return None if result is None else not result
        case IsTrue(item):
            return truth(item, row) is True
    cell = value_of(where.ref, row)  # type: ignore[attr-defined]  # all others have one
    match where:
        case IsNull():
            return cell is None
        case Compare(_, op, literal):
            return COMPARE[op](cell, literal) if comparable(cell, literal) else None
        case In(_, values):
            return cell in values if comparable(cell, values[0]) else None
        case Like(_, pattern, ignore_case) if isinstance(cell, str):
            if ignore_case:
                cell, pattern = fold_case(cell), fold_case(pattern)
            return like(cell, pattern)
        case StartsWith(_, prefix) if isinstance(cell, str):
            return cell.startswith(prefix)
        case Contains(_, literal) if isinstance(cell, list):
            return any(equal(item, literal) for item in cell)
        case EqualsList(_, values) if isinstance(cell, list):
            return len(cell) == len(values) and all(map(equal, cell, values))
    return None


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def like(text: str, pattern: str) -> bool:
    """Return whether a text has the pattern's fixed-length parts, one after another."""
    first, *rest = pattern.split(ANY_TEXT)
    if not fits(text, first, 0) or (not rest and len(text) > len(first)):
        return False
    at = len(first)
    for part in rest[:-1]:
        ends = range(at, len(text) - len(part) + 1)
        position = next((n for n in ends if fits(text, part, n)), None)
        if position is None:
            return False
        at = position + len(part)
    return not rest or fits(text, rest[-1], max(at, len(text) - len(rest[-1])))


def fits(text: str, part: str, at: int) -> bool:
    """Return whether the text has ``part`` at this position."""
    if ANY_CHARACTER not in part:
        return text.startswith(part, at)
    pairs = zip(part, text[at : at + len(part)], strict=False)
    return len(text) - at >= len(part) and all(p in (c, ANY_CHARACTER) for p, c in pairs)


def _same(schema: Schema) -> dict[str, str | None]:
    return {name: name for name in schema.fields}
