"""The change feed, from what Lance knows of each row: the version that wrote it last.

Tables are made with stable row ids. So a row keeps its id and the version of its last change
wherever compactions put it, and an id that a version has and the newest one lacks is of a row that
was deleted since.

A change number is a place in the table's history: the numbering it belongs to, a version, and a row
id in it. All changes of earlier versions lie before it, and those of this version to rows of
smaller ids. It also says which version was read last: all deletes up to that one were given, so
rows of versions that are gone can be read in pages. A numbering ends where the history does: a
table that is made anew, restored to an earlier version, or copied has another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aiovec.backend import one_array
from aiovec.backend.contract import Changes, StaleTableError
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight
from aiovec.errors import ChangesPrunedError, CorruptStoreError, UnsupportedError

from .layout import NUMBERING, new_numbering, numbering_in
from .session import Opened, Session

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

_VERSION_BITS, _ROW_BITS, _PLACE_BITS = 28, 36, 64
UPDATED, CREATED = "_row_last_updated_at_version", "_row_created_at_version"
# Rows that are looked up by their row ids at once.
_BLOCK = 10_000

_Keys = npt.NDArray[np.uint64]


class _Place(NamedTuple):
    """A change number in parts."""

    numbering: int
    version: int
    row: int
    read: int

    @classmethod
    def of(cls, number: int) -> _Place:
        place, read = divmod(number, 1 << _VERSION_BITS)
        key = place & (1 << _PLACE_BITS) - 1
        return cls(place >> _PLACE_BITS, key >> _ROW_BITS, key & (1 << _ROW_BITS) - 1, read)

    @property
    def key(self) -> int:
        return self.version << _ROW_BITS | self.row

    @property
    def number(self) -> int:
        return (self.numbering << _PLACE_BITS | self.key) << _VERSION_BITS | self.read


async def newest_number(session: Session, table: Opened) -> int:
    """Return the number of a table's newest change."""
    return (await _end(session, table)).number


async def _end(session: Session, table: Opened) -> _Place:
    numbering = numbering_in(table.arrow)
    if numbering is None:
        hint = (
            f"the rows of the table {table.name!r} have no stable ids; export them into a table "
            "that aiovec makes"
        )
        raise UnsupportedError("changes", "lancedb", hint)
    version = await session.version(table)
    return _Place(numbering, version + 1, 0, version)


async def number_anew(session: Session, lance: AsyncTable) -> None:
    """Begin another numbering, behind a return to an earlier version."""
    if numbering_in(await session.run(lance.schema())) is not None:
        await session.annotate(lance, "id", {NUMBERING: new_numbering()})


async def changes(session: Session, table: Opened, since: int, limit: int) -> Changes:
    """Return about ``limit`` changes after ``since``, and all deletes.

    ChangesPrunedError where the numbering is another, or the version that was read last has gone
    and so nothing tells what was deleted.
    """
    end = await _end(session, table)
    begin = _Place.of(since) if since else _Place(end.numbering, 1, 0, end.read)
    if begin.numbering != end.numbering or begin > end:
        raise ChangesPrunedError(end.number)
    deleted: list[str] = []
    if begin.read < end.read:
        try:
            deleted = await _deleted(session, table, begin.read)
        except CorruptStoreError as exc:
            raise ChangesPrunedError(end.number) from exc
    keys = await _written(session, table, begin, limit + 1)
    complete = len(keys) <= limit
    if not complete:
        keys = keys[:limit]
        version, row = divmod(int(keys[-1]) + 1, 1 << _ROW_BITS)
        end = end._replace(version=version, row=row)
    rows = await _taken(session, table.lance, keys, table.schema.to_arrow())
    return Changes(end.number, rows, deleted, complete)


async def _deleted(session: Session, table: Opened, base: int) -> list[str]:
    """Return the ids of the rows that a version has and the table lacks by now."""
    old, arrow = await session.open_any(table.name)
    if numbering_in(arrow) != numbering_in(table.arrow):
        raise StaleTableError(table.name)
    await session.run(old.checkout(base))
    new = table.lance
    # Counting takes next to no time, and mostly nothing was deleted.
    added = await session.run(new.count_rows(f"{CREATED} > {base}"))
    if await session.run(old.count_rows()) + added == await session.run(new.count_rows()):
        return []
    both = await _row_ids(session, old), await _row_ids(session, new)
    gone = await in_thread(np.setdiff1d, *both, True)
    found = await _taken(session, old, gone, pa.schema([arrow.field("id")]))
    ids: list[str] = await hop(len(gone), found.column("id").to_pylist)
    return ids


async def _row_ids(session: Session, lance: Any) -> _Keys:
    batches = await session.batches(lance.query().select(["_rowid"]))
    found = [batch.column("_rowid").to_numpy() async for batch in batches]
    return np.concatenate([np.empty(0, np.uint64), *found])


async def _written(session: Session, table: Opened, begin: _Place, count: int) -> _Keys:
    """Return the first keys of changed rows behind a place, in their order."""
    query = table.lance.query().select(["_rowid", UPDATED])
    kept = np.empty(0, np.uint64)

    def first(batch: pa.RecordBatch | None) -> _Keys:
        keys = kept
        if batch is not None:
            shifted = batch.column(UPDATED).to_numpy() << np.uint64(_ROW_BITS)
            new = shifted | batch.column("_rowid").to_numpy()
            keys = np.concatenate([kept, new[new >= np.uint64(begin.key)]])
            if len(keys) <= 8 * count:
                return keys
        return np.sort(keys)[:count]

    async for batch in await session.batches(query, where=f"{UPDATED} >= {begin.version}"):
        kept = await hop(batch.num_rows, first, batch)
    return await hop(len(kept), first, None)


async def _taken(session: Session, lance: Any, keys: _Keys, layout: pa.Schema) -> pa.Table:
    """Return the rows of these row ids, the lower bits of the keys, with the layout's columns."""
    rows = await hop(len(keys), lambda: (keys & np.uint64((1 << _ROW_BITS) - 1)).tolist())
    parts = [layout.empty_table()]
    for start in range(0, len(rows), _BLOCK):
        query = lance.take_row_ids(rows[start : start + _BLOCK]).select(layout.names)
        found = await session.run(query.to_arrow())
        parts.append(await hop(weight(found), _in_layout, found, layout))
    return pa.concat_tables(parts)


def _in_layout(found: pa.Table, layout: pa.Schema) -> pa.Table:
    arrays = [one_array(found.column(field.name)) for field in layout]
    return pa.Table.from_arrays(arrays, schema=layout)
