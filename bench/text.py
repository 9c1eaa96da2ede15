"""Measure keyword and hybrid search for words and questions, in short and long texts.

People rarely repeat a question, so each is asked once in a newly opened store. The benchmark shows
the times of the first and the tenth question, and the median of all. Then it asks all again.
"""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import aiovec
from aiovec import VectorStore

from .data import COLUMNS, LIMIT, ROWS, TABLE, Data, load, row_number
from .measure import Ask, Options, Result, in_turn, medians, rate, ratios, timed
from .stores import by_aiovec, connect, fill, fill_by_hand, fill_lance, lance

AIOVEC, HYBRID, VECTOR = "aiovec, keywords", "aiovec, hybrid", "aiovec, vector"
ON_LANCE = "aiovec on LanceDB, keywords"
FTS5, TANTIVY, BM25S, LANCEDB = "FTS5 by hand", "tantivy", "bm25s", "lancedb"
_PASSAGES, _TOGETHER = 40_000, 15
_WORDS = 1000
_CLIENTS, _CROWD_SECONDS = 64, 2.0
# The most checks for a file of the words, and the index size in bytes below which there is none.
_MOST_LOOKS, _WITHOUT_FILE = 3_000, 4 * 2**20


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    long, questions = _passages(data), data.questions(_WORDS)
    by_word = await _compared(options, data, data.words(_WORDS), "a word of a text")
    by_question = await _compared(options, data, questions, "a question")
    return by_word + by_question + await _compared(options, long, questions, "one in long texts")


def _passages(data: Data) -> Data:
    """Return fewer rows, each with the texts of fifteen random rows: about 230 real words."""
    shape = min(len(data), _PASSAGES), _TOGETHER
    picked = np.random.default_rng(5).integers(len(data), size=shape)
    texts = [" ".join(data.texts[n] for n in row) for row in picked]
    return Data(f"{data.origin}, long texts", data.vectors[: len(texts)], texts, data.queries)


async def _compared(options: Options, data: Data, words: list[str], what: str) -> list[Result]:
    notes, folder = list[str](), options.folder / what.replace(" ", "-")
    folder.mkdir()
    async with AsyncExitStack() as stack:
        async with aiovec.connect(folder / "a.db") as filled:
            await fill(filled, data, text=True)
            await _settled(filled)
        store = await stack.enter_async_context(aiovec.connect(folder / "a.db"))
        db = _fill_fts5(folder / "b.db", data)
        stack.callback(db.close)
        asking = {
            AIOVEC: _by_words(store, words), VECTOR: by_aiovec(store, data),
            HYBRID: _by_words(store, words, data), FTS5: _by_fts5(db, words),
        }  # fmt: skip
        if not options.alone:
            for name, other in (TANTIVY, _by_tantivy), (BM25S, _by_bm25s):
                try:
                    asking[name] = other(folder / name, data, words)
                except ImportError:
                    notes.append(f"skipped: {name}: it is not installed")
            connection = await stack.enter_async_context(lance(folder / "bare"))
            asking[LANCEDB] = await _by_lancedb(connection, data, words)
            place = f"lancedb://{folder / 'ours'}"
            ours = await stack.enter_async_context(aiovec.connect(place))
            await fill(ours, data, text=True)
            asking[ON_LANCE] = _by_words(ours, words)
        once = [await timed(partial(asking[AIOVEC], turn))() for turn in range(len(words))]
        times, seconds = await in_turn(asking, _WORDS, options), options.seconds(_CROWD_SECONDS)
        hits = {words[turn]: await asking[AIOVEC](turn) for turn in range(options.rounds(50))}
        rates = {
            f"{name}, {_CLIENTS} clients": await rate(ask, _CLIENTS, seconds)
            for name, ask in asking.items()
        }
        wrong = [f"no row found with {word!r}" for word, rows in hits.items() if not rows]
    began = {"first": once[:1], "tenth": once[9:10], "asked once": once}
    measured = {f"{AIOVEC}, {what}": some for what, some in began.items() if some}
    compared = ratios(times, AIOVEC, VECTOR, FTS5, TANTIVY, BM25S, LANCEDB)
    compared |= ratios(times, HYBRID, VECTOR)
    return [
        Result(
            "text", f"the {LIMIT} best of {data} for {what}, whole rows (median)",
            "ms", medians({**measured, **times}), compared | ratios(times, ON_LANCE, LANCEDB),
            notes, wrong,
        ),
        Result("text", f"searches by {what}", "per second", rates),
    ]  # fmt: skip


