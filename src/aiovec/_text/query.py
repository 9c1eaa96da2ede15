"""The query language of keyword search: from what a user types to clauses.

Words, ``"exact phrases"``, ``-without``, ``field:word`` and ``prefix*``. Anything else is text, so
no query is a syntax error: a quote that is not closed, a lone ``-`` or a colon behind a word that
is no field separate words as punctuation does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._core.contract import TextClause
from .._core.schema import Schema
from ..errors import InvalidArgumentError, shown

# Every clause is looked up by itself, and a query is seldom longer than a paragraph.
_MOST_CLAUSES = 1_000
_MOST_CHARACTERS = 100_000

# A clause begins behind white space or a quote: the minus sign within a word is punctuation.
_CLAUSE = re.compile(
    r"""
    (?P<minus>-(?=[^\s-]))?
    (?:(?P<field>[A-Za-z][A-Za-z0-9_]{0,62}):(?=\S))?
    (?:"(?P<phrase>[^"]*)" | (?P<word>[^\s"]+))
    """,
    re.VERBOSE,
)
_GAP = re.compile(r"\s+")
_SPACES = re.compile(r"[\s\0]+")


def parse(text: str, schema: Schema) -> tuple[TextClause, ...]:
    """Return the clauses of a query, each once, in their order; without any where no word is."""
    if len(text) > _MOST_CHARACTERS:
        raise InvalidArgumentError("query", shown(text), f"at most {_MOST_CHARACTERS:,} characters")
    found = tuple(dict.fromkeys(_clauses(text, schema)))
    if len(found) > _MOST_CLAUSES:
        raise InvalidArgumentError(
            "query", shown(text), f"at most {_MOST_CLAUSES:,} different words, not {len(found):,}"
        )
    return found


def text_fields(schema: Schema) -> list[str]:
    """Return the names of the fields that keyword search covers."""
    return [name for name, field in schema.fields.items() if field.text]


def _clauses(text: str, schema: Schema) -> Iterator[TextClause]:
    fields = set(text_fields(schema))
    place = 0
    while place < len(text):
        if gap := _GAP.match(text, place):
            place = gap.end()
            continue
        match = _CLAUSE.match(text, place)
        if match is None:  # a quote that is not closed, or a mark in front of it
            place += 1
            continue
        place = match.end()
        field, phrase, word = match["field"], match["phrase"], match["word"]
        held = phrase if word is None else word
        if field is not None and field not in fields:
            held, field = f"{field}:{held}", None
        prefix = word is not None and len(word) > 1 and word.endswith("*")
        held = _SPACES.sub(" ", held.rstrip("*") if prefix else held).strip()
        prefix = prefix and held[-1:].isalnum()
        # N-grams find punctuation too; to the other analyzers it separates words.
        if held and (schema.analyzer == "ngram" or any(map(str.isalnum, held))):
            yield TextClause(held, field, prefix=prefix, excluded=match["minus"] is not None)
