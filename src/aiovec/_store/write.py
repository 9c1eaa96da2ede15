"""The rows of an insert or upsert on their way into a table.

What a call holds is here, in one object: hundreds of them wait for their turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._input.arguments import check_model
from .._input.rows import (
    CheckedRows,
    bytes_of,
    effort_of,
    effort_of_columns,
    first_of_each_id,
    repeated_ids,
    taken_by,
    to_table,
)
from .._model.arrow import last_of_each_id
from ..backend.limits import renewed
from ..backend.pool import off_loop
from ..errors import DuplicateIdError
from . import once

if TYPE_CHECKING:
    import pyarrow as pa

    from .._input.types import OnConflict
    from .._model.schema import Schema
    from .._telemetry.calls import Operation
    from ..backend.contract import TableHandle
    from .current import Engine

    Embeds = Callable[[Engine, TableHandle, pa.Table, str | None, OnConflict], Awaitable[pa.Table]]


class RowsToWrite:
    """``rows`` are those that the caller gave, and ``held`` what was read of them."""

    __slots__ = (
        "_checked", "_columns", "_effort", "_embedded", "_embeds", "_held", "_model",
        "_on_conflict", "_operation",
    )  # fmt: skip

    def __init__(
        self,
        rows: object,
        held: Any,
        model: str | None,
        on_conflict: OnConflict,
        operation: Operation,
        embeds: Embeds,
    ) -> None:
        self._held = [held]
        self._checked = isinstance(rows, CheckedRows)
        self._columns = len(held) if isinstance(rows, Mapping) else 0
        self._effort = effort_of(held)
        self._model = model
        self._on_conflict = on_conflict
        self._operation = operation
        self._embeds = embeds
        # A repeated attempt asks the embedder no second time.
        self._embedded: dict[Schema, pa.Table] = {}

    async def write(self, engine: Engine, handle: TableHandle) -> int:
        """Write them, on one attempt; how many those are."""
        check_model(handle, self._model)
        schema, backend = handle.schema, engine.backend
        # Before the rows are turned into what is written, which takes memory.
        size = await off_loop(self._columns, bytes_of, self._held[0], schema)
        checked = await self._with_vectors(engine, handle, size)
        with renewed(checked is not None):  # the embedder has time limits of its own
            async with backend.writing(size) as share:
                if checked is None:
                    effort = self._effort_of(schema)
                    batch = await off_loop(effort, self._check, schema)
                else:
                    batch = checked
                count = int(batch.num_rows)
                if share is not None:
                    parts = batch.num_columns * batch.column(0).num_chunks
                    share.resize(await off_loop(parts, taken_by, batch))
                if count and self._on_conflict == "replace":
                    await backend.upsert(handle, batch)
                elif count:
                    skip = self._on_conflict == "skip"
                    count = await once.insert(backend, handle, batch, skip_existing=skip)
        self._operation.rows = count
        return count

    async def let_go(self) -> None:
        """Rows that an iterable gave are nobody else's, and freeing them takes its time."""
        self._embedded.clear()
        await off_loop(self._effort, self._held.clear)

    async def _with_vectors(
        self, engine: Engine, handle: TableHandle, size: int
    ) -> pa.Table | None:
        """The checked rows with vectors of the embedder; None where the table has none."""
        schema = handle.schema
        if schema.embed is None:
            return None
        # Which rows are there already may have changed since an attempt before.
        if self._on_conflict == "skip" or schema not in self._embedded:
            # No other write waits for memory while the embedder works.
            async with engine.backend.writing(size):
                batch = await off_loop(self._effort_of(schema), self._check, schema)
            self._embedded[schema] = await self._embeds(
                engine, handle, batch, self._model, self._on_conflict
            )
        return self._embedded[schema]

    def _effort_of(self, schema: Schema) -> int:
        return self._effort + effort_of_columns(schema)

    def _check(self, schema: Schema) -> pa.Table:
        batch = to_table(self._held[0], schema, make_ids=True)
        if self._on_conflict == "replace":
            return last_of_each_id(batch)
        if self._on_conflict == "skip":
            return first_of_each_id(batch)
        repeated = [] if self._checked else repeated_ids(batch)
        if repeated:
            raise DuplicateIdError(self._operation.table or "", repeated, within_call=True)
        return batch
