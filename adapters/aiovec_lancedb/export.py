"""Export all rows of one version, in constant memory.

Rows come in the order in which they lie, so one pass over the files gives them all. A cursor names
the version and how many of its rows were given. Where that version is still the newest, the next
export goes on there. Where the table has changed, the old version tells which rows are left: these
are read by their ids as they are now, and behind them come the rows that are new. An old version
is kept for a while only (see ``upkeep.retention``). Where it has gone, nothing tells any more which
rows were given, since rows move when they are changed or compacted. Then all rows come, in the
order of their ids, and the cursors of such an export name an id and hold for ever.

The managed service promises no order of rows, so there every export goes by ids. So do cursors
that an earlier release gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Expr, one_array
from aiovec.backend.contract import Columns
from aiovec.backend.limits import renewed
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import CorruptStoreError, InvalidArgumentError

from .driver import without_blobs
from .layout import column_names
from .limits import ExportLimits
from .memory import ReadAdmission, result_bytes, stream_bytes
from .reads import MOST, condition_of, filtered
from .session import Opened, Session
from .sql.filters import id_range_to_sql, ids_to_sql
from .upkeep.retention import Pins

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

# What every cursor begins with: of an export in the order of ids, and of one in that of rows.
_BY_ID, _BY_ROW = b"+", b"@"

# Blocks in the whole budget for reads. An export has two while its caller has the rows, one of them
# read ahead, and eight exports are open at most: together they hold half as much as reads may.
_BLOCKS = 32


# Rows of a batch where those to come may be larger than all before.
_FEW_ROWS = 64


class RowCursor(NamedTuple):
    """The first ``rows`` rows of a version that match the filter were given.

    With ``base``, these are only such rows as came after that older version, all of which was
    given before.
    """

    table: str
    """The table's incarnation: another one of its name has other versions."""
    filter: str
    """A digest of the filter, which decides what the rows are counted among."""
    version: int
    rows: int
    last: str
    """A digest of the last row's id. A copy of the store may have the version's number again."""
    base: int | None

    def to_bytes(self) -> bytes:
        return _BY_ROW + json.dumps(self, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows, and the cursor behind each of them."""

    rows: pa.Table
    cursor: Callable[[int], bytes]


class _GoByIdsError(Exception):
    """Nothing tells which rows a cursor has behind it, or they are too many; no user sees this."""


@dataclass(frozen=True, slots=True)
class Export:
    session: Session
    table: Opened
    where: Expr | None
    columns: Columns
    after: bytes | None
    batch_size: int
    admission: ReadAdmission
    pins: Pins
    limits: ExportLimits

    async def batches(self) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        schema = self._schema()
        waiting: list[_Block] = []
        async with aclosing(self._blocks()) as blocks:
            async for block in blocks:
                waiting.append(block)
                if sum(one.rows.num_rows for one in waiting) < self.batch_size:
                    continue
                ready, waiting = await in_thread(_parted, waiting, self.batch_size, schema)
                for found in ready:
                    yield found
        rows = sum(one.rows.num_rows for one in waiting)
        if rows:
            ready, _ = await in_thread(_parted, waiting, rows, schema)
            for found in ready:
                yield found

    def _schema(self) -> pa.Schema:
        layout = self.table.schema.to_arrow()
        return pa.schema([layout.field(name) for name in self._names], metadata=layout.metadata)

    @property
    def _names(self) -> list[str]:
        return column_names(self.table.schema, self.columns)

    def _size(self) -> _BlockSize:
        dim = self.table.schema.dim if self.columns.vector else 0
        return _block_size(dim, self.admission, self.limits)

    async def _blocks(self) -> AsyncGenerator[_Block, None]:
        cursor = cursor_in(self.after)
        if isinstance(cursor, str) or self.session.managed:
            by_id = cursor if isinstance(cursor, str) else None
        else:
            try:
                async with aclosing(self._by_row(cursor)) as blocks:
                    async for block in blocks:
                        yield block
                return
            except _GoByIdsError:
                by_id = None
        async with aclosing(self._by_id(by_id)) as blocks:
            async for block in blocks:
                yield block

    async def _and(self, rows: str) -> str:
        """The condition for those of some rows that the filter selects."""
        condition = await condition_of(self.where)
        return rows if condition is None else f"{rows} AND ({condition})"

    async def _fetch(self, lance: Any, names: list[str], condition: str | None) -> pa.Table:
        query = await filtered(lance.query().select(names), condition)
        return await self.session.fetch(query)

    # In the order in which the rows lie

    async def _by_row(self, cursor: RowCursor | None) -> AsyncGenerator[_Block, None]:
        condition = await condition_of(self.where)
        digest = "" if condition is None else _digest(condition)
        newest = int(await self.session.run(self.table.lance.version()))
        begin = RowCursor(_named(self.table.incarnation), digest, newest, 0, "", None)
        if await self.session.run(self.table.lance.count_rows()) > MOST:
            raise _GoByIdsError
        if cursor is None:
            scans = [self._scan(begin, condition)]
        elif (cursor.table, cursor.filter) != (begin.table, digest):
            raise _GoByIdsError
        elif cursor.version == newest and cursor.base is None:
            await self._check(cursor, self.table.lance, condition)
            scans = [self._scan(cursor, condition)]
        else:
            scans = [self._left(cursor)]
            if cursor.version != newest:
                scans.append(self._left(begin._replace(base=cursor.version)))
        for scan in scans:
            async with aclosing(scan) as blocks:
                async for block in blocks:
                    yield block

    async def _scan(self, begin: RowCursor, condition: str | None) -> AsyncGenerator[_Block, None]:
        """The newest version's rows behind a cursor of it."""
        size = self._size()
        given = begin.rows
        reading = asyncio.ensure_future(self._some(condition, given, size))
        try:
            while True:
                found, asked = await reading
                over = found.num_rows < asked
                places = range(given + 1, given + found.num_rows + 1)
                given += found.num_rows
                if not over:
                    # While the caller has these rows. That takes a share and gives it back.
                    reading = asyncio.ensure_future(self._some(condition, given, size))
                if found.num_rows:
                    yield _Block(found, partial(_cursor_behind, begin, found, places))
                if over:
                    return
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # nobody wants it any more

    async def _some(
        self, condition: str | None, offset: int, size: _BlockSize
    ) -> tuple[pa.Table, int]:
        """As many rows as a block takes, and how many were asked for; fewer are the last ones."""
        # Batches of which none begins in one block and ends in the next need no copy.
        asked = size.rows // self.batch_size * self.batch_size or size.rows
        # No share is held while the caller has the rows: it may be about to search.
        async with self.admission.share(result_bytes(asked, asked, size.dim, size.beside)):
            query = await filtered(self.table.lance.query().select(self._names), condition)
            query = without_blobs(query.offset(offset).limit(asked))
            stream = await self.session.run(query.to_batches(max_batch_length=asked))
            with self.session.guarded():
                batches = [batch async for batch in stream]
            return size.after(pa.Table.from_batches(batches, schema=stream.schema)), asked

    async def _left(self, begin: RowCursor) -> AsyncGenerator[_Block, None]:
        """The rows of a version behind a cursor, in that version's order, as they are now.

        With a base, those which that version does not have.
        """
        async with AsyncExitStack() as stack:
            lance = await self._version(stack, begin.version)
            base = None if begin.base is None else await self._version(stack, begin.base)
            condition = await condition_of(self.where)
            if base is not None:
                condition = await self._and(f"_rowid >= {await self._first_new(base)}")
            await self._check(begin, lance, condition)
            given, size = begin.rows, self._size()
            while True:
                asked = min(size.rows, self.limits.looked_up)
                ids = await self._ids_at(lance, condition, given, asked)
                block = await self._as_now(ids, base, size)
                if block.num_rows:
                    places = await hop(len(ids), _places, ids, block, given)
                    yield _Block(size.after(block), partial(_cursor_behind, begin, block, places))
                if len(ids) < asked:
                    return
                given += len(ids)

    async def _version(self, stack: AsyncExitStack, version: int) -> Any:
        """The table as it was, kept by a pin meanwhile; _GoByIdsError where it has gone."""
        await stack.enter_async_context(self.pins.held(self.table.name, version))
        lance, _ = await self.session.open_any(self.table.name)
        try:
            await self.session.run(lance.checkout(version))
        except CorruptStoreError as exc:
            raise _GoByIdsError from exc
        return lance

    async def _check(self, cursor: RowCursor, lance: Any, condition: str | None) -> None:
        """Raise _GoByIdsError where the version is not the one that the cursor is about."""
        if cursor.rows > MOST:
            raise _GoByIdsError
        if cursor.rows:
            last = await self._ids_at(lance, condition, cursor.rows - 1, 1)
            if [_digest(id) for id in last] != [cursor.last]:
                raise _GoByIdsError

    async def _ids_at(
        self, lance: Any, condition: str | None, offset: int, count: int
    ) -> Sequence[str]:
        query = await filtered(lance.query().select(["id"]), condition)
        try:
            found = await self.session.fetch(query.offset(offset).limit(count))
        except CorruptStoreError as exc:
            # Upkeep of another process removes it. If the newest one is damaged, its rows tell.
            raise _GoByIdsError from exc
        ids: list[str] = await hop(count, found.column("id").to_pylist)
        return ids

    async def _first_new(self, base: Any) -> int:
        """The least address that a row may have which came after the version."""
        batches = await self.session.run(base.query().select(["_rowid"]).to_batches())
        fragment = -1
        with self.session.guarded():
            async for batch in batches:
                if batch.num_rows:
                    fragment = max(fragment, pc.max(batch.column("_rowid")).as_py() >> 32)
        return (fragment + 1) << 32

    async def _as_now(self, ids: Sequence[str], base: Any, size: _BlockSize) -> pa.Table:
        """The rows with these ids, in their order, as far as they exist and are not in the base."""
        if base is not None and ids:
            condition = await self._and(await hop(len(ids), ids_to_sql, ids))
            known = await self._fetch(base, ["id"], condition)
            ids = await hop(len(ids), _without, ids, known)
        if not ids:
            return self._schema().empty_table()
        condition = await self._and(await hop(len(ids), ids_to_sql, ids))
        async with self.admission.share(result_bytes(len(ids), len(ids), size.dim, size.beside)):
            found = await self._fetch(self.table.lance, self._names, condition)
            return await hop(weight(found), _ordered, found, ids)

    # In the order of ids

    async def _by_id(self, first: str | None) -> AsyncGenerator[_Block, None]:
        names, size = self._names, self._size()
        for low, high in await self._parts(first):
            ids = await self._ids_between(low, high)
            start = 0
            while start < len(ids):
                end = min(start + size.rows, len(ids))
                ends = ids[start].as_py(), ids[end - 1].as_py()
                condition = await self._and(id_range_to_sql(*ends))
                share = result_bytes(len(ids), end - start, size.dim, size.beside)
                async with self.admission.share(share):
                    found = await self._fetch(self.table.lance, names, condition)
                    found = await hop(weight(found), partial(found.sort_by, "id"))
                yield _Block(size.after(found), partial(_id_behind, found))
                start = end

    async def _parts(self, first: str | None) -> list[tuple[str | None, str | None]]:
        """Ranges of ids, each above its low and up to its high, of some hundred thousand rows."""
        rows = await self.session.run(self.table.lance.count_rows())
        if rows <= self.limits.sorted_ids:
            return [(first, None)]
        every = max(1, rows // self.limits.sample)
        sample: list[pa.Array] = []
        condition = await self._and(id_range_to_sql(beyond=first))
        query = await filtered(self.table.lance.query().select(["id"]), condition)
        batches = await self.session.run(query.to_batches())
        with self.session.guarded():
            async for batch in batches:
                some = np.arange(0, batch.num_rows, every)
                sample.append(batch.column("id").take(pa.array(some)))
        marks = pa.chunked_array(sample, pa.utf8()).combine_chunks()
        marks = await hop(len(marks), lambda: marks.take(pc.sort_indices(marks)))
        step = max(1, self.limits.sorted_ids // (2 * every))
        edges = marks.take(pa.array(np.arange(step, len(marks), step))).to_pylist()
        lows: list[str | None] = [first, *edges]
        return list(zip(lows, [*edges, None], strict=True))

    async def _ids_between(self, low: str | None, high: str | None) -> pa.Array:
        condition = await self._and(id_range_to_sql(high=high, beyond=low))
        found = await self._fetch(self.table.lance, ["id"], condition)
        column = found.column("id").combine_chunks()
        return await hop(len(column), lambda: column.take(pc.sort_indices(column)))


RowsOf = Callable[["AsyncTable"], AsyncGenerator[pa.Table, None]]
"""``whole_rows`` of a store."""


async def whole_rows(
    session: Session, lance: AsyncTable, admission: ReadAdmission, limits: ExportLimits
) -> AsyncGenerator[pa.Table, None]:
    """All rows as they lie in the version that the table is at, with all columns, in blocks.

    No share of the memory is held between two of them, so that a long copy keeps no search from
    its turn. Each waits for its own, and ends where its rows are larger than those before.
    """
    if session.managed:  # it promises no order of rows
        async with admission.share(stream_bytes()):
            stream = await session.run(lance.query().to_batches())
            with session.guarded():
                async for batch in stream:
                    yield pa.Table.from_batches([batch])
        return
    size = _block_size(0, admission, limits)
    given = 0
    while True:
        asked, rows, held = size.rows, 0, 0
        batches: list[pa.RecordBatch] = []
        query = without_blobs(lance.query().offset(given).limit(asked))
        with renewed():
            async with admission.share(result_bytes(asked, asked, size.dim, size.beside)):
                stream = await session.run(query.to_batches(max_batch_length=_FEW_ROWS))
                with session.guarded():
                    async for batch in stream:
                        batches.append(batch)
                        rows, held = rows + batch.num_rows, held + batch.nbytes
                        if held > limits.block_bytes:
                            break
        if rows:
            yield size.after(pa.Table.from_batches(batches))
        if rows < asked and held <= limits.block_bytes:
            return
        given += rows


def _block_size(dim: int, admission: ReadAdmission, limits: ExportLimits) -> _BlockSize:
    return _BlockSize(dim, limits, min(limits.block_bytes, admission.budget // _BLOCKS))


class _BlockSize:
    """Return the number of rows of the next block, by the bytes of rows in the one before."""

    def __init__(self, dim: int, limits: ExportLimits, most_bytes: int) -> None:
        self.dim = dim
        self._limits = limits
        self._most_bytes = most_bytes
        self.beside = limits.row_bytes
        """The bytes of a row beside its vector."""
        self.rows = min(self._limits.first_rows, self._most)

    @property
    def _most(self) -> int:
        return max(1, self._most_bytes // (self.dim * 4 + self.beside))

    def after(self, block: pa.Table) -> pa.Table:
        """Learn from a block; the block itself."""
        row = block.nbytes // max(1, block.num_rows)
        self.beside = max(self._limits.row_bytes, row - self.dim * 4)
        self.rows = min(self.rows * self._limits.growth, self._most)
        return block


def _parted(
    blocks: list[_Block], size: int, schema: pa.Schema
) -> tuple[list[tuple[pa.RecordBatch, bytes]], list[_Block]]:
    """Batches of ``size`` rows, each with its cursor, and the rows that are left."""
    joined = pa.concat_tables([block.rows for block in blocks])
    ends = np.cumsum([block.rows.num_rows for block in blocks])
    whole = joined.num_rows // size * size
    ready = []
    for start in range(0, whole, size):
        last = start + size - 1
        number = int(np.searchsorted(ends, last, side="right"))
        behind = blocks[number].cursor(last - int(ends[number]) + blocks[number].rows.num_rows)
        ready.append((_batch(joined.slice(start, size), schema), behind))
    left = []
    for end, block in zip(ends.tolist(), blocks, strict=True):
        rest = end - whole
        if 0 < rest < block.rows.num_rows:
            cut = block.rows.num_rows - rest
            left.append(_Block(block.rows.slice(cut), partial(_further, block.cursor, cut)))
        elif rest > 0:
            left.append(block)
    return ready, left


def _further(cursor: Callable[[int], bytes], cut: int, place: int) -> bytes:
    return cursor(cut + place)


def _batch(rows: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [one_array(rows.column(field.name)) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _without(ids: Sequence[str], known: pa.Table) -> Sequence[str]:
    given = set(known.column("id").to_pylist())
    return [id for id in ids if id not in given]


def _ordered(found: pa.Table, ids: Sequence[str]) -> pa.Table:
    place = {id: n for n, id in enumerate(found.column("id").to_pylist())}
    return found.take(pa.array([place[id] for id in ids if id in place], pa.int64()))


def _places(ids: Sequence[str], block: pa.Table, given: int) -> list[int]:
    """For each row of the block, how many rows of the version were given with it."""
    place = {id: given + n for n, id in enumerate(ids, start=1)}
    return [place[id] for id in block.column("id").to_pylist()]


def _cursor_behind(begin: RowCursor, rows: pa.Table, places: Sequence[int], place: int) -> bytes:
    last = _digest(rows.column("id")[place].as_py())
    return begin._replace(rows=places[place], last=last).to_bytes()


def _id_behind(rows: pa.Table, place: int) -> bytes:
    return cursor_of(rows.column("id")[place].as_py())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _named(incarnation: object) -> str:
    return incarnation.decode() if isinstance(incarnation, bytes) else ""


def cursor_of(id: str) -> bytes:
    """The cursor behind an id, of an export in the order of ids."""
    return _BY_ID + id.encode()


def cursor_in(cursor: bytes | None) -> RowCursor | str | None:
    """The cursor that some bytes hold: a row's, or an id; InvalidArgumentError for other bytes."""
    if cursor is None:
        return None
    try:
        if cursor.startswith(_BY_ID):
            return cursor[len(_BY_ID) :].decode()
        if not cursor.startswith(_BY_ROW):
            raise ValueError("it does not begin like a cursor")
        found = RowCursor(*json.loads(cursor[len(_BY_ROW) :]))
        whole = (found.version, found.rows, 0 if found.base is None else found.base)
        texts = (found.table, found.filter, found.last)
        if set(map(type, whole)) != {int} or set(map(type, texts)) != {str}:
            raise ValueError("its values have other types")
        if min(whole) < 0 or max(whole) >= 2**63:
            raise ValueError("it has a number out of range")
        return found
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidArgumentError(
            "after", cursor, "the cursor of a batch that this store exported"
        ) from exc
