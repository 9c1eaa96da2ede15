"""The tokens of texts, in the form of their analyzer's index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aiovec.backend import Int64Array

from .driver import load_driver
from .sql.values import numbers_in

# Most characters of a token. FTS5 cuts it at 32,768 bytes, perhaps within a character.
_LONGEST = 8_000


def tokenizer_of(analyzer: str) -> str:
    """Return FTS5's tokenizer for an analyzer."""
    if analyzer == "ngram":
        folds = load_driver().sqlite_version_info >= (3, 45, 0)
        return "trigram remove_diacritics 1" if folds else "trigram"
    return ("porter " if analyzer == "english" else "") + "unicode61 remove_diacritics 2"


class Tokens(NamedTuple):
    """Tokens, sorted, with their rows, columns and places in the text."""

    terms: Sequence[str]
    """The distinct tokens."""
    numbers: Int64Array
    """The number of occurrences of each distinct token."""
    rows: Int64Array
    columns: Int64Array
    """The columns, counted from 1."""
    places: Int64Array


class Tokenizer:
    """An FTS5 table in memory, which splits texts and keeps none. For one thread at a time."""

    def __init__(self, analyzer: str, columns: int = 1) -> None:
        names = ", ".join(f"c{number}" for number in range(1, columns + 1))
        self.closed = False
        self._columns = columns
        self._plain = analyzer not in ("english", "ngram")
        self._insert = f"INSERT INTO texts (rowid, {names}) VALUES ({'?, ' * columns}?)"
        self._db: sqlite3.Connection = load_driver().connect(
            ":memory:", check_same_thread=False, isolation_level=None
        )
        self._db.execute(
            f"CREATE VIRTUAL TABLE texts USING fts5({names}, content='', "
            f"tokenize='{tokenizer_of(analyzer)}')"
        )
        self._db.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")

    def of_rows(self, rows: Iterable[Sequence[Any]]) -> Tokens:
        """Return the tokens of rows: each is a number, and the text of each column or None."""
        self._db.execute("BEGIN")
        try:
            self._db.executemany(self._insert, rows)
            # One text of all tokens is read several times as fast as a row for each.
            terms, *numbers = self._db.execute(
                f"SELECT json_group_array(substr(term, 1, {_LONGEST})), group_concat(number), "
                "group_concat(docs), group_concat(columns), group_concat(offsets) FROM ("
                "SELECT term, count(*) AS number, group_concat(doc) AS docs, "
                "group_concat(substr(col, 2)) AS columns, group_concat(offset) AS offsets "
                "FROM words GROUP BY term)"
            ).fetchone()
        finally:
            self._db.execute("ROLLBACK")
        return Tokens(json.loads(terms), *map(numbers_in, numbers))

    def of_texts(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text in order."""
        if self._plain and all(text.isascii() and text.isalnum() for text in texts):
            return [[text.lower()] for text in texts]
        others = [None] * (self._columns - 1)
        tokens = self.of_rows((n, text, *others) for n, text in enumerate(texts))
        terms = np.repeat(np.arange(len(tokens.terms)), tokens.numbers)
        found: list[list[str]] = [[] for _ in texts]
        for n in np.lexsort((tokens.places, tokens.rows)).tolist():
            found[tokens.rows[n]].append(tokens.terms[terms[n]])
        return found

    def close(self) -> None:
        self.closed = True
        self._db.close()
