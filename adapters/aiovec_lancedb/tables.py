"""Creating, altering and dropping tables: writes like others, alone under the table's lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiovec.backend import TableHandle
from aiovec.errors import (
    InvalidArgumentError,
    InvalidNameError,
    TableExistsError,
    TableNotFoundError,
)
from aiovec.schema import Field, Schema

from .errors import NoSuchTableError, TableThereError, translated
from .layout import added_column, new_table
from .scalars import index_fields
from .session import Session
from .tidying import versions_of
from .writer import Work


@dataclass(frozen=True, slots=True, eq=False)
class CreateTable(Work):
    name: str
    schema: Schema

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        connection = session.check()
        try:
            with translated(session.target):
                table = await connection.create_table(self.name, schema=new_table(self.schema))
        except TableThereError as exc:
            raise TableExistsError(self.name) from exc.__cause__
        await index_fields(session, table, self.schema.fields)
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class DropTable(Work):
    name: str

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        connection = session.check()
        try:
            with translated(session.target):
                # In memory, lancedb drops what is not there without a word.
                await connection.open_table(self.name)
                await connection.drop_table(self.name)
        except NoSuchTableError as exc:
            names = await session.names()
            if self.name not in names:
                raise TableNotFoundError(self.name, names) from exc.__cause__
            # Without a readable version it is damaged, or half dropped: this removes the rest.
            await session.run(connection.drop_table(self.name))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class AddField(Work):
    handle: TableHandle
    name: str
    field: Field

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        if self.name in table.schema.fields:
            raise InvalidNameError(self.name, "field", "there is a field of this name")
        await session.run(table.lance.add_columns(added_column(self.name, self.field)))
        await index_fields(session, table.lance, {self.name: self.field})
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class Restore(Work):
    handle: TableHandle
    version: int

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        kept = [version.number for version in await versions_of(session, table)]
        if self.version not in kept:
            expected = f"one that is kept, from {kept[0]} to {kept[-1]}"
            raise InvalidArgumentError("version", self.version, expected)
        await session.run(table.lance.checkout(self.version))
        await session.run(table.lance.restore())
        return [None]
