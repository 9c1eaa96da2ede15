"""A filter against a schema: every name known, every literal of its field's type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NoReturn

from .._core.schema import Kind, Schema
from ..errors import FilterError
from . import text as words
from .parser import Place, parse_with_places
from .tree import (
    MAX_NAMES,
    And,
    Combinable,
    Compare,
    Const,
    Contains,
    Expr,
    In,
    IsNull,
    Like,
    Not,
    Operator,
    Or,
    Ref,
    StartsWith,
    Value,
    all_of,
    any_of,
    negated,
)

_EXPECTED: dict[str, str] = {
    "text": "text",
    "int": "a number",
    "float": "a number",
    "bool": "TRUE or FALSE",
    "datetime": "a time: TIMESTAMP '...Z' in text, a datetime with a time zone in Python",
    "payload": "text, a number, TRUE or FALSE",
}
_MOST_LISTED = 50


def bind(where: object, schema: Schema) -> Expr | None:
    """The tree that ``where`` means for tables of ``schema``; None where it is None.

    ``where`` is an expression of ``F``, filter text, or a tree. In the tree that comes back every
    name is known, every literal has exactly its field's type (on a payload key: its own), and
    conditions that mean the same have one form: an IN holds two or more values, on a payload key of
    one type, and a LIKE has a wildcard before its end. Raises FilterError, with the position where
    ``where`` is text.
    """
    if where is None:
        return None
    if isinstance(where, Combinable):
        return _Binder(schema, None, {}).bind(where.as_condition())
    parsed = parse_with_places(where)
    return _Binder(schema, parsed.text, parsed.places).bind(parsed.expr)


class _Binder:
    def __init__(self, schema: Schema, text: str | None, places: Mapping[Expr, Place]) -> None:
        self._schema = schema
        self._text = text
        self._places = places

    def bind(self, expr: Expr) -> Expr:
        match expr:
            case And(items):
                return all_of([self.bind(item) for item in items])
            case Or(items):
                return any_of([self.bind(item) for item in items])
            case Not(item):
                return negated(self.bind(item))
            case Compare(ref, op, value):
                return self._compare(expr, ref, op, value)
            case In(ref, values):
                return self._in(expr, ref, values)
            case IsNull(ref):
                self._kind(expr, ref)
                return expr
            case Like(ref, pattern):
                self._need_text(expr, ref, "LIKE")
                return _simplest_like(ref, pattern)
            case StartsWith(ref):
                self._need_text(expr, ref, "STARTSWITH")
                return expr
            case Contains(ref, value):
                return self._contains(expr, ref, value)
            case Const():
                return expr
        raise FilterError(f"{words.shown(expr)} is not a condition of aiovec")

    def _compare(self, leaf: Expr, ref: Ref, op: Operator, value: Value) -> Expr:
        kind = self._kind(leaf, ref)
        self._check_value(leaf, ref, kind, value)
        if isinstance(value, bool) and op not in ("=", "!="):
            self._fail(leaf, f"TRUE and FALSE have no order, so {op} does not apply", "= or !=", 0)
        if kind == "int" and isinstance(value, float):
            return _compare_int(ref, op, value)
        if kind == "float" and isinstance(value, int):
            return _compare_float(ref, op, value)
        return leaf

    def _in(self, leaf: Expr, ref: Ref, values: tuple[Value, ...]) -> Expr:
        kind = self._kind(leaf, ref)
        kept: dict[tuple[type, Value], Value] = {}
        for index, value in enumerate(values):
            self._check_value(leaf, ref, kind, value, index)
            fitting: Value | None = value
            if kind == "int" and isinstance(value, float):
                fitting = int(value) if value.is_integer() and _fits(int(value)) else None
            elif kind == "float" and isinstance(value, int):
                fitting = float(value) if int(float(value)) == value else None
            if fitting is not None:
                kept.setdefault((type(fitting), fitting), fitting)
        if not kept:
            return _never(ref, kind)
        # IN is the OR of its equalities. On a payload key, those with a literal of another type
        # than the value are null, so literals of each type stand apart.
        alike: dict[str, list[Value]] = {}
        for value in kept.values():
            alike.setdefault(_type_of(value), []).append(value)
        return any_of([_one_of(ref, several) for several in alike.values()])

    def _contains(self, leaf: Expr, ref: Ref, value: Value) -> Expr:
        kind = self._kind(leaf, ref)
        if kind == "payload":
            self._check_value(leaf, ref, kind, value)
        elif kind != "list[text]":
            self._fail(leaf, f"{ref} is {kind}; CONTAINS applies to lists", "a field of lists")
        elif not isinstance(value, str):
            self._fail(leaf, f"{ref} holds lists of text", "text", 0)
        return leaf

    def _check_value(
        self, leaf: Expr, ref: Ref, kind: Kind | Literal["payload"], value: Value, index: int = 0
    ) -> None:
        if kind == "list[text]":
            self._fail(
                leaf, f"{ref} is a list, which is not compared as a whole", "CONTAINS or IS NULL"
            )
        fits: bool
        match value:
            case bool():
                fits = kind in ("bool", "payload")
            case str():
                fits = kind in ("text", "payload")
            case int() | float():
                fits = kind in ("int", "float", "payload")
            case _:
                fits = kind == "datetime"
        if not fits:
            what = "a payload key" if kind == "payload" else kind
            self._fail(
                leaf,
                f"{ref} is {what}, which is not compared with {words.shown(_literal(value))}",
                _EXPECTED[kind],
                index,
            )

    def _need_text(self, leaf: Expr, ref: Ref, what: str) -> None:
        kind = self._kind(leaf, ref)
        if kind not in ("text", "payload"):
            self._fail(leaf, f"{ref} is {kind}; {what} applies to text", "a field of text")

    def _kind(self, leaf: Expr, ref: Ref) -> Kind | Literal["payload"]:
        schema = self._schema
        if ref.name == "payload" and schema.payload:
            if not ref.path:
                self._fail(leaf, "the payload as a whole cannot be filtered", "payload.<key>")
            if len(ref.path) > MAX_NAMES:
                self._fail(
                    leaf,
                    f"a payload key of {len(ref.path):,} names is deeper than filters go",
                    f"at most {MAX_NAMES} names",
                )
            return "payload"
        if ref.name == schema.vector:
            self._fail(leaf, f"{ref} is the vector, which cannot be filtered", self._names())
        field = schema.fields.get(ref.name)
        if field is None and ref.name != "id":
            self._fail(leaf, f"there is no field {words.shown(ref.name)}", self._names())
        if ref.path:
            self._fail(leaf, f"{words.name(ref.name)} has no keys within it", self._names())
        return "text" if field is None else field.kind

    def _names(self) -> str:
        names = ["id", *self._schema.fields]
        if len(names) > _MOST_LISTED:
            names[_MOST_LISTED:] = [f"{len(names) - _MOST_LISTED} more"]
        if self._schema.payload:
            names.append("payload.<key>")
        return "one of " + ", ".join(names)

    def _fail(self, leaf: Expr, message: str, expected: str, value: int | None = None) -> NoReturn:
        place = self._places.get(leaf)
        position = None
        if place is not None:
            position = place.field if value is None else place.values[value]
        raise FilterError(message, text=self._text, position=position, expected=expected)


def _literal(value: Value) -> Value:
    """Return a literal as errors show it: a datetime as the text it stands for."""
    return value.isoformat() if isinstance(value, datetime) else value


def _fits(number: int) -> bool:
    return words.MIN_INT <= number <= words.MAX_INT


def _never(ref: Ref, kind: str) -> Expr:
    """False for every value, null for null."""
    if kind == "int":
        return Compare(ref, "<", words.MIN_INT)
    return all_of((Compare(ref, "<", 0.0), Compare(ref, ">=", 0.0)))


def _always(ref: Ref, kind: str) -> Expr:
    """True for every value, null for null."""
    if kind == "int":
        return Compare(ref, ">=", words.MIN_INT)
    return any_of((Compare(ref, "<", 0.0), Compare(ref, ">=", 0.0)))


def _compare_int(ref: Ref, op: Operator, value: float) -> Expr:
    """An int field against a fraction: the same truth, told with an int."""
    below, above = math.floor(value), math.ceil(value)
    match op:
        case "=" | "!=":
            if below == above and _fits(below):
                return Compare(ref, op, below)
            return _never(ref, "int") if op == "=" else _always(ref, "int")
        case "<" | ">=":
            bound = above
        case "<=" | ">":
            bound = below
    if _fits(bound):
        return Compare(ref, op, bound)
    return _always(ref, "int") if (bound > 0) == (op in ("<", "<=")) else _never(ref, "int")


def _compare_float(ref: Ref, op: Operator, value: int) -> Expr:
    """A float field against an int: the same truth, told with a float.

    Above 2**53 not every int is a float; then the floats on both sides of it say the same.
    """
    near = float(value)
    if int(near) == value:
        return Compare(ref, op, near)
    low, high = (
        (near, math.nextafter(near, math.inf))
        if near < value
        else (math.nextafter(near, -math.inf), near)
    )
    match op:
        case "=":
            return _never(ref, "float")
        case "!=":
            return _always(ref, "float")
        case "<" | "<=":
            return Compare(ref, "<=", low)
        case ">" | ">=":
            return Compare(ref, ">=", high)


def _type_of(value: Value) -> str:
    """Return the test of whether a payload's value compares with this one."""
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _one_of(ref: Ref, values: list[Value]) -> Expr:
    return In(ref, tuple(values)) if len(values) > 1 else Compare(ref, "=", values[0])


def _simplest_like(ref: Ref, pattern: str) -> Expr:
    body = pattern.rstrip("%")
    if "%" in body or "_" in body:
        return Like(ref, pattern)
    return Compare(ref, "=", body) if body == pattern else StartsWith(ref, body)
