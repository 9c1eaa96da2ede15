"""The change feed, based on the version that last wrote each row, which Lance stores with the row.

Tables are created with stable row ids. So a row keeps its id and the version of its last change
when a compaction moves it, and a row id that is in an earlier version but not in the newest one
belongs to a deleted row.

A follower goes from one version to a later one in pages: first the rows deleted between the two
versions, then the rows written. A change number encodes the numbering of the table's history, the
two versions, and the position between them; so each page has up to ``limit`` changes, and no change
is returned twice. A numbering ends when the history does: a table that is created again or copied
gets a new numbering. Before a revert to an earlier version, the table also gets a new numbering,
which the revert undoes like all other changes. So a follower's numbering has ended if any version
since the follower's last one has a different numbering.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aiovec.backend import one_array
from aiovec.backend.contract import Changes, StaleTableError
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop, in_thread, together
from aiovec.errors import ChangesPrunedError, CorruptStoreError, UnsupportedError

from .layout import NUMBERING, ROW, epoch_of, incarnation_in, new_numbering, numbering_in
from .session import Session, Snapshot

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

# Bits of a row id and of a version number; together they make a place in the order of changes.
_ROW_BITS, _VERSION_BITS = 36, 28
_PLACE_BITS = _ROW_BITS + _VERSION_BITS
UPDATED, CREATED = "_row_last_updated_at_version", "_row_created_at_version"
# Rows looked up by row id in one request.
_BLOCK = 10_000
# Row ids in a batch. With Lance's default of 1,024, 1.6 million ids take 0.2 s instead of 0.01 s.
_SCAN_BATCH = 2**17
# The most places kept from one scan of all rows (2 MiB), and the most followers for which places
# are kept.
_PLANNED, _MOST_PLANS = 2**18, 8
# The number of manifests read concurrently: on object storage, each takes a request.
_MANIFESTS = 16

_Keys = npt.NDArray[np.uint64]


class _Position(NamedTuple):
    """A change number, split into its parts."""

    numbering: int
    base: int
    """The version up to which the follower has all changes."""
    target: int = 0
    """The version that the current pages lead to; 0 if the follower has read all pages."""
    place: int = 0
    """The first place (version and row id) not yet in a page; deleted rows have the version 0."""

    @classmethod
    def of(cls, number: int) -> _Position:
        number, place = divmod(number, 1 << _PLACE_BITS)
        number, target = divmod(number, 1 << _VERSION_BITS)
        return cls(*divmod(number, 1 << _VERSION_BITS), target, place)

    def is_before(self, end: _Position) -> bool:
        """Return whether the position is in the numbering of ``end``, and not after ``end``."""
        return self.numbering == end.numbering and max(self.base, self.target) <= end.base

    @property
    def number(self) -> int:
        versions = (self.numbering << _VERSION_BITS | self.base) << _VERSION_BITS | self.target
        return versions << _PLACE_BITS | self.place


async def newest_number(table: Snapshot) -> int:
    """Return the number of a table's newest change."""
    return (await _end(table)).number


async def _end(table: Snapshot) -> _Position:
    numbering = numbering_in(table.arrow)
    if numbering is None:
        hint = (
            f"the rows of the table {table.name!r} have no stable ids; export them into a table "
            "that aiovec creates"
        )
        raise UnsupportedError("changes", "lancedb", hint)
    return _Position(numbering, await table.version())


async def renumber(session: Session, lance: AsyncTable) -> None:
    """Begin a new numbering, before the table is reverted to an earlier version."""
    if numbering_in(await session.run(lance.schema())) is not None:
        await session.annotate(lance, "id", {NUMBERING: new_numbering()})


async def changes(table: Snapshot, since: int, limit: int, plans: Plans) -> Changes:
    """Return up to ``limit`` changes after ``since``.

    Raises ChangesPrunedError if the numbering has ended, or a required version was removed.
    """
    end = await _end(table)
    at = _Position.of(since) if since else _Position(end.numbering, 0)
    if not at.is_before(end):
        raise ChangesPrunedError(end.number)
    try:
        if not at.target:
            await _check_history(table, at, end)
            at = at._replace(target=end.base)
        return await _page(table, at, end, limit, plans)
    except CorruptStoreError as exc:
        if at.target < end.base or 0 < at.base < end.base:  # upkeep has removed a version
            raise ChangesPrunedError(end.number) from exc
        raise


async def _check_history(table: Snapshot, at: _Position, end: _Position) -> None:
    """Raise ChangesPrunedError if the table was reverted to an earlier version since ``at``.

    Reads the manifest of every version in between, several at a time.
    """

    async def look(versions: range) -> None:
        lance = (await _version(table, versions[0])).lance
        for version in versions:
            await table.session.run(lance.checkout(version))
            if numbering_in(await table.session.run(lance.schema())) != at.numbering:
                raise ChangesPrunedError(end.number)

    if 0 < at.base < end.base:
        between = range(at.base, end.base)
        looks = [
            partial(look, between[n::_MANIFESTS]) for n in range(min(_MANIFESTS, len(between)))
        ]
        await together(looks)


async def _version(table: Snapshot, number: int) -> Snapshot:
    """Return the table as it was in the version with this number."""
    session = table.session
    lance, arrow = await session.open_any(table.name)
    if incarnation_in(arrow) != incarnation_in(table.arrow):
        raise StaleTableError(table.name)
    await session.run(lance.checkout(number))
    arrow = await session.run(lance.schema())
    return Snapshot(session, table.name, lance, table.schema, arrow)


