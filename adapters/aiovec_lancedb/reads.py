"""Read rows by id or by filter, on the newest version of a table and with a share of the memory.

Opening a table costs several hops to Lance's threads, so the version that was the newest is kept.
On a folder, each read looks first whether it still is, at the names in the folder of versions,
which Lance asks for the newest version too. That costs a third of opening the table anew, and when
in doubt it knows nothing. So a read sees every write that was acknowledged before it began.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from aiovec.backend import Expr, payload_texts, python_values, to_matrix
from aiovec.backend.contract import Columns, Order, StaleTableError, StoredRows, TableHandle
from aiovec.backend.limits import Place
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import CorruptStoreError

from .driver import ColumnOrdering
from .layout import PAYLOAD, column_names
from .memory import ids_bytes, result_bytes
from .session import Opened, Session
from .sorting import KEY_BATCH, key_columns, sorted_ids
from .sql.filters import ids_to_sql, to_sql

ADDRESS = "_rowaddr"
"""Lance's column of where a row lies: another place once the row was written anew."""

# Ids in one query.
_BLOCK = 10_000
# Lance takes no larger limit or offset; it is far above the rows that a fragment may have.
MOST = 2**31 - 1
# For reads of no more rows than this, the table's rows are not counted.
_FEW = 1000
_ID = Columns(())
# Seconds for which the size of a table's rows is taken as known, and tables that are kept.
_SIZES_FOR, _MOST_KEPT = 10.0, 64
# A file younger than this many nanoseconds may be replaced by another with the same times: those of
# a file come from a clock that moves on every few milliseconds.
_TOO_YOUNG = 100_000_000
# For ``hop``: a literal, most of all one of the payload, takes as long to turn into SQL as so
# many values of a record.
_EFFORT = 16


def rows_of(table: pa.Table, columns: Columns, vector: str) -> StoredRows:
    return StoredRows(
        cast("list[str]", table.column("id").to_pylist()),
        {name: python_values(table.column(name)) for name in columns.fields},
        payload_texts(table.column(PAYLOAD)) if columns.payload else None,
        to_matrix(table.column(vector)) if columns.vector else None,
    )


async def condition_of(where: Expr | None) -> str | None:
    """A filter as Lance's SQL. One with many literals takes a while."""
    if where is None:
        return None
    return await hop(_EFFORT * where.literals, partial(to_sql, where))


async def rows_by_id(
    session: Session, table: Opened, ids: Sequence[str], columns: Columns, *, address: bool = False
) -> pa.Table:
    """The rows with these ids, in any order; with ``address``, also where each of them lies."""
    names = column_names(table.schema, columns)
    layout = table.schema.to_arrow()
    if address:
        names.append(ADDRESS)
        layout = layout.append(pa.field(ADDRESS, pa.uint64()))
    if not ids:
        return pa.schema([layout.field(name) for name in names]).empty_table()
    blocks = []
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        condition = await hop(len(block), ids_to_sql, block)
        query = table.lance.query().select(names)
        blocks.append(await session.fetch(query, len(block), condition))
    return pa.concat_tables(blocks)


async def get(
    session: Session,
    table: Opened,
    ids: Sequence[str],
    columns: Columns,
    *,
    ordered: bool = False,
) -> StoredRows:
    """The rows with these ids, in any order, or ``ordered`` in that of the ids."""
    found = await rows_by_id(session, table, ids, columns)

    def rows() -> StoredRows:
        taken = found
        if ordered:
            place = {id: n for n, id in enumerate(found.column("id").to_pylist())}
            taken = found.take(pa.array([place[id] for id in ids if id in place], pa.int64()))
        return rows_of(taken, columns, table.schema.vector)

    return await hop(weight(found), rows)


