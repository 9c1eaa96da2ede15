"""Keep a table of the store in step with documents, rows with texts, or a watched table.

A document, or a row of the source, is unchanged if all its rows exist in the table with the hash of
its current content. Nothing else records the state, so applying a change twice has no effect,
and repeating the command continues an import that was killed.
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

# Rows or documents to read and compare at a time. A write ends with the item that reaches this
# number of rows.
_AT_ONCE = 1000
# Rows in a write whose vectors a transformer makes on this machine: a few seconds, which is what an
# interrupted import loses, since a passage takes it 0.04 s.
_AT_ONCE_SLOWLY = 128
# The most rows in one delete.
_DELETED_AT_ONCE = 500
_FOREIGN = "another import or an app stored the row with this id; --upsert replaces it"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_MARKS = ("base", "hash", "parts", "source")

COUNTS = ("new", "changed", "unchanged", "empty", "deleted")
"""The possible results of synchronising an item."""

Row = dict[str, Any]
_Stored = dict[str, tuple[str | None, str | None, int | None]]
"""An item's rows in the table, by id: the base, the hash, and the item's number of rows."""


class Item(NamedTuple):
    """A document or a row of a source. Its ``name`` is its path or its id in the source.

    ``place`` locates the item in the source, for messages. ``SyncImport.rows`` makes rows from
    ``content``. If ``hash`` is empty, the item has no text or no longer exists in the source, so
    its rows are deleted.
    """

    name: str
    place: int | str
    hash: str = ""
    content: Any = None


@dataclass(slots=True)
class Change:
    """The rows to write for some items, by item name, and the ids of rows to delete.

    ``counts`` has the number of items that are new, changed, unchanged, empty and deleted.
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

    @property
    def writes(self) -> bool:
        """True if there is something to write or to delete."""
        return bool(self.new or self.changed or self.gone)


