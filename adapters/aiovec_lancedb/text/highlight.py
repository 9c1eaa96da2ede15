"""The tokens and places from which snippets are made; Lance has no snippets."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial

from aiovec.backend import (
    LANGUAGES,
    Match,
    Schema,
    TextClause,
    Texts,
    snippets,
    word_snippets,
)
from aiovec.backend.contract import Query, Snippets

from ..driver import tokenize
from .grams import folded, folding


def snippets_of(schema: Schema, query: Query) -> Snippets | None:
    """Return what makes the snippets of a search; None if it wants none."""
    if query.highlight is None:
        return None
    clauses, marks = query.clauses, query.highlight
    if schema.analyzer == "ngram":
        return lambda _, texts: snippets([*map(_composed, texts)], clauses, _places, marks)
    tokens_of = partial(_tokens, schema.analyzer)
    return lambda _, texts: word_snippets(texts, clauses, tokens_of, marks)


def _tokens(analyzer: str, text: str) -> list[str]:
    """Return the tokens of a text in order, as an index of this analyzer has them."""
    language = analyzer if analyzer in LANGUAGES else "english"
    tokens = tokenize(
        unicodedata.normalize("NFC", text), language=language.capitalize(),
        stem=analyzer != "plain", max_token_length=None, remove_stop_words=False,
    )  # fmt: skip
    return [token.text for token in tokens]


def _composed(texts: Texts) -> Texts:
    return {name: text and unicodedata.normalize("NFC", text) for name, text in texts.items()}


def _places(clauses: Sequence[TextClause], text: str) -> Iterator[Match]:
    """Yield the places of clauses in a composed text, in any case, with or without accents."""
    pieces = [folding(char) for char in text]
    # The character that each character of the folded text comes from.
    origins = [n for n, piece in enumerate(pieces) for _ in piece]
    whole = "".join(pieces)
    for number, clause in enumerate(clauses):
        part = folded(clause.text)
        at = whole.find(part) if part else -1
        while at >= 0:
            yield origins[at], origins[at + len(part) - 1] + 1, number
            at = whole.find(part, at + len(part))
