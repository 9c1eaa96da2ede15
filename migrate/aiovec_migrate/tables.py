"""A table of one store, with a handle that is renewed after the table is altered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from aiovec.backend import Schema
from aiovec.backend.contract import Backend, Columns, Count, StaleTableError, TableHandle
from aiovec.errors import DuplicateIdError, MigrationError, StoreBusyError

_T = TypeVar("_T")

# Maximum attempts at an operation whose table is altered or whose store is busy.
_MOST_TIMES = 20
# The smallest assumed size of a row without its vector, in bytes.
_ROW_BYTES = 512


class AlteredError(MigrationError):
    """The schema of a table has changed since it was opened."""


@dataclass(slots=True, eq=False)
class OpenTable:
    """A table of one store."""

    backend: Backend
    handle: TableHandle

    @classmethod
    async def open(cls, backend: Backend, name: str) -> OpenTable:
        return cls(backend, await backend.open_table(name))

    @property
    def name(self) -> str:
        return self.handle.name

    @property
    def schema(self) -> Schema:
        return self.handle.schema

    async def reopen(self) -> None:
        """Get a new handle. Raises AlteredError if the schema has changed."""
        handle = await self.backend.open_table(self.handle.name)
        if differences := handle.schema.differences(self.handle.schema):
            raise AlteredError(
                f"the schema of table {handle.name!r} in {self.backend.target} changed during the "
                f"migration: {'; '.join(differences)}; run the same command again"
            )
        self.handle = handle

    async def do(self, work: Callable[[TableHandle], Awaitable[_T]]) -> _T:
        """Return the result of ``work``; repeat ``work`` if the handle is out of date."""
        return await repeated(lambda: work(self.handle), self)

    async def count(self) -> int:
        return await self.do(lambda handle: self.backend.read(handle, Count(None)))


async def repeated(act: Callable[[], Awaitable[_T]], *tables: OpenTable) -> _T:
    """Return the result of ``act``.

    After a StaleTableError or DuplicateIdError, reopen the tables and repeat ``act``; if a store
    was busy, only repeat ``act``.
    """
    for _ in range(_MOST_TIMES):
        try:
            return await act()
        except StoreBusyError as exc:  # after busy_timeout; nothing was done
            reason = str(exc)
        except (StaleTableError, DuplicateIdError):
            reason = f"table {tables[0].name!r} keeps changing"
            for table in tables:
                await table.reopen()
    raise MigrationError(f"{reason}; run the same command again")


async def looked(look: Callable[[], Awaitable[_T]]) -> _T:
    """Return the result of ``look``, which opens tables; repeat ``look`` if a table was altered.

    Until a run has marked the stores, apps may alter their tables.
    """
    for _ in range(_MOST_TIMES - 1):
        with suppress(AlteredError):
            return await look()
    return await look()


def everything(schema: Schema, *, vector: bool = True) -> Columns:
    """Return all columns of a table, with or without the vector."""
    return Columns(tuple(schema.fields), schema.payload, vector=vector)


async def row_bytes(*tables: OpenTable) -> int:
    """Return the approximate size in bytes of a row in the table with the largest rows."""
    sizes = []
    for table in tables:
        stats = await table.do(table.backend.stats)
        least = table.schema.dim * 4 + _ROW_BYTES
        sizes.append(max(least, stats.bytes // max(1, stats.rows)))
    return max(sizes)
