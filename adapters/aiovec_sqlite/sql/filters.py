"""Compile a bound filter to one SQL condition over the columns of "<table>.rows", called ``r``.

Every literal and every payload key is a bound parameter. The only text from users in the SQL is
field names, which the schema has checked, and the paths of indexed payload keys. The condition is
NULL for rows for which the filter is neither true nor false.

Payload keys are looked up among the keys of ``json_each``, not by JSON paths: ``json_each``
unescapes them in every version of SQLite, while a path misses keys that are escaped in the JSON
text (SQLite 3.40) and confuses the key ``a\\0b`` with ``a`` (3.53). A lookup takes 1.1 µs per row,
a path 0.5 µs. A lookup binds each key once; a path would be bound once for each use. An index
cannot contain ``json_each``, so the index of a payload key is on the expression ``INDEXED``, with
the path in the SQL.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from types import MappingProxyType
from typing import Any

from aiovec.backend import (
    ANY_TEXT,
    And,
    Compare,
    Expr,
    In,
    Ref,
    Schema,
    StartsWith,
    Value,
)
from aiovec.backend.contract import Order
from aiovec.backend.sql import NEGATED, Dialect, Operand, Word
from aiovec.errors import FilterError

from . import like


@dataclass(frozen=True, slots=True)
class Location:
    """A path of keys in the payload. ``type`` and ``value`` are SQL for use in ``select``."""

    path: tuple[str, ...]

    @property
    def type(self) -> str:
        return f"k{len(self.path)}.type"

    @property
    def value(self) -> str:
        return f"k{len(self.path)}.value"

    def select(self, sql: str, parameter: str) -> str:
        """Return ``sql`` as a subquery on the value at the path, NULL if there is no value.

        The subquery binds the parameters of ``sql``, then the keys of the path, each by the
        placeholder ``parameter``.
        """
        return f"(SELECT {sql} FROM {', '.join(self.levels)} WHERE {self.keys(parameter)})"

    @property
    def levels(self) -> list[str]:
        """A ``json_each`` table for each key of the path, to be listed after the table ``r``."""
        levels = ["json_each(r.payload) AS k1"]
        levels += [
            # Without the CASE, json_each would fail on a text that is not JSON.
            f"json_each(CASE WHEN k{i}.type = 'object' THEN k{i}.value END) AS k{i + 1}"
            for i in range(1, len(self.path))
        ]
        return levels

    def keys(self, parameter: str) -> str:
        """Return the condition that selects the path; ``parameter`` is each key's placeholder."""
        return " AND ".join(f"k{i}.key = {parameter}" for i in range(1, len(self.path) + 1))


# SQLite's default limit of 32,766, with room for the statement around the filter.
MAX_PARAMETERS = 32_000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EQUALS_LIST = "aiovec_equals_list"

# A placeholder for a parameter outside a list; condition_sql decides its form. SQLite moves the
# constants of a statement out of its loop and compares each with all earlier constants, which
# takes five seconds for 20,000 of them. A parameter that seems to depend on the row stays inside.
_ONE = "$?"
_ONE_OF_MANY = "CASE r._rowid WHEN NULL THEN NULL ELSE ? END"
_MANY_PARAMETERS = 1_000

_IS_TEXT = "= 'text'"

INDEXED = (
    "CASE WHEN instr({column}, '\\u00') THEN x'02' "
    "WHEN json_type({column}, {at}) IN ('integer', 'real', 'text') "
    "THEN json_extract({column}, {at}) "
    "WHEN json_type({column}, {at}) = 'true' THEN x'01' "
    "WHEN json_type({column}, {at}) = 'false' THEN x'00' END"
)
"""SQL for the value that a payload key's index holds. FALSE and TRUE are BLOBs, so that values of
different types are never equal; lists, objects and missing keys are NULL. x'02' means that the JSON
has an escaped character below U+0100, perhaps in a key; paths are not reliable for such keys."""

Elsewhere = Mapping[Ref, str]
"""SQL for values that are not columns of the table ``r``: the vector, which conditions only compare
with NULL, and indexed payload keys in the form of ``INDEXED``."""
_NOWHERE: Elsewhere = MappingProxyType({})


def register(connection: Any) -> None:
    """Add the functions that conditions call to ``connection``, a DB-API connection to SQLite."""
    like.register(connection)
    connection.create_function(_EQUALS_LIST, 2, _lists_are_equal, deterministic=True)


