"""Snippets with the matching words marked, which Lance does not provide.

The FTS5 of Python's own SQLite makes them in memory from the texts of the hits. If its stems or
letters differ from Lance's, a word stays unmarked. For parts of words their places are known.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import pyarrow as pa

from aiovec.backend import LANGUAGES, Schema, marked_stems, snippet_around, snippets_of
from aiovec.backend.contract import Found, TextQuery
from aiovec.backend.threads import in_thread
from aiovec.errors import UnsupportedError

from ..driver import tokenize
from .grams import folded, folding
from .query import fields_of, text_fields

_TOKENIZERS = {
    "plain": "unicode61 remove_diacritics 2",
    "english": "porter unicode61 remove_diacritics 2",
}
# Rows whose texts are marked in one call of a thread.
_ROWS = 500


async def highlighted(schema: Schema, query: TextQuery, rows: pa.Table, found: Found) -> Found:
    """Add the snippets to hits; ``rows`` are the same hits with their texts."""
    texts = rows.select(text_fields(schema))
    work = _parts if schema.analyzer == "ngram" else _words
    if schema.analyzer in LANGUAGES:
        work = _stems
    snippets: list[dict[str, str]] = []
    for start in range(0, rows.num_rows, _ROWS):
        snippets += await in_thread(partial(work, schema, query, texts.slice(start, _ROWS)))
    return replace(found, highlights=snippets)


def _words(schema: Schema, query: TextQuery, texts: pa.Table) -> list[dict[str, str]]:
    fields = {name: f"c{n}" for n, name in enumerate(texts.column_names)}
    rows = zip(*(column.to_pylist() for column in texts.columns), strict=True)
    with closing(sqlite3.connect(":memory:")) as memory:
        try:
            memory.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
        except sqlite3.OperationalError as exc:
            hint = "highlight needs SQLite with FTS5, and this Python's SQLite has none"
            raise UnsupportedError("highlight", "lancedb", hint) from exc
        return snippets_of(
            rows, fields, _terms(schema, query, fields), list(fields.values()),
            _TOKENIZERS[schema.analyzer], query.highlight or ("", ""), memory,
        )  # fmt: skip


def _stems(schema: Schema, query: TextQuery, texts: pa.Table) -> list[dict[str, str]]:
    clauses = [clause for clause in query.clauses if not clause.excluded]
    wanted = {
        name: [clause for clause in clauses if name in fields_of(clause, schema)]
        for name in texts.column_names
    }
    stems_of = partial(_stems_of, schema.analyzer.capitalize())
    return marked_stems(texts.to_pylist(), wanted, stems_of, query.highlight or ("", ""))


def _stems_of(language: str, words: Sequence[str]) -> list[str]:
    """Return Lance's stem of each word, in one call, since each call takes milliseconds."""
    composed = [unicodedata.normalize("NFC", word) for word in words]
    mark = "0" * 12  # a token between two words, since a word may have none or several
    while True:
        tokens = tokenize(
            f" {mark} ".join(composed), language=language, max_token_length=None,
            remove_stop_words=False,
        )  # fmt: skip
        parts = [token.text for token in tokens]
        if parts.count(mark) == len(words) - 1:
            break
        mark += "0"  # a word is the mark
    stems: list[list[str]] = [[]]
    for part in parts:
        if part == mark:
            stems.append([])
        else:
            stems[-1].append(part)
    return [" ".join(stem) for stem in stems]


def _terms(schema: Schema, query: TextQuery, columns: dict[str, str]) -> str:
    """Return a query of FTS5 for all words to mark. Within quotes, any character is allowed."""
    terms = []
    for clause in query.clauses:
        if not clause.excluded and any(map(str.isalnum, clause.text)):
            where = " ".join(columns[name] for name in fields_of(clause, schema))
            text = clause.text.replace("\0", " ").replace('"', '""')
            terms.append(f'{{{where}}} : "{text}"{" *" if clause.prefix else ""}')
    return " OR ".join(terms)


def _parts(schema: Schema, query: TextQuery, texts: pa.Table) -> list[dict[str, str]]:
    wanted: dict[str, list[str]] = {}
    for clause in query.clauses:
        if not clause.excluded and (part := folded(clause.text)):
            for name in fields_of(clause, schema):
                wanted.setdefault(name, []).append(part)
    snippets: list[dict[str, str]] = [{} for _ in range(texts.num_rows)]
    for name, parts in wanted.items():
        for row, text in zip(snippets, texts.column(name).to_pylist(), strict=True):
            whole = unicodedata.normalize("NFC", text or "")
            snippet = snippet_around(whole, _spans(whole, parts), query.highlight or ("", ""))
            if snippet is not None:
                row[name] = snippet
    return snippets


def _spans(text: str, parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of the parts in a composed text."""
    pieces = [folding(char) for char in text]
    # The character that each character of the folded text comes from.
    origins = [n for n, piece in enumerate(pieces) for _ in piece]
    whole = "".join(pieces)
    for part in parts:
        at = whole.find(part)
        while at >= 0:
            yield origins[at], origins[at + len(part) - 1] + 1
            at = whole.find(part, at + len(part))
