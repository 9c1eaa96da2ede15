"""The work of the calls of remote backends on a store: tables and writes; the rest is in ``reads``.

What a client sends is checked like what a user passes in. Calls go through the store, so they
follow a migration, wait their turn, are done once under their key, and are observed as any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .._model.schema import Schema, check_table_name
from .._store.current import Engine
from .._store.store import VectorStore
from .._telemetry.calls import Operation
from ..backend.contract import TableHandle
from ..backend.threads import hop
from ..backend.weight import weight
from ..errors import InvalidArgumentError
from . import arguments as given
from .wire import Message

Call = Callable[[Message], Awaitable[Message]]
OnTable = Callable[[Engine, TableHandle], Awaitable[Message]]


class Part:
    """Calls of one kind, by their names."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store

    def calls(self) -> Mapping[str, Call]:
        raise NotImplementedError

    async def on_table(
        self, name: str, asked: Message, act: OnTable, result: Callable[[int | None], Message]
    ) -> Message:
        """Run ``act`` on the table and in the state for which the call was made."""
        given.state_in(asked.facts)
        operation = Operation(name, asked.facts.get("table"))
        return await self.store._on_table(operation, act, result)

    async def ids(self, facts: given.Facts) -> list[str]:
        ids = given.one_of(facts, "ids", list)
        return await hop(len(ids), given.ids_in, facts)

    async def where(self, facts: given.Facts, schema: Schema) -> Any:
        return await self.store._bind(given.optional(facts, "where", str), schema)


def done(_: int | None = None) -> Message:
    """The answer of a call that returns nothing."""
    return Message()


def counted(count: int | None) -> Message:
    """The answer of a call that returns a number of rows."""
    return Message({"count": count or 0})


class Tables(Part):
    """The calls that make, change and drop tables."""

    def calls(self) -> Mapping[str, Call]:
        return {
            "tables": self.tables, "open_table": self.open_table,
            "create_table": self.create_table, "rename_table": self.rename_table,
            "drop_table": self.drop_table, "add_field": self.add_field,
            "create_field_index": self.create_field_index,
            "drop_field_index": self.drop_field_index, "drop_field": self.drop_field,
            "rename_field": self.rename_field,
        }  # fmt: skip

    async def tables(self, asked: Message) -> Message:
        return Message({"tables": await self.store.tables()})

    async def open_table(self, asked: Message) -> Message:
        name = check_table_name(asked.facts.get("table"))

        async def read(engine: Engine) -> Message:
            handle = await engine.open_table(name, fresh=True)
            state = engine.state_of(handle)
            return Message({"schema": handle.schema.to_json(), "state": state})

        return await self.store._call(Operation("schema", name), read)

    async def create_table(self, asked: Message) -> Message:
        name = check_table_name(asked.facts.get("table"))
        schema = Schema.from_json(given.one_of(asked.facts, "schema", str))
        self.store._check_writable("create_table")

        async def create(engine: Engine) -> Message:
            # Not by the store's own method: a table that a migration brings keeps every option.
            await engine.backend.create_table(name, schema)
            return Message()

        return await self.store._call(Operation("create_table", name), create, done)

    async def rename_table(self, asked: Message) -> Message:
        old, new = (check_table_name(asked.facts.get(name)) for name in ("table", "new"))
        await self.store.rename_table(old, new)
        return Message()

    async def drop_table(self, asked: Message) -> Message:
        await self.store.drop_table(check_table_name(asked.facts.get("table")))
        return Message()

    async def add_field(self, asked: Message) -> Message:
        table, facts = _table_in(asked), asked.facts
        name, field = given.one_of(facts, "name", str), given.field_in(facts)
        await self.store.add_field(table, name, field)
        return Message()

    async def create_field_index(self, asked: Message) -> Message:
        table, facts = _table_in(asked), asked.facts
        field, kind = given.one_of(facts, "field", str), given.index_in(facts)
        await self.store.create_field_index(table, field, kind)
        return Message()

    async def drop_field_index(self, asked: Message) -> Message:
        table, facts = _table_in(asked), asked.facts
        field = given.one_of(facts, "field", str)
        kind = None if facts.get("kind") is None else given.index_in(facts)
        await self.store.drop_field_index(table, field, kind)
        return Message()

    async def drop_field(self, asked: Message) -> Message:
        field = given.one_of(asked.facts, "field", str)
        await self.store.drop_field(_table_in(asked), field)
        return Message()

    async def rename_field(self, asked: Message) -> Message:
        old, new = (given.one_of(asked.facts, name, str) for name in ("field", "new"))
        await self.store.rename_field(_table_in(asked), old, new)
        return Message()


class Writes(Part):
    """The calls that change rows."""

    def calls(self) -> Mapping[str, Call]:
        return {
            "insert": self.insert, "upsert": self.upsert, "update": self.update,
            "set_vectors": self.set_vectors, "delete": self.delete,
        }  # fmt: skip

    async def insert(self, asked: Message) -> Message:
        table, rows = _table_in(asked), _rows_in(asked)
        skip = given.one_of(asked.facts, "skipExisting", bool)
        on_conflict: Any = "skip" if skip else "fail"
        return counted(await self.store.insert(table, rows, on_conflict=on_conflict))

    async def upsert(self, asked: Message) -> Message:
        return counted(await self.store.upsert(_table_in(asked), _rows_in(asked)))

    async def set_vectors(self, asked: Message) -> Message:
        table, rows, ids = _table_in(asked), _rows_in(asked), await self.ids(asked.facts)
        if rows.num_columns != 1:
            raise InvalidArgumentError("vectors", rows.num_columns, "one column")
        return counted(await self.store.set_vectors(table, ids, rows.column(0)))

    async def update(self, asked: Message) -> Message:
        facts = asked.facts
        ids = None if facts.get("ids") is None else await self.ids(facts)

        async def update(engine: Engine, handle: TableHandle) -> Message:
            schema = handle.schema
            if ids == []:
                return counted(0)
            vector = given.vector_in(asked, schema)
            values, payload = await hop(
                weight(facts),
                lambda: given.patch_in(facts, schema, alone=vector is None),
            )
            return counted(
                await engine.backend.update(
                    handle, values, payload, ids=ids, where=await self.where(facts, schema),
                    vector=vector,
                )
            )  # fmt: skip

        return await self.on_table("update", asked, update, counted)

    async def delete(self, asked: Message) -> Message:
        facts = asked.facts
        ids = None if facts.get("ids") is None else await self.ids(facts)
        if ids is None and facts.get("where") is None:
            raise InvalidArgumentError("ids or where", None, "given; every row is where='TRUE'")

        async def delete(engine: Engine, handle: TableHandle) -> Message:
            if ids == []:
                return counted(0)
            where = await self.where(facts, handle.schema)
            return counted(await engine.backend.delete(handle, ids=ids, where=where))

        name = "delete_where" if ids is None else "delete"
        return await self.on_table(name, asked, delete, counted)


def _table_in(asked: Message) -> str:
    given.state_in(asked.facts)
    return given.one_of(asked.facts, "table", str)


def _rows_in(asked: Message) -> Any:
    if asked.rows is None:
        raise InvalidArgumentError("rows", None, "an Arrow stream")
    return asked.rows
