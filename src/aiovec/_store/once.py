"""Repeating a write under its key without doing it twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..backend.conditions import is_retried, now, under
from ..backend.contract import Backend, Columns, StoredRows, TableHandle, moves_of
from ..backend.pool import off_loop
from ..errors import DuplicateIdError, TableExistsError

if TYPE_CHECKING:
    import pyarrow as pa

    from .._model.schema import Field, Schema
    from ..backend.keys import WriteKey

_T = TypeVar("_T")

_ROWS_AT_ONCE = 1000


def as_it_is(outcome: int | None) -> Any:
    """Return the outcome of a write as its result, which it is of a store's own methods."""
    return outcome


async def once(
    backend: Backend,
    key: WriteKey,
    write: Callable[[], Awaitable[_T]],
    result: Callable[[int | None], _T] = as_it_is,
) -> _T:
    """Return the result of a write under a key, or what its outcome says that the backend has kept.

    ``result`` makes the former of the latter: of the number of rows, or None.
    ``write`` looks at no state of the table before it is awaited: what it checks may no longer hold
    when the write was done already.
    """
    kept = await backend.kept(key)
    if kept is not None and kept.done:
        return result(kept.outcome)
    # A store that keeps every key knows what it did, unless a cut-over has led to it.
    retried = kept is not None or (
        is_retried() and (not backend.supports("once") or await _was_moved_to(backend))
    )
    with under(replace(now(), retried=retried)):
        return await write()


async def _was_moved_to(backend: Backend) -> bool:
    moves = moves_of(backend)
    return moves is not None and (await moves.move_record()).generation > 0


async def insert(
    backend: Backend, handle: TableHandle, rows: pa.Table, *, skip_existing: bool = False
) -> int:
    """Insert rows; of a write that may have been done before, it is done where they are there."""
    try:
        return await backend.insert(handle, rows, skip_existing=skip_existing)
    except DuplicateIdError:
        if not (is_retried() and await has_rows(backend, handle, rows)):
            raise
        return int(rows.num_rows)


async def create_table(backend: Backend, name: str, schema: Schema) -> None:
    """Create a table; if it may have been done before, it is done where such a table is there."""
    try:
        await backend.create_table(name, schema)
    except TableExistsError:
        if not is_retried() or (await backend.open_table(name)).schema != schema:
            raise


def is_field_added(schema: Schema, name: str, field: Field) -> bool:
    """Return whether adding the field may have been done before, and the table has it."""
    return is_retried() and schema.fields.get(name) == field


def is_field_dropped(schema: Schema, name: str) -> bool:
    """Return whether dropping the field may have been done before, and the table lacks it."""
    return is_retried() and name not in schema.fields


def is_field_renamed(schema: Schema, old: str, new: str) -> bool:
    """Return whether renaming may have been done before, and the table has the new name."""
    return is_retried() and old not in schema.fields and new in schema.fields


async def has_rows(backend: Backend, handle: TableHandle, rows: pa.Table) -> bool:
    """Return whether the table has all these rows, with the same values and vectors."""
    schema = handle.schema
    columns = Columns(tuple(schema.fields), payload=schema.payload, vector=True)
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        block = rows.slice(start, _ROWS_AT_ONCE)
        ids = block.column("id").to_pylist()
        found = await backend.get(handle, ids, columns)
        if len(found.ids) < len(ids):
            return False
        values = len(ids) * (schema.dim + len(schema.fields))
        if not await off_loop(values, _are_same, block, ids, found, schema):
            return False
    return True


def _are_same(rows: pa.Table, ids: list[str], found: StoredRows, schema: Schema) -> bool:
    from .._model.arrow import payload_texts, python_values, to_matrix

    place = {id: number for number, id in enumerate(found.ids)}
    order = [place[id] for id in ids]
    for name in schema.fields:
        stored = found.fields[name]
        if list(python_values(rows.column(name))) != [stored[number] for number in order]:
            return False
    if found.payloads is not None:
        payloads = found.payloads
        for given, number in zip(payload_texts(rows.column("payload")), order, strict=True):
            if _object(given) != _object(payloads[number]):  # its keys may come in another order
                return False
    given_vectors = to_matrix(rows.column(schema.vector))
    if found.vectors is None:
        return False
    stored_vectors = np.ascontiguousarray(found.vectors[order], dtype=np.float32)
    bits = np.ascontiguousarray(given_vectors).view(np.uint32) == stored_vectors.view(np.uint32)
    missing = np.isnan(given_vectors) & np.isnan(stored_vectors)
    return bool((bits | missing).all())


def _object(text: str | None) -> object:
    return None if text is None else json.loads(text)