def condition_sql(expr: Expr, elsewhere: Elsewhere = _NOWHERE) -> tuple[str, list[Any]]:
    """Return the condition and its parameters for a bound filter.

    The statement must read the table as ``r``: a field may have the name of a column of
    ``json_each``, even a hidden one (``rowid``, ``oid``, ``json``, ``root``), so every column is
    qualified with its table. Call ``register`` on the connection first. Raises FilterError
    if the condition needs more parameters than SQLite allows.
    """
    part = _Sqlite(elsewhere).condition(expr)
    if len(part.parameters) > MAX_PARAMETERS:
        raise FilterError(
            f"the filter needs {len(part.parameters):,} SQL parameters, but SQLite allows "
            f"{MAX_PARAMETERS:,}; use fewer conditions (one on a payload key takes two or more)"
        )
    many = len(part.parameters) > _MANY_PARAMETERS
    return part.operand().replace(_ONE, _ONE_OF_MANY if many else "?"), list(part.parameters)


def indexed_value(path: Sequence[str], column: str) -> str:
    """Return SQL for the value that a payload index stores.

    The keys of ``path`` have only letters, digits, "_" and "-".
    """
    at = "".join(f'."{key}"' for key in path)
    return INDEXED.format(column=column, at=f"'${at}'")


# SQLite sorts numbers before text and text before BLOBs, so booleans are BLOBs here.
_SORTED = (
    "CASE WHEN {type} IN ('integer', 'real', 'text') THEN {value} "
    "WHEN {type} = 'false' THEN x'00' WHEN {type} = 'true' THEN x'01' END"
)


def sorted_value(ref: Ref) -> tuple[str, Sequence[str]]:
    """Return SQL for the value that rows are sorted by, and its parameters.

    For a payload key, FALSE and TRUE are BLOBs, and lists and objects are NULL.
    """
    if not ref.path:
        return _value(ref), ()
    at = Location(ref.path)
    return at.select(_SORTED.format(type=at.type, value=at.value), "?"), ref.path


def counted_items(ref: Ref) -> tuple[str, str, str]:
    """Return SQL to count the value at a payload path, or each item if the value is a list.

    Returns SQL for the value, in the form of ``sorted_value``; the tables to list after the table
    ``r``; and the condition on these tables, with a parameter for each key of the path.
    """
    at = Location(ref.path)
    items = f"json_each(CASE WHEN {at.type} = 'array' THEN {at.value} ELSE '[0]' END) AS item"
    alone = _SORTED.format(type=at.type, value=at.value)
    item = _SORTED.format(type="item.type", value="item.value")
    value = f"CASE WHEN {at.type} = 'array' THEN {item} ELSE {alone} END"
    return value, ", ".join([*at.levels, items]), at.keys("?")


def order_to_sql(order_by: Sequence[Order]) -> tuple[str, list[Any]]:
    """Return the terms of an ORDER BY over the table ``r``, and their parameters."""
    terms: list[str] = []
    parameters: list[Any] = []
    for order in order_by:
        value, keys = sorted_value(order.ref)
        parameters += keys
        nulls = "" if order.ref.name == "id" else " NULLS LAST"
        terms.append(f"{value} {'DESC' if order.descending else 'ASC'}{nulls}")
    return ", ".join(terms), parameters


def fixed_values(expr: Expr | None, schema: Schema) -> dict[str, Value]:
    """Return the values that ``expr`` requires partition fields to equal, by field name."""
    fixed: dict[str, Value] = {}
    for item in expr.items if isinstance(expr, And) else (expr,):
        if isinstance(item, Compare) and item.op == "=" and not item.ref.path:
            field = schema.fields.get(item.ref.name)
            if field is not None and field.partition:
                fixed.setdefault(item.ref.name, item.value)
    return fixed


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of SQL that AND and OR can join; it needs parentheses if it is ``joined``."""

    sql: str
    parameters: Sequence[Any] = ()
    height: int = 0
    joined: bool = False

    def operand(self) -> str:
        return f"({self.sql})" if self.joined else self.sql


class _Sqlite(Dialect[_Part]):
    __slots__ = ("_elsewhere",)

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere

    def constant(self, truth: bool) -> _Part:
        return _Part(str(int(truth)))

    def joined(self, word: Word, parts: Sequence[_Part]) -> _Part:
        return _joined(word, parts)

    def is_true(self, item: _Part, *, negate: bool) -> _Part:
        sql = f"({item.sql}) IS {'NOT ' if negate else ''}1"
        return _Part(sql, item.parameters, item.height + 1)

    def kind_of(self, value: Value) -> str:
        return _is_like(value)

    def leaf(self, expr: Expr, ref: Ref, *, negate: bool) -> _Part:
        key = self._elsewhere.get(ref)
        part = _Operand(ref, key or _value(ref)).leaf(expr, negate=negate)
        indexed = _by_index(expr, key, negate) if key and ref.path else None
        if not indexed:
            return part
        # The result is false for some rows for which ``part`` is NULL. That is harmless, because
        # no NOT encloses it: ``leaf`` itself negates.
        sql = f"{indexed.sql} OR {key} = x'02' AND {part.operand()}"
        return _Part(sql, [*indexed.parameters, *part.parameters], 2, joined=True)


def _joined(word: Word, parts: Sequence[_Part]) -> _Part:
    """Join ``parts`` into a tree of minimal height by always joining the two lowest.

    The higher part comes first, because in old SQLite versions the first operand takes one of the
    100 entries of the parser's stack, and the second takes three.
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


