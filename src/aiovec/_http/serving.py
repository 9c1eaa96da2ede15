"""The server's side of the remote backend: each call, on the store that the server serves.

What a client sends is checked like what a user passes in. Calls go through the store, so they
follow a migration, wait their turn and are observed as any other; beneath it they give columns.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

import pyarrow as pa

from .._core import once
from .._core.conditions import Conditions, under
from .._core.contract import (
    Columns,
    Snapshots,
    StoredRows,
    TableHandle,
    TextSearch,
    VectorIndexes,
    VectorQuery,
    abilities,
)
from .._core.engine import Engine
from .._core.keys import WriteKey
from .._core.pool import off_loop
from .._core.schema import Schema, check_field_name, check_table_name
from .._core.store import VectorStore
from .._core.threads import wait_out
from .._input.arguments import ability_of, check_field_index, existing_field
from .._input.rows import check_new_vectors, effort_of, repeated_ids, to_table
from .._telemetry.events import Operation
from ..errors import DuplicateIdError, InvalidArgumentError
from . import arguments as given
from .wire import (
    Message,
    WireError,
    effort_of_rows,
    table_of_found,
    table_of_rows,
)

_T = TypeVar("_T")
_OnTable = Callable[[Engine, TableHandle], Awaitable[Message]]

# Calls that were cancelled before they came, which must not begin when they do.
_MOST_CANCELLED = 10_000
_LONGEST_KEY = 200
_LARGEST_BATCH = 2**31 - 1
# Bytes that are hashed in the time in which one value is checked.
_HASHED_A_VALUE = 512

# What of its store's abilities a client has; the others need the store's files.
OFFERED = frozenset({
    "text", "text-prefix", "indexes", "snapshots", "quantized", "power-loss",
})  # fmt: skip


class ServedCalls:
    """The calls that remote backends make of one store."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._calls: Mapping[str, Callable[[Message], Awaitable[Message]]] = {
            "open": self._open,
            "ping": self._ping,
            "tables": self._tables,
            "open_table": self._open_table,
            "create_table": self._create_table,
            "rename_table": self._rename_table,
            "drop_table": self._drop_table,
            "add_field": self._add_field,
            "create_field_index": self._create_field_index,
            "drop_field_index": self._drop_field_index,
            "drop_field": self._drop_field,
            "rename_field": self._rename_field,
            "insert": self._insert,
            "upsert": self._upsert,
            "update": self._update,
            "set_vectors": self._set_vectors,
            "delete": self._delete,
            "get": self._get,
            "find": self._find,
            "search": self._search,
            "search_text": self._search_text,
            "count": self._count,
            "value_counts": self._value_counts,
            "bounds": self._bounds,
            "stats": self._stats,
            "optimize": self._optimize,
            "create_index": self._create_index,
            "indexes": self._indexes,
            "drop_index": self._drop_index,
            "versions": self._versions,
            "restore": self._restore,
            "cancel": self._cancel,
        }

    def knows(self, call: str) -> bool:
        """Return whether there is a call of this name, beside "export"."""
        return call in self._calls

    def store_mark(self) -> str:
        """Return a text that changes when the server has come to serve another store."""
        engine = self.store._follower.engine
        text = "\0".join((engine.backend.name, engine.backend.target, *self._abilities(engine)))
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()

    async def run(
        self, call: str, asked: Message, key: WriteKey | None = None, *, retried: bool = False
    ) -> Message:
        """Return the answer to a call, which is cancelled with the task that awaits it."""
        state = given.optional(asked.facts, "state", str)
        with under(Conditions(state=state, key=key, retried=retried)):
            if key is None:
                return await self._calls[call](asked)
            return await self._cancellable(call, asked, key.name)

    async def _cancellable(self, call: str, asked: Message, name: str) -> Message:
        while (running := self._running.get(name)) is not None:
            await asyncio.wait([running])  # it is repeated by who lost its connection
        if name in self._cancelled:
            raise WireError("the call was cancelled")
        # In a task of its own, which ``_cancel`` can end without ending the request's.
        work = asyncio.ensure_future(self._calls[call](asked))
        self._running[name] = work
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            work.cancel()
            await wait_out(work)
            raise
        finally:
            del self._running[name]
            if work.done() and not work.cancelled():
                work.exception()  # so that it counts as retrieved
        if work.cancelled():
            raise WireError("the call was cancelled")
        return work.result()

    async def _cancel(self, asked: Message) -> Message:
        """Cancel a write by its key and return when it has ended, wholly done or not at all.

        One that has not come yet will not begin.
        """
        name = given.one_of(asked.facts, "key", str)
        if not 0 < len(name) <= _LONGEST_KEY:
            raise InvalidArgumentError("key", name, "the key of a write")
        self._cancelled[name] = None
        while len(self._cancelled) > _MOST_CANCELLED:
            self._cancelled.popitem(last=False)
        if (task := self._running.get(name)) is not None:
            task.cancel()
            await asyncio.wait([task])
        return Message()

    # The store

    def _abilities(self, engine: Engine) -> list[str]:
        return [name for name in abilities() if name in OFFERED and engine.backend.supports(name)]

    async def _open(self, asked: Message) -> Message:
        async def look(engine: Engine) -> Message:
            await engine.backend.ping()
            return Message({
                "backend": engine.backend.name,
                "abilities": self._abilities(engine),
                "keepsKeys": engine.backend.keeps_keys,
                "readOnly": self.store.read_only,
            })  # fmt: skip

        return await self.store._call(Operation("ping"), look)

    async def _ping(self, asked: Message) -> Message:
        await self.store.ping()
        return Message()

    async def _tables(self, asked: Message) -> Message:
        return Message({"tables": await self.store.tables()})

    async def _open_table(self, asked: Message) -> Message:
        name = check_table_name(asked.facts.get("table"))

        async def read(engine: Engine) -> Message:
            handle = await engine.open_table(name, fresh=True)
            state = engine.state_of(handle)
            return Message({"schema": handle.schema.to_json(), "state": state})

        return await self.store._call(Operation("schema", name), read)

    async def _create_table(self, asked: Message) -> Message:
        name = check_table_name(asked.facts.get("table"))
        schema = Schema.from_json(given.one_of(asked.facts, "schema", str))
        self.store._check_writable("create_table")

        async def create(engine: Engine) -> Message:
            # A table that a migration brings keeps every option of its schema.
            await once.create_table(engine.backend, name, schema)
            return Message()

        return await self.store._call(Operation("create_table", name), create, _of_outcome)

    async def _rename_table(self, asked: Message) -> Message:
        old, new = (check_table_name(asked.facts.get(name)) for name in ("table", "new"))
        await self.store.rename_table(old, new)
        return Message()

    async def _drop_table(self, asked: Message) -> Message:
        await self.store.drop_table(check_table_name(asked.facts.get("table")))
        return Message()

    # One table

    async def _on_table(self, name: str, asked: Message, act: _OnTable) -> Message:
        given.state_in(asked.facts)
        operation = Operation(name, asked.facts.get("table"))
        return await self.store._on_table(operation, act, _of_outcome)

    async def _altered(
        self, name: str, asked: Message, act: Callable[[Engine, TableHandle], Awaitable[None]]
    ) -> Message:
        async def alter(engine: Engine, handle: TableHandle) -> Message:
            await act(engine, handle)
            engine.forget(handle.name)
            return Message()

        return await self._on_table(name, asked, alter)

    async def _add_field(self, asked: Message) -> Message:
        name, field = check_field_name(asked.facts.get("name")), given.field_in(asked.facts)
        if not field.nullable or field.partition:
            raise InvalidArgumentError("field", field, "nullable and no partition key")

        async def add(engine: Engine, handle: TableHandle) -> None:
            if once.is_field_added(handle.schema, name, field):
                return
            handle.schema.with_field(name, field)
            await engine.backend.add_field(handle, name, field)

        return await self._altered("add_field", asked, add)

    async def _create_field_index(self, asked: Message) -> Message:
        async def create(engine: Engine, handle: TableHandle) -> None:
            field, kind = asked.facts.get("field"), asked.facts.get("kind")
            check_field_index(handle.schema, field, kind)
            await engine.backend.create_field_index(handle, str(field), kind)  # type: ignore[arg-type]  # it is checked

        return await self._altered("create_field_index", asked, create)

    async def _drop_field_index(self, asked: Message) -> Message:
        async def drop(engine: Engine, handle: TableHandle) -> None:
            field, kind = asked.facts.get("field"), asked.facts.get("kind")
            check_field_index(handle.schema, field, "btree" if kind is None else kind)
            await engine.backend.drop_field_index(handle, str(field), kind)

        return await self._altered("drop_field_index", asked, drop)

    async def _drop_field(self, asked: Message) -> Message:
        async def drop(engine: Engine, handle: TableHandle) -> None:
            field = given.one_of(asked.facts, "field", str)
            if once.is_field_dropped(handle.schema, field):
                return
            existing_field(handle.schema, field)
            handle.schema.without_field(field)
            await engine.backend.drop_field(handle, field)

        return await self._altered("drop_field", asked, drop)

    async def _rename_field(self, asked: Message) -> Message:
        new = check_field_name(asked.facts.get("new"))

        async def rename(engine: Engine, handle: TableHandle) -> None:
            old = given.one_of(asked.facts, "field", str)
            if once.is_field_renamed(handle.schema, old, new):
                return
            existing_field(handle.schema, old)
            handle.schema.with_renamed_field(old, new)
            await engine.backend.rename_field(handle, old, new)

        return await self._altered("rename_field", asked, rename)

    # Writing

    async def _insert(self, asked: Message) -> Message:
        skip = given.one_of(asked.facts, "skipExisting", bool)

        async def insert(engine: Engine, handle: TableHandle, rows: Any) -> int:
            return await once.insert(engine.backend, handle, rows, skip_existing=skip)

        return await self._write("insert", asked, insert)

    async def _upsert(self, asked: Message) -> Message:
        async def upsert(engine: Engine, handle: TableHandle, rows: Any) -> int:
            await engine.backend.upsert(handle, rows)
            return int(rows.num_rows)

        return await self._write("upsert", asked, upsert)

    async def _write(
        self,
        name: str,
        asked: Message,
        write: Callable[[Engine, TableHandle, Any], Awaitable[int]],
    ) -> Message:
        rows = asked.rows
        if rows is None:
            raise InvalidArgumentError("rows", None, "an Arrow stream")

        def checked(handle: TableHandle) -> Any:
            table = to_table(rows, handle.schema)
            if repeated := repeated_ids(table):
                raise DuplicateIdError(handle.name, repeated, within_call=True)
            return table

        async def act(engine: Engine, handle: TableHandle) -> Message:
            async with engine.backend.writing(int(rows.nbytes)):
                table = await off_loop(effort_of(rows), checked, handle)
                count = await write(engine, handle, table) if table.num_rows else 0
            return Message({"count": count})

        return await self._on_table(name, asked, act)

    async def _update(self, asked: Message) -> Message:
        facts = asked.facts
        ids = None if facts.get("ids") is None else await self._ids(facts)

        async def update(engine: Engine, handle: TableHandle) -> Message:
            schema = handle.schema
            values, payload = await off_loop(effort_of(facts), given.patch_in, facts, schema)
            count = await engine.backend.update(
                handle, values, payload, ids=ids, where=await self._where(facts, schema),
                vector=given.vector_in(asked, schema),
            )  # fmt: skip
            return Message({"count": count})

        return await self._on_table("update", asked, update)

    async def _set_vectors(self, asked: Message) -> Message:
        ids, rows = await self._ids(asked.facts), asked.rows
        if rows is None or rows.num_columns != 1:
            raise InvalidArgumentError("vectors", None, "rows of one column")

        async def write(engine: Engine, handle: TableHandle) -> Message:
            async with engine.backend.writing(int(rows.nbytes)):
                wanted, matrix = await off_loop(
                    effort_of(rows), check_new_vectors, ids, rows.column(0), handle.schema
                )
                count = await engine.backend.set_vectors(handle, wanted, matrix) if wanted else 0
            return Message({"count": count})

        return await self._on_table("set_vectors", asked, write)

    async def _delete(self, asked: Message) -> Message:
        facts = asked.facts
        ids = None if facts.get("ids") is None else await self._ids(facts)
        if ids is None and facts.get("where") is None:
            raise InvalidArgumentError("ids or where", None, "given; every row is where='TRUE'")

        async def delete(engine: Engine, handle: TableHandle) -> Message:
            where = await self._where(facts, handle.schema)
            return Message({"count": await engine.backend.delete(handle, ids=ids, where=where)})

        return await self._on_table("delete" if ids is not None else "delete_where", asked, delete)

    async def _ids(self, facts: given.Facts) -> list[str]:
        ids = given.one_of(facts, "ids", list)
        return await off_loop(len(ids), given.ids_in, facts)

    async def _where(self, facts: given.Facts, schema: Schema) -> Any:
        return await self.store._bind(given.optional(facts, "where", str), schema)

    # Reading

    async def _get(self, asked: Message) -> Message:
        ids = await self._ids(asked.facts)

        async def get(engine: Engine, handle: TableHandle) -> Message:
            columns = given.columns_in(asked.facts, handle.schema)
            rows = await engine.backend.get(handle, ids, columns)
            return await _rows_message(rows, handle.schema)

        return await self._on_table("get", asked, get)

    async def _find(self, asked: Message) -> Message:
        facts = asked.facts
        limit, offset = given.limit_in(facts, "limit"), given.limit_in(facts, "offset", least=0)

        async def find(engine: Engine, handle: TableHandle) -> Message:
            schema = handle.schema
            rows = await engine.backend.find(
                handle, where=await self._where(facts, schema),
                order_by=given.orders_in(facts, schema), limit=limit, offset=offset,
                columns=given.columns_in(facts, schema),
            )  # fmt: skip
            return await _rows_message(rows, schema)

        return await self._on_table("find", asked, find)

    async def _search(self, asked: Message) -> Message:
        async def search(engine: Engine, handle: TableHandle) -> Message:
            queries = await self._queries(asked, handle.schema)
            found = await engine.backend.search(handle, queries) if queries else []
            effort = effort_of_rows(one.rows for one in found)
            return await off_loop(effort, table_of_found, found, handle.schema)

        many = asked.rows is not None and asked.rows.num_rows > 1
        return await self._on_table("search_many" if many else "search", asked, search)

    async def _queries(self, asked: Message, schema: Schema) -> list[VectorQuery]:
        """Return the queries: each vector with one of the kinds of search that the call names."""
        facts = asked.facts
        columns = given.columns_in(facts, schema)
        kinds = []
        for each in given.one_of(facts, "kinds", list):
            if type(each) is not dict:
                raise InvalidArgumentError("kinds", each, "objects")
            where = await self._where(each, schema)
            tuning, exact = given.tuning_in(each, schema.dim), given.one_of(each, "exact", bool)
            kinds.append((given.limit_in(each, "limit"), where, columns, exact, tuning))
        vectors = await off_loop(effort_of(asked.rows), given.vectors_in, asked, schema)
        which = given.one_of(facts, "which", list)
        if len(which) != len(vectors) or not all(
            type(n) is int and 0 <= n < len(kinds) for n in which
        ):
            raise InvalidArgumentError("which", len(which), "the place of a kind for each vector")
        return [VectorQuery(vector, *kinds[n]) for vector, n in zip(vectors, which, strict=True)]

    async def _search_text(self, asked: Message) -> Message:
        async def search(engine: Engine, handle: TableHandle) -> Message:
            facts, schema = asked.facts, handle.schema
            searches = ability_of(engine.backend, TextSearch, "text")
            columns = given.columns_in(facts, schema)
            where = await self._where(facts, schema)
            query = given.text_query_in(facts, schema, columns, where)
            found = await searches.search_text(handle, query)
            return await off_loop(effort_of_rows([found.rows]), table_of_found, [found], schema)

        return await self._on_table("search_text", asked, search)

    async def export(self, asked: Message) -> AsyncGenerator[Message, None]:
        """Yield the batches of an export, each with its cursor."""
        facts = asked.facts
        after = given.cursor_in(facts)
        size = min(given.limit_in(facts, "batchSize"), _LARGEST_BATCH)
        name = check_table_name(facts.get("table"))
        conditions = Conditions(state=given.state_in(facts))

        async def prepared(handle: TableHandle) -> tuple[Columns, Any]:
            columns = given.columns_in(facts, handle.schema)
            return columns, await self._where(facts, handle.schema)

        self.store._enter()
        operation = Operation("export", name, filtered=facts.get("where") is not None)
        batches = self.store._batches(operation, name, size, after, prepared)
        async with aclosing(batches):
            while True:
                try:
                    with under(conditions):  # the first step opens the table
                        batch, cursor = await anext(batches)
                except StopAsyncIteration:
                    return
                yield Message({"cursor": cursor.hex()}, pa.Table.from_batches([batch]))

    async def _count(self, asked: Message) -> Message:
        async def count(engine: Engine, handle: TableHandle) -> Message:
            where = await self._where(asked.facts, handle.schema)
            return Message({"count": await engine.backend.count(handle, where)})

        return await self._on_table("count", asked, count)

    async def _value_counts(self, asked: Message) -> Message:
        facts = asked.facts
        limit = None if facts.get("limit") is None else given.limit_in(facts, "limit")

        async def count(engine: Engine, handle: TableHandle) -> Message:
            ref = given.ref_in(facts.get("field"), handle.schema, lists=True)
            where = await self._where(facts, handle.schema)
            found = await engine.backend.value_counts(handle, ref, where, limit)
            return Message({"counts": [list(pair) for pair in found]})

        return await self._on_table("distinct", asked, count)

    async def _bounds(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            ref = given.ref_in(asked.facts.get("field"), handle.schema, lists=False)
            where = await self._where(asked.facts, handle.schema)
            found = await engine.backend.bounds(handle, ref, where)
            return Message({"bounds": None if found is None else list(found)})

        return await self._on_table("bounds", asked, read)

    # Upkeep

    async def _stats(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            return Message({"stats": asdict(await engine.backend.stats(handle))})

        return await self._on_table("stats", asked, read)

    async def _optimize(self, asked: Message) -> Message:
        async def optimize(engine: Engine, handle: TableHandle) -> Message:
            await engine.backend.optimize(handle)
            return Message()

        return await self._on_table("optimize", asked, optimize)

    async def _create_index(self, asked: Message) -> Message:
        facts = asked.facts
        kind, wait = given.one_of(facts, "kind", str), given.one_of(facts, "wait", bool)
        options = given.one_of(facts, "options", dict)

        async def create(engine: Engine, handle: TableHandle) -> Message:
            indexes = ability_of(engine.backend, VectorIndexes, "indexes")
            await indexes.create_index(handle, kind, wait=wait, options=options)
            return Message()

        return await self._on_table("create_index", asked, create)

    async def _indexes(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            indexes = ability_of(engine.backend, VectorIndexes, "indexes")
            return Message({"indexes": [asdict(one) for one in await indexes.indexes(handle)]})

        return await self._on_table("indexes", asked, read)

    async def _drop_index(self, asked: Message) -> Message:
        name = given.one_of(asked.facts, "name", str)

        async def drop(engine: Engine, handle: TableHandle) -> Message:
            await ability_of(engine.backend, VectorIndexes, "indexes").drop_index(handle, name)
            return Message()

        return await self._on_table("drop_index", asked, drop)

    async def _versions(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            snapshots = ability_of(engine.backend, Snapshots, "snapshots")
            return Message({"versions": [dict(one) for one in await snapshots.versions(handle)]})

        return await self._on_table("versions", asked, read)

    async def _restore(self, asked: Message) -> Message:
        version = given.one_of(asked.facts, "version", int)

        async def restore(engine: Engine, handle: TableHandle) -> Message:
            await ability_of(engine.backend, Snapshots, "snapshots").restore(handle, version)
            return Message()

        return await self._on_table("restore", asked, restore)


async def _rows_message(rows: StoredRows, schema: Schema) -> Message:
    table = await off_loop(effort_of_rows([rows]), table_of_rows, rows, schema)
    return Message(rows=table)


def _of_outcome(outcome: int | None) -> Message:
    """Return the answer of a write whose outcome was kept."""
    return Message() if outcome is None else Message({"count": outcome})


def key_of(name: str, call: str, body: bytes | bytearray | memoryview) -> WriteKey:
    """Return the key of a write: its name and the digest of what it asks for."""
    digest = hashlib.blake2b(call.encode() + b"\0", digest_size=16)
    digest.update(body)
    return WriteKey(name, digest.digest())


def effort_of_key(body: bytes | bytearray | memoryview) -> int:
    """Return how many values it takes to make the key of a write, for ``off_loop``."""
    return len(body) // _HASHED_A_VALUE
