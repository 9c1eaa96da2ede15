"""Filters evaluated over Arrow: the yardstick for the backends."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from aiovec import Schema
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
    Order,
    Ref,
    StartsWith,
    Value,
    fold_case,
    python_values,
)

_ON_ARROW: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_ON_PYTHON: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def evaluate(expr: Expr, table: pa.Table, schema: Schema) -> pa.BooleanArray:
    """For each row of ``table``: true, false, or null where the filter is neither.

    ``expr`` is a tree that ``bind`` gave, ``table`` has the layout of ``schema.to_arrow()``; the
    vector's column may be missing.
    """
    return _Evaluation(table, schema).of(expr)


_Row = TypeVar("_Row")


def in_order(
    rows: Iterable[_Row], order_by: Sequence[Order], value: Callable[[_Row, Ref], object]
) -> list[_Row]:
    """The rows as ``Backend.find`` sorts them. ``value`` gives a row's value for a key."""
    ordered = list(rows)
    # A stable sort keeps rows that are equal in one key in the order of the keys behind it.
    for order in reversed(order_by):
        keyed = [(_sort_key(value(row, order.ref)), row) for row in ordered]
        there = [(key, row) for key, row in keyed if key is not None]
        there.sort(key=lambda pair: pair[0], reverse=order.descending)
        ordered = [row for _, row in there] + [row for key, row in keyed if key is None]
    return ordered


def counted(
    rows: Iterable[_Row], ref: Ref, value: Callable[[_Row, Ref], object]
) -> list[tuple[Value, int]]:
    """The values and their counts as ``Backend.value_counts`` gives them."""
    counts: dict[tuple[int, Any], tuple[Any, int]] = {}
    for row in rows:
        found = value(row, ref)
        items = found if isinstance(found, list) and not ref.path else [found]
        for key, item in {_sort_key(item): item for item in items}.items():
            if key is not None:
                before, count = counts.get(key, (item, 0))
                # An int stands for itself and for the floats that equal it.
                counts[key] = before if isinstance(before, int) else item, count + 1
    return [counts[key] for key in sorted(counts, key=lambda key: (-counts[key][1], key))]


def ends_of(
    rows: Iterable[_Row], ref: Ref, value: Callable[[_Row, Ref], object]
) -> tuple[Value, Value] | None:
    """The first and the last value as ``Backend.bounds`` gives them."""
    keyed = [(_sort_key(found), found) for found in (value(row, ref) for row in rows)]
    there: list[Any] = [pair for pair in keyed if pair[0] is not None]
    if not there:
        return None
    least, greatest = (end(there, key=lambda pair: pair[0]) for end in (min, max))
    return least[1], greatest[1]


def value_in(row: Mapping[str, Any], ref: Ref) -> object:
    """The value in a row as Arrow gives it, with the payload as JSON text."""
    if not ref.path:
        return row[ref.name]
    at: object = json.loads(row["payload"] or "{}")
    for key in ref.path:
        at = at.get(key) if isinstance(at, dict) else None
    return at


def _sort_key(value: object) -> tuple[int, Any] | None:
    if isinstance(value, bool):
        return 2, value
    if isinstance(value, (int, float)):
        return 0, value
    if isinstance(value, str):
        return 1, value
    return (0, value) if isinstance(value, datetime) else None


