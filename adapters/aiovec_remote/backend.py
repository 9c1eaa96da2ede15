"""The remote backend: a store that another process serves, over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from aiovec.backend import (
    FORKED,
    Backend,
    Columns,
    Expr,
    Field,
    FieldIndex,
    Float32Array,
    Found,
    IndexInfo,
    Message,
    Order,
    Patience,
    PayloadPatch,
    ReadOnly,
    Ref,
    Remove,
    Schema,
    Share,
    Snapshots,
    StoredRows,
    TableHandle,
    TableStats,
    TextQuery,
    TextSearch,
    Value,
    VectorIndexes,
    VectorQuery,
    WireError,
    exported_batch,
    found_rows,
    from_matrix,
    off_loop,
    stored_rows,
    without_vector,
    write_admission,
)
from aiovec.errors import AiovecError, StoreClosedError, UnsupportedError

from .client import Client
from .settings import RemoteSettings

# Writing calls that check or send their rows at once, in 64 MiB together.
_WRITES_AT_ONCE = 1024
# Characters of a filter that take as long to write as one value does to check.
_CHARACTERS_A_VALUE = 32
_BYTES_A_VALUE = 64


class RemoteBackend(Backend, TextSearch, VectorIndexes, Snapshots, ReadOnly):
    """The tables of an aiovec server."""

    name: ClassVar[str] = "remote"

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self._client = Client(url, settings)
        self._writing = write_admission(_WRITES_AT_ONCE)
        self._patience = settings.busy_timeout
        self._process = os.getpid()
        self._abilities: frozenset[str] = frozenset()
        self._serves = ""
        self._server_reads_only = False
        self._mark = ""

    @property
    def target(self) -> str:
        return self._client.target

    # Life

    async def open(self) -> None:
        await self._look(tries=False)

    async def _look(self, *, tries: bool) -> None:
        """Ask which store the server serves, and what that is able to do."""
        answer = await self._client.ask("open", Message(), tries=tries)
        told = answer.facts
        listed, backend = told.get("abilities"), told.get("backend")
        if type(listed) is not list or not all(type(one) is str for one in listed):
            raise self._garbled("the abilities are missing")
        if type(backend) is not str or type(told.get("readOnly")) is not bool:
            raise self._garbled("the name of the backend is missing")
        self._abilities = frozenset(listed)
        self._serves = backend
        self._server_reads_only = told["readOnly"]
        self._mark = self._client.store_mark
        self._client.repeats_writes = told.get("keepsKeys") is True

    async def close(self) -> None:
        if os.getpid() == self._process:
            await self._client.close()

    async def ping(self) -> None:
        await self._ask("ping", {})

    def supports(self, ability: str) -> bool:
        if ability == "read-only":
            return True
        return ability in self._abilities

    # Tables

    async def tables(self) -> list[str]:
        names = (await self._ask("tables", {})).facts.get("tables")
        if type(names) is not list or not all(type(name) is str for name in names):
            raise self._garbled("the tables are missing")
        return names

    async def open_table(self, name: str) -> TableHandle:
        told = (await self._ask("open_table", {"table": name})).facts
        text, state = told.get("schema"), told.get("state")
        if type(text) is not str or type(state) is not str:
            raise self._garbled("the schema is missing")
        try:
            schema = Schema.from_json(text)
        except AiovecError as exc:
            raise self._garbled(f"the schema of the table {name!r}: {exc}") from exc
        return TableHandle(name, schema, state)

    async def create_table(self, name: str, schema: Schema) -> None:
        await self._write("create_table", {"table": name, "schema": schema.to_json()})

    async def rename_table(self, old: str, new: str) -> None:
        await self._write("rename_table", {"table": old, "new": new}, long=True)

    async def drop_table(self, name: str) -> None:
        await self._write("drop_table", {"table": name}, long=True)

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        facts = {**_of(table), "name": name, "field": field.to_dict()}
        await self._write("add_field", facts, long=True)

    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        facts = {**_of(table), "field": field, "kind": kind}
        await self._write("create_field_index", facts, long=True)

    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        facts = {**_of(table), "field": field, "kind": kind}
        await self._write("drop_field_index", facts, long=True)

    async def drop_field(self, table: TableHandle, field: str) -> None:
        await self._write("drop_field", {**_of(table), "field": field}, long=True)

    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        await self._write("rename_field", {**_of(table), "field": old, "new": new}, long=True)

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Share | None]:
        return self._writing.share(size, Patience(self._patience))

    async def insert(
        self, table: TableHandle, rows: pa.Table, *, skip_existing: bool = False
    ) -> int:
        facts = {**_of(table), "skipExisting": skip_existing}
        return self._count_in(await self._write("insert", facts, rows))

    async def upsert(self, table: TableHandle, rows: pa.Table) -> None:
        await self._write("upsert", _of(table), rows)

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
        rows = None
        if vector is not None:
            matrix = vector.reshape(1, -1)
            column = from_matrix(matrix, without_vector(matrix))
            rows = pa.table({table.schema.vector: column})
        # As a text, in which no object of the user's is taken for one of the protocol's.
        changes = [
            [list(path)] if isinstance(value, Remove) else [list(path), value]
            for path, value in payload.changes
        ]
        facts = {
            **_of(table), "values": dict(values), "payload": json.dumps(changes),
            "ids": None if ids is None else list(ids), "where": await _text(where),
        }  # fmt: skip
        return self._count_in(await self._write("update", facts, rows, size=len(ids or ())))

    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        rows = pa.table({table.schema.vector: from_matrix(vectors)})
        facts = {**_of(table), "ids": list(ids)}
        return self._count_in(await self._write("set_vectors", facts, rows, size=len(ids)))

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        facts = {
            **_of(table), "ids": None if ids is None else list(ids), "where": await _text(where)
        }  # fmt: skip
        return self._count_in(await self._write("delete", facts, size=len(ids or ())))

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        facts = {**_of(table), "ids": list(ids), "columns": asdict(columns)}
        answer = await self._ask("get", facts, size=len(ids))
        return await self._rows_in(answer, table.schema, columns)

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
        facts = {
            **_of(table), "where": await _text(where), "limit": limit, "offset": offset,
            "orderBy": [[_name_of(order.ref), order.descending] for order in order_by],
            "columns": asdict(columns),
        }  # fmt: skip
        return await self._rows_in(await self._ask("find", facts), table.schema, columns)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        if not queries:
            return []
        columns = queries[0].columns
        kinds: dict[Any, int] = {}
        listed: list[dict[str, Any]] = []
        which = []
        texts: dict[int, str | None] = {}
        for query in queries:
            # Queries of one call share their filter, or a few of them.
            key = (query.limit, id(query.where), query.exact, query.tuning)
            if key not in kinds:
                if id(query.where) not in texts:
                    texts[id(query.where)] = await _text(query.where)
                kinds[key] = len(listed)
                tuning = None if query.tuning is None else asdict(query.tuning)
                listed.append({
                    "limit": query.limit, "where": texts[id(query.where)],
                    "exact": query.exact, "tuning": tuning,
                })  # fmt: skip
            which.append(kinds[key])
        facts = {**_of(table), "columns": asdict(columns), "kinds": listed, "which": which}
        effort = len(queries) * table.schema.dim // 16
        rows = await off_loop(effort, _queries_table, table.schema.vector, queries)
        answer = await self._ask("search", facts, rows, size=len(queries))
        return await self._found_in(answer, table.schema, columns, len(queries))

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        facts = {
            **_of(table), "where": await _text(query.where), "limit": query.limit,
            "any": query.any, "columns": asdict(query.columns),
            "highlight": None if query.highlight is None else list(query.highlight),
            "clauses": [[one.text, one.field, one.prefix, one.excluded] for one in query.clauses],
        }  # fmt: skip
        answer = await self._ask("search_text", facts, size=len(query.clauses))
        shown = query.highlight is not None
        found = await self._found_in(answer, table.schema, query.columns, 1, highlights=shown)
        return found[0]

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        self._check_process()
        facts = {
            **_of(table), "where": await _text(where), "columns": asdict(columns),
            "after": None if after is None else after.hex(), "batchSize": batch_size,
        }  # fmt: skip
        parts = self._client.stream(Message(facts))
        async with aclosing(parts):
            async for part in parts:
                effort = 0 if part.rows is None else part.rows.num_rows
                try:
                    found = await off_loop(effort, exported_batch, part, table.schema, columns)
                except WireError as exc:
                    raise self._client.unreadable(exc) from exc
                yield found

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        return self._count_in(await self._ask("count", {**_of(table), "where": await _text(where)}))

    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> Sequence[tuple[Value, int]]:
        facts = {
            **_of(table), "field": _name_of(ref), "where": await _text(where), "limit": limit
        }  # fmt: skip
        counts = (await self._ask("value_counts", facts)).facts.get("counts")
        if type(counts) is not list:
            raise self._garbled("the counts are missing")

        def pairs() -> list[tuple[Value, int]]:
            found = []
            for pair in counts:
                if type(pair) is not list or len(pair) != 2 or type(pair[1]) is not int:
                    raise self._garbled("a count is none")
                found.append((self._value(pair[0]), pair[1]))
            return found

        return await off_loop(len(counts), pairs)

    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        facts = {**_of(table), "field": _name_of(ref), "where": await _text(where)}
        found = (await self._ask("bounds", facts)).facts.get("bounds", ())
        if found is None:
            return None
        if type(found) is not list or len(found) != 2:
            raise self._garbled("the bounds are no pair")
        return self._value(found[0]), self._value(found[1])

    def _value(self, value: Any) -> Value:
        if type(value) not in (str, int, float, bool, datetime) or value != value:
            raise self._garbled("a value is of no type that a row can have")
        return value  # type: ignore[no-any-return]  # it is one of those

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        told = (await self._ask("stats", _of(table), long=True)).facts.get("stats")
        try:
            return TableStats(**_typed(told, _STATS))
        except (TypeError, ValueError) as exc:
            raise self._garbled(f"the statistics: {exc}") from exc

    async def optimize(self, table: TableHandle) -> None:
        await self._write("optimize", _of(table), long=True)

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        facts = {**_of(table), "kind": kind, "wait": wait, "options": dict(options)}
        await self._write("create_index", facts, long=True)

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        told = (await self._ask("indexes", _of(table))).facts.get("indexes")
        try:
            return [IndexInfo(**_typed(one, _INDEX)) for one in _listed(told)]
        except (TypeError, ValueError) as exc:
            raise self._garbled(f"the indexes: {exc}") from exc

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._write("drop_index", {**_of(table), "name": name}, long=True)

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        told = (await self._ask("versions", _of(table))).facts.get("versions")
        try:
            return [_typed(one, {}) for one in _listed(told)]
        except TypeError as exc:
            raise self._garbled(f"the versions: {exc}") from exc

    async def restore(self, table: TableHandle, version: int) -> None:
        await self._write("restore", {**_of(table), "version": version}, long=True)

    # Inside

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreClosedError(self.target, FORKED)

    async def _ask(
        self, call: str, facts: Mapping[str, Any], rows: pa.Table | None = None, *,
        size: int = 0, long: bool = False,
    ) -> Message:  # fmt: skip
        """Ask for something that changes nothing. ``size`` is the number of values in the facts."""
        self._check_process()
        if self._client.store_mark != self._mark:
            await self._look(tries=True)
        return await self._client.ask(call, Message(facts, rows), size=size, long=long)

    async def _write(
        self, call: str, facts: Mapping[str, Any], rows: pa.Table | None = None, *,
        size: int = 0, long: bool = False,
    ) -> Message:  # fmt: skip
        self._check_process()
        if self.read_only:
            raise UnsupportedError(call, self.name, f"{self.target} was opened with read_only=True")
        if self._client.store_mark != self._mark:
            await self._look(tries=True)
        message = Message(facts, rows)
        return await self._client.ask(call, message, once=True, size=size, long=long)

    def _garbled(self, reason: str) -> AiovecError:
        return self._client.unreadable(WireError(reason))

    def _count_in(self, answer: Message) -> int:
        count = answer.facts.get("count")
        if type(count) is not int or count < 0:
            raise self._garbled("the number of rows is missing")
        return count

    async def _rows_in(self, answer: Message, schema: Schema, columns: Columns) -> StoredRows:
        try:
            return await off_loop(_effort(answer.rows), stored_rows, answer.rows, schema, columns)
        except WireError as exc:
            raise self._client.unreadable(exc) from exc

    async def _found_in(
        self, answer: Message, schema: Schema, columns: Columns, queries: int, *,
        highlights: bool = False,
    ) -> list[Found]:  # fmt: skip
        def found() -> list[Found]:
            return found_rows(answer, schema, columns, queries, highlights=highlights)

        try:
            return await off_loop(_effort(answer.rows) + queries * 8, found)
        except WireError as exc:
            raise self._client.unreadable(exc) from exc


def _effort(rows: pa.Table | None) -> int:
    if rows is None:
        return 0
    return int(rows.num_rows * rows.num_columns + rows.nbytes // _BYTES_A_VALUE)


def _of(table: TableHandle) -> dict[str, Any]:
    return {"table": table.name, "state": table.token}


async def _text(where: Expr | None) -> str | None:
    return None if where is None else await off_loop(4 * where.literals, str, where)


def _name_of(ref: Ref) -> list[str]:
    return [ref.name, *ref.path]


def _queries_table(vector: str, queries: Sequence[VectorQuery]) -> pa.Table:
    return pa.table({vector: from_matrix(np.stack([query.vector for query in queries]))})


_STATS: Mapping[str, tuple[type, ...]] = {
    "table": (str,), "backend": (str,), "rows": (int,), "bytes": (int,), "index": (str,),
    "unindexed_rows": (int,), "scan_memory": (int,), "last_optimize": (datetime, type(None)),
    "details": (dict,),
}  # fmt: skip
_INDEX: Mapping[str, tuple[type, ...]] = {
    "name": (str,), "kind": (str,), "column": (str,), "parameters": (dict,),
    "rows_indexed": (int,), "rows_unindexed": (int,), "recall": (float, int, type(None)),
}  # fmt: skip


def _typed(told: object, types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return an object of JSON whose keys have these types, or raise TypeError."""
    if type(told) is not dict:
        raise TypeError(f"it is {type(told).__name__}, not an object")
    for name, accepted in types.items():
        if type(told.get(name)) not in accepted:
            raise TypeError(f"{name} is {told.get(name)!r:.60}")
    return told


def _listed(told: object) -> list[Any]:
    if type(told) is not list:
        raise TypeError(f"it is {type(told).__name__}, not a list")
    return told