def _by_index(expr: Expr, key: str, negate: bool) -> _Part | None:
    """Return a condition on an indexed payload key; None if an index cannot evaluate ``expr``."""
    match expr:
        case Compare(_, operator, value):
            op = NEGATED[operator] if negate else operator
            if isinstance(value, bool):
                return _Part(f"{key} = x'0{value is (op == '='):d}'")
            if op == "!=":
                return None
            text = isinstance(value, str)
            # Numbers sort before texts, and texts before BLOBs.
            bound = ""
            if op in (">", ">="):
                bound = f" AND {key} < x''" if text else f" AND {key} < ''"
            elif op != "=" and text:
                bound = f" AND {key} >= ''"
            return _Part(f"{key} {op} {_ONE}{bound}", [value])
        case In(_, values) if not negate and not isinstance(values[0], bool):
            return _one_of(key, "IN", [*values])
        case StartsWith(_, prefix) if not negate and like.end_of_prefix(prefix) is not None:
            return _range(key, prefix)
    return None


class _Operand(Operand[_Part]):
    __slots__ = ("_column", "_ref")

    def __init__(self, ref: Ref, column: str) -> None:
        self._ref, self._column = ref, column

    def compares(self, op: str, value: Value) -> _Part:
        body = _Part(f"{_value(self._ref)} {op} {_ONE}", [stored(value)])
        return self._guarded(_is_like(value), body)

    def is_in(self, values: Sequence[Value], *, negate: bool) -> _Part:
        # All literals have the same type, even for payload keys: see ``bind``.
        group = [stored(value) for value in values]
        body = _one_of(_value(self._ref), "NOT IN" if negate else "IN", group)
        return self._guarded(_is_like(values[0]), body)

    def is_null(self, *, negate: bool) -> _Part:
        if not self._ref.path:
            return _Part(f"{self._column} IS {'NOT ' if negate else ''}NULL")
        at = Location(self._ref.path)
        # The type of a missing key is NULL, and the type of JSON's null is 'null'.
        sql = f"coalesce({at.select(at.type, _ONE)}, 'null') {'!=' if negate else '='} 'null'"
        return _Part(sql, self._ref.path)

    def is_like(self, pattern: str, *, ignore_case: bool, negate: bool) -> _Part:
        body = _like(_value(self._ref), pattern, ignore_case=ignore_case)
        return self._guarded(_IS_TEXT, _negated(body, negate))

    def starts_with(self, prefix: str, *, negate: bool) -> _Part:
        return self._guarded(_IS_TEXT, _negated(_range(_value(self._ref), prefix), negate))

    def contains(self, value: Value, *, negate: bool) -> _Part:
        word, column = "NOT EXISTS" if negate else "EXISTS", _value(self._ref)
        if not self._ref.path:
            items = f"json_each({column}) AS item WHERE item.value = {_ONE}"
            sql = f"CASE WHEN {column} IS NOT NULL THEN {word} (SELECT 1 FROM {items}) END"
            return _Part(sql, [stored(value)])
        items = f"json_each({column}) AS item WHERE item.type {_is_like(value)} AND"
        body = _Part(f"{word} (SELECT 1 FROM {items} item.value = {_ONE})", [stored(value)])
        return self._guarded("= 'array'", body)

    def equals_list(self, values: Sequence[Value], *, negate: bool) -> _Part:
        value = _value(self._ref)
        if not values:
            body = _Part(f"json_array_length({value}) {'>' if negate else '='} 0")
        else:
            length = f"json_array_length({value}) = {len(values)}"
            equal = f"{length} AND {_EQUALS_LIST}({value}, {_ONE})"
            body = _Part(f"NOT ({equal})" if negate else f"({equal})", [json.dumps(values)])
        return self._guarded("= 'array'", body)

    def _guarded(self, types: str, body: _Part) -> _Part:
        """Return ``body``; for a payload key, it is NULL unless the value has one of ``types``."""
        if not self._ref.path:
            return body
        at = Location(self._ref.path)
        sql = f"CASE WHEN {at.type} {types} THEN {body.sql} END"
        return _Part(at.select(sql, _ONE), [*body.parameters, *self._ref.path])