class Seen:
    """A set of item names, stored as 64-bit hashes."""

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
    """Imports the new and changed items of one source into a table.

    Each row has the ``base``, which names the source. Only rows with this base are replaced and
    deleted; with ``upsert``, other rows with the same ids are also replaced. With a ``cutter``,
    texts become passages. With ``any_lengths``, passages with another size or overlap are kept
    until their text changes.

    ``counts`` has the number of items that are new, changed, unchanged, empty and deleted, and the
    number of rows ``written``; a dry run counts the rows that it would write. ``gone`` maps the ids
    of rows to delete to the names of their items, which the source no longer has.
    """

    going_on: ClassVar[str] = "the same command continues"
    knows_changes: ClassVar[bool] = True

    of_any_base: ClassVar[bool] = False
    """True if rows with another base also count as unchanged."""

    cutter: Cutter | None = None
    any_lengths: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    gone: Mapping[str, str] = field(default_factory=dict)
    _store: VectorStore | None = None
    _at_once: int = _AT_ONCE

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
    def whole(self) -> bool:
        return not self.load.rejected

    def changed(self) -> dict[str, Any]:
        """Return the counts, and the names of items that the source lacks, for ``--json``."""
        counts = {name: self.counts[name] for name in COUNTS}
        gone = sorted({*self.gone.values()})
        return {"dry_run": self.wanted.dry_run, **counts, "gone": gone}

    @abstractmethod
    def cutter_for(self, tokenizer: Any, most: int | None) -> Cutter | None:
        """Return a cutter if texts become passages, else None.

        The arguments are the model's tokenizer and token limit. Each is None if it is unknown.
        """

    async def find(self, store: VectorStore) -> None:
        await super().find(store)
        self._store = store
        tokenizer, most = await StoreInternals(store).tokenizer(self.schema)
        self.cutter = self.cutter_for(tokenizer, most)
        self._at_once = _AT_ONCE if tokenizer is None else _AT_ONCE_SLOWLY
        stored = await self.lengths(store) if self.load.exists else None
        # Unless the user chooses lengths, existing passages keep theirs.
        self.any_lengths = bool(
            self.load.exists and self.cutter and not (self.wanted.chunk_size or self.wanted.overlap)
        )
        if self.cutter is not None and self.any_lengths:
            size, overlap = stored or (None, 0)
            self.cutter = replace(self.cutter, size=size, overlap=overlap)

    @abstractmethod
    def items(self, chunk: Chunk) -> tuple[list[Item], list[Reject]]:
        """Convert a reader's chunk to items, and return rejects for the rest. This is slow."""

    @abstractmethod
    def rows(self, item: Item) -> list[Row]:
        """Return the rows to store for an item, or raise DocumentError. This is slow."""

    def name(self, field: str) -> str:
        """Return the name that a field of the import has in the table."""
        return self.wanted.fields.get(field, field)

    def _ref(self, field: str) -> str:
        """Return the name of a field of the import in the table's selections and filters."""
        name = self.name(field)
        return name if name in self.schema.fields else f"payload.{name}"

    def _imported(self, where: Expr) -> Expr:
        """Restrict a filter to rows that imports stored: an app's rows can also have a source."""
        where = where & F[self._ref("hash")].is_not_null()
        return where if self.cutter is None else where & F[self._ref("parts")].is_not_null()

    async def changes(
        self, store: VectorStore | None, items: Sequence[Item]
    ) -> AsyncGenerator[Change, None]:
        """Yield at least one change for these items; without a store, every item is new.

        A thread makes the rows for new and changed items, enough for one write at a time.
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
        """Make rows from the next waiting items, enough for one write."""
        count = 0
        while waiting and count < self._at_once:
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
        if count:
            self.load.choose_analyzer(change.rows)

    def _is_same(self, stored: _Stored, digest: str) -> bool:
        """Return whether an item's stored rows are complete and have this hash."""
        marks = {
            (self.base if self.of_any_base else base, known, parts)
            for base, known, parts in stored.values()
        }
        if self.any_lengths and len(marks) == 1:
            ((base, known, parts),) = marks
            marks, digest = {(base, content_in(known or ""), parts)}, content_in(digest)
        return marks == {(self.base, digest, len(stored))}

    def _may_replace(self, stored: _Stored) -> bool:
        return self.wanted.upsert or all(base == self.base for base, *_ in stored.values())

    async def _state(self, store: VectorStore, names: Sequence[str]) -> dict[str, _Stored]:
        """Return the stored rows of items, by item name."""
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
        """Write a change; return rejects for items whose rows another writer has just stored."""
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
        """Take items out of ``change.new`` if another writer has just stored rows with these ids.

        An item whose stored rows may be replaced moves to ``change.changed``. The other items
        become rejects, which are returned.
        """
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
                foreign = f"an app stored the row {id!r}, not a passage; pass another --table"
                rejects.append(Reject(name, name, _FOREIGN if id == name else foreign))
        return rejects

    @property
    def embedded(self) -> str:
        """The text field that vectors are computed from."""
        embed = self.schema.embed
        if embed is None:
            raise ConfigError(f"table {self.table!r} computes no vectors from texts", key="--embed")
        return embed.field

    async def _keep_vectors(self, store: VectorStore, rows: list[Row]) -> None:
        """Copy the stored vectors to rows whose texts have not changed."""
        column = self.embedded
        ids = [row["id"] for row in rows]
        stored = {row.id: row for row in await store.get(self.table, ids, select=[column])}
        for row in rows:
            old = stored.get(row["id"])
            same = old is not None and old.get(column) == row.get(column)
            if old is not None and same and old.vector is not None:
                row[self.schema.vector] = old.vector

    async def _replace(self, store: VectorStore, rows: list[Row], gone: Sequence[str]) -> None:
        """Upsert rows, and delete the ids in ``gone``: in a single call if rows can expire."""
        # An upsert cannot delete; it replaces these rows with expired rows, in which the other
        # fields are null.
        nullable = all(field.nullable for field in self.schema.fields.values())
        expires = self.schema.expires if nullable else None
        if gone and expires is not None:
            row = {self.schema.vector: [1.0, *[0.0] * (self.schema.dim - 1)], expires: _LONG_AGO}
            rows = [*rows, *({"id": id, **row} for id in gone)]
        await store.upsert(self.table, rows)
        if gone and expires is None:
            await store.delete(self.table, gone)

    async def lengths(self, store: VectorStore) -> tuple[int, int] | None:
        """Return the size and the overlap of this source's passages in the table, if any.

        Raises ConfigError if the table has whole texts of the source but the import makes passages,
        or vice versa.
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
        """Return a map from row ids to item names, for items that the source no longer has.

        Also return the number of items that imports of this source have stored in the table.
        """
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
        """Delete the rows with these ids, unless another source's import has replaced them."""
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            some = ids[start : start + _DELETED_AT_ONCE]
            await store.delete(self.table, some, where=F[self._ref("base")] == self.base)

    async def parts(self) -> AsyncGenerator[Change, None]:
        """Read, compare and cut the next items while the previous ones are embedded."""
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
                    if change.writes:
                        yield change
                    read += change.counts.total() + len(change.rejects)
                    load.seen(read)

    def following(self, chunks: Iterator[Chunk]) -> tuple[list[Item], list[Reject]] | None:
        """Return the next items and rejects, or None at the end. This blocks."""
        with reading(self.source.name):
            chunk = next(chunks, None)
        return None if chunk is None else self.items(chunk)

    async def look_at(self, change: Change) -> None:
        """Add a change to the counts, and list its rejects."""
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
        """Find items that the source no longer has.

        Raises ConfigError if most items are gone, unless ``delete_all`` or ``dry_run`` is set.
        """
        self.gone, own = await self.rows_without(store, has)
        names = {*self.gone.values()}
        if len(names) * 2 > own and not (self.wanted.delete_all or self.wanted.dry_run):
            raise ConfigError(
                f"--delete would delete {len(names):,} of {own:,} {self.unit}s in "
                f"{self.table!r} that imports with this --base stored; --dry-run lists them, "
                "and --delete-all deletes them"
            )

    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Delete the rows of items that the source no longer has."""
        self.counts["deleted"] += len({*self.gone.values()})
        if not self.wanted.dry_run:
            await self.delete(store, [*self.gone])
        return [self.table] if self.load.rows or self.counts["deleted"] else []


def _joined(rows: Mapping[str, list[Row]]) -> list[Row]:
    return [row for each in rows.values() for row in each]