async def find(
    session: Session,
    table: Opened,
    where: Expr | None,
    order_by: Sequence[Order],
    limit: int,
    offset: int,
    columns: Columns,
) -> StoredRows:
    if any(order.ref.path for order in order_by):
        query = table.lance.query().select(key_columns(order_by))
        batches = await session.batches(query, KEY_BATCH, await condition_of(where))
        ids = await sorted_ids(batches, order_by, limit, offset)
        return await get(session, table, ids, columns, ordered=True)
    # Lance sorts only by what it also reads: with a column that is not selected, an unfiltered or
    # an indexed query fails. Vectors are read for the rows that were found: to sort with them is
    # to hold those of the whole table.
    later = columns.vector and limit <= _BLOCK
    sorted_by = tuple(order.ref.name for order in order_by)
    first = Columns(sorted_by) if later else columns
    names = column_names(table.schema, replace(first, fields=(*first.fields, *sorted_by)))
    order = [
        ColumnOrdering(
            column_name=order.ref.name, ascending=not order.descending, nulls_first=False
        )
        for order in order_by
    ]
    limit, offset = min(limit, MOST), min(offset, MOST)
    query = table.lance.query().select(names).order_by(order).limit(limit).offset(offset)
    found = await session.fetch(query, limit, await condition_of(where))
    if later:
        ids = await hop(found.num_rows, found.column("id").to_pylist)
        return await get(session, table, ids, columns, ordered=True)
    return await hop(weight(found), lambda: rows_of(found, columns, table.schema.vector))


async def count(session: Session, table: Opened, where: Expr | None) -> int:
    return int(await session.run(table.lance.count_rows(await condition_of(where))))


# Of a version's manifest: its number taken from the largest that 64 bits hold, so the newest one
# comes first. Tables of old versions of Lance had other names.
_NAME = re.compile(r"[0-9]{20}\.manifest\Z")


class Mark(NamedTuple):
    """The identity of the newest version's manifest, also against one of the same name in a table
    that was dropped and made anew."""

    name: str
    file: int
    size: int
    changed: tuple[int, int]


def mark_of(folder: Path, table: str, too_young: int) -> Mark | None:
    """The newest version's mark; None where there is no telling. Reads the disk."""
    versions = folder / f"{table}.lance" / "_versions"
    try:
        name = min(os.listdir(versions))
        if not _NAME.match(name):
            return None  # a file on its way, say
        seen = os.stat(versions / name)
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) < too_young:
        return None
    return Mark(name, seen.st_ino, seen.st_size, (seen.st_mtime_ns, seen.st_ctime_ns))


class _Kept(NamedTuple):
    """The newest version of a table, which it is as long as its manifest's mark is this one.

    Until the moment ``fresh_until`` it counts as that without a look, unless this store has
    written to the table since, which the number of its ``writes`` tells.
    """

    table: Opened
    token: object
    mark: Mark | None
    fresh_until: float
    writes: int


async def _no_bytes(_: Opened) -> int:
    return 0


