"""Rows whose vectors are made of a text: which are new, which have changed, and which are gone.

The state of a source's row is its rows in the table, as a document's is its passages: it has not
changed if they have the hash of the row now. So a killed import goes on by the same command.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar

import pyarrow as pa

from aiovec import F, VectorStore
from aiovec._documents.reading import Text
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.rows import Batch
from aiovec.backend.threads import in_thread
from aiovec.documents import SCHEMA, Cutter
from aiovec.errors import ConfigError, DocumentError, DuplicateIdError

from .documents import replace_rows
from .files import reading
from .loading import RowImport, create
from .sifting import CAME_BEFORE, sift
from .sources import Chunk, ForeignTable, NewTable, Reject, read_ahead
from .tables import free_name

_ROWS_AT_ONCE = 1000
# Rows that one delete removes.
_DELETED_AT_ONCE = 500
_FOREIGN = "another import or an app stored the row of this id; --upsert replaces it"
_MARKS = ("base", "hash")
_OF_PASSAGES = ("source", "start", "part", "parts", "expires", *_MARKS)

Row = dict[str, Any]


def _marked(table: ForeignTable, new: NewTable, passages: bool) -> ForeignTable:
    """Return a table whose rows get the fields of an import, in place of columns of their names."""
    schema, marks = table.schema, _OF_PASSAGES if passages else _MARKS
    wanted = (("--text", new.text), ("--index", new.index), ("--embed", [new.embed or ""]))
    for option, names in wanted:
        for name in names:
            if name != free_name(name, marks):
                raise ConfigError(
                    f"{option} {name}: the import gives each row {', '.join(marks)}; give this "
                    "column another name, as by a query",
                    key=option,
                )
    own = {name: f for name, f in schema.fields.items() if name == free_name(name, marks)}
    made = {name: SCHEMA.fields[name] for name in _OF_PASSAGES if passages}
    return replace(table, schema=replace(schema, fields={**own, **made}))


@dataclass(slots=True)
class Part:
    """Some rows of a source by their ids, each with the rows that the table shall have for it.

    These are several passages, one row, or none if the row has no text. ``places`` tells where a
    row stands in its source.
    """

    rows: dict[str, list[Row]]
    places: dict[str, int | str]
    rejects: list[Reject]


@dataclass(slots=True)
class Change:
    """The rows of a ``Part`` to write, by their ids in the source, and the ids of rows to delete.

    ``counts`` are the rows of the source that are new, changed, unchanged, empty and deleted.
    """

    new: dict[str, list[Row]] = field(default_factory=dict)
    changed: dict[str, list[Row]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> list[Row]:
        """Return the rows to write."""
        return _joined(self.new) + _joined(self.changed)


@dataclass(frozen=True, slots=True)
class TextSync:
    """Brings the rows of one source into a table, which exists.

    ``base`` names the source in its rows: only these are replaced and deleted, or with ``upsert``
    those of anybody else that have the same ids too. With a ``cutter`` the texts become passages.
    """

    table: str
    schema: Schema
    base: str
    cutter: Cutter | None = None
    upsert: bool = False

    def prepare(self, chunk: Chunk, absent: Iterable[str] = ()) -> Part:
        """Check rows of the source, and make those of the table. Takes a while: call it in a
        thread. ``absent`` are ids that the source no longer has."""
        rows, marks = chunk.rows, _MARKS if self.cutter is None else _OF_PASSAGES
        if isinstance(rows, pa.Table):
            rows = rows.rename_columns([free_name(name, marks) for name in rows.column_names])
        else:
            rows = [{free_name(name, marks): value for name, value in r.items()} for r in rows]
        lenient = replace(self.schema, vector_nullable=True)
        sifted = sift(replace(chunk, rows=rows), lenient, last_counts=False)
        part = Part({id: [] for id in absent}, {}, sifted.rejects)
        for (id, row), place in zip(
            _mappings(sifted.rows, self.schema), sifted.places, strict=True
        ):
            part.places[id] = place
            try:
                part.rows[id] = self._rows(id, row)
            except DocumentError as exc:
                part.rejects.append(Reject(place, id, exc.reason))
        return part

    def _rows(self, id: str, row: Row) -> list[Row]:
        """Return the rows of the table for one of the source."""
        column = self.embedded
        text: str | None = row[column]
        if not text and (self.cutter is not None or not self.schema.vector_nullable):
            return []
        own = {name: value for name, value in row.items() if value is not None}
        data = json.dumps(own, sort_keys=True, ensure_ascii=False, default=str).encode()
        if self.cutter is None:
            digest = blake2b(data, digest_size=16).hexdigest()
            return [{**own, "id": id, "base": self.base, "hash": digest}]
        marks = {"base": self.base, "hash": self.cutter.hash(data)}
        rows = []
        for cut in self.cutter.rows(b"", id, None, Text(None, [text or ""])):
            body = cut.pop("body")
            facts = {name: value for name, value in cut.items() if value is not None}
            rows.append({**facts, **own, column: body, **marks})
        return rows

    @property
    def embedded(self) -> str:
        """The field of the texts."""
        embed = self.schema.embed
        if embed is None:
            raise ConfigError(f"the table {self.table!r} makes no vectors of texts", key="--embed")
        return embed.field

    def _ref(self, name: str) -> str:
        """Return a mark as selections and filters of the table name it."""
        return name if name in self.schema.fields else f"payload.{name}"

    async def compare(self, store: VectorStore | None, part: Part) -> Change:
        """Return what of a part is new or has changed; without a store, all is new."""
        change = Change(rejects=part.rejects)
        state = await self._state(store, [*part.rows]) if store and part.rows else {}
        for id, rows in part.rows.items():
            stored = state.get(id, {})
            if not (self.upsert or all(base == self.base for base, _ in stored.values())):
                change.rejects += [Reject(part.places[id], id, _FOREIGN)] if rows else []
            elif not rows:
                change.gone += stored
                change.counts["deleted" if stored else "empty"] += 1
            elif stored == {row["id"]: (self.base, row["hash"]) for row in rows}:
                change.counts["unchanged"] += 1
            else:
                change.gone += stored.keys() - {row["id"] for row in rows}
                (change.changed if stored else change.new)[id] = rows
                change.counts["changed" if stored else "new"] += 1
        return change

    async def _state(
        self, store: VectorStore, ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, tuple[str | None, str | None]]]:
        """Return the base and the hash of each row of the table, by the ids in the source."""
        state: dict[str, dict[str, tuple[str | None, str | None]]] = {}
        marks = [*map(self._ref, _MARKS)]
        if self.cutter is None:
            stored = await store.get(self.table, ids, select=marks, include_vector=False)
        else:
            source = self._ref("source")
            where = F[source].in_(ids)
            stored = await store.find(self.table, where, limit=None, select=[source, *marks])
        for row in stored:
            id = row.id if self.cutter is None else row["source"]
            state.setdefault(id, {})[row.id] = (row.get("base"), row.get("hash"))
        return state

    async def write(self, store: VectorStore, change: Change) -> list[Reject]:
        """Write a change; rows whose ids another writer took since become rejects."""
        rejects = []
        while change.new:
            try:
                await store.insert(self.table, _joined(change.new))
                break
            except DuplicateIdError as exc:
                taken = {*exc.ids}
                for id, rows in [*change.new.items()]:
                    if any(row["id"] in taken for row in rows):
                        rejects.append(Reject(id, id, _FOREIGN))
                        del change.new[id]
        if change.changed:
            rows = _joined(change.changed)
            await self._keep_vectors(store, rows)
            await replace_rows(store, self.table, self.schema, rows, change.gone)
        elif change.gone:
            await self.delete(store, change.gone)
        return rejects

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

    async def gone(self, store: VectorStore, seen: Seen) -> tuple[dict[str, str], int]:
        """Return the rows of this source in the table which it no longer has, by their ids with
        those in the source, and the number of all its rows there."""
        gone, own = {}, 0
        where = F[self._ref("base")] == self.base
        select = [] if self.cutter is None else [self._ref("source")]
        async for row in store.rows(self.table, where, select=select):
            own += 1
            id = row.get("source") or row.id
            if id not in seen:
                gone[row.id] = id
        return gone, own

    async def delete(self, store: VectorStore, ids: Sequence[str]) -> None:
        """Delete rows of this source, unless another import has taken them over."""
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            some = ids[start : start + _DELETED_AT_ONCE]
            await store.delete(self.table, some, where=F[self._ref("base")] == self.base)


class Seen:
    """The ids that a source has, as 64 bits each."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def __contains__(self, id: str) -> bool:
        return hash(id) in self._hashes

    def add(self, ids: Iterable[str]) -> list[str]:
        """Add ids, and return those that were added before."""
        known = [id for id in ids if id in self]
        self._hashes.update(map(hash, ids))
        return known


