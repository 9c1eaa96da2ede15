"""Split texts into tokens as an index with the same analyzer does."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from aiovec.backend.threads import begin_in_thread

from .driver import load_driver

# The most characters of a token. FTS5 cuts tokens at 32,768 bytes, perhaps within a character.
_LONGEST = 8_000
# SQLite's default page size in bytes.
_PAGE_BYTES = 4096


def tokenizer_of(analyzer: str) -> str:
    """Return FTS5's tokenizer for an analyzer."""
    if analyzer == "ngram":
        folds = load_driver().sqlite_version_info >= (3, 45, 0)
        return "trigram remove_diacritics 1" if folds else "trigram"
    return ("porter " if analyzer == "english" else "") + "unicode61 remove_diacritics 2"


class Tokenizer:
    """An in-memory FTS5 table, ``texts``, and a table of its tokens' positions, ``words``.

    Use a tokenizer either to split texts or to keep rows. Only one thread may use it at a time,
    even for reads: fts5vocab frees memory twice if rows are added while one of its statements is
    open. Dropping the last reference closes the tokenizer.
    """

    def __init__(self, analyzer: str, columns: int = 1) -> None:
        self.db: sqlite3.Connection = load_driver().connect(
            ":memory:", check_same_thread=False, isolation_level=None
        )
        # Close the database in a thread, because the event loop may drop the last reference.
        weakref.finalize(self, begin_in_thread, self.db.close).atexit = False
        names = ", ".join(f"c{number}" for number in range(1, columns + 1))
        self._plain = analyzer not in ("english", "ngram")
        self._insert = f"INSERT INTO texts (rowid, {names}) VALUES ({'?, ' * columns}?)"
        self.db.execute(
            f"CREATE VIRTUAL TABLE texts USING fts5({names}, content='', "
            f"tokenize='{tokenizer_of(analyzer)}')"
        )
        self.db.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance)")

    def of_texts(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text, in order."""
        if self._plain and all(text.isascii() and text.isalnum() for text in texts):
            return [[text.lower()] for text in texts]
        tokens: list[list[str]] = [[] for _ in texts]
        self.db.execute("BEGIN")
        try:
            self.db.executemany("INSERT INTO texts (rowid, c1) VALUES (?, ?)", enumerate(texts))
            sql = f"SELECT doc, substr(term, 1, {_LONGEST}) FROM words ORDER BY doc, offset"
            for number, token in self.db.execute(sql):
                tokens[number].append(token)
        finally:
            self.db.execute("ROLLBACK")
        return tokens

    def keep(self, rows: Iterable[Sequence[Any]]) -> int:
        """Add rows, each a rowid and its texts; return the size of the database in bytes."""
        self.db.execute("BEGIN")
        self.db.executemany(self._insert, rows)
        self.db.execute("COMMIT")
        (pages,) = self.db.execute("PRAGMA page_count").fetchone()
        return int(pages * _PAGE_BYTES)
