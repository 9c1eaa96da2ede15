"""Snippets of texts with marked matches: around known positions, or by FTS5.

The texts of the rows go into an FTS5 table in memory, and one query makes all snippets: a query for
each row would look up all words each time. FTS5 compares each match of a text with every other one
to choose its snippet, and cannot be interrupted: a text of 1 MB that repeats a word takes hours. So
texts are split into pieces, and the best piece gives the snippet. FTS5 ends a snippet at a NUL, so
NULs become spaces.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from .query import TextClause

SNIPPET_GAP = "…"
_WORDS = 32
# Characters of a snippet around known positions, and before the first one.
_CHARACTERS, _BEFORE = 160, 40
# Characters of a piece, and of the overlap of two pieces. A match longer than the overlap may be
# found whole in neither.
_PIECE, _SHARED = 2_000, 200


# A word with its combining accents.
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")


class _Connection(Protocol):
    """The methods that are used of a ``sqlite3.Connection`` of any driver."""

    def execute(self, sql: str, parameters: Sequence[str | int | None] = ..., /) -> Any: ...

    def executemany(self, sql: str, parameters: Iterable[tuple[int | str, ...]], /) -> Any: ...


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
    column of each text of a row, in order. ``connection`` must be in memory; it is closed
    afterwards.
    """
    # Marks that no text contains.
    opening, ending = uuid.uuid4().hex, uuid.uuid4().hex
    declared = ", ".join([*columns, f"tokenize='{tokenizer}'"])
    connection.execute(f"CREATE VIRTUAL TABLE pieces USING fts5({declared})")
    made: list[dict[str, str]] = []
    # For each piece: its row, its field, and the gaps before and after it.
    pieces: list[tuple[int, str, str, str]] = []
    for row, texts in enumerate(rows):
        made.append({})
        for (name, column), text in zip(fields.items(), texts, strict=True):
            parts = [] if text is None else list(_pieces(text.replace("\0", " ")))
            insert = f"INSERT INTO pieces(rowid, {column}) VALUES (?, ?)"
            connection.executemany(insert, enumerate(parts, len(pieces)))
            last = len(parts) - 1
            for n in range(len(parts)):
                before, after = SNIPPET_GAP if n else "", SNIPPET_GAP if n < last else ""
                pieces.append((row, name, before, after))
    ranked = "SELECT rowid FROM pieces WHERE pieces MATCH ? ORDER BY rank"
    seen: set[tuple[int, str]] = set()
    others = []
    for (number,) in connection.execute(ranked, (match,)).fetchall():
        if pieces[number][:2] in seen:
            others.append((number,))
        seen.add(pieces[number][:2])
    connection.executemany("DELETE FROM pieces WHERE rowid = ?", others)
    shown = (
        f"SELECT rowid, snippet(pieces, -1, '{opening}', '{ending}', '{SNIPPET_GAP}', {_WORDS}) "
        "FROM pieces WHERE pieces MATCH ?"
    )
    for number, snippet in connection.execute(shown, (match,)):
        row, name, before, after = pieces[number]
        if not snippet.startswith(SNIPPET_GAP):
            snippet = before + snippet
        if not snippet.endswith(SNIPPET_GAP):
            snippet += after
        made[row][name] = snippet.replace(opening, marks[0]).replace(ending, marks[1])
    return made


def _pieces(text: str) -> Iterator[str]:
    """Yield overlapping pieces, cut between words if possible."""
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


def snippet_around(
    text: str, places: Iterable[tuple[int, int]], marks: tuple[str, str]
) -> str | None:
    """Return the part of a text around the first match, with all matches in it marked.

    A place is a match's start and end. Returns None if there are none.
    """
    spans = sorted(places)
    if not spans:
        return None
    start = max(0, spans[0][0] - _BEFORE)
    end = max(min(len(text), start + _CHARACTERS), spans[0][1])
    if start < _BEFORE // 2:
        start = 0
    parts = [SNIPPET_GAP if start else ""]
    at = start
    for first, last in spans:
        if last > end:
            break
        if last <= at:
            continue
        first = max(first, at)
        parts += [text[at:first], marks[0], text[first:last], marks[1]]
        at = last
    parts += [text[at:end], SNIPPET_GAP if end < len(text) else ""]
    return "".join(parts)


def marked_stems(
    rows: Sequence[Mapping[str, str | None]],
    clauses: Mapping[str, Sequence[TextClause]],
    stems_of: Callable[[Sequence[str]], Iterable[str]],
    marks: tuple[str, str],
) -> list[dict[str, str]]:
    """Return each row's snippets, in which words with the stems of the query are marked as written.

    The texts of a row and the clauses are by field. ``stems_of`` returns the stems of different
    words, in their order, as the index compares them.
    """
    texts = [text or "" for row in rows for text in row.values()]
    texts += [clause.text for wanted in clauses.values() for clause in wanted]
    words = list({word for text in texts for word in _WORD.findall(text)})
    stems = dict(zip(words, stems_of(words) if words else (), strict=True))
    return [_marked_stems(row, clauses, stems, marks) for row in rows]


def _marked_stems(
    texts: Mapping[str, str | None],
    clauses: Mapping[str, Sequence[TextClause]],
    stems: Mapping[str, str],
    marks: tuple[str, str],
) -> dict[str, str]:
    shown = {}
    for name, text in texts.items():
        words = [(*word.span(), stems[word[0]]) for word in _WORD.finditer(text or "")]
        places: dict[str, list[int]] = {}  # without it, every clause would read every word
        for n, (_, _, stem) in enumerate(words):
            places.setdefault(stem, []).append(n)
        spans = []
        for clause in clauses[name]:
            wanted = [stems[word] for word in _WORD.findall(clause.text)]
            if not wanted:
                continue
            *before, last = wanted
            ends = [last]
            if clause.prefix:
                ends = [stem for stem in places if stem.startswith(last)]
            for n in chain.from_iterable(places.get(stem, ()) for stem in ends):
                first = n - len(before)
                if first >= 0 and all(words[first + i][2] == stem for i, stem in enumerate(before)):
                    spans.append((words[first][0], words[n][1]))
        if (snippet := snippet_around(text or "", spans, marks)) is not None:
            shown[name] = snippet
    return shown