class TableReader:
    """Opens the tables of one store, with a share of the memory for what is read."""

    def __init__(self, session: Session, freshness: float) -> None:
        """``freshness`` is the seconds for which reads use a version without a look for newer ones.

        They always see the writes of this store.
        """
        self._session = session
        self._admission = session.admission
        self._freshness = freshness
        self._kept: dict[str, _Kept] = {}
        # Of tables: the writes of this store.
        self._writes: Counter[str] = Counter()
        # Of tables: until when it counts, and the bytes of a row beside its vector.
        self._row_sizes: dict[str, tuple[float, int]] = {}
        # Of tables: the look at the disk that has not begun yet, and what keeps it from that.
        self._looks: dict[str, asyncio.Task[Mark | None]] = {}
        self._looking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def reading(
        self,
        handle: TableHandle,
        results: int = 0,
        columns: Columns = _ID,
        *,
        times: int = 1,
        beside: Callable[[Opened], Awaitable[int]] = _no_bytes,
    ) -> AsyncIterator[Opened]:
        """Open the newest version for a read that finds at most so many rows with these columns.

        ``times`` is the number of such results, and ``beside`` returns the bytes that the read may
        hold beside them.
        """
        table = await self._newest(handle)
        try:
            size = times * await self._results(table, results, columns) + await beside(table)
            waits = not self._admission.free(size)
            async with self._admission.share(size):
                if waits:  # what was opened before the wait is old behind it
                    table = await self._newest(handle)
                yield table
        except CorruptStoreError:
            # The table may have gone, or upkeep may have removed the version.
            self._kept.pop(handle.name, None)
            present = await self._session.opened(handle)
            if await self._session.version(present) == await self._session.version(table):
                raise
            raise StaleTableError(handle.name) from None

    async def changing(self, handle: TableHandle, most: int | None) -> Place:
        """A share of the memory for changing payloads, of so many rows at most or of any."""
        row = self._known_row_bytes(handle.name)
        if row is None or most is None or most > _FEW:
            table = await self._newest(handle)
            rows = await self._session.rows(table)
            most = rows if most is None else min(rows, most)
            row = await self.row_bytes(table)
        return self._admission.share(result_bytes(most, 0, row))

    async def _newest(self, handle: TableHandle) -> Opened:
        """Return the newest version; the one that was kept where it still is that."""
        self._session.check()
        writes, now = self._writes[handle.name], time.monotonic()
        kept = self._kept.get(handle.name)
        if (
            kept is not None
            and (kept.token, kept.writes) == (handle.token, writes)
            and now < kept.fresh_until
        ):
            if kept.table.moving:
                await self._session.check_here()
            return kept.table
        mark = None
        if self._session.folder is not None:
            mark = await self._mark(self._session.folder, handle.name)
        kept = self._kept.pop(handle.name, None)
        table = kept.table if kept is not None and kept.token == handle.token else None
        if table is None or mark is None or kept is None or kept.mark != mark:
            opened = await self._session.opened(handle)
            version = await self._session.version(opened)
            if table is None or await self._session.version(table) != version:
                table = opened
        elif table.moving:
            await self._session.check_here()
        if len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        # It was so before the table was opened. If it belonged to another version, or to another
        # table of this name, the next one differs from it.
        self._kept[handle.name] = _Kept(table, handle.token, mark, now + self._freshness, writes)
        return table

    async def _mark(self, folder: Path, table: str) -> Mark | None:
        """Look at the newest version, together with all reads that wait for the same look.

        A look that has begun is too early for a read that begins now.
        """

        async def look() -> Mark | None:
            async with self._looking[table]:
                del self._looks[table]
                return await in_thread(mark_of, folder, table, _TOO_YOUNG)

        if table not in self._looks:
            self._looks[table] = asyncio.ensure_future(look())
        return await asyncio.shield(self._looks[table])

    def wrote(self, table: str) -> None:
        """Note a write of this store, which the next read has to see."""
        self._writes[table] += 1

    async def _results(self, table: Opened, most: int, columns: Columns) -> int:
        if not most:
            return 0
        row = await self.row_bytes(table) if columns.payload or columns.fields else 0
        dim = table.schema.dim if columns.vector else 0
        if most <= _FEW:
            return result_bytes(most, dim, row)
        rows = await self._session.rows(table)
        return ids_bytes(rows) + result_bytes(min(rows, most), dim, row)

    async def row_bytes(self, table: Opened) -> int:
        """The bytes of a row beside its vector, on the average of the table's files."""
        known = self._known_row_bytes(table.name)
        if known is None:
            if len(self._row_sizes) >= _MOST_KEPT:
                self._row_sizes.clear()
            stats: Any = await self._session.run(table.lance.stats())
            vectors = int(stats["num_rows"]) * table.schema.dim * 4
            beside = max(0, int(stats["total_bytes"]) - vectors)
            known = beside // max(1, int(stats["num_rows"]))
            self._row_sizes[table.name] = time.monotonic() + _SIZES_FOR, known
        return known

    def _known_row_bytes(self, table: str) -> int | None:
        until, size = self._row_sizes.get(table, (0.0, 0))
        return size if time.monotonic() < until else None