async def _page(
    table: Snapshot, at: _Position, end: _Position, limit: int, plans: Plans
) -> Changes:
    """Return the next changes between two versions."""
    new = table
    if at.target < end.base:
        new = await _version(table, at.target)
        # If the fields differ, so do the epochs, and that version's rows would not fit the table.
        if epoch_of(new.arrow) != epoch_of(table.arrow):
            raise ChangesPrunedError(end.number)
    keys = await plans.ahead(new, at, limit)
    base = at.base
    if len(keys) <= limit:
        at = _Position(at.numbering, at.target)
    else:
        keys = keys[:limit]
        at = at._replace(place=int(keys[-1]) + 1)
    gone, written = np.split(keys, [np.searchsorted(keys, np.uint64(1 << _ROW_BITS))])
    deleted: list[str] = []
    if len(gone):
        old = await _version(table, base)
        rows_gone = await _taken(old, gone, pa.schema([old.arrow.field("id")]))
        deleted = await hop(len(gone), rows_gone.column("id").to_pylist)
    rows = await _taken(new, written, table.schema.to_arrow())
    return Changes(at.number, rows, deleted, at == end)


class _Plan(NamedTuple):
    """Sorted places, starting at ``first``; ``more`` is True if more places may follow."""

    first: int
    places: _Keys
    more: bool

    def ahead(self, place: int, limit: int) -> _Keys | None:
        """Return up to ``limit + 1`` places from ``place`` on; None if the plan lacks some."""
        left = self.places[np.searchsorted(self.places, np.uint64(place)) :]
        enough = place >= self.first and (len(left) > limit or not self.more)
        return left[: limit + 1] if enough else None


class Plans:
    """The next places for each follower of a store, so that a page need not scan all rows."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int, int, int], _Plan] = {}

    async def ahead(self, new: Snapshot, at: _Position, limit: int) -> _Keys:
        """Return the next ``limit + 1`` places between two versions, or all that remain."""
        key = (new.name, at.numbering, at.base, at.target)
        plan = self._plans.pop(key, None)
        places = None if plan is None else plan.ahead(at.place, limit)
        if plan is None or places is None:
            count = max(limit + 1, _PLANNED)
            every = await _places(new, at, count)
            plan = _Plan(at.place, every, len(every) == count)
            places = every[: limit + 1]
        if len(places) > limit:
            while len(self._plans) >= _MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return places


async def _places(new: Snapshot, at: _Position, count: int) -> _Keys:
    """Return up to ``count`` places from a position on: places of deleted rows, then of written
    rows."""
    gone = np.empty(0, np.uint64)
    if at.place >> _ROW_BITS == 0:
        gone = await _deleted(new, at, count)
    if len(gone) == count:
        return gone
    return np.concatenate([gone, await _written(new, at, count - len(gone))])


async def _deleted(new: Snapshot, at: _Position, count: int) -> _Keys:
    """Return up to ``count`` row ids of deleted rows, from a position on, in order."""
    if at.base in (0, at.target):
        return np.empty(0, np.uint64)
    old = await _version(new, at.base)
    # Usually no row was deleted, and counting, which takes almost no time, shows this.
    if await old.rows() + await new.rows(f"{CREATED} > {at.base}") == await new.rows():
        return np.empty(0, np.uint64)
    gone = await in_thread(np.setdiff1d, await _row_ids(old), await _row_ids(new))
    return gone[np.searchsorted(gone, np.uint64(at.place)) :][:count].copy()


async def _row_ids(table: Snapshot) -> _Keys:
    batches = await table.session.batches(table.lance.query().select([ROW]), _SCAN_BATCH)
    parts = [batch.column(ROW).to_numpy() async for batch in batches]
    return np.concatenate([np.empty(0, np.uint64), *parts])


async def _written(table: Snapshot, at: _Position, count: int) -> _Keys:
    """Return up to ``count`` places of written rows, from a position on, in order."""
    query = table.lance.query().select([ROW, UPDATED])
    kept = np.empty(0, np.uint64)

    def first(batch: pa.RecordBatch | None) -> _Keys:
        keys = kept
        if batch is not None:
            shifted = batch.column(UPDATED).to_numpy() << np.uint64(_ROW_BITS)
            new = shifted | batch.column(ROW).to_numpy()
            keys = np.concatenate([kept, new[new >= np.uint64(at.place)]])
            if len(keys) <= 2 * count:
                return keys
        return np.sort(keys)[:count]

    since = max(at.base + 1, at.place >> _ROW_BITS)
    async for batch in await table.session.batches(query, _SCAN_BATCH, f"{UPDATED} >= {since}"):
        kept = await hop(batch.num_rows, first, batch)
    return await hop(len(kept), first, None)


async def _taken(table: Snapshot, keys: _Keys, layout: pa.Schema) -> pa.Table:
    """Return the rows whose ids are the lower bits of the keys, with the columns of ``layout``."""
    rows = await hop(len(keys), lambda: (keys & np.uint64((1 << _ROW_BITS) - 1)).tolist())
    parts = [layout.empty_table()]
    for start in range(0, len(rows), _BLOCK):
        query = table.lance.take_row_ids(rows[start : start + _BLOCK]).select(layout.names)
        taken = await table.session.run(query.to_arrow())
        parts.append(await hop(cost_of(taken), _in_layout, taken, layout))
    return pa.concat_tables(parts)


def _in_layout(rows: pa.Table, layout: pa.Schema) -> pa.Table:
    arrays = [one_array(rows.column(field.name)) for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)
