"""A bound filter as one SQL condition over the columns of "<table>.rows".

Every literal and every payload key is a bound parameter; of what users write only the names that
the schema checked stand in the SQL. The condition is NULL where the filter is neither true nor
false.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Literal

from aiovec.errors import FilterError
from aiovec.filters.tree import (
    And,
    Compare,
    Const,
    Contains,
    Expr,
    In,
    IsNull,
    Like,
    Not,
    Or,
    Ref,
    StartsWith,
    Value,
)
from aiovec.schema import Schema

from . import like
from .like import register
from .payload import locate

__all__ = ["fixed_values", "register", "to_sql"]

# SQLite's default limit of 32,766, less what the statement around the filter may bind.
MAX_PARAMETERS = 32_000

_NEGATED_OPERATOR = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The columns of json_each. In its argument these names mean them, not the table's columns.
_COLUMNS_OF_JSON_EACH = frozenset(
    ("key", "value", "type", "atom", "id", "parent", "fullkey", "path", "json", "root")
)
_TYPES_OF_TEXT = "= 'text'"
_TYPES_OF_NUMBERS = "IN ('integer', 'real')"
_TYPES_OF_BOOLS = "IN ('true', 'false')"


def to_sql(expr: Expr, schema: Schema) -> tuple[str, list[Any]]:
    """The condition and its parameters for a tree that ``aiovec.filters.bind`` gave.

    The connection that runs it needs ``register``. Raises FilterError where SQLite's number of
    parameters does not suffice.
    """
    part = _compiled(expr, negate=False)
    if len(part.parameters) > MAX_PARAMETERS:
        raise FilterError(
            f"the filter needs {len(part.parameters):,} parameters of SQLite's "
            f"{MAX_PARAMETERS:,}; a condition on a payload key takes three or more"
        )
    return part.sql, list(part.parameters)


def fixed_values(expr: Expr | None, schema: Schema) -> dict[str, Value]:
    """The partition fields for which every row that ``expr`` selects has one known value."""
    fixed: dict[str, Value] = {}
    for item in expr.items if isinstance(expr, And) else (expr,):
        if isinstance(item, Compare) and item.op == "=" and not item.ref.path:
            field = schema.fields.get(item.ref.name)
            if field is not None and field.partition:
                fixed.setdefault(item.ref.name, item.value)
    return fixed


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of SQL that can stand beside AND and OR, or in parentheses if it is ``joined``."""

    sql: str
    parameters: Sequence[Any] = ()
    height: int = 0
    joined: bool = False

    def operand(self) -> str:
        return f"({self.sql})" if self.joined else self.sql


def _compiled(expr: Expr, *, negate: bool) -> _Part:
    """``expr``, or where ``negate`` is set its negation.

    NOT is carried down to the conditions, which is exact in three-valued logic too. So SQLite
    sees plain comparisons, for which it may use an index, and less nesting.
    """
    if isinstance(expr, Not):
        return _compiled(expr.item, negate=not negate)
    if isinstance(expr, (And, Or)):
        word = _word(expr, negate)
        return _joined(word, [_compiled(e, negate=n) for e, n in _terms(word, expr, negate)])
    return _leaf(expr, negate)


def _word(expr: And | Or, negate: bool) -> Literal["AND", "OR"]:
    return "AND" if isinstance(expr, And) is not negate else "OR"


def _terms(word: Literal["AND", "OR"], expr: And | Or, negate: bool) -> Iterator[tuple[Expr, bool]]:
    """The terms of ``expr`` and whether each is negated; those of the same ``word`` flattened."""
    for item in expr.items:
        negated = negate
        while isinstance(item, Not):
            item, negated = item.item, not negated
        if isinstance(item, (And, Or)) and _word(item, negated) == word:
            yield from _terms(word, item, negated)
        else:
            yield item, negated


def _joined(word: Literal["AND", "OR"], parts: list[_Part]) -> _Part:
    """All ``parts`` in as little height as can be, always joining the two lowest.

    The higher one stands first: an operand in front costs an old SQLite's parser one place of
    its hundred, one behind costs three.
    """
    order = count()
    heap = [(part.height, next(order), part) for part in parts]
    heapq.heapify(heap)
    while len(heap) > 1:
        _, _, low = heapq.heappop(heap)
        height, _, high = heapq.heappop(heap)
        pair = (low, high) if low.height == high.height else (high, low)
        joined = _Part(
            f" {word} ".join(part.operand() for part in pair),
            [*pair[0].parameters, *pair[1].parameters],
            height + 1,
            joined=True,
        )
        heapq.heappush(heap, (joined.height, next(order), joined))
    return heap[0][2]


def _leaf(expr: Expr, negate: bool) -> _Part:
    match expr:
        case Const(value):
            return _Part("0" if value is negate else "1")
        case Compare(ref, op, value):
            return _compare(ref, _NEGATED_OPERATOR[op] if negate else op, value)
        case In(ref, values):
            return _in(ref, "NOT IN" if negate else "IN", values)
        case IsNull(ref):
            return _is_null(ref, negate)
        case Like(ref, pattern):
            return _like(ref, pattern, negate)
        case StartsWith(ref, prefix):
            return _starts_with(ref, prefix, negate)
        case Contains(ref, value):
            return _contains(ref, value, negate)
    raise FilterError(f"SQLite has no form for {expr}")


