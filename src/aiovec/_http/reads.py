"""The work of the calls of remote backends on a store: reads and upkeep.

They go beneath the store, which follows a migration for them, for columns in the place of records.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from .._model.schema import Schema, check_table_name
from .._store.current import Engine
from .._store.search import bound_filters, weight_of
from ..backend.context import CallContext, calling
from ..backend.contract import (
    Columns,
    StoredRows,
    TableHandle,
    VectorQuery,
)
from ..backend.threads import hop
from ..backend.weight import weight
from ..errors import InvalidArgumentError
from . import arguments as given
from .served import Call, Part, done
from .wire import Message, table_of_found, table_of_rows

# Reading one kind of search takes as long as so many values, for ``hop``.
_EFFORT_OF_A_KIND = 10


class Reads(Part):
    """The calls that read rows, and ``export``."""

    def calls(self) -> Mapping[str, Call]:
        return {
            "get": self.get, "find": self.find, "search": self.search,
            "search_text": self.search_text, "count": self.count,
            "value_counts": self.value_counts, "bounds": self.bounds,
        }  # fmt: skip

    async def get(self, asked: Message) -> Message:
        ids = await self.ids(asked.facts)

        async def get(engine: Engine, handle: TableHandle) -> Message:
            columns = given.columns_in(asked.facts, handle.schema)
            rows = await engine.backend.get(handle, ids, columns)
            return await _rows_message(rows, handle.schema)

        return await self.on_table("get", asked, get, done)

    async def find(self, asked: Message) -> Message:
        facts = asked.facts
        limit, offset = given.limit_in(facts, "limit"), given.limit_in(facts, "offset", least=0)

        async def find(engine: Engine, handle: TableHandle) -> Message:
            schema = handle.schema
            rows = await engine.backend.find(
                handle, where=await self.where(facts, schema),
                order_by=given.orders_in(facts, schema), limit=limit, offset=offset,
                columns=given.columns_in(facts, schema),
            )  # fmt: skip
            return await _rows_message(rows, schema)

        return await self.on_table("find", asked, find, done)

    async def search(self, asked: Message) -> Message:
        async def search(engine: Engine, handle: TableHandle) -> Message:
            queries = await self._queries(asked, handle.schema)
            found = await engine.backend.search(handle, queries) if queries else []
            rows = [one.rows for one in found]
            return await hop(weight(rows), table_of_found, found, handle.schema)

        many = asked.rows is not None and asked.rows.num_rows > 1
        return await self.on_table("search_many" if many else "search", asked, search, done)

    async def _queries(self, asked: Message, schema: Schema) -> list[VectorQuery]:
        """Return the queries: each vector with one of the kinds of search that the call names."""
        facts = asked.facts
        columns = given.columns_in(facts, schema)
        which = given.one_of(facts, "which", list)
        told = given.one_of(facts, "kinds", list)[: len(which) + 1]

        def wheres_told() -> list[str | None]:
            for each in told:
                if type(each) is not dict:
                    raise InvalidArgumentError("kinds", each, "objects")
            return [given.optional(each, "where", str) for each in told]

        def kinds_told() -> list[tuple[Any, ...]]:
            return [
                (
                    given.limit_in(each, "limit"), where, columns,
                    given.one_of(each, "exact", bool), given.tuning_in(each, schema.dim),
                )
                for each, where in zip(told, wheres, strict=True)
            ]  # fmt: skip

        effort = _EFFORT_OF_A_KIND * len(told)
        given_wheres = tuple(await hop(effort, wheres_told))
        wheres = await hop(weight_of(given_wheres), bound_filters, given_wheres, schema, len(told))
        kinds = await hop(effort, kinds_told)
        vectors = await hop(weight(asked.rows), given.vectors_in, asked, schema)
        if len(which) != len(vectors) or not all(
            type(n) is int and 0 <= n < len(kinds) for n in which
        ):
            raise InvalidArgumentError("which", len(which), "the place of a kind for each vector")
        return [VectorQuery(vector, *kinds[n]) for vector, n in zip(vectors, which, strict=True)]

    async def search_text(self, asked: Message) -> Message:
        async def search(engine: Engine, handle: TableHandle) -> Message:
            facts, schema = asked.facts, handle.schema
            engine.backend.check_able("text")
            columns = given.columns_in(facts, schema)
            where = await self.where(facts, schema)
            query = given.text_query_in(facts, schema, columns, where)
            found = await engine.backend.search_text(handle, query)
            return await hop(weight(found.rows), table_of_found, [found], schema)

        return await self.on_table("search_text", asked, search, done)

    async def export(self, asked: Message) -> AsyncGenerator[Message, None]:
        """Yield the batches of an export, each with its cursor."""
        facts = asked.facts
        after = given.cursor_in(facts)
        size = given.limit_in(facts, "batchSize")
        name = check_table_name(facts.get("table"))
        conditions = CallContext(state=given.state_in(facts))

        async def prepared(schema: Schema) -> tuple[Columns, Any]:
            return given.columns_in(facts, schema), await self.where(facts, schema)

        batches = self.store._export(name, size, after, prepared)
        async with aclosing(batches):
            while True:
                try:
                    with calling(conditions):  # the first step opens the table
                        batch = await anext(batches)
                except StopAsyncIteration:
                    return
                cursor = batch.schema.metadata[b"aiovec.cursor"]
                yield Message({"cursor": cursor.hex()}, pa.Table.from_batches([batch]))

    async def count(self, asked: Message) -> Message:
        async def count(engine: Engine, handle: TableHandle) -> Message:
            where = await self.where(asked.facts, handle.schema)
            return Message({"count": await engine.backend.count(handle, where)})

        return await self.on_table("count", asked, count, done)

    async def value_counts(self, asked: Message) -> Message:
        facts = asked.facts
        limit = None if facts.get("limit") is None else given.limit_in(facts, "limit")

        async def count(engine: Engine, handle: TableHandle) -> Message:
            ref = given.ref_in(facts.get("field"), handle.schema, lists=True)
            where = await self.where(facts, handle.schema)
            found = await engine.backend.value_counts(handle, ref, where, limit)
            return Message({"counts": [list(pair) for pair in found]})

        return await self.on_table("distinct", asked, count, done)

    async def bounds(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            ref = given.ref_in(asked.facts.get("field"), handle.schema, lists=False)
            where = await self.where(asked.facts, handle.schema)
            found = await engine.backend.bounds(handle, ref, where)
            return Message({"bounds": None if found is None else list(found)})

        return await self.on_table("bounds", asked, read, done)


class Upkeep(Part):
    """The calls that look after a table."""

    def calls(self) -> Mapping[str, Call]:
        return {
            "stats": self.stats, "optimize": self.optimize, "create_index": self.create_index,
            "indexes": self.indexes, "drop_index": self.drop_index, "versions": self.versions,
            "restore": self.restore,
        }  # fmt: skip

    async def stats(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            return Message({"stats": asdict(await engine.backend.stats(handle))})

        return await self.on_table("stats", asked, read, done)

    async def optimize(self, asked: Message) -> Message:
        async def optimize(engine: Engine, handle: TableHandle) -> Message:
            await engine.backend.optimize(handle)
            return Message()

        return await self.on_table("optimize", asked, optimize, done)

    async def create_index(self, asked: Message) -> Message:
        facts = asked.facts
        kind, wait = given.one_of(facts, "kind", str), given.one_of(facts, "wait", bool)
        options = given.one_of(facts, "options", dict)

        async def create(engine: Engine, handle: TableHandle) -> Message:
            await engine.backend.create_index(handle, kind, wait=wait, options=options)
            return Message()

        return await self.on_table("create_index", asked, create, done)

    async def indexes(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            found = await engine.backend.indexes(handle)
            return Message({"indexes": [asdict(one) for one in found]})

        return await self.on_table("indexes", asked, read, done)

    async def drop_index(self, asked: Message) -> Message:
        name = given.one_of(asked.facts, "name", str)

        async def drop(engine: Engine, handle: TableHandle) -> Message:
            await engine.backend.drop_index(handle, name)
            return Message()

        return await self.on_table("drop_index", asked, drop, done)

    async def versions(self, asked: Message) -> Message:
        async def read(engine: Engine, handle: TableHandle) -> Message:
            found = await engine.backend.versions(handle)
            return Message({"versions": [dict(one) for one in found]})

        return await self.on_table("versions", asked, read, done)

    async def restore(self, asked: Message) -> Message:
        version = given.one_of(asked.facts, "version", int)

        async def restore(engine: Engine, handle: TableHandle) -> Message:
            await engine.backend.restore(handle, version)
            return Message()

        return await self.on_table("restore", asked, restore, done)


async def _rows_message(rows: StoredRows, schema: Schema) -> Message:
    table = await hop(weight(rows), table_of_rows, rows, schema)
    return Message(rows=table)
