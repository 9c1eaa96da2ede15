"""The query language of keyword search: from a user's text to clauses.

A query has words, ``"exact phrases"``, ``-without``, ``field:word`` and ``prefix*``. Anything else
is text, so no query is a syntax error: an unclosed quote, a lone ``-``, or a colon after a word
that is not a field separates words as punctuation does. Only a field without keyword search, or a
misspelt field, is an error, since it would match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from .._model.schema import Schema
from .._tools.messages import listed, nearest_name
from ..errors import InvalidArgumentError, InvalidNameError
from .letters import cut, is_particle, words_of

# For each word of a phrase, the engines read all rows that contain it.
_MOST_PHRASE_WORDS = 1_000

# NUL, lone surrogates, and the direction marks before words of pasted text. No engine stores the
# first two, and users see none of them.
_UNSEEN = re.compile("[\0\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

# A clause begins after white space or a quote; a minus sign within a word is punctuation.
_CLAUSE = re.compile(
    r"""
    (?P<minus>-(?=[^\s-]))?
    (?:(?P<field>[A-Za-z][A-Za-z0-9_]{0,62}):(?=\S))?
    (?:"(?P<phrase>[^"]*)" | (?P<word>[^\s"]+))
    """,
    re.VERBOSE,
)
_GAP = re.compile(r"\s+")
_OPERATORS = frozenset('-*:"')


# A word this similar to a field's name counts as misspelt; the second value is for words of up to
# four letters. Words of up to three letters never count: one letter is too large a part of them.
_NEAR, _NEAR_OF_FOUR, _FEW_LETTERS = 0.8, 0.75, 3

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class TextClause:
    """One condition of a keyword search: a word, or words next to each other.

    ``text`` is the text as typed; the table's analyzer splits it. A ``field`` of None means any
    field with ``text=True``. With ``prefix``, the last word stands for all words that begin with
    it; ``excluded`` clauses must not match.
    """

    text: str
    field: str | None = None
    prefix: bool = False
    excluded: bool = False


def parse(text: str, schema: Schema) -> tuple[TextClause, ...]:
    """Return the distinct clauses of a query, in order; none if it has no words."""
    _check_count(text, len(text), 100_000, "characters")
    clauses = tuple(dict.fromkeys(_clauses(_UNSEEN.sub(" ", text), schema)))
    if schema.analyzer == "cjk":
        # Nearly every text has the particles, such as those around words in Latin letters.
        words = tuple(clause for clause in clauses if not is_particle(clause.text))
        clauses = words if any(not clause.excluded for clause in words) else clauses
    # Each clause costs a lookup, and few queries are longer than a paragraph.
    _check_count(text, len(clauses), 1_000, "different words")
    return clauses


def check_phrases(text: str, clauses: Sequence[TextClause], schema: Schema) -> None:
    """Raise InvalidArgumentError if the phrases of a query are too long.

    On an ngram table, phrases have no words to count.
    """
    if schema.analyzer == "ngram" or len(text) < 2 * _MOST_PHRASE_WORDS:
        return  # too short to have that many words
    counts = (sum(1 for _ in _WORD.finditer(clause.text)) for clause in clauses)
    total = sum(count for count in counts if count > 1)
    _check_count(text, total, _MOST_PHRASE_WORDS, "words in phrases")


def _check_count(query: str, count: int, most: int, things: str) -> None:
    if count > most:
        reason = f"the query has {count:,} {things}; the limit is {most:,}"
        raise InvalidArgumentError("query", query, reason=reason)


def text_fields(schema: Schema) -> list[str]:
    """Return the names of the fields that keyword search covers."""
    return [name for name, field in schema.fields.items() if field.text]


def _clauses(text: str, schema: Schema) -> Iterator[TextClause]:
    fields = set(text_fields(schema))
    grams = schema.analyzer == "ngram"
    place = 0
    while place < len(text):
        if gap := _GAP.match(text, place):
            place = gap.end()
            continue
        match = _CLAUSE.match(text, place)
        if match is None:  # an unclosed quote, or a mark before it
            place += 1
            continue
        place = match.end()
        field, phrase, word = match["field"], match["phrase"], match["word"]
        words = phrase if word is None else word
        if field is not None and field not in fields:
            # Nobody types a longer query; in pasted text, a word before a colon is text.
            if len(text) <= 1_000:
                _check_no_field(field, words, fields, schema)
            words, field = f"{field}:{words}", None
        prefix = word is not None and len(word) > 1 and word.endswith("*")
        words = (words.rstrip("*") if prefix else words).strip()
        if grams:  # n-grams contain all characters, even line breaks, tabs and punctuation
            has_word = not _OPERATORS.issuperset(words)
        else:
            words = _GAP.sub(" ", words)
            has_word = any(map(str.isalnum, words))
        # N-grams match parts of words anyway.
        prefix = prefix and words[-1:].isalnum() and not grams
        excluded = match["minus"] is not None
        parts = [words] if has_word else []
        if has_word and word is not None and not excluded:
            split = parts if grams else words_of(words)
            parts = [part for each in split for part in cut(schema.analyzer, each)]
        for n, part in enumerate(parts, 1):
            last = n == len(parts)
            yield TextClause(part, field, prefix=prefix and last, excluded=excluded)


def _check_no_field(word: str, after: str, fields: Set[str], schema: Schema) -> None:
    """Raise InvalidNameError if a word before a colon is probably meant to be a field."""
    near = nearest_name(word.lower(), sorted(fields), _NEAR if len(word) > 4 else _NEAR_OF_FOUR)
    declared = word == "id" or word in schema.fields
    if (declared or (near and len(word) > _FEW_LETTERS)) and not after.startswith("//"):
        fix = "use where to filter by it." if declared else f"did you mean {near!r}?"
        rule = f"the fields are {listed(sorted(fields))}; {fix} In quotes, it is plain text"
        raise InvalidNameError(word, "field of keyword search", rule)
