"""Import rows of tables, views, queries and files, and compute their vectors from a text."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from aiovec import VectorStore
from aiovec._documents.reading import Text
from aiovec.backend import Schema
from aiovec.backend.rows import Batch
from aiovec.backend.threads import in_thread
from aiovec.documents import SCHEMA, Cutter
from aiovec.errors import ConfigError

from .checking import check_chunk
from .folders import KINDS
from .loading import create
from .sources import CAME_BEFORE, Chunk, Reject, Wanted, free_name, refuse
from .syncing import Change, Item, Row, Seen, SyncImport

_MARKS = ("base", "hash")
_OF_PASSAGES = ("source", "start", "part", "parts", "expires", *_MARKS)


@dataclass
class TextImport(SyncImport):
    """An import whose vectors are computed from a text. Only new and changed rows are written.

    With ``passages``, a cutter divides the texts. Otherwise, the model truncates texts after
    ``most`` tokens, and ``long`` lists the ids of rows with longer texts.
    """

    long: list[str] = field(default_factory=list)
    most: int | None = None
    _tokenizer: Any = None
    _seen: Seen = field(default_factory=Seen)
    _nameless: int = 0

    def __post_init__(self) -> None:
        if not self.wanted.passages:
            refuse(self.wanted, "chunk_size overlap", f"documents ({KINDS}), and for --passages")
        if self.wanted.delete and len(self.wanted.sources) > 1:
            raise ConfigError("--delete takes one SOURCE, which may be a glob in quotes")

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        written = {"written": self.counts["written"], "cut_off": self.long, "most": self.most}
        facts["tables"][0] |= self.changed() | written
        return facts

    async def find(self, store: VectorStore) -> None:
        load, marks = self.load, _OF_PASSAGES if self.wanted.passages else _MARKS
        _check_names(self.wanted, marks)
        schema = load.source.schema
        own = {name: f for name, f in schema.fields.items() if name == free_name(name, marks)}
        made = {name: SCHEMA.fields[name] for name in _OF_PASSAGES if self.wanted.passages}
        load.source = replace(load.source, schema=replace(schema, fields={**own, **made}))
        await super().find(store)

    def cutter_for(self, tokenizer: Any, most: int | None) -> Cutter | None:
        self._tokenizer, self.most = tokenizer, most
        if not self.wanted.passages:
            return None
        return Cutter(self.wanted.chunk_size, self.wanted.overlap, tokenizer, kind="markdown")

    def items(self, chunk: Chunk) -> tuple[list[Item], list[Reject]]:
        rows, marks = chunk.rows, _MARKS if self.cutter is None else _OF_PASSAGES
        if isinstance(rows, pa.Table):
            rows = rows.rename_columns([free_name(name, marks) for name in rows.column_names])
        else:
            rows = [{free_name(name, marks): value for name, value in r.items()} for r in rows]
        lenient = replace(self.schema, vector_nullable=True)
        checked = check_chunk(replace(chunk, rows=rows), lenient, last_counts=False)
        named = zip(_mappings(checked.rows, self.schema), checked.places, strict=True)
        return [self._item(id, row, place) for (id, row), place in named], checked.rejects

    def _item(self, id: str, row: Row, place: int | str) -> Item:
        if not row[self.embedded] and (self.cutter is not None or not self.schema.vector_nullable):
            return Item(id, place)
        own = {name: value for name, value in row.items() if value is not None}
        data = json.dumps(own, sort_keys=True, ensure_ascii=False, default=str).encode()
        digest = blake2b(data, digest_size=16).hexdigest()
        if self.cutter is None:
            return Item(id, place, digest, own)
        columns = {name: value for name, value in row.items() if name not in _OF_PASSAGES}
        return Item(id, place, self.cutter.hash(data), columns)

    def rows(self, item: Item) -> list[Row]:
        own: Row = item.content
        marks = {"base": self.base, "hash": item.hash}
        if self.cutter is None:
            return [{**own, "id": item.name, **marks}]
        rows = []
        for cut in self.cutter.rows(b"", item.name, None, Text(None, [own[self.embedded]])):
            body = cut.pop("body")
            # A heading does not replace the value of a "title" column, even if the value is null.
            row = {**cut, **own, self.embedded: body, **marks}
            rows.append({name: value for name, value in row.items() if value is not None})
        return rows

    def parts(self) -> AsyncGenerator[Change, None]:
        self._seen, self._nameless = Seen(), 0
        self.long.clear()
        return super().parts()

    def following(self, chunks: Iterator[Chunk]) -> tuple[list[Item], list[Reject]] | None:
        if (part := super().following(chunks)) is None:
            return None
        items, rejects = part
        rejects += [Reject(i.place, i.name, CAME_BEFORE) for i in items if i.name in self._seen]
        items = [item for item in items if item.name not in self._seen]
        self._seen.add(item.name for item in items)
        self._seen.add(reject.id for reject in rejects if reject.id is not None)
        self._nameless += sum(reject.id is None for reject in rejects)
        return items, rejects

    async def look_at(self, change: Change) -> None:
        await super().look_at(change)
        if self.most and not self.wanted.passages:
            self.long += await in_thread(self._cut_off, change, self.most)

    def _cut_off(self, change: Change, most: int) -> list[str]:
        """Return the ids of rows whose texts have more tokens than the model reads."""
        rows = change.rows
        counted = self._tokenizer.encode_batch([row.get(self.embedded, "") for row in rows])
        return [row["id"] for row, text in zip(rows, counted, strict=True) if len(text.ids) > most]

    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Create the table even without rows; with ``delete``, delete rows the source lacks."""
        if not (self.load.rejected or self.wanted.dry_run):
            await create(store, self.load)
        if not self.counts.total():
            self.is_over()
        if self.wanted.delete and self.load.exists:
            await self.find_rest(store)
        return await super().finish(store)

    async def find_rest(self, store: VectorStore) -> None:
        """Find the rows that the source no longer has, once it has been read to its end."""
        if self._nameless:
            raise ConfigError(
                f"--delete deleted nothing: no id can be read in {self._nameless:,} of the rows, "
                "and those that seem deleted may be among them; "
                f"{self.rejects.place} lists each"
            )
        await self.find_gone(store, self._seen.__contains__)


def _check_names(wanted: Wanted, marks: tuple[str, ...]) -> None:
    """Raise ConfigError if an option names a column that the import renames."""
    named = (("--text", wanted.text), ("--index", wanted.index), ("--embed", wanted.texts))
    for option, names in named:
        for name in names:
            if name != free_name(name, marks):
                raise ConfigError(
                    f"{option} {name}: the import adds {', '.join(marks)} to each row; rename "
                    "this column, for example in a query",
                    key=option,
                )


def _mappings(rows: pa.Table, schema: Schema) -> Iterator[tuple[str, Row]]:
    """Yield the id and the columns, except the vector, of each checked row."""
    batch = Batch.of_table(rows, schema)
    columns = [batch.values(name) for name in schema.fields]
    payloads = batch.payloads or [None] * len(batch)
    for id, payload, *values in zip(batch.ids, payloads, *columns, strict=True):
        row = dict(zip(schema.fields, values, strict=True))
        yield id, {**(json.loads(payload) if payload else {}), **row}