def _one_of(value: str, word: str, group: list[Any]) -> _Part:
    if len(group) <= 2:  # SQLite takes these out of the loop
        return _Part(f"{value} {word} ({', '.join([_ONE] * len(group))})", group)
    if _fit_json(group):
        # One statement serves lists of any length. The driver caches statements, and a statement
        # with a parameter for each of 20,000 ids takes 1.4 MB.
        listed = json.dumps(group, ensure_ascii=False, separators=(",", ":"))
        return _Part(f"{value} {word} (SELECT one.value FROM json_each(?) AS one)", [listed])
    # SQLite builds a tree from a long list only if the whole list is constant.
    return _Part(f"{value} {word} ({', '.join('?' * len(group))})", group)


def _fit_json(group: Sequence[Any]) -> bool:
    """Return whether SQLite reads the values from JSON unchanged.

    A float might lose its last bit, and a string would be cut at a NUL.
    """
    return all("\0" not in v if isinstance(v, str) else isinstance(v, int) for v in group)


def _range(value: str, prefix: str) -> _Part:
    """Return the condition, as a range for an index, that a text begins with ``prefix``."""
    end = like.end_of_prefix(prefix)
    if end is None:
        return _Part(f"{value} >= {_ONE}", [prefix])
    return _Part(f"{value} >= {_ONE} AND {value} < {_ONE}", [prefix, end], joined=True)


def _like(value: str, pattern: str, *, ignore_case: bool) -> _Part:
    if not ignore_case and (literal := like.as_literal(pattern)) is not None:
        text, at_end = literal
        if not at_end:
            return _Part(f"instr({value}, {_ONE}) > 0", [text])
        # SQLite's substr would cut a text at a NUL, and returns NULL for an empty BLOB.
        end, whole = text.encode(), f"CAST({value} AS BLOB)"
        sql = f"length({whole}) >= {len(end)} AND substr({whole}, {-len(end)}) = {_ONE}"
        return _Part(sql, [end], joined=True)
    prefix = "" if ignore_case else like.literal_prefix(pattern)
    first = _range(value, prefix)
    if prefix and pattern == prefix + ANY_TEXT:
        return first
    sql = like.call(value, _ONE, ignore_case=ignore_case)
    bound: list[Any] = [like.argument(pattern, ignore_case=ignore_case)]
    if (glob := like.as_glob(pattern, ignore_case=ignore_case)) is not None:
        # GLOB stops at a NUL, so the function matches texts with a NUL.
        sql = f"CASE WHEN instr({value}, char(0)) THEN {sql} ELSE {value} GLOB {_ONE} END"
        bound.append(glob)
    if not prefix:
        return _Part(sql, bound)
    return _Part(f"{first.sql} AND {sql}", [*first.parameters, *bound], joined=True)


def _negated(part: _Part, negate: bool) -> _Part:
    return _Part(f"NOT ({part.sql})", part.parameters) if negate else part


def _value(ref: Ref) -> str:
    """Return SQL for a value of row ``r``; use a payload key's SQL only in ``Location.select``."""
    return Location(ref.path).value if ref.path else 'r."' + ref.name.replace('"', '""') + '"'


def _is_like(value: Value) -> str:
    """Return the SQL test, such as ``= 'text'``, for JSON types comparable with ``value``."""
    if isinstance(value, bool):
        return "IN ('true', 'false')"
    return _IS_TEXT if isinstance(value, str) else "IN ('integer', 'real')"


def stored(value: Value) -> Any:
    """Return a value, other than a list, in the form in which rows store it."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    return value


def _lists_are_equal(stored: str | None, wanted: str) -> bool | None:
    """Return whether two JSON arrays are equal.

    Their texts are not compared, because JSON can write a number or a character in several ways,
    and a payload's list can have values of several types.
    """
    if stored is None:
        return None
    items = json.loads(stored)
    parsed = _parsed(wanted)
    # A boolean equals a number in Python, but not in a filter.
    return items == parsed and all(
        isinstance(item, bool) is isinstance(other, bool)
        for item, other in zip(items, parsed, strict=True)
    )


@lru_cache(maxsize=64)
def _parsed(text: str) -> list[Any]:
    parsed: list[Any] = json.loads(text)
    return parsed