class _Evaluation:
    def __init__(self, table: pa.Table, schema: Schema) -> None:
        self._table = table
        self._payloads: list[dict[str, Any]] = (
            [json.loads(text) if text else {} for text in self._column("payload").to_pylist()]
            if schema.payload and "payload" in table.column_names
            else [{}] * table.num_rows
        )

    def of(self, expr: Expr) -> pa.BooleanArray:
        match expr:
            case Const(value):
                return pa.array([value] * self._table.num_rows, pa.bool_())
            case And(items):
                return self._folded(pc.and_kleene, items)
            case Or(items):
                return self._folded(pc.or_kleene, items)
            case Not(item):
                return pc.invert(self.of(item))
            case IsNull(ref):
                if ref.path:
                    return _truths(value is None for value in self._payload(ref))
                return pc.is_null(self._column(ref.name))
            case Compare(ref, op, value):
                return self._compare(ref, op, value)
            case In(ref, values):
                return self._in(ref, values)
            case IsTrue(item):
                return pc.fill_null(self.of(item), False)
            case Like(ref):
                return self._match(ref, _regex(expr.marked, expr.ignore_case), expr.ignore_case)
            case StartsWith(ref, prefix):
                return self._match(ref, _escaped(prefix) + ".*")
            case EqualsList(ref, values):
                return self._equals_list(ref, values)
            case Contains(ref, value):
                return self._contains(ref, value)
        raise TypeError(f"{expr!r} is not a bound condition")

    def _folded(
        self, combine: Callable[[Any, Any], pa.BooleanArray], items: Iterable[Expr]
    ) -> pa.BooleanArray:
        first, *others = items
        result = self.of(first)
        for other in others:
            result = combine(result, self.of(other))
        return result

    def _compare(self, ref: Ref, op: str, literal: Value) -> pa.BooleanArray:
        if not ref.path:
            column = self._column(ref.name)
            truths: pa.BooleanArray = _ON_ARROW[op](column, pa.scalar(literal, column.type))
            return truths
        # Not in Arrow, which would compare ints with floats as floats.
        return _truths(
            _ON_PYTHON[op](value, literal) if _same_type(value, literal) else None
            for value in self._payload(ref)
        )

    def _in(self, ref: Ref, literals: tuple[Value, ...]) -> pa.BooleanArray:
        if not ref.path:
            wanted = set(literals)
            return _truths(
                None if value is None else value in wanted
                for value in python_values(self._column(ref.name))
            )
        return _truths(self._in_payload(value, literals) for value in self._payload(ref))

    def _in_payload(self, value: object, literals: tuple[Value, ...]) -> bool | None:
        comparable = [literal for literal in literals if _same_type(value, literal)]
        if value in comparable:
            return True
        return False if len(comparable) == len(literals) else None

    def _match(self, ref: Ref, regex: str, folded: bool = False) -> pa.BooleanArray:
        """Return whether the whole text matches; RE2 counts code points, as LIKE does."""
        texts = (
            pa.array([v if isinstance(v, str) else None for v in self._payload(ref)], pa.utf8())
            if ref.path
            else self._column(ref.name)
        )
        if folded:
            folds = [None if text is None else fold_case(text) for text in texts.to_pylist()]
            texts = pa.array(folds, pa.utf8())
        return pc.match_substring_regex(texts, rf"(?s)\A{regex}\z")

    def _equals_list(self, ref: Ref, literals: tuple[Value, ...]) -> pa.BooleanArray:
        lists = self._payload(ref) if ref.path else self._column(ref.name).to_pylist()
        return _truths(
            len(value) == len(literals)
            and all(
                _same_type(item, literal) and item == literal
                for item, literal in zip(value, literals, strict=True)
            )
            if isinstance(value, list)
            else None
            for value in lists
        )

    def _contains(self, ref: Ref, literal: Value) -> pa.BooleanArray:
        lists = self._payload(ref) if ref.path else self._column(ref.name).to_pylist()
        return _truths(
            any(_same_type(item, literal) and item == literal for item in value)
            if isinstance(value, list)
            else None
            for value in lists
        )

    def _payload(self, ref: Ref) -> list[Any]:
        found = []
        for value in self._payloads:
            at: Any = value
            for key in ref.path:
                at = at.get(key) if isinstance(at, dict) else None
            found.append(at)
        return found

    def _column(self, name: str) -> pa.Array[Any]:
        column = self._table.column(name).combine_chunks()
        return column.storage if isinstance(column, pa.ExtensionArray) else column


def _truths(values: Iterable[bool | None]) -> pa.BooleanArray:
    return pa.array(list(values), pa.bool_())


def _same_type(value: object, literal: Value) -> bool:
    """Return whether a payload's value can be compared with ``literal``; ints and floats can."""
    if isinstance(value, bool) or isinstance(literal, bool):
        return isinstance(value, bool) and isinstance(literal, bool)
    if isinstance(value, (int, float)):
        return isinstance(literal, (int, float))
    return isinstance(value, str) and isinstance(literal, str)


def _escaped(text: str) -> str:
    return "".join(rf"\x{{{ord(character):x}}}" for character in text)


def _regex(pattern: str, ignore_case: bool) -> str:
    wildcards = {ANY_TEXT: ".*", ANY_CHARACTER: "."}
    literal = fold_case(pattern) if ignore_case else pattern
    return "".join(wildcards.get(character) or _escaped(character) for character in literal)
