"""A table as one attempt of a call sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from .._filters import Expr, bind
from .._filters.lists import nested_keys
from .._filters.tree import Ref
from ..backend.changes import Delete, RowChange, Update
from ..backend.contract import (
    Changes,
    Columns,
    Find,
    FromEach,
    FromRows,
    Get,
    OfSelected,
    Order,
    Query,
    TableHandle,
    TableStats,
)
from ..backend.cost import cost_of_text
from ..backend.rows import Batch
from ..backend.threads import hop
from ..errors import FilterError
from .active_backend import ActiveBackend

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")


class OpenTable:
    """A table as one attempt of a call sees it: its backend, its state, and the rows that exist.

    ``ExpiringTable`` is a table whose stored rows may have expired.
    """

    __slots__ = ("active", "backend", "filters", "handle", "schema")

    expires: ClassVar[bool] = False
    """True if stored rows may have expired."""

    def __init__(self, active: ActiveBackend, handle: TableHandle) -> None:
        self.active: ActiveBackend = active
        self.backend = active.backend
        self.handle: TableHandle = handle
        self.schema = handle.schema
        self.filters: list[Expr] = []
        """The attempt's filters, except filters that are combined with ids or words."""

    def _only(self, where: Expr | None) -> Expr | None:
        """Return the bound filter, narrowed to rows that exist."""
        return where

    def bind(self, where: object, alone: bool = True) -> Expr | None:
        """Return a user's filter, bound to the table.

        The filter is ``alone`` unless ids or words narrow the rows too. If they do, the filter may
        not be the reason for an empty result.
        """
        expr = bind(where, self.schema)
        if alone and expr is not None:
            self.filters.append(expr)
        return expr

    async def bound(self, where: object, alone: bool = True) -> Expr | None:
        """Like ``bind``, but parse long filters in a thread."""
        return await hop(cost_of_text(where), self.bind, where, alone)

    async def refuse_lists(self) -> None:
        """Raise FilterError if a filter uses a payload key that occurs only within lists.

        Called if the attempt's filters selected nothing.
        """
        cost, indexed = sum(each.literals for each in self.filters), self.schema.payload_indexes
        for key in await hop(cost, nested_keys, self.filters, indexed):
            payloads = await self._payloads(key.in_lists, 100)  # a sample, to keep this fast
            fault = await hop(cost_of_text(payloads), key.fault, payloads)
            if fault is not None and not await self._payloads(key.elsewhere, 1):
                raise FilterError(fault)

    async def _payloads(self, where: Expr | None, most: int) -> list[str]:
        """Return the payloads of the first rows that a filter selects."""
        columns, by_id = Columns((), payload=True).metered(most), (Order(Ref("id")),)
        return await self.read(Find(where, by_id, most, columns, _payload_texts))

    def get(self, ids: Sequence[str], columns: Columns, finish: FromRows[_T]) -> Awaitable[_T]:
        """Return the result of ``finish`` for the rows with these ids."""
        return self.backend.read(self.handle, Get(ids, columns, finish))

    async def ids(self, ids: Sequence[str]) -> set[str]:
        """Return the set of the ids that exist in the table."""
        return await self.get(ids, Columns(()), lambda rows: set(rows.ids)) if ids else set()

    def read(self, read: OfSelected[_T]) -> Awaitable[_T]:
        """Read the rows that a filter selects, and return the result."""
        return self.backend.read(self.handle, replace(read, where=self._only(read.where)))

    def rows(
        self, where: Expr | None, columns: Columns, finish: FromRows[_T]
    ) -> AsyncGenerator[_T, None]:
        """Yield the results of ``finish`` for the rows that a filter selects in one snapshot."""
        return self.backend.rows(
            self.handle, where=self._only(where), columns=columns, finish=finish
        )

    def write(self, change: RowChange) -> Awaitable[int]:
        """Change rows that exist, and return their number."""
        if isinstance(change, (Update, Delete)):
            change = replace(change, where=self._only(change.where))
        return self.backend.write(self.handle, change)

    def search(self, queries: Sequence[Query], finish: FromEach[_T]) -> Awaitable[_T]:
        """Return the result of ``finish`` for the matches of each query. All queries are of one
        kind."""
        return self.backend.search(self.handle, queries, finish)

    def export(
        self, *, where: Expr | None, columns: Columns, after: bytes | None, batch_size: int
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        """Yield the unexpired rows of one snapshot in batches, each with its cursor.

        The backend gets ``where`` unchanged, since a cursor is valid only for the same filter.
        """
        return self.backend.export(
            self.handle, where=where, columns=columns, after=after, batch_size=batch_size
        )

    async def changes(self, since: int, limit: int) -> Changes:
        """Return a page of the change feed."""
        return await self.backend.changes(self.handle, since, limit=limit)

    async def stats(self) -> TableStats:
        """Return the size and costs of the table."""
        return await self.backend.stats(self.handle)

    async def free(self, ids: Sequence[str]) -> None:
        """Delete the expired rows with these ids."""

    async def sweep(self) -> None:
        """Delete the expired rows."""

    def sweep_now_and_then(self) -> None:
        """Begin a sweep in the background, at most once an hour."""


def _payload_texts(rows: Batch) -> list[str]:
    return [text or "{}" for text in rows.payloads or ()]
