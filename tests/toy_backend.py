"""A whole backend in memory: what an implementer writes, and nothing more.

Rows are mappings as Arrow gives them. Nothing awaits between reading and writing them, so every
call is atomic; a row is replaced and never changed, so a list of rows is a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from tests.harness.evaluate import counted, ends_of, evaluate, in_order, value_in
from tests.harness.values import python_rows
from tests.toy_text import best

from aiovec import Field, Schema, TableStats
from aiovec.backend import (
    Backend,
    Columns,
    Expr,
    FieldIndex,
    Float32Array,
    Found,
    Order,
    PayloadPatch,
    Ref,
    StaleTableError,
    StoredRows,
    TableHandle,
    TextQuery,
    TextSearch,
    Value,
    VectorQuery,
    distances,
)
from aiovec.errors import DuplicateIdError, StoreClosedError, TableExistsError, TableNotFoundError

Row = dict[str, Any]


class ToyBackend(Backend, TextSearch):
    name: ClassVar[str] = "toy"
    promises = frozenset({"text-prefix"})
    target = "toy:"

    def __init__(self) -> None:
        self._tables: dict[str, TableHandle] = {}
        self._rows: dict[str, dict[str, Row]] = {}
        self._closed = False

    async def open(self) -> None: ...

    async def close(self) -> None:
        self._closed = True

    async def ping(self) -> None: ...

    async def tables(self) -> list[str]:
        return sorted(self._tables)

    async def open_table(self, name: str) -> TableHandle:
        if name not in self._tables:
            raise TableNotFoundError(name, sorted(self._tables))
        return self._tables[name]

    async def create_table(self, name: str, schema: Schema) -> None:
        if name in self._tables:
            raise TableExistsError(name)
        self._tables[name], self._rows[name] = TableHandle(name, schema, object()), {}

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        rows = self._of(table)
        schema = table.schema.with_field(name, field)
        self._tables[table.name] = TableHandle(table.name, schema, object())
        rows.update({id: {**row, name: None} for id, row in rows.items()})

    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        self._alter(table, field, table.schema.fields[field].with_index(kind))

    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        self._alter(table, field, table.schema.fields[field].without_index(kind))

    def _alter(self, table: TableHandle, name: str, field: Field) -> None:
        self._of(table)
        if table.schema.fields[name] != field:
            schema = table.schema.with_changed_field(name, field)
            self._tables[table.name] = TableHandle(table.name, schema, object())

    async def drop_field(self, table: TableHandle, field: str) -> None:
        rows = self._of(table)
        self._tables[table.name] = TableHandle(
            table.name, table.schema.without_field(field), object()
        )
        rows.update({id: renamed(row, {field: None}) for id, row in rows.items()})

    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        rows = self._of(table)
        schema = table.schema.with_renamed_field(old, new)
        self._tables[table.name] = TableHandle(table.name, schema, object())
        rows.update({id: renamed(row, {old: new}) for id, row in rows.items()})

    async def rename_table(self, old: str, new: str) -> None:
        table = await self.open_table(old)
        if new in self._tables:
            raise TableExistsError(new)
        del self._tables[old]
        self._tables[new] = TableHandle(new, table.schema, object())
        self._rows[new] = self._rows.pop(old)

    async def drop_table(self, name: str) -> None:
        await self.open_table(name)
        del self._tables[name], self._rows[name]

    async def insert(
        self, table: TableHandle, rows: pa.Table, *, skip_existing: bool = False
    ) -> int:
        there, new = self._of(table), {row["id"]: row for row in python_rows(rows)}
        known = sorted(there.keys() & new.keys())
        if known and not skip_existing:
            raise DuplicateIdError(table.name, known)
        there.update({id: row for id, row in new.items() if id not in known})
        return len(new) - len(known)

    async def upsert(self, table: TableHandle, rows: pa.Table) -> None:
        self._of(table).update({row["id"]: row for row in python_rows(rows)})

    async def update(
        self,
        table: TableHandle,
        values: Mapping[str, Any],
        payload: PayloadPatch,
        *,
        ids: Sequence[str] | None,
        where: Expr | None,
        vector: Float32Array | None = None,
    ) -> int:
        selected = self._selected(table, where, ids)
        rows = {}
        for row in selected:
            changed = {**row, **values}
            if vector is not None:
                there = not np.isnan(vector).all()
                changed[table.schema.vector] = vector.tolist() if there else None
            if payload:
                changed["payload"] = payload.apply(row["payload"], row["id"])
            rows[row["id"]] = changed
        self._of(table).update(rows)
        return len(selected)

    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        there, name = self._of(table), table.schema.vector
        new = {id: vector for id, vector in zip(ids, vectors, strict=True) if id in there}
        there.update({id: {**there[id], name: vector.tolist()} for id, vector in new.items()})
        return len(new)

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        selected = self._selected(table, where, ids)
        for row in selected:
            del self._of(table)[row["id"]]
        return len(selected)

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        return _as_rows(table.schema, self._selected(table, None, ids), columns)

    async def find(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        order_by: Sequence[Order],
        limit: int,
        offset: int,
        columns: Columns,
    ) -> StoredRows:
        rows = in_order(self._selected(table, where), order_by, value_in)
        return _as_rows(table.schema, rows[offset : offset + limit], columns)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        found = []
        for query in queries:
            rows = self._selected(table, query.where)
            rows = [row for row in rows if row[table.schema.vector] is not None]
            vectors = _vectors(table.schema, rows)
            measures = distances(vectors, query.vector, table.schema.metric).tolist()
            order = sorted(range(len(rows)), key=lambda n: (measures[n], rows[n]["id"]))
            best = order[: query.limit]
            chosen = _as_rows(table.schema, [rows[n] for n in best], query.columns)
            found.append(Found(chosen, [measures[n] for n in best]))
        return found

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        rows = self._selected(table, None)
        selected = {row["id"] for row in self._selected(table, query.where)}
        order, scores, highlights = best(rows, selected, table.schema, query)
        chosen = _as_rows(table.schema, [rows[n] for n in order], query.columns)
        return Found(chosen, scores, highlights)

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        wanted = {"id", *columns.fields} | ({"payload"} if columns.payload else set())
        wanted |= {table.schema.vector} if columns.vector else set()
        layout = table.schema.to_arrow()
        names = [name for name in layout.names if name in wanted]
        rows = sorted(self._selected(table, where), key=lambda row: row["id"])
        rows = [row for row in rows if after is None or row["id"].encode() > after]
        for start in range(0, len(rows), batch_size):
            if self._closed:
                raise StoreClosedError(self.target)
            part = pa.RecordBatch.from_pylist(rows[start : start + batch_size], schema=layout)
            yield part.select(names), part.column("id")[-1].as_py().encode()

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        return len(self._selected(table, where))

    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> list[tuple[Value, int]]:
        return counted(self._selected(table, where), ref, value_in)[:limit]

    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        return ends_of(self._selected(table, where), ref, value_in)

    async def stats(self, table: TableHandle) -> TableStats:
        count = len(self._of(table))
        return TableStats(table.name, self.name, count, 0, "none", count, 0, None, {})

    async def optimize(self, table: TableHandle) -> None:
        self._of(table)

    def _of(self, table: TableHandle) -> dict[str, Row]:
        if self._tables.get(table.name) is not table:
            raise StaleTableError
        return self._rows[table.name]

    def _selected(
        self, table: TableHandle, where: Expr | None, ids: Sequence[str] | None = None
    ) -> list[Row]:
        there = self._of(table)
        rows = [there[id] for id in (there if ids is None else ids) if id in there]
        if where is None:
            return rows
        held = pa.Table.from_pylist(rows, schema=table.schema.to_arrow())
        chosen = evaluate(where, held, table.schema).to_pylist()
        return [row for row, is_in in zip(rows, chosen, strict=True) if is_in]


def renamed(row: Row, names: Mapping[str, str | None]) -> Row:
    """The row with other names of its fields, and without those whose new name is None."""
    pairs = ((names.get(name, name), value) for name, value in row.items())
    return {name: value for name, value in pairs if name is not None}


def _as_rows(schema: Schema, rows: list[Row], columns: Columns) -> StoredRows:
    return StoredRows(
        [row["id"] for row in rows],
        {name: [row[name] for row in rows] for name in columns.fields},
        [row["payload"] for row in rows] if columns.payload else None,
        _vectors(schema, rows) if columns.vector else None,
    )


def _vectors(schema: Schema, rows: list[Row]) -> Float32Array:
    nothing = [np.nan] * schema.dim
    there = [nothing if row[schema.vector] is None else row[schema.vector] for row in rows]
    return np.array(there, np.float32).reshape(-1, schema.dim)
