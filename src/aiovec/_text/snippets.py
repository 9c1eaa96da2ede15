"""Snippets of long texts, by FTS5.

FTS5 compares each match of a text with every other one to choose its snippet, and cannot be
interrupted meanwhile: a text of 1 MB that repeats a word takes it hours. So a long text is looked
at in pieces, and the snippet is that of the best of them. And its snippets end at a NUL, so it gets
another character in the place of each.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

WORDS_OF_A_SNIPPET = 32
SNIPPET_GAP = "…"
LONG_TEXT = 4_000
"""Bytes of a text, in UTF-8, from which it is looked at in pieces."""

# No word has one of these in it either.
_CONTROLS = [chr(code) for code in range(1, 32)]
# Characters. What matches over more of them than two pieces share is in none as a whole.
_PIECE, _SHARED = 1_000, 200


class _Connection(Protocol):
    """The part of a ``sqlite3.Connection`` that is used, of whichever driver."""

    def execute(self, sql: str, parameters: Sequence[str | int] = ..., /) -> Any: ...

    def executemany(self, sql: str, parameters: Iterable[tuple[int, str]], /) -> Any: ...


def snippet_of(
    text: str,
    match: str,
    column: str,
    columns: Sequence[str],
    tokenizer: str,
    marks: tuple[str, str],
    connection: _Connection,
) -> str | None:
    """Return a part of a text with its matches between marks; None if no piece matches.

    ``match`` is a query of FTS5 for a table of these columns, of which ``column`` has the text.
    The table is made in a schema of its own, which is gone afterwards; ``connection`` is to be one
    in memory.
    """
    stand_in = next((char for char in _CONTROLS if char not in text), _CONTROLS[0])
    # None of the text's own characters can be taken for these.
    opening, ending = uuid.uuid4().hex, uuid.uuid4().hex
    options = ", ".join([*columns, f"tokenize='{tokenizer}'"])
    connection.execute(f"CREATE VIRTUAL TABLE pieces USING fts5({options})")
    try:
        connection.executemany(
            f"INSERT INTO pieces(rowid, {column}) VALUES (?, ?)",
            enumerate(_pieces(text.replace("\0", stand_in))),
        )
        (last,) = connection.execute("SELECT max(rowid) FROM pieces").fetchone()
        found = connection.execute(
            "SELECT rowid, snippet(pieces, ?, ?, ?, ?, ?) FROM pieces WHERE pieces MATCH ? "
            "ORDER BY rank LIMIT 1",
            (columns.index(column), opening, ending, SNIPPET_GAP, WORDS_OF_A_SNIPPET, match),
        ).fetchone()
    finally:
        connection.execute("DROP TABLE pieces")
    if found is None or opening not in found[1]:
        return None
    place, snippet = found
    if "\0" in text:
        snippet = snippet.replace(stand_in, "\0")
    if place and not snippet.startswith(SNIPPET_GAP):
        snippet = SNIPPET_GAP + snippet
    if place < last and not snippet.endswith(SNIPPET_GAP):
        snippet += SNIPPET_GAP
    return str(snippet.replace(opening, marks[0]).replace(ending, marks[1]))


def _pieces(text: str) -> Iterator[str]:
    """Give overlapping pieces, which begin and end between words where words are short."""
    start = 0
    while True:
        end = start + _PIECE
        if end >= len(text):
            yield text[start:]
            return
        space = text.rfind(" ", end - _SHARED // 2, end)
        yield text[start : end if space < 0 else space]
        start = end - _SHARED
        space = text.find(" ", start - _SHARED // 2, start)
        start = start if space < 0 else space + 1
