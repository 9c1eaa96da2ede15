"""Checks that the names in a filter exist, and that its literals have their fields' types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NoReturn

from .._model.kinds import KINDS, Kind
from .._model.schema import Schema
from .._tools.messages import did_you_mean, listed, shown
from ..errors import FilterError
from . import literals, patterns
from .operators import F
from .parser import where as parsed
from .tree import (
    MAX_NAMES,
    And,
    Combinable,
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
    Operator,
    Or,
    Ref,
    StartsWith,
    Value,
    all_of,
    any_of,
    is_true,
    negated,
    one_of,
)

_NUMBERS = ("int", "float")
# The most characters of an ILIKE pattern, and the most items of a list compared as a whole. LanceDB
# gets both as regular expressions, which it must compile.
_LONGEST_REGEX = 1_000


def bind(where: object, schema: Schema) -> Expr | None:
    """Return the tree of ``where`` for tables of ``schema``; None if ``where`` is None.

    ``where`` is an expression of ``F``, filter text, a tree, a mapping (equality), or a list of
    these (AND). An empty mapping or list selects every row, as None does.

    In the returned tree, every field exists, and every literal has exactly its field's type; a
    literal compared with a payload key keeps its own type. Equivalent conditions have one form: an
    IN has two or more distinct values, for a payload key all of one type, and a LIKE has a wildcard
    before its end.

    Raises FilterError, which has the position of the condition if it was parsed from text.
    """
    if where is None:
        return None
    if isinstance(where, Mapping):
        where = [_equal(name, value) for name, value in where.items()]
    if isinstance(where, (list, tuple)):
        for each in where:
            if isinstance(each, (list, tuple)):
                fault = "a list of filters must not contain another list, such as"
                raise FilterError(f"{fault} {shown(each)}")
        terms = [term for each in where if (term := bind(each, schema)) is not None]
        return all_of(terms) if terms else None
    if isinstance(where, Combinable):
        return _Binder(schema).bind(where.as_condition())
    return _Binder(schema).bind(parsed(where))  # type: ignore[arg-type]


def _equal(name: str, value: Any) -> Expr:
    """Return the condition for one entry of a mapping."""
    field = F[name]
    several = value if isinstance(value, (list, tuple)) else [value]
    if name.startswith("$") or any(isinstance(each, Mapping) for each in several):
        given = shown(name if name.startswith("$") else {name: value})
        store = "Qdrant" if name in ("must", "should", "must_not", "filter") else "MongoDB"
        raise FilterError(
            f'{given} has the filter syntax of {store}; write text such as "year >= 2020 AND '
            "lang = 'en'\", or an expression of F"
        )
    matches: Expr
    if not isinstance(value, (list, tuple, set, frozenset)):
        matches = field == value
        return matches
    values = [each for each in value if each is not None]
    matches = field.in_(values)
    return matches if len(values) == len(value) else any_of([matches, field.is_null()])


class _Binder:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def bind(self, expr: Expr) -> Expr:
        match expr:
            case And(items):
                return all_of([self.bind(item) for item in items])
            case Or(items):
                return any_of([self.bind(item) for item in items])
            case Not(item):
                return negated(self.bind(item))
            case IsTrue(item):
                return is_true(self.bind(item))
            case Compare(ref, op, value):
                return self._compare(expr, ref, op, value)
            case In(ref, values):
                return self._in(expr, ref, values)
            case IsNull(ref):
                if ref == Ref(self._schema.vector):
                    return expr if self._schema.vector_nullable else Const(False)
                self._kind(expr, ref)
                return expr
            case Like(ref):
                return self._like(expr, ref)
            case StartsWith(ref):
                self._need_text(expr, ref, "STARTSWITH")
                return expr
            case Contains(ref, value):
                return self._contains(expr, ref, value)
            case EqualsList(ref, values):
                return self._equals_list(expr, ref, values)
            case Const():
                return expr
        raise FilterError(f"{shown(expr)} is not a condition of aiovec")

    def _compare(self, leaf: Expr, ref: Ref, op: Operator, value: Value) -> Expr:
        kind = self._kind(leaf, ref)
        written, is_equality = value, op in ("=", "!=")
        value = _as_stored(ref, kind, value, equality=is_equality)
        self._check_value(leaf, ref, kind, value)
        if isinstance(value, bool) and not is_equality:
            self._fail(leaf, f"TRUE and FALSE have no order, so {op} does not apply", "= or !=", 0)
        if kind == "int" and isinstance(value, float):
            return _compare_int(ref, op, value)
        if kind == "float" and isinstance(value, int):
            return _compare_float(ref, op, value)
        return leaf if value is written else Compare(ref, op, value)

    def _in(self, leaf: Expr, ref: Ref, values: tuple[Value, ...]) -> Expr:
        kind = self._kind(leaf, ref)
        # IN is the OR of its equalities. On a payload key, an equality is null if the types of the
        # literal and the value differ, so the literals of each type make one IN.
        by_kind: dict[str, list[Value]] = {}
        for index, each in enumerate(values):
            value = _as_stored(ref, kind, each)
            self._check_value(leaf, ref, kind, value, index)
            if (number := _in_kind(value, kind)) is not None:
                by_kind.setdefault(_kind_of(number).replace("float", "int"), []).append(number)
        if not by_kind:
            return _all(ref, kind, False)
        return any_of([one_of(ref, several) for several in by_kind.values()])

    def _like(self, leaf: Like, ref: Ref) -> Expr:
        self._need_text(leaf, ref, "ILIKE" if leaf.ignore_case else "LIKE")
        if leaf.ignore_case and len(leaf.pattern) > _LONGEST_REGEX:
            fault = f"an ILIKE pattern of {len(leaf.pattern):,} characters is too long"
            self._fail(leaf, fault, f"at most {_LONGEST_REGEX:,} characters", 0)
        return _simplest_like(ref, leaf.pattern, ignore_case=leaf.ignore_case)

    def _contains(self, leaf: Expr, ref: Ref, value: Value) -> Expr:
        kind = self._list_kind(leaf, ref, "CONTAINS")
        item = self._item(leaf, ref, kind, value, 0)
        return _no_list(ref) if item is None else Contains(ref, item)

    def _equals_list(self, leaf: Expr, ref: Ref, values: tuple[Value, ...]) -> Expr:
        kind = self._list_kind(leaf, ref, "a comparison with a list" if values else "IS EMPTY")
        if len(values) > _LONGEST_REGEX:
            fault = f"a list of {len(values):,} items is too long to be compared"
            self._fail(leaf, fault, f"at most {_LONGEST_REGEX:,} items", 0)
        items = [self._item(leaf, ref, kind, value, index) for index, value in enumerate(values)]
        possible = tuple(item for item in items if item is not None)
        return EqualsList(ref, possible) if len(possible) == len(items) else _no_list(ref)

    def _list_kind(self, leaf: Expr, ref: Ref, operation: str) -> Kind | Literal["payload"]:
        kind = self._kind(leaf, ref)
        if kind != "payload" and not kind.startswith("list["):
            fault = f"{ref} is {kind}; {operation} applies to lists"
            method = (
                "CONTAINS_TEXT or LIKE" if hasattr(leaf, "source") else f"F.{ref}.contains_text()"
            )
            other = f", or for text {method}" if kind == "text" else ""
            self._fail(leaf, fault, f"a field of lists{other}")
        return kind

    def _item(
        self, leaf: Expr, ref: Ref, kind: Kind | Literal["payload"], value: Value, index: int
    ) -> Value | None:
        """Return the literal as an item of a list field; None if no item can equal the literal."""
        if kind == "payload":
            value = _as_stored(ref, kind, value)
            self._check_value(leaf, ref, kind, value, index)
            return value
        item_kind = KINDS[kind].single
        if not _fits_kind(value, item_kind.name):
            self._fail(leaf, f"{ref} holds lists of {item_kind.name}", item_kind.literal, index)
        item = _in_kind(value, item_kind.name)
        # A list on LanceDB holds no negative zero.
        return item + 0.0 if isinstance(item, float) else item

    def _check_value(
        self, leaf: Expr, ref: Ref, kind: Kind | Literal["payload"], value: Value, index: int = 0
    ) -> None:
        if kind.startswith("list["):
            fault = f"{ref} is a list, which can be compared with lists only"
            self._fail(leaf, fault, f"{ref} = [...], IS EMPTY, CONTAINS or IS NULL")
        if not _fits_kind(value, kind):
            positions = getattr(leaf, "source", (None, ()))[1]
            # A field without an operator, as in "year AND live".
            if value is True and positions and positions[0] == positions[-1]:
                fault = f"{ref} is {kind}, and only a bool field is a condition by itself"
                self._fail(leaf, fault, f"a comparison, such as {ref} IS NOT NULL")
            operand, expected = "a payload key", "text, a number, TRUE or FALSE"
            if kind != "payload":
                operand, expected = kind, KINDS[kind].literal
            literal = shown(value.isoformat() if isinstance(value, datetime) else value)
            fault = f"{ref} is {operand}, which cannot be compared with {literal}"
            self._fail(leaf, fault, expected, index)

    def _need_text(self, leaf: Expr, ref: Ref, operation: str) -> None:
        kind = self._kind(leaf, ref)
        if kind not in ("text", "payload"):
            self._fail(leaf, f"{ref} is {kind}; {operation} applies to text", "a field of text")

    def _kind(self, leaf: Expr, ref: Ref) -> Kind | Literal["payload"]:
        schema = self._schema
        if ref.name == "payload" and schema.payload:
            if not ref.path:
                self._fail(leaf, "the payload as a whole cannot be filtered", "payload.<key>")
            if len(ref.path) > MAX_NAMES:
                fault = f"a payload key of {len(ref.path):,} names is too deep for a filter"
                self._fail(leaf, fault, f"at most {MAX_NAMES} names")
            return "payload"
        if ref.name == schema.vector:
            self._fail(leaf, f"{ref} is the vector", f"{ref} IS NULL, or {self._names()}")
        field = schema.fields.get(ref.name)
        if field is None and ref.name != "id":
            fields = [*schema.fields]
            # Do not take a payload key such as "kind" for a misspelt "id".
            means_id = ref.name.lstrip("_").lower() == "id"
            hint = did_you_mean("id" if means_id else ref.name, ["id"] if means_id else fields)
            if schema.payload and not hint:
                hint = f"; did you mean {Ref('payload', (ref.name, *ref.path))}?"
            hint = f" ({hint.removeprefix('; ')})" if hint else ""
            self._fail(leaf, f"there is no field {shown(ref.name)}{hint}", self._names())
        if ref.path:
            self._fail(leaf, f"{literals.name(ref.name)} has no keys within it", self._names())
        return "text" if field is None else field.kind

    def _names(self) -> str:
        payload = ["payload.<key>"] if self._schema.payload else []
        return f"one of {listed(['id', *self._schema.fields], *payload)}"

    def _fail(self, leaf: Expr, message: str, expected: str, value: int | None = None) -> NoReturn:
        text, positions = getattr(leaf, "source", (None, ()))
        position = positions[0 if value is None else 1 + value] if positions else None
        raise FilterError(message, text=text, position=position, expected=expected)


def _in_kind(value: Value, kind: str) -> Value | None:
    """Return a literal converted to the type of ``kind``; None if no value of that type equals
    it."""
    if kind == "int" and isinstance(value, float):
        return int(value) if value.is_integer() and _is_int64(int(value)) else None
    if kind == "float" and type(value) is int:
        return float(value) if float(value) == value else None
    return value


def _kind_of(value: Value) -> str:
    """Return the kind of the fields that hold values of this type."""
    if isinstance(value, str):
        return "text"
    return "datetime" if isinstance(value, datetime) else type(value).__name__


def _fits_kind(value: Value, kind: str) -> bool:
    """Return whether a literal can be compared with values of a kind, such as an int with
    floats."""
    given = _kind_of(value)
    if kind == "payload":
        return given in ("text", "bool", *_NUMBERS)
    return given == kind or (given in _NUMBERS and kind in _NUMBERS)


def _no_list(ref: Ref) -> Expr:
    """Return a condition that is FALSE for every list and null for null."""
    empty = EqualsList(ref, ())
    return all_of((empty, negated(empty)))


def _as_stored(ref: Ref, kind: str, value: Value, *, equality: bool = True) -> Value:
    """Return a literal in the form of stored values: a number for an id, or a datetime for the
    payload, becomes text."""
    if kind == "payload" and isinstance(value, datetime):
        return literals.moment_text(value)
    if ref.name == "id" and equality and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _is_int64(number: int) -> bool:
    return literals.MIN_INT <= number <= literals.MAX_INT


def _all(ref: Ref, kind: str, truth: bool) -> Expr:
    """Return a condition that is ``truth`` for every number, and null for null."""
    if kind == "int":
        return Compare(ref, ">=" if truth else "<", literals.MIN_INT)
    halves = (Compare(ref, "<", 0.0), Compare(ref, ">=", 0.0))
    return any_of(halves) if truth else all_of(halves)


def _compare_int(ref: Ref, op: Operator, value: float) -> Expr:
    """Return an int field's comparison with a float as an equivalent comparison with an int."""
    bound = math.ceil(value) if op in ("<", ">=") else math.floor(value)
    if op in ("=", "!="):
        if bound == value and _is_int64(bound):
            return Compare(ref, op, bound)
        return _all(ref, "int", op == "!=")
    if _is_int64(bound):
        return Compare(ref, op, bound)
    return _all(ref, "int", (bound > 0) == (op in ("<", "<=")))


def _compare_float(ref: Ref, op: Operator, value: int) -> Expr:
    """Return a float field's comparison with an int as an equivalent comparison with a float.

    Above 2**53, not every int is a float; the bound is then the nearest float below or above.
    """
    near = float(value)
    if near == value:
        return Compare(ref, op, near)
    if op in ("=", "!="):
        return _all(ref, "float", op == "!=")
    if op in ("<", "<="):
        return Compare(ref, "<=", near if near < value else math.nextafter(near, -math.inf))
    return Compare(ref, ">=", near if near > value else math.nextafter(near, math.inf))


def _simplest_like(ref: Ref, pattern: str, *, ignore_case: bool) -> Expr:
    """Return LIKE with a pattern, or an equivalent, faster condition."""
    ignore_case = ignore_case and any(len(patterns.same_letter(c)) > 1 for c in pattern)
    body = pattern.rstrip(patterns.ANY_TEXT)
    if ignore_case or patterns.ANY_TEXT in body or patterns.ANY_CHARACTER in body:
        return Like(ref, pattern, ignore_case)
    return Compare(ref, "=", body) if body == pattern else StartsWith(ref, body)
