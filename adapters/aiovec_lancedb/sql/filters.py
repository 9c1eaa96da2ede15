"""Translate a bound filter into one SQL condition for Lance's parser and DataFusion.

The condition is NULL for rows for which the filter is neither true nor false. User text appears in
the SQL only as names that the schema has checked, and as literals: see ``literal``.

Lance's parser (lancedb 0.40) rejects about 50 levels of nesting and takes time exponential in the
depth of ``NOT (``, but accepts any number of terms joined by AND or OR. So NOT is moved down to the
conditions, AND within OR has no parentheses, and the deepest term comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiovec.backend import Compare, Expr, In, Ref, Schema, Value, bind
from aiovec.backend.sql import Dialect, Operand, Word
from aiovec.errors import FilterError

from .values import PayloadValue, encoded, equals_list, like, listed, literal, name, no, text

# Nesting levels of a condition on a column, and of a condition on a payload key, which has one more
# level for each key of its path.
_COLUMN_DEPTH = 2
_PAYLOAD_DEPTH = 8
_MOST_DEPTH = 46

_NUMBERS = Schema(1, fields={"i": int, "f": float})


def condition_sql(expr: Expr) -> str:
    """Return the SQL condition for a bound filter.

    Raises FilterError if the tree is nested too deeply for Lance's parser.
    """
    part = _Lance().condition(expr)
    if part.depth > _MOST_DEPTH:
        raise FilterError(
            "the filter is nested too deeply for LanceDB, or names too many keys within a payload "
            f"key (limit {_MOST_DEPTH} levels); use IN or fewer parentheses"
        )
    return part.sql


def ids_to_sql(ids: Sequence[str]) -> str:
    """Return the condition for the rows with these ids. Requires at least one id."""
    return encoded(f"{name('id')} IN ({', '.join(map(text, ids))})")


def id_range_to_sql(low: str, high: str) -> str:
    """Return the condition for the rows with ids from ``low`` to ``high``."""
    return f"{name('id')} BETWEEN {text(low)} AND {text(high)}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of SQL: terms ``joined`` by a word, or a single condition."""

    sql: str
    depth: int
    joined: Word | None = None


class _Lance(Dialect[_Part]):
    """Builds filters in Lance's SQL. ``column`` returns the SQL for a column's name."""

    __slots__ = ("_column",)

    def __init__(self, column: Callable[[str], str] = name) -> None:
        self._column = column

    def constant(self, truth: bool) -> _Part:
        return _Part("TRUE" if truth else "FALSE", 1)

    def joined(self, word: Word, parts: Sequence[_Part]) -> _Part:
        return _joined(word, parts)

    def is_true(self, item: _Part, *, negate: bool) -> _Part:
        return _Part(f"({item.sql}) IS {'NOT ' if negate else ''}TRUE", item.depth + 1)

    def leaf(self, expr: Expr, ref: Ref, *, negate: bool) -> _Part:
        if ref.path:
            depth, operand = _PAYLOAD_DEPTH + len(ref.path), _PayloadKey(ref.path)
            return _Part(operand.leaf(expr, negate=negate), depth)
        return _Part(_Column(self._column(ref.name)).leaf(expr, negate=negate), _COLUMN_DEPTH)


def _joined(word: Word, parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    # AND binds more tightly than OR, so only an OR within an AND needs parentheses.
    operands = [
        _Part(f"({part.sql})", part.depth + 1) if word == "AND" and part.joined == "OR" else part
        for part in parts
    ]
    # The first term is parsed at the level of the whole condition, other terms one level below.
    operands.sort(key=lambda part: -part.depth)
    depth = max(operands[0].depth, operands[1].depth + 1)
    return _Part(f" {word} ".join(part.sql for part in operands), depth, word)


class _Column(Operand[str]):
    __slots__ = ("_sql",)

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def compares(self, op: str, value: Value) -> str:
        return f"{self._sql} {op} {literal(value)}"

    def is_in(self, values: Sequence[Value], *, negate: bool) -> str:
        return f"{self._sql} {no(negate)}IN ({listed(values)})"

    def is_null(self, *, negate: bool) -> str:
        return f"{self._sql} IS {no(negate)}NULL"

    def is_like(self, pattern: str, *, ignore_case: bool, negate: bool) -> str:
        return like(self._sql, pattern, ignore_case=ignore_case, negate=negate)

    def starts_with(self, prefix: str, *, negate: bool) -> str:
        return f"{no(negate)}starts_with({self._sql}, {text(prefix)})"

    def contains(self, value: Value, *, negate: bool) -> str:
        return f"{no(negate)}array_has({self._sql}, {literal(value)})"

    def equals_list(self, values: Sequence[Value], *, negate: bool) -> str:
        return equals_list(self._sql, values, negate=negate)


class _PayloadKey(PayloadValue, Operand[str]):
    """A payload key. Its numbers compare exactly like numbers in int and float fields."""

    def compares(self, op: str, value: Value) -> str:
        if isinstance(value, bool):
            return self.equals_bool(value is (op == "="))
        if not isinstance(value, str):
            return self._numbers(lambda ref: Compare(ref, op, value), negate=False)  # type: ignore[arg-type]
        if op in ("=", "!="):
            return self.equals_text([value], negate=op == "!=")
        return self.compares_text(op, value)

    def is_in(self, values: Sequence[Value], *, negate: bool) -> str:
        texts = [value for value in values if isinstance(value, str)]
        if texts:
            return self.equals_text(texts, negate=negate)
        if isinstance(values[0], bool):  # the values are TRUE and FALSE, so any bool matches
            either = f"{self.equals_bool(True)} IS NOT NULL"
            return f"nullif(NOT {either}, TRUE)" if negate else f"nullif({either}, FALSE)"
        return self._numbers(lambda ref: In(ref, tuple(values)), negate=negate)

    def _numbers(self, condition: Callable[[Ref], Expr], *, negate: bool) -> str:
        """Return an exact condition on the number, read as an int if possible, else as a float."""
        forms = []
        columns: Mapping[str, str] = {"i": self.as_int, "f": self.as_float}
        for column, sql in columns.items():
            bound = bind(condition(Ref(column)), _NUMBERS)
            if bound is not None:
                dialect = _Lance(lambda _, sql=sql: sql)  # type: ignore[misc]
                forms.append(dialect.condition(bound, negate=negate).sql)
        return f"coalesce({', '.join(forms)})"
