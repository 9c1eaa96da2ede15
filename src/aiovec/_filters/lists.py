"""Payload keys within the objects of a list, which filters do not search.

A condition on such a key is null. A filter that selects nothing for this reason is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ..errors import FilterError
from .tree import (
    And,
    EqualsList,
    Expr,
    IsNull,
    IsTrue,
    Not,
    Or,
    Ref,
    all_of,
    any_of,
    negated,
    word_of,
)

_MOST_KEYS = 8  # the table is read again for each of them


class NestedKey:
    """A key within another payload key, in a filter.

    Both select rows that satisfy the other conditions of the filter: ``in_lists`` those with a list
    on the path to the key, ``beside`` those with a value at the key.
    """

    def __init__(self, expr: Expr, ref: Ref) -> None:
        self._ref = ref
        lists = [_is_list(Ref(ref.name, ref.path[:n])) for n in range(1, len(ref.path))]
        self.in_lists: Expr | None = _only(expr, ref, any_of(lists))
        self.beside: Expr | None = _only(expr, ref, negated(IsNull(ref)))

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
        waiting = [expr]
        while waiting and len(keys) < _MOST_KEYS:
            item = waiting.pop()
            if isinstance(item, (And, Or)):
                waiting += item.items
            elif isinstance(item, (Not, IsTrue)):
                waiting.append(item.item)
            elif len((ref := getattr(item, "ref", _NOTHING)).path) > 1 and str(ref) not in indexed:
                with suppress(FilterError):  # the query would be too large
                    keys[ref] = keys.get(ref) or NestedKey(expr, ref)
    return [*keys.values()]


_NOTHING = Ref("")


def _only(expr: Expr, ref: Ref, instead: Expr, *, negate: bool = False) -> Expr | None:
    """Return a filter, or its negation, with ``instead`` of each condition on the payload key
    ``ref``, and without those on other keys; None if nothing is left."""
    match expr:
        case Not(item) | IsTrue(item):
            return _only(item, ref, instead, negate=negate is not isinstance(expr, Not))
        case And(items) | Or(items):
            parts = [_only(item, ref, instead, negate=negate) for item in items]
            kept = [part for part in parts if part is not None]
            join = all_of if word_of(expr, negate) == "AND" else any_of
            return join(kept) if kept else None
    key = getattr(expr, "ref", None)
    if key is not None and key.path:
        return instead if key == ref else None
    return negated(expr) if negate else expr


def _is_list(ref: Ref) -> Expr:
    """Return a condition that is true for lists, and null for all other values."""
    empty = EqualsList(ref, ())
    return any_of([empty, negated(empty)])


def _has(value: Any, path: Sequence[str]) -> bool:
    """Return whether there is a value at a path, also within lists."""
    if isinstance(value, list):
        return any(_has(item, path) for item in value)
    if not path:
        return value is not None
    return isinstance(value, dict) and _has(value.get(path[0]), path[1:])
