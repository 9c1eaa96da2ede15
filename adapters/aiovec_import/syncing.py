"""One synchronisation for documents, rows with texts, and watched tables.

The state of a document, or of a row of a source, is its rows in the table. It has not changed if
all of these are there, with the hash of what the source has now. No other list says so:
applying a change twice changes nothing, and the same command continues a killed import.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, NamedTuple

from aiovec import F, VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend import Expr, Schema
from aiovec.backend.threads import in_thread
from aiovec.documents import Cutter, content_in, lengths_in
from aiovec.errors import ConfigError, DocumentError, DuplicateIdError

from .files import reading
from .loading import Import, Load, create, read_ahead
from .sources import Chunk, Reject

# Rows or documents that are read and compared at once, and rows that one write has.
_AT_ONCE = 1000
# Rows that one delete removes.
_DELETED_AT_ONCE = 500
_FOREIGN = "another import or an app stored the row of this id; --upsert replaces it"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_MARKS = ("base", "hash", "parts", "source")

COUNTS = ("new", "changed", "unchanged", "empty", "deleted")
"""What becomes of an item."""

Row = dict[str, Any]
_Stored = dict[str, tuple[str | None, str | None, int | None]]
"""The base, the hash and the number of the rows that the table has for an item, by their ids."""


class Item(NamedTuple):
    """A document, or a row of a source, by its name there: the path, or the id.

    ``place`` tells where it stands in the source, ``content`` is what ``Sync.rows`` makes rows of.
    Without a ``hash`` it has no text, or the source no longer has it, and the table keeps no row.
    """

    name: str
    place: int | str
    hash: str = ""
    content: Any = None


@dataclass(slots=True)
class Change:
    """The rows to write for some items, by their names, and the ids of rows to delete.

    ``counts`` are the items that are new, changed, unchanged, empty and deleted.
    """

    new: dict[str, list[Row]] = field(default_factory=dict)
    changed: dict[str, list[Row]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> list[Row]:
        """The rows to write."""
        return _joined(self.new) + _joined(self.changed)


class Seen:
    """Names of items, as 64 bits each."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, name: str) -> bool:
        return hash(name) in self._hashes

    def add(self, names: Iterable[str]) -> None:
        self._hashes.update(map(hash, names))


