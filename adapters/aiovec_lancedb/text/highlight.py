"""Make snippets for hits, because Lance makes none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from aiovec.backend import Match, Schema, TextClause, snippets, word_snippets
from aiovec.backend.contract import Query, Snippets

from .grams import folded
from .query import forms_of, tokens_of

# A character with its combining accents; together they are one character in the folded text.
_CHARACTER = re.compile(r".[\u0300-\u036f]*", re.DOTALL)


def snippets_of(schema: Schema, query: Query) -> Snippets | None:
    """Return the function that makes a query's snippets; None if the query asks for no snippets."""
    if query.highlight is None:
        return None
    clauses, marks = query.clauses, query.highlight
    if schema.analyzer == "ngram":
        return lambda _, texts: snippets(texts, clauses, _places, marks)
    forms = [
        replace(clause, text=form)
        for clause in clauses
        for form in ([clause.text] if clause.prefix else forms_of(schema, clause.text))
    ]
    return lambda _, texts: word_snippets(texts, forms, partial(tokens_of, schema.analyzer), marks)


def _places(clauses: Sequence[TextClause], text: str) -> Iterator[Match]:
    """Yield the matches of the clauses in a text, ignoring case and accents."""
    # For each character of the folded text, the part of the original text that it comes from.
    whole, origins = "", list[tuple[int, int]]()
    for match in _CHARACTER.finditer(text):
        piece = folded(match[0])
        whole += piece
        origins += [match.span()] * len(piece)
    for number, clause in enumerate(clauses):
        part = folded(clause.text)
        at = whole.find(part) if part else -1
        while at >= 0:
            yield origins[at][0], origins[at + len(part) - 1][1], number
            at = whole.find(part, at + len(part))
