"""Writes of rows, and the kept results of earlier writes with the same key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .._embed.protocol import Purpose
from .._embed.rows import Texts, texts_of, with_vectors, without
from .._filters import Expr
from .._input.arguments import check_model
from .._input.rows import (
    Collected,
    bytes_to_write,
    one_of_each_id,
    repeated_ids,
    to_batch,
    to_changes,
)
from .._input.types import OnConflict
from .._input.vectors import query_vector
from .._model.arrays import Float32Array
from .._model.schema import Schema
from ..backend.changes import Insert, UpdateRows, Upsert
from ..backend.context import Kept, WriteKey, call_context
from ..backend.contract import Backend, Count, TableHandle
from ..backend.cost import cost_of
from ..backend.rows import Batch
from ..backend.threads import hop
from ..errors import DuplicateIdError, InvalidRowError, OutcomeUnknownError
from .opened import OpenTable

if TYPE_CHECKING:
    MakesVectors = Callable[[OpenTable, Texts, Purpose, str | None], Awaitable[Float32Array]]


@dataclass(slots=True)
class RowsToWrite:
    """The rows of an insert or upsert.

    For rows of an import, ``checked_for`` is the schema that they fit; their ids are distinct.
    ``make_vectors`` calls the embedder.
    """

    rows: Collected | Batch
    model: str | None
    on_conflict: OnConflict
    checked_for: Schema | None
    make_vectors: MakesVectors
    _ready: tuple[Schema, Batch] | None = None
    """The rows with their vectors, so that a retry does not call the embedder again."""

    async def write(self, t: OpenTable) -> int:
        """Write the rows in one attempt, and return how many were written."""
        if self.model is not None:
            check_model(t.handle, self.model)
        t.sweep_now_and_then()
        batch = None if t.schema.embed is None else await self.batch(t)
        freed = not t.expires  # otherwise expired rows may still have some of the ids
        while True:
            # The gate comes first, since the checked rows take memory.
            async with t.backend.writing(bytes_to_write(self.rows, t.schema)):
                if batch is None:
                    batch, _ = await self._checked_rows(t)
                if not len(batch):
                    return 0
                # A skip would leave out a row with an expired row's id, so free such ids first.
                if freed or self.on_conflict != "skip":
                    try:
                        return await self._put(t, batch)
                    except (DuplicateIdError, InvalidRowError):
                        # An upsert fails if the id exists in another partition.
                        if freed:
                            raise
            # Outside the gate: a delete enters it too, and a read may wait for memory.
            await t.free(batch.ids)
            freed = True

    def _put(self, t: OpenTable, batch: Batch) -> Awaitable[int]:
        change: Insert | Upsert = Upsert(batch)
        if self.on_conflict != "replace":
            change = Insert(batch, skip_existing=self.on_conflict == "skip")
        return t.write(change)

    def _checked_rows(self, t: OpenTable) -> Awaitable[tuple[Batch, Texts]]:
        """Return the checked rows, and the texts from which the embedder makes vectors."""
        rows = self.rows.data if isinstance(self.rows, Collected) else self.rows
        return hop(cost_of(rows, t.schema), self._check, t.handle)

    def _check(self, handle: TableHandle) -> tuple[Batch, Texts]:
        rows, schema = self.rows, handle.schema
        if isinstance(rows, Batch) and self.checked_for is not None and self.checked_for != schema:
            rows = Collected([rows.table(self.checked_for)], "tables")
        batch = rows if isinstance(rows, Batch) else to_batch(rows, schema, new_ids="if absent")
        if self.on_conflict != "fail":
            batch = one_of_each_id(batch, last=self.on_conflict == "replace")
        elif self.checked_for is None and (repeated := repeated_ids(batch.ids)):
            raise DuplicateIdError(handle.name, repeated, within_call=True)
        return batch, texts_of(batch, handle.schema)

    async def batch(self, t: OpenTable) -> Batch:
        """Return the checked rows; the embedder supplies any missing vectors.

        The table need not exist yet. With ``on_conflict="skip"``, rows with existing ids are left
        out before the other rows are embedded.
        """
        schema = t.schema
        skips = self.on_conflict == "skip"
        # The existing rows may have changed since an earlier attempt.
        if not skips and self._ready is not None and self._ready[0] == schema:
            return self._ready[1]
        rows, missing = await self._checked_rows(t)
        if missing.texts and skips:
            existing = await t.ids(missing.ids)
            rows, missing = await hop(len(rows), without, rows, schema, existing)
        if missing.texts:  # rows may stay without a vector
            # Errors name the positions only if no row was left out: otherwise they have changed.
            texts = missing if self.on_conflict == "fail" else replace(missing, rows=())
            vectors = await self.make_vectors(t, texts, "document", self.model)
            rows = await hop(len(rows), with_vectors, rows, missing.rows, vectors)
        self._ready = schema, rows
        return rows


@dataclass(slots=True)
class RowsToUpdate:
    """Rows that change parts of stored rows."""

    rows: Collected
    strict: bool
    make_vectors: MakesVectors

    async def write(self, t: OpenTable) -> int:
        """Write the values in one attempt, and return how many of the rows exist."""
        needs_existing = t.expires or t.schema.embed is not None
        # Read before the gate, since a read may wait for memory.
        change = await self._of_existing(t) if needs_existing else None
        async with t.backend.writing(bytes_to_write(self.rows, t.schema)):
            change = change or await self._checked(t)
            return await t.write(change) if any(map(len, change.parts)) else 0

    def _checked(self, t: OpenTable) -> Awaitable[UpdateRows]:
        check = partial(to_changes, self.rows, t.schema, strict=self.strict)
        return hop(cost_of(self.rows.data, t.schema), check)

    async def _of_existing(self, t: OpenTable) -> UpdateRows:
        """Return the change for the rows that exist, with the vectors of their new texts.

        A retry embeds again, since other rows may exist by then.
        """
        change = await self._checked(t)
        if not (t.expires or any(_has_texts(part, t.schema) for part in change.parts)):
            return change
        count = sum(map(len, change.parts))
        existing = await t.ids(await hop(count, lambda: change.ids))

        def existing_parts() -> list[Batch]:
            change.check(existing)
            return [
                part.take([row for row, id in enumerate(part.ids) if id in existing])
                for part in change.parts
            ]

        parts = await hop(count, existing_parts)
        for place, part in enumerate(parts):
            if len(part) and _has_texts(part, t.schema):
                missing = await hop(len(part), texts_of, part, t.schema)
                if missing.texts:
                    # The positions in a part are not the positions in the caller's rows.
                    texts = replace(missing, rows=())
                    vectors = await self.make_vectors(t, texts, "document", None)
                    parts[place] = await hop(len(part), with_vectors, part, missing.rows, vectors)
        return replace(change, parts=parts)


def _has_texts(part: Batch, schema: Schema) -> bool:
    """Return whether a part of an update sets the field that ``embed`` names."""
    return schema.embed is not None and schema.embed.field in part.fields


async def may_match(
    t: OpenTable, values: Mapping[str, Any], ids: list[str] | None, where: Expr | None
) -> bool:
    """Return False if an update that sets the text of ``embed`` matches no row.

    Such an update must not call the embedder.
    """
    if t.schema.embed is None or t.schema.embed.field not in values:
        return True
    if ids is not None and not await t.ids(ids):
        return False
    return where is None or await t.read(Count(where)) > 0


async def vector_of_update(
    make_vectors: MakesVectors, t: OpenTable, values: Mapping[str, Any]
) -> Float32Array | None:
    """Return the vector of an update's new text for ``embed``; None if the update sets none.

    The vector is NaN for an empty text, if rows may lack a vector.
    """
    schema, source = t.schema, t.schema.embed
    if source is None or source.field not in values:
        return None
    text = values[source.field]
    if not text and schema.vector_nullable:
        return np.full(schema.dim, np.nan, dtype=np.float32)
    if not text:
        raise InvalidRowError(
            "it is empty, and the vectors are made from this text; pass one, or set other fields",
            field=source.field,
        )
    (vector,) = await make_vectors(t, Texts([text]), "document", None)
    return query_vector(vector, schema)


async def kept_of(key: WriteKey, backend: Backend) -> Kept | None:
    """Return the kept result of an earlier write with this key; None if no such write was done.

    Raises OutcomeUnknownError if a write with this key may have been done, but no result was kept.
    """
    kept = await backend.kept(key)
    if kept is None and call_context().retried and await _forgets(backend):
        raise _RepeatedWriteError(
            backend.target,
            "it was requested before with the same key, the store kept no result of that request, "
            "and nothing was done now",
        )
    return kept


class _RepeatedWriteError(OutcomeUnknownError):
    """The error for a request that the client has repeated: a client error, not a server error."""

    http = replace(OutcomeUnknownError.http, status=409)


async def _forgets(backend: Backend) -> bool:
    """Return whether the store may have done a write without keeping its key.

    The target of a migration has no keys of earlier writes.
    """
    if not backend.supports("once"):
        return True
    return backend.supports("moves") and (await backend.move_record()).generation > 0