def _compare(ref: Ref, op: str, value: Value) -> _Part:
    subject, binds = _subject(ref)
    body = _Part(f"{subject} {op} ?", [*binds, _bound(value)])
    return _guarded(ref, [(_types_like(value), body)])


def _in(ref: Ref, word: str, values: tuple[Value, ...]) -> _Part:
    subject, binds = _subject(ref)
    groups: dict[str, list[Any]] = {}
    for value in values:
        groups.setdefault(_types_like(value), []).append(_bound(value))
    return _guarded(
        ref,
        [
            (types, _Part(f"{subject} {word} ({_marks(group)})", [*binds, *group]))
            for types, group in groups.items()
        ],
    )


def _is_null(ref: Ref, negate: bool) -> _Part:
    if not ref.path:
        return _Part(f"{_column(ref)} IS {'NOT ' if negate else ''}NULL")
    at = locate(ref.path)
    # The type of an absent key is NULL, that of JSON's null is 'null'.
    return _Part(
        f"coalesce({at.before}{at.type}{at.after}, 'null') {'!=' if negate else '='} 'null'",
        [*at.each, *at.around],
    )


def _starts_with(ref: Ref, prefix: str, negate: bool) -> _Part:
    return _guarded(ref, [(_TYPES_OF_TEXT, _negated(_range(ref, prefix), negate))])


def _range(ref: Ref, prefix: str) -> _Part:
    """Texts from ``prefix`` up to the end of those that begin with it: an index can serve it."""
    subject, binds = _subject(ref)
    end = like.end_of_prefix(prefix)
    if end is None:
        return _Part(f"{subject} >= ?", [*binds, prefix])
    return _Part(f"{subject} >= ? AND {subject} < ?", [*binds, prefix, *binds, end], joined=True)


def _like(ref: Ref, pattern: str, negate: bool) -> _Part:
    subject, binds = _subject(ref)
    by_python, argument = like.call(subject), like.argument(pattern)
    glob = like.as_glob(pattern)
    if glob is None:
        part = _Part(by_python, [*binds, argument])
    else:
        # GLOB ends at a NUL, so texts that hold one go to the function.
        part = _Part(
            f"CASE WHEN instr({subject}, char(0)) THEN {by_python} ELSE {subject} GLOB ? END",
            [*binds, *binds, argument, *binds, glob],
        )
    prefix = like.literal_prefix(pattern)
    if prefix and not ref.path:
        narrowed = _range(ref, prefix)
        part = _Part(
            f"{narrowed.sql} AND {part.sql}", [*narrowed.parameters, *part.parameters], joined=True
        )
    return _guarded(ref, [(_TYPES_OF_TEXT, _negated(part, negate))])


def _contains(ref: Ref, value: Value, negate: bool) -> _Part:
    word = "NOT EXISTS" if negate else "EXISTS"
    if ref.path:
        at = locate(ref.path)
        body = _Part(
            f"{word} (SELECT 1 FROM {at.items} AS item "
            f"WHERE item.type {_types_like(value)} AND item.value = ?)",
            [*at.each, _bound(value)],
        )
        return _guarded(ref, [("= 'array'", body)])
    column = _column(ref)
    items = f"json_each({column}) AS item"
    if ref.name.lower() in _COLUMNS_OF_JSON_EACH:
        items = f"(SELECT {column} AS aiovec_list) AS list, json_each(list.aiovec_list) AS item"
    return _Part(
        f"CASE WHEN {column} IS NOT NULL THEN "
        f"{word} (SELECT 1 FROM {items} WHERE item.value = ?) END",
        [_bound(value)],
    )


def _guarded(ref: Ref, cases: Sequence[tuple[str, _Part]]) -> _Part:
    """The case that a payload value's type chooses, NULL for no case; a column has one case."""
    if not ref.path:
        return cases[0][1]
    at = locate(ref.path)
    whens = " ".join(f"WHEN {at.type} {types} THEN {body.sql}" for types, body in cases)
    parameters = [p for _, body in cases for p in (*at.each, *body.parameters)]
    return _Part(f"{at.before}CASE {whens} END{at.after}", [*parameters, *at.around])


def _negated(part: _Part, negate: bool) -> _Part:
    return _Part(f"NOT ({part.sql})", part.parameters) if negate else part


def _subject(ref: Ref) -> tuple[str, tuple[Any, ...]]:
    """SQL for the value of ``ref``, and what each use of it binds."""
    if not ref.path:
        return _column(ref), ()
    at = locate(ref.path)
    return at.value, at.each


def _column(ref: Ref) -> str:
    return '"' + ref.name.replace('"', '""') + '"'


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _types_like(value: Value) -> str:
    """The JSON types that compare with ``value``; on a column, where all are alike, any."""
    if isinstance(value, bool):
        return _TYPES_OF_BOOLS
    return _TYPES_OF_TEXT if isinstance(value, str) else _TYPES_OF_NUMBERS


def _bound(value: Value) -> Any:
    """``value`` as the rows hold it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    return value
