"""Evaluate filters, orders and summaries row by row with SQL's meaning, to check the backends."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from aiovec.backend import (
    ANY_CHARACTER,
    ANY_TEXT,
    And,
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    In,
    IsNull,
    IsTrue,
    Like,
    Not,
    Or,
    Ref,
    StartsWith,
    Value,
    fold_case,
)
from aiovec.backend.contract import Order

Values = Callable[[Ref], object]
"""Returns the value of a row for a field, the id, or a key of the payload."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_Row = TypeVar("_Row")


def truth(expr: Expr, values: Values) -> bool | None:
    """Return whether a row matches a filter; None if the filter is neither true nor false."""
    given: object
    match expr:
        case Const(value):
            return value
        case And(items):
            return _all(truth(item, values) for item in items)
        case Or(items):
            return _not(_all(_not(truth(item, values)) for item in items))
        case Not(item):
            return _not(truth(item, values))
        case IsTrue(item):
            return truth(item, values) is True
        case IsNull(ref):
            return values(ref) is None
        case Compare(ref, op, literal):
            given = values(ref)
            return _OPERATORS[op](given, literal) if _comparable(given, literal) else None
        case In(ref, literals):
            given = values(ref)
            return _not(_all(_not(_equal(given, literal)) for literal in literals))
        case Like(ref, pattern, ignore_case):
            given = values(ref)
            return _like(given, pattern, ignore_case) if isinstance(given, str) else None
        case StartsWith(ref, prefix):
            given = values(ref)
            return given.startswith(prefix) if isinstance(given, str) else None
        case Contains(ref, literal):
            given = values(ref)
            if not isinstance(given, list):
                return None
            return any(_equal(item, literal) for item in given)
        case EqualsList(ref, literals):
            given = values(ref)
            if not isinstance(given, list):
                return None
            return len(given) == len(literals) and all(map(_equal, given, literals))
    raise TypeError(f"{expr!r} is not a condition")


def within(payload: object, path: Sequence[str]) -> object:
    """Return the value at a path in a payload, or None if there is none."""
    for key in path:
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload


def in_order(
    rows: Iterable[_Row], order_by: Sequence[Order], value: Callable[[_Row, Ref], object]
) -> list[_Row]:
    """Return the rows in the order of ``Find``. ``value`` returns a row's value for a field."""
    ordered = list(rows)
    # Sort by the last key first: a stable sort keeps the order of rows with equal values.
    for order in reversed(order_by):
        keyed = [(_sort_key(value(row, order.ref)), row) for row in ordered]
        valued = [(key, row) for key, row in keyed if key is not None]
        valued.sort(key=lambda pair: pair[0], reverse=order.descending)
        ordered = [row for _, row in valued] + [row for key, row in keyed if key is None]
    return ordered


def counted(
    rows: Iterable[_Row], ref: Ref, value: Callable[[_Row, Ref], object]
) -> list[tuple[Value, int]]:
    """Return the values and their counts as the call ``Values`` returns them."""
    counts: dict[tuple[int, Any], tuple[Any, int]] = {}
    for row in rows:
        given = value(row, ref)
        items = given if isinstance(given, list) else [given]
        for key, item in {_sort_key(item): item for item in items}.items():
            if key is not None:
                before, count = counts.get(key, (item, 0))
                # An int counts for itself and for floats that are equal to it.
                counts[key] = before if isinstance(before, int) else item, count + 1
    return [counts[key] for key in sorted(counts, key=lambda key: (-counts[key][1], key))]


def ends_of(
    rows: Iterable[_Row], ref: Ref, value: Callable[[_Row, Ref], object]
) -> tuple[Value, Value] | None:
    """Return the smallest and the largest value, as the call ``Bounds`` returns them."""
    keyed = [(_sort_key(given), given) for given in (value(row, ref) for row in rows)]
    valued: list[Any] = [pair for pair in keyed if pair[0] is not None]
    if not valued:
        return None
    least, greatest = (end(valued, key=lambda pair: pair[0]) for end in (min, max))
    return least[1], greatest[1]


def _sort_key(value: object) -> tuple[int, Any] | None:
    if isinstance(value, bool):
        return 2, value
    if isinstance(value, (int, float)):
        return 0, value
    if isinstance(value, str):
        return 1, value
    return (0, value) if isinstance(value, datetime) else None


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _all(truths: Iterable[bool | None]) -> bool | None:
    given = set(truths)
    if False in given:
        return False
    return None if None in given else True


def _comparable(value: object, literal: object) -> bool:
    """Return whether a value and a literal have the same type, or are both numbers."""
    kinds, literal_kinds = (
        (int, float) if isinstance(of, (int, float)) and not isinstance(of, bool) else (type(of),)
        for of in (value, literal)
    )
    return kinds == literal_kinds


def _equal(value: object, literal: object) -> bool | None:
    return value == literal if _comparable(value, literal) else None


def _like(text: str, pattern: str, ignore_case: bool) -> bool:
    if ignore_case:
        text, pattern = fold_case(text), fold_case(pattern)
    return _matches(text, pattern)


def _matches(text: str, parts: Sequence[str]) -> bool:
    """Match from the left; after a mismatch, let the last ``%`` take one more character."""
    at = place = 0
    last, resume = -1, 0
    while at < len(text):
        if place < len(parts) and parts[place] == ANY_TEXT:
            last, resume = place, at
            place += 1
        elif place < len(parts) and parts[place] in (text[at], ANY_CHARACTER):
            at, place = at + 1, place + 1
        elif last >= 0:
            resume += 1
            at, place = resume, last + 1
        else:
            return False
    return all(part == ANY_TEXT for part in parts[place:])
