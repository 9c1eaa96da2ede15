"""The remote backend: a store that another process serves, over HTTP."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

from aiovec import REMOVE
from aiovec._http.wire import Message, WireError, exported_batch, found_rows, stored_rows
from aiovec.backend import (
    Expr,
    Field,
    FieldIndex,
    Float32Array,
    PayloadPatch,
    Ref,
    Schema,
    Value,
    from_matrix,
    without_vector,
)
from aiovec.backend.context import Kept, WriteKey, write_key
from aiovec.backend.contract import (
    Backend,
    Columns,
    Found,
    IndexInfo,
    Order,
    StoredRows,
    TableHandle,
    TableStats,
    TextQuery,
    VectorQuery,
)
from aiovec.backend.limits import Place, current_deadline, write_gate
from aiovec.backend.rows import NewRows
from aiovec.backend.threads import FORKED, hop
from aiovec.backend.weight import weight
from aiovec.errors import (
    AiovecError,
    ConfigError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    UnsupportedError,
)

from . import answers
from .client import Client
from .refusals import StaleRepeatError
from .settings import RemoteSettings

_T = TypeVar("_T")

# Writing calls that check or send their rows at once, in 64 MiB together.
_WRITES_AT_ONCE = 1024
# States of a table that one write is asked for.
_MOST_STATES = 5
# Errors of a repeat that did not come as far as the store.
_UNASKED = (AiovecError, ConfigError, StoreBusyError, StoreClosedError)
_OF_SCHEMAS = frozenset(
    ("add_field", "create_field_index", "drop_field", "drop_field_index", "rename_field")
)
# Writing a filter and its kind of search takes as long as so many values.
_EFFORT_OF_A_FILTER = 20


class RemoteBackend(Backend):
    """The tables of an aiovec server."""

    name: ClassVar[str] = "remote"

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self._client = Client(url, settings)
        self._writing = write_gate(_WRITES_AT_ONCE)
        self.busy_timeout = settings.busy_timeout
        self.searches_at_once = settings.connections
        self._process = os.getpid()
        self._served = answers.Served()
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
        self._served = await self._read(answers.served_in, answer)
        self._mark = self._client.store_mark
        self._client.repeats_writes = self.supports("once")

    async def close(self) -> None:
        if os.getpid() == self._process:
            await self._client.close()

    async def ping(self) -> None:
        await self._ask(answers.nothing, "ping", {})

    def supports(self, ability: str) -> bool:
        return ability == "read-only" or ability in self._served.abilities

    # Tables

    async def tables(self) -> list[str]:
        return await self._ask(answers.names_in, "tables", {})

    async def open_table(self, name: str) -> TableHandle:
        return await self._ask(
            lambda answer: answers.handle_in(answer, name), "open_table", {"table": name}
        )

    async def create_table(self, name: str, schema: Schema) -> None:
        await self._write(
            answers.nothing, "create_table", {"table": name, "schema": schema.to_json()}
        )

    async def rename_table(self, old: str, new: str) -> None:
        await self._write(answers.nothing, "rename_table", {"table": old, "new": new}, long=True)

    async def drop_table(self, name: str) -> None:
        await self._write(answers.nothing, "drop_table", {"table": name}, long=True)

    async def add_field(self, table: TableHandle, name: str, field: Field) -> None:
        facts = {"name": name, "field": field.to_dict()}
        await self._write(answers.nothing, "add_field", facts, on=table, long=True)

    async def create_field_index(self, table: TableHandle, field: str, kind: FieldIndex) -> None:
        facts = {"field": field, "kind": kind}
        await self._write(answers.nothing, "create_field_index", facts, on=table, long=True)

    async def drop_field_index(
        self, table: TableHandle, field: str, kind: FieldIndex | None
    ) -> None:
        facts = {"field": field, "kind": kind}
        await self._write(answers.nothing, "drop_field_index", facts, on=table, long=True)

    async def drop_field(self, table: TableHandle, field: str) -> None:
        await self._write(answers.nothing, "drop_field", {"field": field}, on=table, long=True)

    async def rename_field(self, table: TableHandle, old: str, new: str) -> None:
        facts = {"field": old, "new": new}
        await self._write(answers.nothing, "rename_field", facts, on=table, long=True)

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Place | None]:
        return self._writing.enter(current_deadline(self.busy_timeout), size)

    async def insert(
        self, table: TableHandle, rows: NewRows, *, skip_existing: bool = False
    ) -> int:
        facts = {"skipExisting": skip_existing}
        return await self._write(answers.count_in, "insert", facts, rows.table, on=table)

    async def upsert(self, table: TableHandle, rows: NewRows) -> None:
        await self._write(answers.count_in, "upsert", {}, rows.table, on=table)

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
            [list(path)] if value is REMOVE else [list(path), value]
            for path, value in payload.changes
        ]
        facts = {
            "values": dict(values),
            "payload": await hop(weight(changes), json.dumps, changes),
            "ids": None if ids is None else list(ids), "where": await _text(where),
        }  # fmt: skip
        return await self._write(answers.count_in, "update", facts, rows, on=table)

    async def set_vectors(
        self, table: TableHandle, ids: Sequence[str], vectors: Float32Array
    ) -> int:
        rows = pa.table({table.schema.vector: from_matrix(vectors)})
        facts = {"ids": list(ids)}
        return await self._write(answers.count_in, "set_vectors", facts, rows, on=table)

    async def delete(
        self, table: TableHandle, *, ids: Sequence[str] | None, where: Expr | None
    ) -> int:
        facts = {"ids": None if ids is None else list(ids), "where": await _text(where)}
        return await self._write(answers.count_in, "delete", facts, on=table)

    async def kept(self, key: WriteKey) -> Kept | None:
        return await self._ask(answers.kept_in, "kept", {"key": _key(key)})

    # Reading

    async def get(self, table: TableHandle, ids: Sequence[str], columns: Columns) -> StoredRows:
        facts = {**_of(table), "ids": list(ids), "columns": _columns(columns)}
        return await self._ask(_rows(table, columns), "get", facts)

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
            "columns": _columns(columns),
        }  # fmt: skip
        return await self._ask(_rows(table, columns), "find", facts)

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        if not queries:
            return []
        columns = queries[0].columns
        wheres = {id(query.where): query.where for query in queries}
        effort = weight([query.vector for query in queries])
        effort += sum(map(_effort_of, wheres.values()))
        asked, rows = await hop(effort, _asked, table.schema.vector, queries)
        facts = {**_of(table), "columns": _columns(columns), **asked}
        read = _found(table, columns, len(queries))
        return await self._ask(read, "search", facts, rows)

    async def search_text(self, table: TableHandle, query: TextQuery) -> Found:
        self._need("text")
        facts = {
            **_of(table), "where": await _text(query.where), "limit": query.limit,
            "any": query.any, "columns": _columns(query.columns),
            "highlight": None if query.highlight is None else list(query.highlight),
            "clauses": [[one.text, one.field, one.prefix, one.excluded] for one in query.clauses],
        }  # fmt: skip
        read = _found(table, query.columns, 1)
        return (await self._ask(read, "search_text", facts))[0]

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
            **_of(table), "where": await _text(where), "columns": _columns(columns),
            "after": None if after is None else after.hex(), "batchSize": batch_size,
        }  # fmt: skip
        parts = self._client.stream(Message(facts))
        async with aclosing(parts):
            async for part in parts:
                read = partial(exported_batch, schema=table.schema, columns=columns)
                yield await self._read(read, part)

    async def count(self, table: TableHandle, where: Expr | None) -> int:
        facts = {**_of(table), "where": await _text(where)}
        return await self._ask(answers.count_in, "count", facts)

    async def value_counts(
        self, table: TableHandle, ref: Ref, where: Expr | None, limit: int | None
    ) -> Sequence[tuple[Value, int]]:
        facts = {
            **_of(table), "field": _name_of(ref), "where": await _text(where), "limit": limit
        }  # fmt: skip
        return await self._ask(answers.counts_in, "value_counts", facts)

    async def bounds(
        self, table: TableHandle, ref: Ref, where: Expr | None
    ) -> tuple[Value, Value] | None:
        facts = {**_of(table), "field": _name_of(ref), "where": await _text(where)}
        return await self._ask(answers.bounds_in, "bounds", facts)

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        def read(answer: Message) -> TableStats:
            return answers.stats_in(answer, self.name)

        return await self._ask(read, "stats", _of(table), long=True)

    async def optimize(self, table: TableHandle) -> None:
        await self._write(answers.nothing, "optimize", {}, on=table, long=True)

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        self._need("indexes")
        facts = {"kind": kind, "wait": wait, "options": dict(options)}
        await self._write(answers.nothing, "create_index", facts, on=table, long=True)

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        self._need("indexes")
        return await self._ask(answers.indexes_in, "indexes", _of(table))

    async def drop_index(self, table: TableHandle, name: str) -> None:
        self._need("indexes")
        await self._write(answers.nothing, "drop_index", {"name": name}, on=table, long=True)

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        self._need("snapshots")
        return await self._ask(answers.versions_in, "versions", _of(table))

    async def restore(self, table: TableHandle, version: int) -> None:
        self._need("snapshots")
        await self._write(answers.nothing, "restore", {"version": version}, on=table, long=True)

    # Inside

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise StoreClosedError(self.target, FORKED)

    async def _ask(
        self,
        read: Callable[[Message], _T],
        call: str,
        facts: Mapping[str, Any],
        rows: pa.Table | None = None,
        *,
        long: bool = False,
        key: str | None = None,
        retried: bool = False,
    ) -> _T:
        """Return what ``read`` finds in the answer. With a ``key`` it is a write."""
        self._check_process()
        if self._client.store_mark != self._mark:
            await self._look(tries=True)
        message = Message(facts, rows)
        answer = await self._client.ask(call, message, key=key, long=long, retried=retried)
        return await self._read(read, answer, writes=key is not None)

    async def _read(
        self, read: Callable[[Message], _T], answer: Message, *, writes: bool = False
    ) -> _T:
        """Return what ``read`` finds in an answer; an error in words where it is another one."""
        try:
            return await hop(weight(answer), read, answer)
        except (WireError, AiovecError, LookupError, TypeError, ValueError, AttributeError) as exc:
            raise self._client.unreadable(exc, writes=writes) from exc

    async def _write(
        self,
        read: Callable[[Message], _T],
        call: str,
        facts: Mapping[str, Any],
        rows: pa.Table | None = None,
        *,
        on: TableHandle | None = None,
        long: bool = False,
    ) -> _T:
        """Write, ``on`` a table in the state that its handle says."""
        if self.read_only:
            raise UnsupportedError(call, self.name, f"{self.target} was opened with read_only=True")
        if (given := write_key()) is not None:  # this store's own caller repeats the write
            facts = {**facts, "key": _key(given)}
        ask = partial(self._ask, read, call, rows=rows, long=long)
        if on is None:
            return await ask(facts, key=uuid.uuid4().hex)
        state = on
        for number in range(_MOST_STATES):
            # A new key each time: with another state it is another request.
            key = uuid.uuid4().hex
            try:
                return await ask({**facts, **_of(state)}, key=key, retried=number > 0)
            except StaleRepeatError:
                state = await self._opened_again(on, call)
            except AiovecError as exc:
                if number and type(exc) in _UNASKED:
                    raise OutcomeUnknownError(self.target, str(exc)) from exc
                raise
        reason = f"the table {on.name!r} is being altered all the time"
        raise OutcomeUnknownError(self.target, reason)

    async def _opened_again(self, table: TableHandle, call: str) -> TableHandle:
        """Return the table in the state that a write which may have been done is repeated for.

        A cut-over has led the server to another store, which cannot know the key of the write.
        There the rows tell whether it was done, or the schema.
        """
        try:
            found = await self.open_table(table.name)
        except AiovecError as exc:
            raise OutcomeUnknownError(self.target, str(exc)) from exc
        if found.schema != table.schema and call not in _OF_SCHEMAS:
            reason = f"the table {table.name!r} was altered before the call could be repeated"
            raise OutcomeUnknownError(self.target, reason)
        return found

    def _need(self, ability: str) -> None:
        if not self.supports(ability):
            hint = f"the server at {self.target} serves a store of {self._served.backend}"
            raise UnsupportedError(ability, self.name, hint)


def _rows(table: TableHandle, columns: Columns) -> Callable[[Message], StoredRows]:
    return lambda answer: stored_rows(answer.rows, table.schema, columns)


def _found(table: TableHandle, columns: Columns, queries: int) -> Callable[[Message], list[Found]]:
    return lambda answer: found_rows(answer, table.schema, columns, queries)


def _key(key: WriteKey) -> dict[str, str]:
    return {"name": key.name, "digest": key.digest.hex()}


def _of(table: TableHandle) -> dict[str, Any]:
    return {"table": table.name, "state": table.token}


def _columns(columns: Columns) -> dict[str, Any]:
    return {"fields": columns.fields, "payload": columns.payload, "vector": columns.vector}


def _effort_of(where: Expr | None) -> int:
    """Return how many values it takes to write a filter as text, for ``hop``."""
    return 0 if where is None else _EFFORT_OF_A_FILTER + 4 * where.literals


async def _text(where: Expr | None) -> str | None:
    return None if where is None else await hop(_effort_of(where), str, where)


def _name_of(ref: Ref) -> list[str]:
    return [ref.name, *ref.path]


def _asked(vector: str, queries: Sequence[VectorQuery]) -> tuple[dict[str, Any], pa.Table]:
    """Return the kinds of search, the place of each query's kind among them, and the vectors.

    Queries of one call share their filter, or a few of them.
    """
    texts: dict[int, str | None] = {}
    kinds: dict[Any, int] = {}
    listed: list[dict[str, Any]] = []
    which = []
    for query in queries:
        where = query.where
        key = (query.limit, id(where), query.exact, query.tuning)
        if key not in kinds:
            if id(where) not in texts:
                texts[id(where)] = None if where is None else str(where)
            kinds[key] = len(listed)
            tuning = None if query.tuning is None else asdict(query.tuning)
            listed.append({
                "limit": query.limit, "where": texts[id(where)], "exact": query.exact,
                "tuning": tuning,
            })  # fmt: skip
        which.append(kinds[key])
    return {"kinds": listed, "which": which}, _queries_table(vector, queries)


def _queries_table(vector: str, queries: Sequence[VectorQuery]) -> pa.Table:
    matrix = np.stack([query.vector for query in queries])
    return pa.Table.from_arrays([from_matrix(matrix)], [vector])