async def _settled(store: VectorStore) -> None:
    """Wait until the table's words are in a file, unless their index is too small for one."""
    for _ in range(_MOST_LOOKS):
        await store.search_text(TABLE, "the")
        details = (await store.stats(TABLE)).details
        if details["text_index_bytes"] < _WITHOUT_FILE or details["words_file"]:
            break
        await asyncio.sleep(0.1)


def _by_words(store: VectorStore, words: list[str], data: Data | None = None) -> Ask:
    """Search by words or, with ``data``, by words and the query vectors of ``data``."""

    async def ask(query: int) -> list[int]:
        vector = () if data is None else (data.queries[query % len(data.queries)],)
        search: Any = store.search_hybrid if vector else store.search_text
        hits = await search(TABLE, words[query % len(words)], *vector, limit=LIMIT)
        return [row_number(hit.id) for hit in hits]

    return ask


def _fill_fts5(path: Path, data: Data) -> sqlite3.Connection:
    fill_by_hand(path, data)
    db = connect(path)
    db.execute(
        "CREATE VIRTUAL TABLE words USING fts5(text, content=rows, content_rowid=rowid, "
        "tokenize='unicode61 remove_diacritics 2')"
    )
    for command in ("rebuild", "optimize"):
        db.execute("INSERT INTO words (words) VALUES (?)", (command,))
    return db


def _by_fts5(db: sqlite3.Connection, words: list[str]) -> Ask:
    sql = (
        "SELECT r.id, r.pick, r.place, r.text, words.rank FROM words JOIN rows AS r "
        "ON r.rowid = words.rowid WHERE words MATCH ? ORDER BY rank LIMIT ?"
    )

    async def ask(query: int) -> list[int]:
        match = " OR ".join(f'"{word}"' for word in words[query % len(words)].split())
        rows = db.execute(sql, (match, LIMIT)).fetchall()
        return [row_number(row[0]) for row in rows]

    return ask


def _by_tantivy(folder: Path, data: Data, words: list[str]) -> Ask:
    """Search with tantivy's Python binding, which blocks the event loop.

    Raises ImportError if tantivy is missing.
    """
    module: Any = importlib.import_module("tantivy")
    builder = module.SchemaBuilder().add_text_field("id", stored=True, tokenizer_name="raw")
    builder = builder.add_integer_field("pick", stored=True)
    builder = builder.add_integer_field("place", stored=True)
    folder.mkdir()
    schema = builder.add_text_field("text", stored=True).build()
    index = module.Index(schema, path=str(folder))
    writer = index.writer(heap_size=128 << 20, num_threads=1)
    for batch in data.batches():
        for row in batch.select(list(COLUMNS)).to_pylist():
            writer.add_document(module.Document(**row))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    async def ask(query: int) -> list[int]:
        parsed = index.parse_query(words[query % len(words)], ["text"])
        rows = [searcher.doc(at).to_dict() for _, at in searcher.search(parsed, LIMIT).hits]
        return [row_number(row["id"][0]) for row in rows]

    return ask


def _by_bm25s(_: Path, data: Data, words: list[str]) -> Ask:
    """Search with bm25s, in memory and without whole rows; it blocks the event loop.

    Raises ImportError if bm25s is missing.
    """
    module: Any = importlib.import_module("bm25s")
    index = module.BM25()
    index.index(module.tokenize(data.texts, None, show_progress=False), show_progress=False)

    async def ask(query: int) -> list[int]:
        wanted = module.tokenize(words[query % len(words)], None, show_progress=False)
        rows, _ = index.retrieve(wanted, k=LIMIT, show_progress=False)
        return [int(row) for row in rows[0]]

    return ask


async def _by_lancedb(connection: Any, data: Data, words: list[str]) -> Ask:
    index: Any = importlib.import_module("lancedb.index")
    table = await fill_lance(connection, data)
    await table.create_index("text", config=index.FTS(stem=False, remove_stop_words=False))

    async def ask(query: int) -> list[int]:
        built = table.query().nearest_to_text(words[query % len(words)])
        rows = await built.select([*COLUMNS, "_score"]).limit(LIMIT).to_arrow()
        return [row_number(id) for id in rows.column("id").to_pylist()]

    return ask
