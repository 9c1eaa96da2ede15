"""Payload keys within lists of objects. Filters do not search these lists.

A condition on such a key is null. A filter that selects nothing for this reason is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from ..errors import FilterError
from .tree import And, EqualsList, Expr, IsNull, IsTrue, Not, Or, Ref, all_of, any_of, negated


class NestedKey:
    """A key within another payload key, in a filter.

    ``others`` are the terms of the user's filter that have no nested keys. Of the rows that satisfy
    ``others``, ``in_lists`` selects the rows with a list on the path to the key, and ``elsewhere``
    the rows with a value at the key.
    """

    def __init__(self, ref: Ref, others: Sequence[Expr]) -> None:
        self._ref = ref
        lists = (_is_list(Ref(ref.name, ref.path[:n])) for n in range(1, len(ref.path)))
        self.in_lists = all_of([*others, any_of(lists)])
        self.elsewhere = all_of([*others, negated(IsNull(ref))])

    def fault(self, payloads: Iterable[str]) -> str | None:
        """Return why the filter selects nothing, if a payload has the key within a list."""
        path = self._ref.path
        for payload in payloads:
            value, at = json.loads(payload), 0
            while at < len(path) and isinstance(value, dict):
                value, at = value.get(path[at]), at + 1
            if isinstance(value, list) and at < len(path) and _has(value, path[at:]):
                return (
                    f"the filter selects nothing: {Ref(self._ref.name, path[:at])} is a list of "
                    "objects, and filters do not look into those; store the values in a list of "
                    "their own, for CONTAINS, or each object as a row"
                )
        return None


def nested_keys(filters: Iterable[Expr], indexed: Collection[str]) -> list[NestedKey]:
    """Return the nested keys of filters, except indexed keys, whose values are not lists."""
    keys: dict[Ref, NestedKey] = {}
    for expr in filters:
        terms = expr.items if isinstance(expr, And) else (expr,)
        nested = [_nested(term, indexed) for term in terms]
        others = [term for term, refs in zip(terms, nested, strict=True) if not refs]
        for ref in chain.from_iterable(nested):
            if ref not in keys and len(keys) < 8:  # the table is read again for each of them
                with suppress(FilterError):  # the query would be too large
                    keys[ref] = NestedKey(ref, others)
    return [*keys.values()]


def _nested(expr: Expr, indexed: Collection[str]) -> list[Ref]:
    """Return the nested keys in a condition."""
    match expr:
        case And(items) | Or(items):
            return [ref for item in items for ref in _nested(item, indexed)]
        case Not(item) | IsTrue(item):
            return _nested(item, indexed)
    ref: Ref | None = getattr(expr, "ref", None)
    return [ref] if ref is not None and len(ref.path) > 1 and str(ref) not in indexed else []


def _is_list(ref: Ref) -> Expr:
    """Return a condition that is true for lists, and null for all other values."""
    empty = EqualsList(ref, ())
    return any_of([empty, negated(empty)])


def _has(value: Any, path: Sequence[str]) -> bool:
    """Return whether there is a value at a path, even within lists."""
    if isinstance(value, list):
        return any(_has(item, path) for item in value)
    if not path:
        return value is not None
    return isinstance(value, dict) and _has(value.get(path[0]), path[1:])
