"""The terms of AND and OR with NOT moved down to the conditions, for compilers of filters.

``NOT (a AND b)`` is ``NOT a OR NOT b``, also if one of them is null, so each term comes with a
flag that says if it is negated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from .tree import And, Compare, Expr, In, Not, Or, Ref, Value

Word = Literal["AND", "OR"]

NEGATED_OPERATOR: Mapping[str, str] = MappingProxyType(
    {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
)


def word_of(expr: And | Or, negate: bool) -> Word:
    """Return the word that joins the terms of ``expr``, or of its negation."""
    return "AND" if isinstance(expr, And) is not negate else "OR"


def terms_of(expr: And | Or, negate: bool) -> Iterator[tuple[Expr, bool]]:
    """Yield the terms and whether each is negated; those joined by the same word are flattened."""
    word = word_of(expr, negate)
    for item in expr.items:
        negated = negate
        while isinstance(item, Not):
            item, negated = item.item, not negated
        if isinstance(item, (And, Or)) and word_of(item, negated) == word:
            yield from terms_of(item, negated)
        else:
            yield item, negated


def merged(
    word: Word, terms: Iterable[tuple[Expr, bool]], *, kind_of: Callable[[Value], Hashable]
) -> list[tuple[Expr, bool]]:
    """Merge comparisons of one field with several values into one IN or NOT IN.

    ``a = 1 OR a = 2`` is one IN. Values of one kind go together: those for which the IN is null
    exactly if each comparison is.
    """
    merged: list[tuple[Expr, bool]] = []
    places: dict[tuple[Ref, Hashable], int] = {}
    values: dict[int, list[Value]] = {}
    for term, negated in terms:
        if not isinstance(term, Compare) or term.op not in ("=", "!="):
            merged.append((term, negated))
            continue
        equal = (term.op == "=") is not negated
        if equal is not (word == "OR"):
            merged.append((term, negated))
            continue
        place = places.setdefault((term.ref, kind_of(term.value)), len(merged))
        if place == len(merged):
            merged.append((term, negated))
        values.setdefault(place, []).append(term.value)
    for place, several in values.items():
        if len(several) > 1:
            first = merged[place][0]
            if isinstance(first, Compare):
                merged[place] = In(first.ref, tuple(several)), word == "AND"
    return merged
