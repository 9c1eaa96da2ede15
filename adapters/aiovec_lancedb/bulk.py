"""Filling a new table: each id is looked for among those of the load, not in the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from aiovec.backend import Int64Array
from aiovec.backend.contract import BulkLoad, TableHandle
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import DuplicateIdError

from .session import Opened, Session
from .writer import Change, WriteOperation
from .writes import Prepared, existing_ids

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
        prepared, found = await hop(weight(rows), partial(_prepared, rows, self._table))
        act = partial(self._add, prepared, found)
        await self._write(self._table.name, Change(act, by_hand=True))
        self._loading(self._table.name)

    async def _add(self, prepared: Prepared, found: Hashes) -> None:
        session = self._session
        table = await session.opened(self._table)
        seen = await self._known(session, table)
        ids = prepared.ids
        suspects = await hop(len(ids), lambda: [ids[place] for place in seen.places(found)])
        if suspects:
            twice = await existing_ids(session, table, suspects)
            if twice:
                raise await hop(len(suspects), _exist_already, table.name, suspects, twice)
        await session.run(table.lance.add(prepared.rows))
        seen.add(found)

    async def _known(self, session: Session, table: Opened) -> SeenIds:
        """The ids so far; at first those that the table has already."""
        if self._seen is None:
            seen = SeenIds()
            batches = await session.run(
                table.lance.query().select(["id"]).to_batches(max_batch_length=_BATCH)
            )
            with session.guarded():
                async for batch in batches:
                    await hop(weight(batch), partial(_note, seen, batch))
            self._seen = seen
        return self._seen


def _exist_already(table: str, suspects: Sequence[str], twice: set[str]) -> DuplicateIdError:
    return DuplicateIdError(table, [id for id in suspects if id in twice])


def _prepared(rows: pa.Table, handle: TableHandle) -> tuple[Prepared, Hashes]:
    prepared = Prepared.now(rows, handle.schema)
    return prepared, Hashes.of(prepared.ids)


class Hashes(NamedTuple):
    """Hashes of some ids in rising order, and each one's place among the ids."""

    values: Int64Array
    places: Int64Array

    @classmethod
    def of(cls, ids: Sequence[str]) -> Hashes:
        found = hashes(ids)
        order = np.argsort(found)
        return cls(found[order], order)


class SeenIds:
    """Hashes of ids, 8 bytes each: they tell which ids may have come before."""

    def __init__(self) -> None:
        # In rising order each, the largest first, and each more than twice as large as the next.
        self._parts: list[Int64Array] = []
        self._new: list[Int64Array] = []

    def add(self, found: Hashes) -> None:
        """Takes no time."""
        if len(found.values):
            self._new.append(found.values)

    def places(self, found: Hashes) -> list[int]:
        """The places of those ids that may have been seen."""
        while self._new:
            self._sort_in(self._new.pop())
        seen = np.zeros(len(found.values), dtype=np.bool_)
        for part in self._parts:
            places = np.searchsorted(part, found.values).clip(max=len(part) - 1)
            seen |= part[places] == found.values
        return sorted(found.places[seen].tolist())

    def _sort_in(self, part: Int64Array) -> None:
        while self._parts and len(self._parts[-1]) <= 2 * len(part):
            part = np.concatenate([self._parts.pop(), part])
            part.sort(kind="stable")  # it knows parts that are in order
        self._parts.append(part)


def _note(seen: SeenIds, batch: pa.RecordBatch) -> None:
    seen.add(Hashes.of(batch.column("id").to_pylist()))


def hashes(ids: Sequence[str]) -> Int64Array:
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
