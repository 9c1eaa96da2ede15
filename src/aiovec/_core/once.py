"""Repeating a write under its key without doing it twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .conditions import now, under, write_key
from .contract import Backend, Columns, StoredRows, TableHandle
from .pool import off_loop

if TYPE_CHECKING:
    import pyarrow as pa

    from .schema import Schema

_T = TypeVar("_T")

_ROWS_AT_ONCE = 1000


def as_it_is(outcome: int | None) -> Any:
    """Return the outcome of a write as its result, which it is of a store's own methods."""
    return outcome


async def once(
    backend: Backend,
    write: Callable[[], Awaitable[_T]],
    result: Callable[[int | None], _T] = as_it_is,
) -> _T:
    """Return the result of a write, or what its outcome says that the backend has kept.

    ``result`` makes the former of the latter: of the number of rows, or None.
    ``write`` looks at no state of the table before it is awaited: what it checks may no longer hold
    when the write was done already.
    """
    key = write_key()
    if key is None:
        return await write()
    kept = await backend.kept(key)
    if kept is None:
        return await write()
    if kept.done:
        return result(kept.outcome)
    with under(replace(now(), retried=True)):
        return await write()


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
    from .._arrow import payload_texts, to_matrix

    place = {id: number for number, id in enumerate(found.ids)}
    order = [place[id] for id in ids]
    for name in schema.fields:
        stored = found.fields[name]
        if rows.column(name).to_pylist() != [stored[number] for number in order]:
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
