"""All rows of one version, in the order of their ids, in constant memory.

Rows move within a Lance table when they are changed or compacted, so only their ids keep an order
from one version to the next. The ids are sorted first, some hundred thousand at a time; the rows
are then read by ranges of ids, many at once, and sorted in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import Columns, Expr, in_thread, off_loop
from aiovec.errors import InvalidArgumentError

from .layout import column_names
from .memory import ReadAdmission, result_bytes
from .reads import condition_of, filtered
from .rows import effort_of
from .session import Opened, Session
from .sql.filters import id_range_to_sql

# Ids that are sorted at once, about.
_IDS = 500_000
# Ids that are kept of a larger table, to part it by.
_SAMPLE = 100_000
# Bytes that are read at once, and the fewest that count for a row without its vector. Smaller
# blocks are slower, for each costs a look at all ids: where these lie in no order in 100,000 rows
# of 384 dimensions, blocks of 6 MiB give 92,000 rows a second, of 26 MiB 138,000, of 82 MiB
# 340,000.
_BLOCK_BYTES = 32 * 2**20
_ROW_BYTES = 512
# Rows of the first block, and by how many times a block may have more rows than the one before it,
# whose rows tell how large those are. Their size in Lance's files does not: a text of 100 KB that
# many rows have lies there once.
_FIRST_ROWS = 512
_GROWTH = 16
# What every cursor begins with, so that other bytes are told from one.
_MARK = b"+"


@dataclass(frozen=True, slots=True)
class Export:
    session: Session
    table: Opened
    where: Expr | None
    columns: Columns
    after: bytes | None
    batch_size: int
    admission: ReadAdmission

    async def batches(self) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        schema = self._schema()
        waiting: list[pa.Table] = []
        rows = 0
        async for block in self._blocks():
            waiting.append(block)
            rows += block.num_rows
            if rows < self.batch_size:
                continue
            joined = pa.concat_tables(waiting)
            whole = rows // self.batch_size * self.batch_size
            for start in range(0, whole, self.batch_size):
                yield await in_thread(_batch, joined.slice(start, self.batch_size), schema)
            waiting, rows = [joined.slice(whole)], rows - whole
        if rows:
            yield await in_thread(_batch, pa.concat_tables(waiting), schema)

    def _schema(self) -> pa.Schema:
        layout = self.table.schema.to_arrow()
        names = column_names(self.table.schema, self.columns)
        return pa.schema([layout.field(name) for name in names], metadata=layout.metadata)

    async def _blocks(self) -> AsyncGenerator[pa.Table, None]:
        """The rows in order, as many at once as a block may take."""
        names = column_names(self.table.schema, self.columns)
        size = _BlockSize(self.table.schema.dim if self.columns.vector else 0)
        first = id_of_cursor(self.after)
        for low, high in await self._parts(first):
            ids = await self._ids(low, high)
            start = 0
            while start < len(ids):
                end = min(start + size.rows, len(ids))
                ends = ids[start].as_py(), ids[end - 1].as_py()
                condition = await self._and(id_range_to_sql(*ends))
                share = result_bytes(len(ids), end - start, size.dim, size.beside)
                yield size.after(await self._block(names, condition, share))
                start = end

    async def _block(self, names: list[str], condition: str, share: int) -> pa.Table:
        # No share is held while the caller has the rows: it may be about to search.
        async with self.admission.share(share):
            query = await filtered(self.table.lance.query().select(names), condition)
            found = await self.session.fetch(query)
            return await off_loop(effort_of(found), partial(found.sort_by, "id"))

    async def _and(self, ids: str) -> str:
        condition = await condition_of(self.where)
        return ids if condition is None else f"{ids} AND ({condition})"

    async def _parts(self, first: str | None) -> list[tuple[str | None, str | None]]:
        """Ranges of ids, each above its low and up to its high, of some hundred thousand rows."""
        rows = await self.session.run(self.table.lance.count_rows())
        if rows <= _IDS:
            return [(first, None)]
        every = max(1, rows // _SAMPLE)
        sample: list[pa.Array] = []
        condition = await self._and(id_range_to_sql(beyond=first))
        query = await filtered(self.table.lance.query().select(["id"]), condition)
        batches = await self.session.run(query.to_batches())
        with self.session.guarded():
            async for batch in batches:
                some = np.arange(0, batch.num_rows, every)
                sample.append(batch.column("id").take(pa.array(some)))
        marks = pa.chunked_array(sample, pa.utf8()).combine_chunks()
        marks = await off_loop(len(marks), lambda: marks.take(pc.sort_indices(marks)))
        step = max(1, _IDS // (2 * every))
        edges = marks.take(pa.array(np.arange(step, len(marks), step))).to_pylist()
        lows: list[str | None] = [first, *edges]
        return list(zip(lows, [*edges, None], strict=True))

    async def _ids(self, low: str | None, high: str | None) -> pa.Array:
        condition = await self._and(id_range_to_sql(high=high, beyond=low))
        query = await filtered(self.table.lance.query().select(["id"]), condition)
        found = await self.session.fetch(query)
        column = found.column("id").combine_chunks()
        return await off_loop(len(column), lambda: column.take(pc.sort_indices(column)))


class _BlockSize:
    """How many rows the next block has, by the bytes of those in the one before it."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.beside = _ROW_BYTES
        """The bytes of a row beside its vector."""
        self.rows = min(_FIRST_ROWS, self._most)

    @property
    def _most(self) -> int:
        return max(1, _BLOCK_BYTES // (self.dim * 4 + self.beside))

    def after(self, block: pa.Table) -> pa.Table:
        """Learn from a block; the block itself."""
        row = block.nbytes // max(1, block.num_rows)
        self.beside = max(_ROW_BYTES, row - self.dim * 4)
        self.rows = min(self.rows * _GROWTH, self._most)
        return block


def _batch(rows: pa.Table, schema: pa.Schema) -> tuple[pa.RecordBatch, bytes]:
    arrays = [
        _one_array(rows.column(field.name), field.type) for field in schema
    ]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return batch, cursor_of(batch.column("id")[-1].as_py())


def _one_array(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)


def cursor_of(id: str) -> bytes:
    return _MARK + id.encode()


def id_of_cursor(cursor: bytes | None) -> str | None:
    if cursor is None:
        return None
    try:
        if not cursor.startswith(_MARK):
            raise ValueError("it begins otherwise")
        return cursor[len(_MARK) :].decode()
    except ValueError as exc:
        raise InvalidArgumentError(
            "after", cursor, "a cursor that a batch of this store carried"
        ) from exc
