"""Rows that expire: hidden once their time has come, and deleted by a sweep.

A backend treats expired rows like all other rows until the sweep deletes them. Each attempt of a
call uses one ``ExpiringTable``, which hides expired rows. The sweep runs in ``optimize`` and, at
most once an hour, in the background after an insert or upsert begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing, suppress
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from operator import attrgetter
from typing import ClassVar, TypeVar, cast

from .._filters import Expr
from .._filters.tree import Compare, IsNull, Ref, all_of, any_of
from .._tools.lazy_arrow import pa, pc
from ..backend.changes import Delete
from ..backend.context import call_context, calling
from ..backend.contract import (
    Changes,
    Columns,
    Count,
    Find,
    Found,
    FromEach,
    FromRows,
    Order,
    Query,
    StaleTableError,
    TableHandle,
    TableStats,
)
from ..backend.cost import cost_of
from ..backend.limits import renewed
from ..backend.rows import Batch
from ..backend.threads import hop
from ..errors import AiovecError
from .active_backend import ActiveBackend
from .opened import OpenTable

_T = TypeVar("_T")

# Minimum seconds between two sweeps that writes begin. A sweep may read the whole table.
_SWEEP_EVERY = 3600.0
# Rows that a sweep deletes in one transaction; other writes wait until it ends.
_SWEPT_AT_ONCE = 1_000


async def opened(active: ActiveBackend, name: str) -> OpenTable:
    """Return a table for one attempt of a call."""
    handle = await active.open_table(name)
    field = handle.schema.expires
    if field is None or active.backend.hides_expired:
        return OpenTable(active, handle)
    return ExpiringTable(active, handle, field)


class ExpiringTable(OpenTable):
    """A table whose rows expire. An attempt at a call uses only rows not yet expired as it begins.

    Both the clock and the rows' expiry times are truncated to whole seconds: no row is seen after
    its expiry time, and calls within one second have equal filters, so backends can reuse masks and
    counts.
    """

    __slots__ = ("_at", "_expired", "_field", "_moment")

    expires: ClassVar[bool] = True

    def __init__(self, active: ActiveBackend, handle: TableHandle, field: str) -> None:
        super().__init__(active, handle)
        self._field, self._at = field, Ref(field)
        # A row has expired once the second of its expiry time has begun.
        self._moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        self._expired = Compare(self._at, "<", self._moment)

    def _only(self, where: Expr | None) -> Expr | None:
        return self._not_before(self._moment, where)

    def _not_before(self, moment: datetime, where: Expr | None) -> Expr:
        """Return ``where``, narrowed to rows that had not expired at ``moment``."""
        alive = any_of([IsNull(self._at), Compare(self._at, ">=", moment)])
        return alive if where is None else all_of([where, alive])

    def get(self, ids: Sequence[str], columns: Columns, finish: FromRows[_T]) -> Awaitable[_T]:
        def existing(rows: Batch) -> _T:
            return finish(rows.take(self._places(rows), columns.fields))

        return super().get(ids, self._with_times(columns), existing)

    def search(self, queries: Sequence[Query], finish: FromEach[_T]) -> Awaitable[_T]:
        first = queries[0]
        if first.by_words or first.by_both:
            return super().search([replace(first, where=self._only(first.where))], finish)
        return self._nearest(queries, finish)

    async def _nearest(self, queries: Sequence[Query], finish: FromEach[_T]) -> _T:
        """Search by vectors.

        A filter for live rows costs many times as much as a search, and a table usually has few
        expired rows. So this method fetches some extra rows and drops expired ones. If a query
        finds too many expired rows, all queries are repeated, since all results must come from one
        state of the table: first with a filter as of the start of the current minute (backends can
        reuse its mask), and finally with a filter as of the current second.
        """
        columns, limit = queries[0].columns, queries[0].limit  # the same in all queries
        # Extra rows replace expired ones.
        enough = limit + 4 + limit // 4
        existing = partial(self._existing, enough, columns)
        for moment in (None, self._moment.replace(second=0), self._moment):
            wide = await hop(16 * len(queries), self._wider, queries, enough, moment)
            results = await super().search(wide, existing)
            if not any(more and len(live.distances) < limit for live, more in results):
                break
        every = [live for live, _ in results]
        return await hop(cost_of(*every), finish, every)

    def _wider(self, queries: Sequence[Query], limit: int, moment: datetime | None) -> list[Query]:
        """Return the queries with this limit, for rows that had not expired at ``moment``."""
        read = self._with_times(queries[0].columns).metered(limit * len(queries))
        wider = [replace(query, limit=limit, columns=read) for query in queries]
        if moment is None:
            return wider
        # Backends search once for all queries that share a filter.
        distinct = {id(query.where): query.where for query in queries}
        alive = {key: self._not_before(moment, where) for key, where in distinct.items()}
        return [replace(query, where=alive[id(query.where)]) for query in wider]

    def _existing(
        self, limit: int, columns: Columns, results: Sequence[Found]
    ) -> list[tuple[Found, bool]]:
        """Return each result without its expired rows and without rows beyond the limit, and
        whether more live rows may exist."""
        answers = []
        for result in results:
            places = self._places(result.rows)
            near = cast("Sequence[float]", result.distances)
            if len(near) > limit:  # beyond the limit, equally near rows may be missing
                order = sorted(zip(near, result.rows.ids, count(), strict=False))
                places = sorted({i for _, _, i in order[:limit]}.intersection(places))
            live = Found(result.rows.take(places, columns.fields), [near[i] for i in places])
            answers.append((live, len(near) >= limit))
        return answers

    def _places(self, rows: Batch) -> list[int]:
        """Return the positions of the rows that have not expired."""
        times = enumerate(rows.fields[self._field])
        return [i for i, at in times if at is None or at >= self._moment]

    def _with_times(self, columns: Columns) -> Columns:
        """Return the columns to read, including the field with the expiry times."""
        if self._field in columns.fields:
            return columns
        return replace(columns, fields=(*columns.fields, self._field))

    async def export(
        self, *, where: Expr | None, columns: Columns, after: bytes | None, batch_size: int
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        read = self._with_times(columns)
        export = super().export(where=where, columns=read, after=after, batch_size=batch_size)

        def existing(batch: pa.RecordBatch) -> pa.RecordBatch:
            expired = self._expired_in(batch)
            if expired.true_count:
                batch = batch.filter(pc.invert(expired))
            return batch if read is columns else batch.drop_columns([self._field])

        async with aclosing(export) as batches:
            async for batch, cursor in batches:
                yield await hop(cost_of(batch), existing, batch), cursor

    async def changes(self, since: int, limit: int) -> Changes:
        """Return a page of the change feed that lists expired rows as deleted.

        A reader may have such a row from an earlier page, which listed it with another expiry time.
        """
        page = await super().changes(since, limit)
        if not page.upserted.num_rows:
            return page

        def divided() -> Changes:
            expired = self._expired_in(page.upserted)
            ids = page.upserted.column("id").filter(expired).to_pylist()
            rows = page.upserted.filter(pc.invert(expired)) if ids else page.upserted
            return replace(page, upserted=rows, deleted=[*page.deleted, *ids])

        return await hop(cost_of(page.upserted), divided)

    def _expired_in(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        at = rows.column(self._field)
        return pc.fill_null(pc.less(at, pa.scalar(self._moment, at.type)), False)

    async def stats(self) -> TableStats:
        stored = await super().stats()
        expired = min(await self.backend.read(self.handle, Count(self._expired)), stored.rows)
        details = {**stored.details, "expired_rows": expired}
        return replace(stored, rows=stored.rows - expired, details=details)

    # The sweep

    async def free(self, ids: Sequence[str]) -> None:
        def expired(rows: Batch) -> list[str]:
            times = zip(rows.ids, rows.fields[self._field], strict=True)
            return [id for id, at in times if at is not None and at < self._moment]

        if left := await super().get(ids, Columns((self._field,)), expired):
            await self._delete(left)

    async def _delete(self, ids: Sequence[str]) -> None:
        """Delete the expired rows with these ids."""
        with calling(replace(call_context(), key=None)):  # the key belongs to the call's own write
            await self.backend.write(self.handle, Delete(ids, self._expired))

    async def sweep(self) -> None:
        """Delete all expired rows in batches, each of which has its own deadline.

        A server sweeps for its clients, by its own clock.
        """
        oldest_first, no_columns = (Order(self._at), Order(Ref("id"))), Columns(())
        swept = Find(self._expired, oldest_first, _SWEPT_AT_ONCE, no_columns, attrgetter("ids"))
        while self.backend.upkeep:
            with renewed():
                ids = await self.backend.read(self.handle, swept)
                if ids:
                    await self._delete(ids)
            if len(ids) < _SWEPT_AT_ONCE:
                break
        self.active.swept[self.handle.name] = time.monotonic()

    def sweep_now_and_then(self) -> None:
        """Begin a sweep in the background, at most once an hour.

        After a failure, the next write begins another sweep.
        """
        name, active = self.handle.name, self.active
        ended = active.swept.get(name, -_SWEEP_EVERY)
        if name not in active.sweeps and time.monotonic() - ended >= _SWEEP_EVERY:
            # An empty context: the key and the trace belong to the write that begins the sweep.
            loop = asyncio.get_running_loop()
            active.sweeps[name] = loop.create_task(self._sweep_quietly(), context=Context())

    async def _sweep_quietly(self) -> None:
        self.active.enter()
        try:
            # The next write or optimize gets the same error, and reports it.
            with suppress(AiovecError, StaleTableError):
                await self.sweep()
        finally:
            self.active.leave()
            del self.active.sweeps[self.handle.name]
