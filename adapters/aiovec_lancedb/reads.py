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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
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
from .layout import PAYLOAD, column_names, is_moving
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
# Seconds for which the size of a table's rows is taken as known.
_SIZES_FOR = 10.0
# Tables that a store remembers. Calls of one that it forgets go on with what they have.
_MOST_KNOWN = 64
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


@dataclass(slots=True)
class _Known:
    """What a store knows of one table, as long as it remembers that.

    The ``newest`` version, of a handle with this token, is that while its manifest has this mark,
    and without a look until the moment ``fresh_until``.
    """

    newest: Opened | None = None
    token: object = None
    mark: Mark | None = None
    fresh_until: float = 0.0
    writes: int = 0
    """The writes of this store, which every later read has to see."""
    row_bytes: int = 0
    row_until: float = 0.0
    """Until then a row has so many bytes beside its vector."""
    look: asyncio.Task[Mark | None] | None = None
    """A look at the disk that waits for the end of another one."""
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


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
        self._tables: dict[str, _Known] = {}

    def _known(self, table: str) -> _Known:
        known = self._tables.get(table)
        if known is None:
            if len(self._tables) >= _MOST_KNOWN:
                del self._tables[next(iter(self._tables))]
            known = self._tables[table] = _Known()
        return known

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
            self._known(handle.name).newest = None
            present = await self._session.opened(handle)
            if await self._session.version(present) == await self._session.version(table):
                raise
            raise StaleTableError(handle.name) from None

    async def changing(self, handle: TableHandle, most: int | None, dim: int) -> Place:
        """A share of the memory for changing payloads, of so many rows at most or of any.

        ``dim`` is 0 where no vectors change with them.
        """
        row = self._row_bytes(handle.name)
        if row is None or most is None or most > _FEW:
            table = await self._newest(handle)
            rows = await self._session.rows(table)
            most = rows if most is None else min(rows, most)
            row = await self.row_bytes(table)
        return self._admission.share(result_bytes(most, dim, row))

    async def _newest(self, handle: TableHandle) -> Opened:
        """Return the newest version; the one that was kept where it still is that."""
        self._session.check()
        known, now = self._known(handle.name), time.monotonic()
        fresh, writes = now < known.fresh_until and known.token == handle.token, known.writes
        mark = known.mark
        if not fresh:
            mark = await self._mark(handle.name, known)
        table = known.newest if known.token == handle.token else None
        if table is None or not (fresh or (mark is not None and known.mark == mark)):
            opened = await self._session.opened(handle)
            version = await self._session.version(opened)
            if table is None or await self._session.version(table) != version:
                table = opened
        elif is_moving(table.arrow):
            await self._session.check_here()
        if not fresh:
            # It was so before the table was opened. If it belonged to another version, or to
            # another table of this name, the next one differs from it.
            known.newest, known.token, known.mark = table, handle.token, mark
            known.fresh_until = now + self._freshness if known.writes == writes else 0.0
        return table

    async def _mark(self, table: str, known: _Known) -> Mark | None:
        """Look at the newest version, together with all reads that wait for the same look.

        A look that has begun is too early for a read that begins now.
        """

        async def look() -> Mark | None:
            async with known.looking:
                known.look = None
                return await in_thread(mark_of, folder, table, _TOO_YOUNG)

        folder = self._session.folder
        if folder is None:
            return None
        if known.look is None:
            known.look = asyncio.ensure_future(look())
        return await asyncio.shield(known.look)

    def wrote(self, table: str) -> None:
        """Note a write of this store, which the next read has to see."""
        known = self._known(table)
        known.writes += 1
        known.fresh_until = 0.0

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
        size = self._row_bytes(table.name)
        if size is None:
            stats: Any = await self._session.run(table.lance.stats())
            vectors = int(stats["num_rows"]) * table.schema.dim * 4
            beside = max(0, int(stats["total_bytes"]) - vectors)
            size = beside // max(1, int(stats["num_rows"]))
            known = self._known(table.name)
            known.row_bytes, known.row_until = size, time.monotonic() + _SIZES_FOR
        return size

    def _row_bytes(self, table: str) -> int | None:
        known = self._known(table)
        return known.row_bytes if time.monotonic() < known.row_until else None