@dataclass
class SyncImport(Import):
    """Brings what one source has into a table: what is new or has changed, and not what is gone.

    Its base names the source in its rows: only these are replaced and deleted, or with ``upsert``
    those of anybody else that have the same ids too. With a ``cutter`` the texts become passages.
    With ``any_lengths``, passages of another size and overlap stay as long as their text does.

    ``counts`` are the items that are new, changed, unchanged, empty and deleted, and the rows of
    the table that were ``written``, or would be. ``gone`` are the rows of the table, with the names
    of their items, that are deleted because the source no longer has these.
    """

    going_on: ClassVar[str] = "the same command continues"
    knows_changes: ClassVar[bool] = True

    of_any_base: ClassVar[bool] = False
    """True if rows of another base are as good as those of this one, and count as unchanged."""

    cutter: Cutter | None = None
    any_lengths: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    gone: Mapping[str, str] = field(default_factory=dict)
    _store: VectorStore | None = None

    @property
    def load(self) -> Load:
        return self.loads[0]

    @property
    def table(self) -> str:
        return self.load.table

    @property
    def schema(self) -> Schema:
        return self.load.used_schema

    @property
    def base(self) -> str:
        return self.wanted.base or self.load.source.base

    @property
    def upsert(self) -> bool:
        return self.wanted.upsert

    @property
    def whole(self) -> bool:
        return not self.load.rejected

    def changed(self) -> dict[str, Any]:
        """Return what became of the items, as facts for ``--json``."""
        counts = {name: self.counts[name] for name in COUNTS}
        gone = sorted({*self.gone.values()})
        return {"dry_run": self.wanted.dry_run, **counts, "gone": gone}

    @abstractmethod
    def cutter_for(self, tokenizer: Any, most: int | None) -> Cutter | None:
        """Return what cuts texts for a table that was found, whose model has a tokenizer."""

    async def find(self, store: VectorStore) -> None:
        await super().find(store)
        self._store = store
        self.cutter = self.cutter_for(*await StoreInternals(store).tokenizer(self.schema))
        stored = await self.lengths(store) if self.load.exists else None
        # Without a size, the rows stay cut as they are.
        self.any_lengths = bool(
            self.load.exists and self.cutter and not (self.wanted.chunk_size or self.wanted.overlap)
        )
        if self.cutter is not None and self.any_lengths:
            size, overlap = stored or (None, 0)
            self.cutter = replace(self.cutter, size=size, overlap=overlap)

    @abstractmethod
    def items(self, chunk: Chunk) -> tuple[list[Item], list[Reject]]:
        """Return what a reader has read as items, and what cannot be taken. Takes a while."""

    @abstractmethod
    def rows(self, item: Item) -> list[Row]:
        """Return the rows of the table for an item, or raise DocumentError. Takes a while."""

    def name(self, field: str) -> str:
        """Return the name that the table has for a field of an import."""
        return self.wanted.fields.get(field, field)

    def _ref(self, field: str) -> str:
        """Return a field of an import as selections and filters of the table name it."""
        name = self.name(field)
        return name if name in self.schema.fields else f"payload.{name}"

    def _imported(self, where: Expr) -> Expr:
        """Return a filter of rows that imports stored: others may have a source or a base too."""
        where = where & F[self._ref("hash")].is_not_null()
        return where if self.cutter is None else where & F[self._ref("parts")].is_not_null()

    async def changes(
        self, store: VectorStore | None, items: Sequence[Item]
    ) -> AsyncGenerator[Change, None]:
        """Yield what of some items is new or has changed, at least once; without a store, all is.

        Rows are made in a thread, only of these, and no more at once than one write has.
        """
        state = await self._state(store, [item.name for item in items]) if store and items else {}
        change, waiting = Change(), deque[tuple[Item, _Stored]]()
        for item in items:
            stored = state.get(item.name, {})
            if not self._may_replace(stored):
                change.rejects += [Reject(item.place, item.name, _FOREIGN)] if item.hash else []
            elif not item.hash:
                gone = [id for id, (base, *_) in stored.items() if base == self.base]
                change.gone += gone
                change.counts["deleted" if gone else "empty"] += 1
            elif self._is_same(stored, item.hash):
                change.counts["unchanged"] += 1
            else:
                waiting.append((item, stored))
        stop = None if self.cutter is None else self.cutter.stop
        while True:
            if waiting:
                await in_thread(self._make, change, waiting, stop=stop)
            yield change
            if not waiting:
                return
            change = Change()

    def _make(self, change: Change, waiting: deque[tuple[Item, _Stored]]) -> None:
        """Make the rows of the next items, as many as one write has."""
        count = 0
        while waiting and count < _AT_ONCE:
            item, stored = waiting.popleft()
            try:
                rows = self.rows(item)
            except DocumentError as exc:
                change.rejects.append(Reject(item.place, item.name, exc.reason))
                continue
            count += len(rows)
            (change.changed if stored else change.new)[item.name] = rows
            change.counts["changed" if stored else "new"] += 1
            change.gone += stored.keys() - {row["id"] for row in rows}

    def _is_same(self, stored: _Stored, digest: str) -> bool:
        """Return whether these are all rows of an item with this hash."""
        marks = {
            (self.base if self.of_any_base else base, known, parts)
            for base, known, parts in stored.values()
        }
        if self.any_lengths and len(marks) == 1:
            ((base, known, parts),) = marks
            marks, digest = {(base, content_in(known or ""), parts)}, content_in(digest)
        return marks == {(self.base, digest, len(stored))}

    def _may_replace(self, stored: _Stored) -> bool:
        return self.upsert or all(base == self.base for base, *_ in stored.values())

    async def _state(self, store: VectorStore, names: Sequence[str]) -> dict[str, _Stored]:
        """Return the rows of the table by the names of their items."""
        select = [*map(self._ref, _MARKS)]
        if self.cutter is None:
            rows = await store.get(self.table, names, select=select[:2], include_vector=False)
        else:
            where = self._imported(F[self._ref("source")].in_(names))
            rows = await store.find(self.table, where, limit=None, select=select)
        state: dict[str, _Stored] = {}
        for row in rows:
            base, digest, parts, name = (row.get(self.name(mark)) for mark in _MARKS)
            if self.cutter is None:
                name, parts = row.id, 1
            state.setdefault(name, {})[row.id] = base, digest, parts
        return state

    async def apply(self, store: VectorStore, change: Change) -> list[Reject]:
        """Write a change; items whose rows another writer took since become rejects."""
        rejects: list[Reject] = []
        while change.new:
            try:
                await store.insert(self.table, _joined(change.new))
                break
            except DuplicateIdError as exc:
                rejects += await self._taken(store, change, {*exc.ids})
        if change.changed:
            rows = _joined(change.changed)
            await self._keep_vectors(store, rows)
            await self._replace(store, rows, change.gone)
        elif change.gone:
            await self.delete(store, change.gone)
        return rejects

    async def _taken(self, store: VectorStore, change: Change, ids: set[str]) -> list[Reject]:
        """Take those out of a change whose rows exist since it was made, unless an import of this
        source stored them, which are replaced."""
        taken = {
            name: row["id"] for name, rows in change.new.items() for row in rows if row["id"] in ids
        }
        state = await self._state(store, [*taken])
        rejects = []
        for name, id in taken.items():
            rows, stored = change.new.pop(name), state.get(name)
            if stored and self._may_replace(stored):
                change.changed[name] = rows
                change.gone += stored.keys() - {row["id"] for row in rows}
            else:
                own = f"an app stored the row {id!r}, which is no passage; choose another --table"
                rejects.append(Reject(name, name, _FOREIGN if id == name else own))
        return rejects

    @property
    def embedded(self) -> str:
        """The field of the texts."""
        embed = self.schema.embed
        if embed is None:
            raise ConfigError(f"the table {self.table!r} makes no vectors of texts", key="--embed")
        return embed.field

    async def _keep_vectors(self, store: VectorStore, rows: list[Row]) -> None:
        """Give rows whose texts have not changed the vectors that they have in the table."""
        column = self.embedded
        ids = [row["id"] for row in rows]
        stored = {row.id: row for row in await store.get(self.table, ids, select=[column])}
        for row in rows:
            old = stored.get(row["id"])
            same = old is not None and old.get(column) == row.get(column)
            if old is not None and same and old.vector is not None:
                row[self.schema.vector] = old.vector

    async def _replace(self, store: VectorStore, rows: list[Row], gone: Sequence[str]) -> None:
        """Upsert rows, and remove others, in one call if rows of the table can expire."""
        # A row that only expires has no values for the other fields.
        nullable = all(field.nullable for field in self.schema.fields.values())
        expires = self.schema.expires if nullable else None
        if gone and expires is not None:
            row = {self.schema.vector: [1.0, *[0.0] * (self.schema.dim - 1)], expires: _LONG_AGO}
            rows = [*rows, *({"id": id, **row} for id in gone)]
        await store.upsert(self.table, rows)
        if gone and expires is None:
            await store.delete(self.table, gone)

    async def lengths(self, store: VectorStore) -> tuple[int, int] | None:
        """Return the size and the overlap of the passages that this source has in the table.

        ConfigError if it has whole texts there, and the import makes passages, or the other way.
        """
        is_own, has_hash = F[self._ref("base")] == self.base, F[self._ref("hash")].is_not_null()
        rows = await store.find(self.table, is_own & has_hash, limit=1, select=[self._ref("hash")])
        if not rows:
            return None
        lengths = lengths_in(str(rows[0][self.name("hash")]))
        if (lengths is None) != (self.cutter is None):
            kept, how = ("whole texts", "without") if lengths is None else ("passages", "with")
            raise ConfigError(
                f"the table {self.table!r} has {kept} of {self.base!r}; import it {how} --passages "
                "again, or into another --table",
                key="--passages",
            )
        return lengths

    async def rows_without(
        self, store: VectorStore, has: Callable[[str], bool]
    ) -> tuple[dict[str, str], int]:
        """Return the rows of this source in the table which it no longer has, by their ids with
        the names of their items, and the number of all its items there."""
        gone, own = {}, Seen()
        select = [] if self.cutter is None else [self._ref("source")]
        where = self._imported(F[self._ref("base")] == self.base)
        async for row in store.rows(self.table, where, select=select):
            name = row.id if self.cutter is None else str(row[self.name("source")])
            own.add([name])
            if not has(name):
                gone[row.id] = name
        return gone, len(own)

    async def delete(self, store: VectorStore, ids: Sequence[str]) -> None:
        """Delete rows of this source, unless another import has taken them over."""
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            some = ids[start : start + _DELETED_AT_ONCE]
            await store.delete(self.table, some, where=F[self._ref("base")] == self.base)

    async def parts(self) -> AsyncGenerator[Change, None]:
        """Read, compare and cut the next ones while the last ones are embedded."""
        async with (
            aclosing(self._changes()) as changes,
            aclosing(read_ahead(partial(anext, changes, None))) as ahead,
        ):
            async for change in ahead:
                yield change

    async def _changes(self) -> AsyncGenerator[Change, None]:
        load = self.load
        self.counts.clear()
        read = 0
        chunks = self.source.read(load.source, self.schema, _AT_ONCE)
        while (part := await in_thread(self.following, chunks)) is not None:
            items, rejects = part
            async with aclosing(self.changes(self._store if load.exists else None, items)) as some:
                async for change in some:
                    change.rejects += rejects
                    rejects = []
                    await self.look_at(change)
                    if change.new or change.changed or change.gone:
                        yield change
                    read += change.counts.total() + len(change.rejects)
                    load.seen(read)

    def following(self, chunks: Iterator[Chunk]) -> tuple[list[Item], list[Reject]] | None:
        """Return the next items, and what cannot be taken. Runs in a thread."""
        with reading(self.source.name):
            chunk = next(chunks, None)
        return None if chunk is None else self.items(chunk)

    async def look_at(self, change: Change) -> None:
        """Count a change, and list what cannot be imported."""
        self.counts.update(change.counts)
        if self.wanted.dry_run:
            self.counts["written"] += len(change.rows)
        await self.note(self.load, change.rejects)

    async def write(self, store: VectorStore, part: Any) -> None:
        await create(store, self.load)
        rejects = await self.apply(store, part)
        self.load.rows += (written := len(part.rows))
        self.counts.update({"written": written, "new": -len(rejects)})
        await self.note(self.load, rejects)

    async def find_gone(self, store: VectorStore, has: Callable[[str], bool]) -> None:
        """Find what the source no longer has; ConfigError if it is most of what it had."""
        self.gone, own = await self.rows_without(store, has)
        names = {*self.gone.values()}
        if len(names) * 2 > own and not (self.wanted.delete_all or self.wanted.dry_run):
            raise ConfigError(
                f"--delete would delete {len(names):,} of {own:,} {self.unit}s in "
                f"{self.table!r} that imports with this --base stored; --dry-run lists them, "
                "and --delete-all deletes them"
            )

    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Delete what was found to be gone."""
        self.counts["deleted"] += len({*self.gone.values()})
        if not self.wanted.dry_run:
            await self.delete(store, [*self.gone])
        return [self.table] if self.load.rows or self.counts["deleted"] else []


def _joined(rows: Mapping[str, list[Row]]) -> list[Row]:
    return [row for each in rows.values() for row in each]
