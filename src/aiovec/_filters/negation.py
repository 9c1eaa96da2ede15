"""The terms of AND and OR with NOT moved down to the conditions, for compilers of filters.

``NOT (a AND b)`` is ``NOT a OR NOT b``, also if one of them is null, so each term comes with a
flag that says if it is negated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, cast

from .tree import And, Compare, Expr, In, Not, Or, Value

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
    groups: dict[Hashable, list[tuple[Expr, bool]]] = {}
    for n, (term, negated) in enumerate(terms):
        key: Hashable = n  # alone
        if isinstance(term, Compare) and term.op in ("=", "!="):
            equal = (term.op == "=") is not negated
            if equal is (word == "OR"):
                key = term.ref, kind_of(term.value)
        groups.setdefault(key, []).append((term, negated))
    return [
        group[0] if len(group) == 1 else (_in([term for term, _ in group]), word == "AND")
        for group in groups.values()
    ]


def _in(terms: Sequence[Expr]) -> In:
    comparisons = cast("Sequence[Compare]", terms)
    return In(comparisons[0].ref, tuple(term.value for term in comparisons))
