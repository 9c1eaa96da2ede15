"""Filling a new table: each id is looked for among those of the load, not in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aiovec.backend import BulkLoad, TableHandle
from aiovec.errors import DuplicateIdError

from .rows import off_loop, stored_form
from .session import Opened, Session
from .writer import Work
from .writes import existing_ids, note_extreme

Int64Array = npt.NDArray[np.int64]

_BATCH = 2**17
# Sorted parts of what was seen, from which on they become one.
_MOST_PARTS = 16


class Load(BulkLoad):
    def __init__(self, table: TableHandle, write: Callable[[str, Work], Awaitable[Any]]) -> None:
        self._table = table
        self._write = write
        self._seen: SeenIds | None = None

    async def add(self, rows: pa.Table) -> None:
        if rows.num_rows:
            await self._write(self._table.name, _Add(self, self._table, rows))

    async def seen(self, session: Session, table: Opened) -> SeenIds:
        """The ids so far; at first those that the table has already."""
        if self._seen is None:
            seen = SeenIds()
            batches = await session.run(
                table.lance.query().select(["id"]).to_batches(max_batch_length=_BATCH)
            )
            with session.guarded():
                async for batch in batches:
                    await off_loop(batch.num_rows, partial(_note, seen, batch))
            self._seen = seen
        return self._seen


@dataclass(frozen=True, slots=True, eq=False)
class _Add(Work):
    load: Load
    handle: TableHandle
    rows: pa.Table

    async def do(self, session: Session, others: Sequence[Work]) -> list[Any]:
        table = await session.opened(self.handle)
        seen = await self.load.seen(session, table)
        ids = await off_loop(self.rows.num_rows, self.rows.column("id").to_pylist)
        own, suspects = await off_loop(len(ids), lambda: seen.check(ids))
        if suspects:
            twice = await existing_ids(session, table, suspects)
            if twice:
                raise DuplicateIdError(table.name, [id for id in suspects if id in twice])
        await note_extreme(session, table, self.rows)
        rows = await off_loop(self.rows.num_rows, partial(stored_form, self.rows, table.schema))
        await session.run(table.lance.add(rows))
        seen.add(own)
        return [None]


class SeenIds:
    """Hashes of ids, 8 bytes each: they tell which ids may have come before."""

    def __init__(self) -> None:
        self._parts: list[Int64Array] = []

    def check(self, ids: Sequence[str]) -> tuple[Int64Array, list[str]]:
        """The ids' hashes, and those of the ids that may have been seen."""
        found = hashes(ids)
        seen = np.zeros(len(found), dtype=np.bool_)
        for part in self._parts:
            places = np.searchsorted(part, found).clip(max=len(part) - 1)
            seen |= part[places] == found
        return found, [ids[place] for place in np.flatnonzero(seen).tolist()]

    def add(self, found: Int64Array) -> None:
        if len(found):
            self._parts.append(np.sort(found))
        if len(self._parts) > _MOST_PARTS:
            self._parts = [np.sort(np.concatenate(self._parts))]


def _note(seen: SeenIds, batch: pa.RecordBatch) -> None:
    seen.add(hashes(batch.column("id").to_pylist()))


def hashes(ids: Sequence[str]) -> Int64Array:
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
