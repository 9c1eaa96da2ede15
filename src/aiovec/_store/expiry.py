"""Rows that expire: hidden from every read at once, deleted by later writes and ``optimize``."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from .._filters import Expr, bind
from .._filters.tree import Compare, IsNull, Ref, all_of, any_of
from .._model.schema import Schema
from ..backend.context import call_context, calling
from ..backend.contract import Backend, Columns, StoredRows, TableHandle
from ..backend.threads import hop
from ..backend.weight import weight
from .current import Engine

# Seconds between two sweeps by writes, each of which may read the whole table.
_SWEEP_EVERY = 3600.0


def live(where: Expr | None, schema: Schema) -> Expr | None:
    """Return the filter for those of its rows that have not expired."""
    if schema.expires is None:
        return where
    at = Ref(schema.expires)
    alive = any_of([IsNull(at), Compare(at, ">", datetime.now(UTC))])
    return alive if where is None else all_of([where, alive])


def bind_live(where: object, schema: Schema) -> Expr | None:
    """Return the bound filter of a read."""
    return live(bind(where, schema), schema)


async def get_live(
    backend: Backend, handle: TableHandle, ids: list[str], columns: Columns
) -> StoredRows:
    """Read rows by their ids, but for those that have expired."""
    expires = handle.schema.expires
    if expires is None:
        return await backend.get(handle, ids, columns)
    fields = tuple(dict.fromkeys((*columns.fields, expires)))
    rows = await backend.get(handle, ids, replace(columns, fields=fields))
    now = datetime.now(UTC)

    def unexpired() -> StoredRows:
        kept = [i for i, at in enumerate(rows.fields[expires]) if at is None or at > now]
        return StoredRows(
            [rows.ids[i] for i in kept],
            {name: [rows.fields[name][i] for i in kept] for name in columns.fields},
            None if rows.payloads is None else [rows.payloads[i] for i in kept],
            None if rows.vectors is None else rows.vectors[kept],
        )

    return await hop(weight(rows), unexpired)


async def sweep(engine: Engine, handle: TableHandle, *, now_and_then: bool = False) -> bool:
    """Delete the rows that have expired, and return whether there were any.

    With ``now_and_then`` not within an hour of the last time. A server does so for its clients, by
    its own clock.
    """
    expires, backend = handle.schema.expires, engine.backend
    if expires is None or not backend.upkeep:
        return False
    now = time.monotonic()
    if now_and_then and now - engine.swept.get(handle.name, -_SWEEP_EVERY) < _SWEEP_EVERY:
        return False
    engine.swept[handle.name] = now
    expired = Compare(Ref(expires), "<=", datetime.now(UTC))
    if not await backend.count(handle, expired):
        return False
    with calling(replace(call_context(), key=None)):  # it is that of the call's own write
        await backend.delete(handle, ids=None, where=expired)
    return True
