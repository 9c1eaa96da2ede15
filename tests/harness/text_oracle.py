"""A simple, slow model of keyword search, which decides which rows match a query.

It uses the clauses of the parsed query and the texts of the rows, without an index.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiovec import Schema
from aiovec.backend import TextClause


def folded(text: str) -> str:
    """Return the text in lower case, with the accents of Latin letters removed."""
    return "".join(map(_folded, text.lower()))


def _folded(char: str) -> str:
    if unicodedata.combining(char):
        return ""
    base = unicodedata.normalize("NFD", char)[0]
    # A symbol with a stroke, and a Cyrillic letter such as й, are different characters.
    return base if base.isascii() and base.isalpha() else char


def words_of(text: str) -> list[str]:
    """Return the words of a text: folded runs of letters and digits."""
    return "".join(char if char.isalnum() else " " for char in folded(text)).split()


def _letters_of(text: str) -> list[tuple[str, bool]]:
    """Return the words of a text for "cjk", in which each letter of a run is a word.

    With each word, return whether it follows a letter of the same run.
    """
    units, before = list[tuple[str, bool]](), " "
    for char in folded(text):
        in_run, after_run = char > "\u3000", before > "\u3000"
        if char.isalnum() and not in_run and not after_run and before.isalnum():
            units[-1] = (units[-1][0] + char, False)
        elif char.isalnum():
            units.append((char, in_run and after_run))
        before = char
    return units


def in_text(clause: TextClause, text: str, analyzer: str) -> bool:
    """Return whether one text matches the words of a clause."""
    if analyzer == "ngram":
        return folded(clause.text) in folded(text)
    if analyzer == "cjk":
        (first, _), *rest = _letters_of(clause.text)
        units = _letters_of(text)
        return any(
            unit == first and units[n + 1 : n + 1 + len(rest)] == rest
            for n, (unit, _) in enumerate(units)
        )
    wanted, words = words_of(clause.text), words_of(text)
    for start in range(len(words) - len(wanted) + 1):
        part = words[start : start + len(wanted)]
        if part == wanted:
            return True
        if clause.prefix and part[:-1] == wanted[:-1] and part[-1].startswith(wanted[-1]):
            return True
    return False


def row_matches(
    row: Mapping[str, Any], schema: Schema, clauses: Sequence[TextClause], any: bool = False
) -> bool:
    """Return whether a row matches a query. The model does not support ``english`` tables."""

    def holds(clause: TextClause) -> bool:
        every = [name for name, field in schema.fields.items() if field.text]
        names = every if clause.field is None else [clause.field]
        texts = [row[name] for name in names if row.get(name) is not None]
        return True in [in_text(clause, text, schema.analyzer) for text in texts]

    counted = [c for c in clauses if schema.analyzer == "ngram" or words_of(c.text)]
    positive = [holds(clause) for clause in counted if not clause.excluded]
    if not positive or True in [holds(clause) for clause in counted if clause.excluded]:
        return False
    return True in positive if any else False not in positive


def matching_ids(
    rows: Iterable[Mapping[str, Any]],
    schema: Schema,
    clauses: Sequence[TextClause],
    any: bool = False,
) -> set[str]:
    """Return the ids of the rows that match."""
    return {row["id"] for row in rows if row_matches(row, schema, clauses, any)}
