"""Filling a new table: each id is looked for among those of the load, not in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from aiovec.backend import Int64Array
from aiovec.backend.contract import BulkLoad, TableHandle
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import DuplicateIdError

from .session import Opened, Session
from .writer import Change, WriteOperation
from .writes import existing_rows, stored_form

_BATCH = 2**17


class Load(BulkLoad):
    def __init__(
        self,
        session: Session,
        table: TableHandle,
        write: Callable[[str, WriteOperation], Awaitable[Any]],
        loading: Callable[[str], None],
    ) -> None:
        self._session = session
        self._table = table
        self._write = write
        self._loading = loading
        self._seen: SeenIds | None = None

    async def add(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        stored = await hop(weight(rows), stored_form, rows, self._table.schema)
        await self._write(self._table.name, Change(partial(self._add, stored), by_hand=True))
        self._loading(self._table.name)

    async def _add(self, rows: pa.Table) -> None:
        session = self._session
        ids = await hop(rows.num_rows, rows.column("id").to_pylist)
        table = await session.opened(self._table)
        if self._seen is None:
            self._seen = await self._there(table)
        hashed = await hop(len(ids), hashes, ids)
        places = await hop(len(ids), self._seen.places, hashed)
        # Others may have the same hash.
        twice = await existing_rows(session, table, [ids[place] for place in places])
        if twice:
            raise DuplicateIdError(table.name, [id for id in ids if id in twice])
        await session.run(table.lance.add(rows))
        await hop(len(ids), self._seen.add, hashed)

    async def _there(self, table: Opened) -> SeenIds:
        """Return the ids that the table has already."""
        seen = SeenIds()
        query = table.lance.query().select(["id"])
        batches = await self._session.run(query.to_batches(max_batch_length=_BATCH))
        with self._session.guarded():
            async for batch in batches:
                await hop(weight(batch), lambda ids: seen.add(hashes(ids.to_pylist())), batch["id"])
        return seen


class SeenIds:
    """Hashes of ids, 8 bytes each: they tell which ids may have come before."""

    def __init__(self) -> None:
        # In rising order each, the largest first, and each more than twice as large as the next.
        self._parts: list[Int64Array] = []

    def add(self, hashed: Int64Array) -> None:
        part = np.sort(hashed)
        while self._parts and len(self._parts[-1]) <= 2 * len(part):
            part = np.concatenate([self._parts.pop(), part])
            part.sort(kind="stable")  # it knows parts that are in order
        self._parts.append(part)

    def places(self, hashed: Int64Array) -> list[int]:
        """Return the places of those that may have been seen."""
        seen = np.zeros(len(hashed), dtype=np.bool_)
        for part in filter(len, self._parts):
            places = np.searchsorted(part, hashed).clip(max=len(part) - 1)
            seen |= part[places] == hashed
        found: list[int] = np.flatnonzero(seen).tolist()
        return found


def hashes(ids: Sequence[str]) -> Int64Array:
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
