"""Export the rows of one version, in constant memory.

Rows come in stored order, from one stream. A cursor contains the version and the number of rows
already returned; the next export continues in that version as long as it is kept (see
``retention``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from aiovec.backend import Expr, one_array
from aiovec.backend.contract import LARGEST_BATCH, Columns, TableHandle
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop
from aiovec.errors import CorruptStoreError, InvalidArgumentError

from .layout import incarnation_in, numbering_in
from .memory import STREAM_BYTES
from .reads import MOST, condition_of
from .retention import check_kept
from .session import Session, Snapshot
from .table import Versions

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

# The most rows in a batch.
_MOST_ROWS = 4096
# The approximate size of a batch in bytes. Lance prepares some batches ahead.
_BATCH_BYTES = 4 * 2**20
_CURSOR = b"@"
_EXPECTED = "the cursor of a batch that this store exported"


class _Cursor(NamedTuple):
    """A position in a version: the first ``rows`` rows that match the filter were already
    returned."""

    table: str
    """The table's incarnation and numbering, which distinguish it from copies and from earlier or
    later tables of the same name."""
    filter: str
    """A digest of the filter; ``rows`` counts the filter's matches."""
    version: int
    rows: int

    def to_bytes(self) -> bytes:
        return _CURSOR + json.dumps(self, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, cursor: bytes) -> _Cursor:
        try:
            if not cursor.startswith(_CURSOR):
                raise ValueError("it does not begin like a cursor")
            parsed = cls(*json.loads(cursor[len(_CURSOR) :]))
            if list(map(type, parsed)) != [str, str, int, int]:
                raise ValueError("its values have other types")
            if not (0 < parsed.version < 2**63 and 0 <= parsed.rows <= MOST):
                raise ValueError("it has a number out of range")
            return parsed
        except (ValueError, TypeError, RecursionError) as exc:
            raise InvalidArgumentError("after", cursor, _EXPECTED) from exc


@dataclass(frozen=True, slots=True)
class Export:
    """An export of a table's rows that match a filter."""

    versions: Versions
    handle: TableHandle
    where: Expr | None
    columns: Columns
    batch_size: int

    async def batches(
        self, after: bytes | None
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        """Yield batches of ``batch_size`` rows (fewer if the rows are large), each with the cursor
        that continues after it."""
        condition = await condition_of(self.where)
        digest = hashlib.blake2b((condition or "").encode(), digest_size=8).hexdigest()
        async with self.versions.session.reading(self.handle) as table:
            if after is None:
                cursor = _Cursor(_named(table), digest, await table.version(), 0)
            else:
                cursor = _Cursor.from_bytes(after)
            if (cursor.table, cursor.filter) != (_named(table), digest):
                expected = "the cursor of an export of this table with the same filter"
                raise InvalidArgumentError("after", after, expected)
            async with self.versions.pin(cursor.version):
                if after is not None:
                    await self._check_out(table, cursor)
                async for batch in self._of(table, cursor, condition):
                    yield batch

    async def _check_out(self, table: Snapshot, cursor: _Cursor) -> None:
        try:
            await self.versions.session.run(table.lance.checkout(cursor.version))
        except CorruptStoreError as exc:
            expected = (
                f"a cursor of a version that is kept; version {cursor.version} was removed, so "
                "begin the export again"
            )
            raise InvalidArgumentError("after", cursor.to_bytes(), expected) from exc

    async def _of(
        self, table: Snapshot, cursor: _Cursor, condition: str | None
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        schema, returned = self.columns.layout(table.schema), cursor.rows
        waiting: list[pa.RecordBatch] = []
        stream = stream_of(
            self.versions.session, table.lance, schema.names, condition, returned, self.batch_size
        )
        try:
            async with aclosing(stream) as batches:
                async for batch in batches:
                    waiting.append(batch)
                    while (
                        sum(map(len, waiting)) >= self.batch_size
                        or sum(batch.nbytes for batch in waiting) >= LARGEST_BATCH
                    ):
                        ready, waiting = await self._first(waiting, schema)
                        returned += ready.num_rows
                        yield ready, cursor._replace(rows=returned).to_bytes()
        except CorruptStoreError:
            await check_kept(self.versions.session, self.handle.name, cursor.version)
            raise
        if waiting:
            ready, _ = await self._first(waiting, schema)
            yield ready, cursor._replace(rows=returned + ready.num_rows).to_bytes()

    async def _first(
        self, batches: list[pa.RecordBatch], schema: pa.Schema
    ) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
        """Return the first ``batch_size`` rows, joined into one batch, and the remaining
        batches."""
        joined = pa.Table.from_batches(batches)
        ready = joined.slice(0, self.batch_size)

        def batch() -> pa.RecordBatch:
            arrays = [one_array(ready.column(field.name)) for field in schema]
            return pa.RecordBatch.from_arrays(arrays, schema=schema)

        first = await hop(0 if len(batches) == 1 else cost_of(ready), batch)
        return first, joined.slice(ready.num_rows).to_batches()


def _named(table: Snapshot) -> str:
    numbering = numbering_in(table.arrow) or ""
    return f"{(incarnation_in(table.arrow) or b'').decode()}{numbering}"


async def stream_of(
    session: Session,
    lance: AsyncTable,
    names: list[str] | None = None,
    condition: str | None = None,
    returned: int = 0,
    most: int = _MOST_ROWS,
) -> AsyncGenerator[pa.RecordBatch, None]:
    """Yield the rows of a table's version, with all columns or only ``names``.

    Rows come in stored order, after the first ``returned`` rows, in batches of up to ``most`` rows
    and a limited size. Each read of a batch holds a share of the memory, which is released while
    the caller processes the batch, because the caller may search.
    """
    stats: Any = await session.run(lance.stats())
    row = max(1, int(stats["total_bytes"]) // max(1, int(stats["num_rows"])))
    length = min(max(_BATCH_BYTES // row, 1), _MOST_ROWS, most)
    query = lance.query() if names is None else lance.query().select(names)
    batches = await session.batches(query.offset(returned), length, condition)
    while True:
        async with session.admission.share(STREAM_BYTES):
            batch = await anext(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield batch
