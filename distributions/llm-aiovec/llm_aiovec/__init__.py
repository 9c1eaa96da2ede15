"""Search the collections of ``llm`` with aiovec: ``llm aiovec similar``.

The store is next to llm's database of embeddings and has a table for each collection that was
searched, with its vectors and its texts. Each search first copies the changes that llm made. The
file can be deleted at any time; the next search creates it again.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import llm
import numpy as np
import sqlite_utils
from llm.embeddings import Entry

from aiovec import AiovecError, Field, InvalidArgumentError, Schema

if TYPE_CHECKING:
    from aiovec import sync

__all__ = ["IndexedCollection"]

_TABLE = "collection_"  # followed by the number of the collection
_ROWS_AT_ONCE = 1000
# llm always replaces whole rows, and sets both of these columns.
_VERSION = "updated || ' ' || hex(content_hash) AS version"
_NEWEST = f"""SELECT id, {_VERSION}, length(embedding) / 4 AS dim, total FROM embeddings JOIN
    (SELECT max(rowid) AS last, count(*) AS total FROM embeddings WHERE collection_id = ?)
    ON embeddings.rowid = last"""
_VERSIONS = f"SELECT id, {_VERSION} FROM embeddings WHERE collection_id = ? ORDER BY rowid"
_ROWS = f"""SELECT id, embedding, content, metadata, {_VERSION} FROM embeddings
    WHERE collection_id = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY rowid"""


class IndexedCollection(llm.Collection):
    """A collection of ``llm`` whose ``similar`` methods search an aiovec store.

    If ``words`` is set, they rank rows by their vectors and by these words in their stored content.
    If llm's database is in memory, ``llm`` itself searches it, because an index needs a file.
    """

    words: str | None = None

    def similar_by_vector(
        self,
        vector: Sequence[float],
        number: int = 10,
        skip_id: str | None = None,
        prefix: str | None = None,
    ) -> list[Entry]:
        """Return the best rows, scored by cosine or, with ``words``, by both rankings.

        Raises ``AiovecError``.
        """
        file = next(self.db.query("PRAGMA database_list"))["file"]
        if not file and self.words:
            raise InvalidArgumentError("words", self.words, "None for a collection in memory")
        if not file:
            return super().similar_by_vector(vector, number, skip_id, prefix)
        from aiovec import F, sync  # large; and each command of llm imports this module

        where = [F.id != skip_id] if skip_id else []
        if prefix:
            where.append(F.id.ilike(f"{prefix}%"))  # llm uses LIKE, which ignores case
        with sync.connect(Path(file).with_suffix(".aiovec.db")) as store:
            table = self._up_to_date(store)
            if table is None:
                return []
            if not self.words:
                hits = store.search(table, vector, limit=number, where=where)
            elif store.find(table, F.content.is_not_null(), limit=1):
                hits = store.search_hybrid(table, self.words, vector, limit=number, where=where)
            else:
                reason = (
                    f"no row of the collection {self.name!r} has stored content to search for "
                    "words; embed its content into a new collection with --store"
                )
                raise InvalidArgumentError("words", self.words, reason=reason)
        rows = {row["id"]: row for row in self._rows([hit.id for hit in hits])}
        entries = []
        for hit in hits:
            if row := rows.get(hit.id):  # else it was deleted a moment ago
                # The store computes in float32, llm in float64.
                vectors = (llm.decode(row["embedding"]), vector)
                score = hit.score if self.words else llm.cosine_similarity(*vectors)
                metadata = json.loads(row["metadata"]) if row["metadata"] else None
                entries.append(Entry(hit.id, score, row["content"], metadata))
        return sorted(entries, key=lambda entry: -entry.score)

    def _rows(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        yield from self.db.query(_ROWS, [self.id, json.dumps(ids)])

    def _up_to_date(self, store: sync.VectorStore) -> str | None:
        """Copy the changes of the collection, and return its table, or None if it has no rows."""
        tables = store.tables()  # before the collections, so that no new one loses its table
        models = {f"{_TABLE}{row['id']}": row["model"] for row in self.db["collections"].rows}
        for name in tables:
            if name.startswith(_TABLE) and name not in models:
                store.drop_table(name, missing_ok=True)
        newest = next(self.db.query(_NEWEST, [self.id]), None)
        if newest is None:
            return None
        table = f"{_TABLE}{self.id}"
        fields = {"version": Field(str), "content": Field(str, text=True)}
        dim, model = newest["dim"], models[table]
        schema = Schema(dim, model=model, fields=fields, vector_nullable=True)
        if table in tables and store.schema(table) != schema:  # created again with another model
            store.drop_table(table, missing_ok=True)
        store.create_table(table, schema, exist_ok=True)
        copy = store.get(table, [newest["id"]], include_vector=False)
        # A row that llm writes gets the highest rowid. If the newest row is the same, none was
        # added, and if the number of rows is the same too, none was deleted.
        same = bool(copy) and copy[0]["version"] == newest["version"]
        if same and store.count(table) == newest["total"]:
            return table
        source = {row["id"]: row["version"] for row in self.db.query(_VERSIONS, [self.id])}
        rows = store.find(table, select=["version"], limit=None)
        copied = {row.id: row["version"] for row in rows}
        store.delete(table, ids=list(copied.keys() - source.keys()))
        # The newest row comes last, so the next search continues a copy that was interrupted.
        changed = (id for id, version in source.items() if (id, version) not in copied.items())
        while ids := list(islice(changed, _ROWS_AT_ONCE)):
            store.upsert(table, list(map(_as_row, self._rows(ids))))
        return table


def _as_row(row: dict[str, Any]) -> dict[str, Any]:
    vector = np.frombuffer(row["embedding"], "<f4")
    # A zero vector has no cosine. The words of its text can still match.
    embedding = vector if vector.any() else None
    return {"embedding": embedding, **{key: row[key] for key in ("id", "version", "content")}}


def similar(
    collection: str,
    id: str | None,
    input: str | None,
    content: str | bytes | None,
    words: str | None,
    binary: bool,
    number: int,
    plain: bool,
    database: str | None,
    prefix: str | None,
) -> None:
    """
    Return top N similar IDs from a collection, like "llm similar", but using an index.

    \b
        llm aiovec similar my-collection -c "I like cats"
        llm aiovec similar my-collection 1234

    With --words, rows with these words in their stored content rank higher. Without content or
    an ID, the words are also the content.

    \b
        llm aiovec similar my-collection --words "cats and dogs"
    """
    if input and not id and not content:
        with click.open_file(input, "rb" if binary else "r") as file:
            content = file.read()
    content = content or words
    if not id and not content:
        raise click.ClickException("Must provide content or an ID for the comparison")
    db = sqlite_utils.Database(database or llm.user_dir() / "embeddings.db")
    click.get_current_context().call_on_close(db.conn.close)
    if not db["embeddings"].exists():
        raise click.ClickException("No embeddings table found in database")
    try:
        indexed = IndexedCollection(collection, db, create=False)
        indexed.words = words
        if id:
            entries = indexed.similar_by_id(id, number, prefix=prefix)
        else:
            entries = indexed.similar(content, number, prefix=prefix)
    except (AiovecError, llm.Collection.DoesNotExist, llm.ModelError) as exc:
        raise click.ClickException(str(exc)) from exc
    except llm.UnknownModelError as exc:
        raise click.ClickException(exc.args[0]) from exc  # str() of a KeyError has quotes
    for entry in entries:
        if plain:
            texts = [entry.content, entry.metadata and json.dumps(entry.metadata)]
            indented = [textwrap.indent(text, "  ") for text in texts if text]
            click.echo("\n".join([f"{entry.id} ({entry.score})\n", *indented, ""]))
        else:
            click.echo(json.dumps(asdict(entry)))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``llm aiovec similar``, with the options of ``llm similar``."""
    known = similar.__annotations__
    params = [param for param in cli.commands["similar"].params if param.name in known]
    words = click.Option(["-w", "--words"], help="Rank also by these words in the stored content")
    params.append(words)
    command = click.Command("similar", params=params, callback=similar, help=similar.__doc__)
    cli.add_command(click.Group("aiovec", [command], help="Search collections by an index"))