@dataclass
class TextImport(RowImport):
    """A table whose vectors are made of a text: only new and changed rows are written.

    With ``passages`` a cutter of ``size`` and ``overlap`` cuts the texts. ``counts`` are the rows
    that are new, changed, unchanged, empty, deleted and rejected; ``gone`` the ids of rows of the
    table that the source no longer has, ``long`` those of rows whose texts the model cuts off
    after ``most`` tokens. ``written`` rows of the table were written, or would be.
    """

    going_on: ClassVar[str] = "the same command goes on"

    base: str = ""
    passages: bool = False
    size: int | None = None
    overlap: int = 0
    delete: bool = False
    delete_all: bool = False
    dry_run: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    gone: Sequence[str] = ()
    long: list[str] = field(default_factory=list)
    _sync: TextSync | None = None
    _store: VectorStore | None = None
    most: int | None = None
    written: int = 0
    _tokenizer: Any = None
    _seen: Seen = field(default_factory=Seen)
    _nameless: int = 0

    @property
    def sync(self) -> TextSync:
        """What brings rows into the table, once that was found."""
        if self._sync is None:
            raise RuntimeError("find the table first")
        return self._sync

    async def find(self, store: VectorStore) -> None:
        (load,) = self.loads
        load.source = _marked(load.source, load.new, self.passages)
        await super().find(store)
        schema, cutter = load.used_schema, None
        self._tokenizer, self.most = await StoreInternals(store).tokenizer(schema)
        if self.passages:
            cutter = Cutter(self.size, self.overlap, self._tokenizer, kind="markdown")
        base = self.base or load.source.base
        self._sync = TextSync(load.table, schema, base, cutter, load.upsert)
        self._store = store

    async def parts(self) -> AsyncGenerator[Any, None]:
        """Read and prepare the next rows while the last ones are embedded."""
        (load,) = self.loads
        self.counts.clear()
        self.long.clear()
        self._seen = Seen()
        self.written = self._nameless = read = 0
        chunks = self.source.read(load.source, load.used_schema, _ROWS_AT_ONCE)
        async with aclosing(read_ahead(partial(self._following_part, chunks))) as parts:
            async for part in parts:
                read += len(part.rows) + len(part.rejects)
                for id in self._seen.add([*part.rows]):
                    del part.rows[id]
                    part.rejects.append(Reject(part.places[id], id, CAME_BEFORE))
                self._seen.add([each.id for each in part.rejects if each.id is not None])
                self._nameless += sum(each.id is None for each in part.rejects)
                change = await self.sync.compare(self._store if load.exists else None, part)
                self.counts.update(change.counts)
                await self._note(load, change.rejects)
                if self.most and not self.passages:
                    self.long += await in_thread(self._cut_off, change)
                self.written += len(change.rows())
                if change.new or change.changed or change.gone:
                    yield change
                load.seen(read)

    def _following_part(self, chunks: Iterator[Chunk]) -> Part | None:
        with reading(self.source.name):
            chunk = next(chunks, None)
        return None if chunk is None else self.sync.prepare(chunk)

    def _cut_off(self, change: Change) -> list[str]:
        """Return the rows with texts of more tokens than the model reads."""
        rows, most = change.rows(), self.most or 0
        counted = self._tokenizer.encode_batch([row.get(self.sync.embedded, "") for row in rows])
        return [row["id"] for row, text in zip(rows, counted, strict=True) if len(text.ids) > most]

    async def check(self, store: VectorStore) -> None:
        (load,) = self.loads
        async with aclosing(self.parts()) as parts:
            async for _ in parts:
                pass
        self.rejects.refuse(load.rejected, "row")

    async def write(self, store: VectorStore, part: Any) -> None:
        (load,) = self.loads
        change: Change = part
        await create(store, load)
        rejects = await self.sync.write(store, change)
        self.counts["new"] -= len(rejects)
        self.written -= len(rejects)
        load.rows += len(change.rows())
        await self._note(load, rejects)

    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Delete the rows that are gone."""
        (load,) = self.loads
        if not (load.rejected or self.dry_run):
            await create(store, load)
        if not self.counts.total():
            self.is_over()
        if self.delete and load.exists:
            await self._delete_gone(store)
        return [load.table] if load.rows or self.counts["deleted"] else []

    async def _delete_gone(self, store: VectorStore) -> None:
        if self._nameless:
            raise ConfigError(
                f"--delete deleted nothing: {self._nameless:,} rows cannot be read and have no id, "
                f"so they may be rows that seem to be gone; {self.rejects.place} lists each"
            )
        sync = self.sync
        gone, own = await sync.gone(store, self._seen)
        if len(gone) * 2 > own and not (self.delete_all or self.dry_run):
            raise ConfigError(
                f"--delete would delete {len(gone):,} of {own:,} rows in {sync.table!r} that were "
                f"imported from {sync.base}; --dry-run lists them, and --delete-all deletes them"
            )
        self.gone = sorted({*gone.values()})
        self.counts["deleted"] += len(self.gone)
        if not self.dry_run:
            await sync.delete(store, [*gone])


def _mappings(rows: pa.Table, schema: Schema) -> Iterator[tuple[str, Row]]:
    """Yield the id and the columns of checked rows, without a vector."""
    batch = Batch.of_table(rows, schema)
    columns = [batch.values(name) for name in schema.fields]
    payloads = batch.payloads or [None] * len(batch)
    for id, payload, *values in zip(batch.ids, payloads, *columns, strict=True):
        row = dict(zip(schema.fields, values, strict=True))
        yield id, {**(json.loads(payload) if payload else {}), **row}


def _joined(rows: Mapping[str, list[Row]]) -> list[Row]:
    return [row for each in rows.values() for row in each]
