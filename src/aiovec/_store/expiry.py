"""Rows that expire.

An expired row exists only for the sweep, which deletes it. Each attempt of a user's call that reads
or writes rows makes one ``LiveRows``, and reads, changes and counts only the rows that this
selects. The sweep runs in ``optimize``, and once an hour in the background of a write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import TypeVar, cast

from .._filters import Expr, bind
from .._filters.tree import Compare, IsNull, Ref, all_of, any_of
from .._model.lazy_arrow import pa, pc
from ..backend.context import call_context, calling
from ..backend.contract import (
    Backend,
    Changes,
    Columns,
    Found,
    FromEach,
    FromRows,
    Order,
    StaleTableError,
    StoredRows,
    TableHandle,
    VectorQuery,
)
from ..backend.cost import cost_of
from ..backend.limits import renewed
from ..backend.threads import hop
from ..errors import AiovecError
from .active_backend import ActiveBackend

_T = TypeVar("_T")

# Seconds between two sweeps by writes. A sweep may read the whole table.
_SWEEP_EVERY = 3600.0
# Rows that a sweep deletes in one transaction, for which other writes wait.
_SWEPT_AT_ONCE = 1_000


class LiveRows:
    """The rows of a table that exist for one call, by the clock at its beginning.

    Both the clock and the row's time are cut to whole seconds: no row is seen after its time, and
    calls within one second have equal filters, so backends can reuse masks and counts.
    """

    __slots__ = ("_backend", "_expired", "_handle", "_moment", "field")

    def __init__(self, backend: Backend, handle: TableHandle) -> None:
        self._backend, self._handle = backend, handle
        self.field = None if backend.hides_expired else handle.schema.expires
        """The field with the times; None if no stored row can have expired."""
        self._expired: Expr | None = None
        if self.field is not None:
            # A row has expired if its second has begun.
            self._moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
            self._expired = Compare(Ref(self.field), "<", self._moment)

    def bind(self, where: object) -> Expr | None:
        """Return a user's filter, bound to the table, for rows that exist."""
        return self.only(bind(where, self._handle.schema))

    def only(self, where: Expr | None) -> Expr | None:
        """Return a bound filter for rows that exist."""
        return where if self.field is None else self._not_before(self._moment, where)

    def _not_before(self, moment: datetime, where: Expr | None) -> Expr:
        """Return a bound filter for rows that existed at a moment."""
        at = Ref(cast("str", self.field))
        alive = any_of([IsNull(at), Compare(at, ">=", moment)])
        return alive if where is None else all_of([where, alive])

    def get(self, ids: Sequence[str], columns: Columns, finish: FromRows[_T]) -> Awaitable[_T]:
        """Return what ``finish`` makes of the rows with these ids."""
        field = self.field
        if field is None:
            return self._backend.get(self._handle, ids, columns, finish)

        def existing(rows: StoredRows) -> _T:
            return finish(rows.take(self._places(rows, field), columns.fields))

        return self._backend.get(self._handle, ids, self.columns(columns), existing)

    def search(self, queries: Sequence[VectorQuery], finish: FromEach[_T]) -> Awaitable[_T]:
        """Search by vectors, with filters of their own; ``finish`` makes the result of the rows."""
        if self.field is None:
            return self._backend.search(self._handle, queries, finish)
        return self._search(queries, finish)

    async def _search(self, queries: Sequence[VectorQuery], finish: FromEach[_T]) -> _T:
        """Search a table whose rows expire.

        A filter for live rows costs as much as many searches, and few expired rows are still
        stored. So this fetches some extra rows and drops expired ones. A query with too many
        expired rows is repeated with a filter for the start of the current minute, whose mask
        backends can reuse, and finally with one for now.
        """
        columns, limit = queries[0].columns, queries[0].limit  # the same in all of them
        # Extra rows replace expired ones.
        enough = limit + 4 + limit // 4
        existing = partial(self._existing, enough, columns)
        answers: dict[int, Found] = {}
        pending: Sequence[int] = range(len(queries))
        for moment in (None, self._moment.replace(second=0), self._moment):
            wider = partial(self._wider, [queries[n] for n in pending], enough, moment)
            wide = await hop(16 * len(pending), wider)
            kept = await self._backend.search(self._handle, wide, existing)
            answers.update((n, live) for n, (live, _) in zip(pending, kept, strict=True))
            pending = [
                n
                for n, (live, more) in zip(pending, kept, strict=True)
                if more and len(live.measures) < limit
            ]
            if not pending:
                break
        every = [answers[n] for n in range(len(queries))]
        return await hop(cost_of(*every), finish, every)

    def _wider(
        self, queries: Sequence[VectorQuery], limit: int, moment: datetime | None
    ) -> list[VectorQuery]:
        """Return the queries with this limit, and a filter for rows that existed at ``moment``."""
        read = self.columns(queries[0].columns).metered(limit * len(queries))
        wider = [replace(query, limit=limit, columns=read) for query in queries]
        if moment is None:
            return wider
        return [replace(query, where=self._not_before(moment, query.where)) for query in wider]

    def _existing(
        self, limit: int, columns: Columns, results: Sequence[Found]
    ) -> list[tuple[Found, bool]]:
        """Return each result without its expired rows and without rows beyond the limit, and
        whether there may be more."""
        field, answers = cast("str", self.field), []
        for result in results:
            kept = self._places(result.rows, field)
            if len(result.measures) > limit:  # beyond the limit, rows as near may be missing
                order = sorted(zip(result.measures, result.rows.ids, count(), strict=False))
                kept = sorted({i for _, _, i in order[:limit]}.intersection(kept))
            measures = [result.measures[i] for i in kept]
            live = Found(result.rows.take(kept, columns.fields), measures)
            answers.append((live, len(result.measures) >= limit))
        return answers

    def _places(self, rows: StoredRows, field: str) -> list[int]:
        """Return the positions of the rows that exist."""
        times = enumerate(rows.fields[field])
        return [i for i, at in times if at is None or at >= self._moment]

    async def ids(self, ids: Sequence[str]) -> set[str]:
        """Return the set of ids that exist."""
        return await self.get(ids, Columns(()), lambda rows: set(rows.ids)) if ids else set()

    def columns(self, columns: Columns) -> Columns:
        """Return the columns to read, with the field of the times; ``kept_of`` drops it again."""
        if self.field is None or self.field in columns.fields:
            return columns
        return replace(columns, fields=(*columns.fields, self.field))

    def kept_of(self, batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
        """Return the rows of a batch that exist."""
        if self.field is None:
            return batch
        expired = self._expired_in(batch)
        if expired.true_count:
            batch = batch.filter(pc.invert(expired))
        return batch if self.field in columns.fields else batch.drop_columns([self.field])

    async def changes(self, page: Changes) -> Changes:
        """Return a page of the change feed in which an expired row is deleted.

        An earlier page may have held the row with another time.
        """
        if self.field is None or not page.upserted.num_rows:
            return page

        def divided() -> Changes:
            expired = self._expired_in(page.upserted)
            gone = page.upserted.column("id").filter(expired).to_pylist()
            rows = page.upserted.filter(pc.invert(expired)) if gone else page.upserted
            return replace(page, upserted=rows, deleted=[*page.deleted, *gone])

        return await hop(cost_of(page.upserted), divided)

    def _expired_in(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        at = rows.column(self.field)
        return pc.fill_null(pc.less(at, pa.scalar(self._moment, at.type)), False)

    # For the sweep

    async def expired_among(self, ids: Sequence[str]) -> list[str]:
        """Return the ids whose rows have expired and are still stored."""
        if self.field is None:
            return []
        field = self.field

        def expired(rows: StoredRows) -> list[str]:
            times = zip(rows.ids, rows.fields[field], strict=True)
            return [id for id, at in times if at is not None and at < self._moment]

        return await self._backend.get(self._handle, ids, Columns((field,)), expired)

    async def count_expired(self) -> int:
        """Return the number of rows that have expired and are still stored."""
        if self._expired is None:
            return 0
        return await self._backend.count(self._handle, self._expired)

    async def delete_expired(self, ids: Sequence[str]) -> None:
        """Delete the expired rows with these ids."""
        with calling(replace(call_context(), key=None)):  # the key belongs to the call's own write
            await self._backend.delete(self._handle, ids=ids, where=self._expired)

    async def delete_all_expired(self) -> None:
        """Delete all expired rows, in batches, each of which is a step with a deadline of its
        own."""
        oldest_first = Order(Ref(cast("str", self.field))), Order(Ref("id"))
        while True:
            with renewed():
                ids = await self._backend.find(
                    self._handle, where=self._expired, order_by=oldest_first,
                    limit=_SWEPT_AT_ONCE, offset=0, columns=Columns(()),
                    finish=lambda rows: rows.ids,
                )  # fmt: skip
                if ids:
                    await self.delete_expired(ids)
            if len(ids) < _SWEPT_AT_ONCE:
                return


async def sweep(active: ActiveBackend, handle: TableHandle) -> None:
    """Delete the expired rows. A server does this for its clients, by its own clock."""
    live = LiveRows(active.backend, handle)
    if live.field is not None and active.backend.upkeep:
        await live.delete_all_expired()
    active.swept[handle.name] = time.monotonic()


def sweep_now_and_then(active: ActiveBackend, handle: TableHandle) -> None:
    """Begin a sweep in the background, unless one runs or the last one is less than an hour ago.

    After a failure, the next write begins another one.
    """
    name = handle.name
    ended = active.swept.get(name, -_SWEEP_EVERY)
    if handle.schema.expires is None or name in active.sweeps:
        return
    if time.monotonic() - ended >= _SWEEP_EVERY:
        # An empty context: the write's key and trace are its own.
        loop = asyncio.get_running_loop()
        active.sweeps[name] = loop.create_task(_sweep_quietly(active, handle), context=Context())


async def _sweep_quietly(active: ActiveBackend, handle: TableHandle) -> None:
    active.enter()
    try:
        # The next write or optimize meets the same error, and reports it.
        with suppress(AiovecError, StaleTableError):
            await sweep(active, handle)
    finally:
        active.leave()
        del active.sweeps[handle.name]
