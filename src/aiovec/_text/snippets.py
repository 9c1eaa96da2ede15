"""Snippets of texts with their matches marked, by FTS5.

A table in memory has the texts of some rows alone, so that one query serves all of them. FTS5
compares each match of a text with every other one to choose its snippet, and cannot be
interrupted: a text of 1 MB that repeats a word takes hours. So a long text is searched in pieces,
and the snippet is that of the best one. FTS5 ends a snippet at a NUL, so it gets another character
instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

SNIPPET_GAP = "…"
_WORDS = 32
# Bytes of a text, in UTF-8, above which it is searched in pieces.
_LONG_TEXT = 4_000

# No word has one of these in it either.
_CONTROLS = [chr(code) for code in range(1, 32)]
# Characters. What matches over more of them than two pieces share is in none as a whole.
_PIECE, _SHARED = 1_000, 200


class _Connection(Protocol):
    """The part of a ``sqlite3.Connection`` that is used, of whichever driver."""

    def execute(self, sql: str, parameters: Sequence[str | int | None] = ..., /) -> Any: ...

    def executemany(self, sql: str, parameters: Iterable[tuple[int, str]], /) -> Any: ...


def snippets_of(
    rows: Iterable[Sequence[str | None]],
    fields: Mapping[str, str],
    match: str,
    columns: Sequence[str],
    tokenizer: str,
    marks: tuple[str, str],
    connection: _Connection,
) -> list[dict[str, str]]:
    """Return for each row the snippets of its texts that have matches, by the names of fields.

    ``match`` is a query of FTS5 for a table of these columns. ``fields`` has the name and the
    column of each text of a row, in their order. ``connection`` is to be one in memory, which is
    closed afterwards.
    """
    # None of a text's own characters can be taken for these.
    opening, ending = uuid.uuid4().hex, uuid.uuid4().hex
    declared = ", ".join([*columns, f"tokenize='{tokenizer}'"])
    connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5({declared})")
    holes = ", ".join("?" * (1 + len(fields)))
    insert = f"INSERT INTO texts(rowid, {', '.join(fields.values())}) VALUES ({holes})"
    made: list[dict[str, str]] = []
    for row, texts in enumerate(rows):
        marked: dict[str, str] = {}
        rest = list(texts)
        for number, (name, text) in enumerate(zip(fields, texts, strict=True)):
            if text is None or not _is_long(text):
                continue
            snippet = _snippet_of(text, match, fields[name], columns, tokenizer, marks, connection)
            # Else only what is longer than a piece can match, so there are few matches.
            if snippet is not None:
                marked[name], rest[number] = snippet, None
        connection.execute(insert, (row, *rest))
        made.append(marked)
    options = f"'{opening}', '{ending}', '{SNIPPET_GAP}', {_WORDS}"
    places = [columns.index(column) for column in fields.values()]
    shown = ", ".join(f"snippet(texts, {place}, {options})" for place in places)
    matching = connection.execute(f"SELECT rowid, {shown} FROM texts WHERE texts MATCH ?", (match,))
    for row, *snippets in matching:
        for name, snippet in zip(fields, snippets, strict=True):
            if snippet is not None and opening in snippet:
                made[row][name] = snippet.replace(opening, marks[0]).replace(ending, marks[1])
    return made


def _is_long(text: str) -> bool:
    """Return whether a text has to be searched in pieces, or has NULs to be replaced."""
    return "\0" in text or (len(text) * 4 > _LONG_TEXT and len(text.encode()) > _LONG_TEXT)


def _snippet_of(
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
    The table exists only during the call.
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
            (columns.index(column), opening, ending, SNIPPET_GAP, _WORDS, match),
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
    """Yield overlapping pieces, which begin and end between words if words are short."""
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
