"""Make snippets for hits, because Lance makes none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aiovec.backend import Schema, part_snippets, word_snippets
from aiovec.backend.contract import Query, Snippets

from .grams import folded
from .query import spellings_of, tokens_of


def snippets_of(schema: Schema, query: Query) -> Snippets | None:
    """Return the function that makes a query's snippets; None if the query asks for no snippets."""
    if query.highlight is None:
        return None
    clauses, marks = query.clauses, query.highlight
    if schema.analyzer == "ngram":
        return lambda _, texts: part_snippets(texts, clauses, folded, marks)
    analyzer = schema.analyzer
    forms = [
        replace(clause, text=form)
        for clause in clauses
        for form in ([clause.text] if clause.prefix else spellings_of(schema, clause.text))
    ]
    tokens = partial(tokens_of, analyzer)
    return lambda _, texts: word_snippets(texts, forms, analyzer, tokens, marks)
