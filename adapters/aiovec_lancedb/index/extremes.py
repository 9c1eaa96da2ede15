"""Vectors that float32 cannot rank: they have a table searched by reading it, while it has any.

A mark on the vector's column tells it. Each write of such a vector makes it another one, so the
mark is taken away only where none was written while the table was looked through.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from aiovec.backend import Float32Array, is_extreme, to_matrix, without_vector
from aiovec.backend.contract import Columns, TableHandle
from aiovec.backend.threads import in_thread

from ..layout import EXTREME
from ..reads import rows_by_id
from ..session import Opened, Session
from ..writer import WriteOperation
from .effort import KEY
from .info import vector_index

_SCAN_BATCH = 4096


async def mark(session: Session, table: Opened) -> None:
    """Mark the table before it gets a vector that Lance's sums cannot rank."""
    metadata = {EXTREME: uuid.uuid4().hex}
    update = {"path": table.schema.vector, "metadata": metadata}
    await session.run(table.lance.update_field_metadata(update))


async def extreme_id(session: Session, table: Opened, last: str | None) -> str | None:
    """Return the id of a row with such a vector, or None where the table has none.

    ``last`` is the id that was found last time; while it is one, nothing else is read.
    """
    vector = table.schema.vector
    if last is not None:
        row = await rows_by_id(session, table, [last], Columns((), vector=True))
        if row.num_rows and is_extreme(_vectors(row, vector)):
            return last
    scan = table.lance.query().select(["id", vector])
    batches = await session.run(scan.to_batches(max_batch_length=_SCAN_BATCH))
    with session.guarded():
        async for batch in batches:
            found = await in_thread(_first, batch, vector)
            if found is not None:
                return found
    return None


def _vectors(rows: pa.RecordBatch | pa.Table, vector: str) -> Float32Array:
    """The vectors of those rows that have one."""
    vectors = to_matrix(rows.column(vector))
    return vectors[~without_vector(vectors)] if rows.column(vector).null_count else vectors


def _first(batch: pa.RecordBatch, vector: str) -> str | None:
    if not is_extreme(_vectors(batch, vector)):
        return None
    for place in range(batch.num_rows):
        if is_extreme(_vectors(batch.slice(place, 1), vector)):
            return str(batch.column("id")[place].as_py())
    return None


async def mark_of(session: Session, table: Opened) -> str | None:
    metadata = (await session.run(table.lance.schema())).field(table.schema.vector).metadata
    found = (metadata or {}).get(EXTREME.encode())
    return None if found is None else found.decode()


@dataclass(frozen=True, slots=True, eq=False)
class Unmark(WriteOperation):
    """Takes the mark away, where it is still the one that was looked at. Its result tells that.

    What is known of the index goes with it: it may have learned from vectors that have gone.
    """

    handle: TableHandle
    mark: str

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        table = await session.opened(self.handle)
        if await mark_of(session, table) != self.mark:
            return [False]
        metadata: dict[str, str | None] = {EXTREME: None}
        index = await vector_index(session, table)
        if index is not None and index.ours:
            metadata[KEY] = replace(index.tuned, recall=None).to_json()
        update = {"path": table.schema.vector, "metadata": metadata}
        await session.run(table.lance.update_field_metadata(update))
        return [True]
