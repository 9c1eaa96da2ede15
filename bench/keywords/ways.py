"""Keyword search by aiovec and by what one would use without it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiovec import VectorStore

from .. import bare
from ..lance import direct
from ..searching.corpus import LIMIT, TABLE, row_number
from ..searching.store import Ask
from .corpus import Words

FTS5 = "FTS5 by hand"
TANTIVY = "tantivy"
LANCEDB = "lancedb called directly"


async def fill(store: VectorStore, corpus: Words) -> None:
    await store.create_table(TABLE, corpus.text_schema())
    for batch in corpus.batches():
        await store.insert(TABLE, batch)
    await store.optimize(TABLE)


def by_text(
    store: VectorStore, words: list[str], table: str = TABLE, limit: int = LIMIT, **more: Any
) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search_text(table, words[query], limit=limit, **more)
        return [row_number(hit.id) for hit in hits]

    return ask


def by_vector(store: VectorStore, corpus: Words, limit: int = LIMIT) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search(TABLE, corpus.queries[query], limit=limit)
        return [row_number(hit.id) for hit in hits]

    return ask


def by_both(store: VectorStore, corpus: Words) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search_hybrid(
            TABLE, corpus.words[query], corpus.queries[query], limit=LIMIT
        )
        return [row_number(hit.id) for hit in hits]

    return ask


def phrase(word: str) -> str:
    """A word as FTS5's and tantivy's own query languages take it, whatever it holds."""
    return '"' + word.replace('"', " ").replace("\\", " ") + '"'


def all_words(query: str) -> str:
    return " ".join(map(phrase, query.split()))


@contextmanager
def fts5(path: Path, corpus: Words) -> Iterator[Ask]:
    """The driver and the settings of aiovec; it blocks the event loop."""
    db = bare.connect(path)
    db.execute(
        "CREATE TABLE rows (rowid INTEGER PRIMARY KEY, id TEXT UNIQUE, pick INTEGER, text TEXT)"
    )
    db.execute(
        "CREATE VIRTUAL TABLE words USING fts5(text, content=rows, content_rowid=rowid, "
        "tokenize='unicode61 remove_diacritics 2')"
    )
    db.execute("BEGIN IMMEDIATE")
    for batch in corpus.batches():
        db.executemany(
            "INSERT INTO rows (id, pick, text) VALUES (?, ?, ?)",
            zip(*(batch.column(name).to_pylist() for name in ("id", "pick", "text")), strict=True),
        )
    db.execute("INSERT INTO words (words) VALUES ('rebuild')")
    db.execute("COMMIT")
    db.execute("INSERT INTO words (words) VALUES ('optimize')")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    sql = (
        "SELECT r.id, r.pick, r.text, words.rank FROM words JOIN rows AS r "
        "ON r.rowid = words.rowid WHERE words MATCH ? ORDER BY rank LIMIT ?"
    )

    async def ask(query: int) -> list[int]:
        found = db.execute(sql, (all_words(corpus.words[query]), LIMIT)).fetchall()
        return [row_number(row[0]) for row in found]

    try:
        yield ask
    finally:
        db.close()


def tantivy(folder: Path, corpus: Words) -> Ask:
    """Its Python binding, with stored fields; it blocks the event loop. Raises ImportError."""
    module: Any = importlib.import_module("tantivy")
    schema = (
        module.SchemaBuilder()
        .add_text_field("id", stored=True, tokenizer_name="raw")
        .add_integer_field("pick", stored=True)
        .add_text_field("text", stored=True)
        .build()
    )
    folder.mkdir()
    index = module.Index(schema, path=str(folder))
    writer = index.writer(heap_size=128 << 20, num_threads=1)
    for batch in corpus.batches():
        for row in batch.select(["id", "pick", "text"]).to_pylist():
            writer.add_document(module.Document(**row))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    async def ask(query: int) -> list[int]:
        parsed = index.parse_query(
            all_words(corpus.words[query]), ["text"], conjunction_by_default=True
        )
        found = [searcher.doc(at).to_dict() for _, at in searcher.search(parsed, LIMIT).hits]
        return [row_number(row["id"][0]) for row in found]

    return ask


async def lancedb(folder: Path, corpus: Words) -> Ask:
    """LanceDB's own index, with settings of the same meaning. Raises ImportError."""
    kinds: Any = await asyncio.to_thread(importlib.import_module, "lancedb.index")
    queries: Any = importlib.import_module("lancedb.query")
    batches = list(corpus.batches())
    table = await direct.create(folder, batches[0])
    for batch in batches:
        await table.add(batch)
    await table.create_index(
        "text", config=kinds.FTS(stem=False, remove_stop_words=False, max_token_length=None)
    )
    every = queries.FullTextOperator.AND

    async def ask(query: int) -> list[int]:
        asked = queries.MatchQuery(corpus.words[query], "text", operator=every)
        built = table.query().nearest_to_text(asked).select([*direct.COLUMNS, "_score"])
        found = await built.limit(LIMIT).to_arrow()
        return [row_number(id) for id in found.column("id").to_pylist()]

    return ask
