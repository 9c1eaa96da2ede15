"""A bound filter as one SQL condition, for Lance's parser and DataFusion.

The condition is NULL where the filter is neither true nor false. Of the user's text, it has only
names that the schema checked and literals: see ``literal``.

Lance's parser (lancedb 0.40) refuses about 50 levels of nesting, and its time is exponential in the
depth of ``NOT (``, but AND and OR in a row are unlimited. So NOT is carried down to the conditions,
AND stands within OR without parentheses, and the deepest term comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiovec.backend import (
    NEGATED_OPERATOR,
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
    Schema,
    StartsWith,
    Value,
    Word,
    bind,
    merged,
    terms_of,
    word_of,
)
from aiovec.errors import FilterError

from .values import PayloadValue, encoded, equals_list, like, listed, literal, name, text

# Levels of a condition on a column and of one on a payload key, which takes one more for each key.
_COLUMN_DEPTH = 2
_PAYLOAD_DEPTH = 8
_MOST_DEPTH = 46

# A payload number is an int or a float, and compares exactly like a field of that type.
_NUMBERS = Schema(1, fields={"i": int, "f": float})


def condition_sql(expr: Expr) -> str:
    """Return the condition for a bound tree.

    Raises FilterError if the tree is nested too deeply for Lance's parser.
    """
    part = _Compiler(name).compiled(expr, negate=False)
    if part.depth > _MOST_DEPTH:
        raise FilterError(
            "the filter is nested too deeply for LanceDB, or names too many keys within a payload "
            f"key (limit {_MOST_DEPTH} levels); use IN or fewer parentheses"
        )
    return part.sql


def ids_to_sql(ids: Sequence[str]) -> str:
    """Return the condition for the rows with these ids, at least one."""
    return encoded(f"{name('id')} IN ({', '.join(map(text, ids))})")


def id_range_to_sql(low: str, high: str) -> str:
    """Return the condition for the rows with ids from ``low`` to ``high``."""
    return f"{name('id')} BETWEEN {text(low)} AND {text(high)}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of SQL; ``joined`` by a word, or a single condition."""

    sql: str
    depth: int
    joined: Word | None = None


class _Compiler:
    """Compiles trees; ``column`` returns the SQL of a column."""

    def __init__(self, column: Callable[[str], str]) -> None:
        self._column = column

    def compiled(self, expr: Expr, *, negate: bool) -> _Part:
        """Return the SQL of ``expr``, or of its negation with NOT carried down: exact with
        nulls."""
        if isinstance(expr, Not):
            return self.compiled(expr.item, negate=not negate)
        if isinstance(expr, (And, Or)):
            word = word_of(expr, negate)
            # 30,000 values in an IN take 90 ms to plan, as many comparisons two seconds.
            terms = merged(word, terms_of(expr, negate), kind_of=type)
            return _joined(word, [self.compiled(term, negate=negated) for term, negated in terms])
        if isinstance(expr, Const):
            return _Part("FALSE" if expr.value is negate else "TRUE", 1)
        if isinstance(expr, IsTrue):
            item = self.compiled(expr.item, negate=False)
            return _Part(f"({item.sql}) IS {'NOT ' if negate else ''}TRUE", item.depth + 1)
        ref = getattr(expr, "ref", None)
        if not isinstance(ref, Ref):
            raise FilterError(f"LanceDB has no form for {expr}")
        if ref.path:
            sql = _on_payload(expr, ref, negate)
            return _Part(sql, _PAYLOAD_DEPTH + len(ref.path))
        return _Part(_on_column(expr, self._column(ref.name), negate), _COLUMN_DEPTH)


def _joined(word: Word, parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    # AND binds closer than OR, so only an OR within an AND needs parentheses.
    operands = [
        _Part(f"({part.sql})", part.depth + 1) if word == "AND" and part.joined == "OR" else part
        for part in parts
    ]
    # The first term is parsed on the level of the whole, the others one level below.
    operands.sort(key=lambda part: -part.depth)
    depth = max(operands[0].depth, operands[1].depth + 1)
    return _Part(f" {word} ".join(part.sql for part in operands), depth, word)


def _on_column(expr: Expr, column: str, negate: bool) -> str:
    no = "NOT " if negate else ""
    match expr:
        case Compare(_, op, value):
            return f"{column} {NEGATED_OPERATOR[op] if negate else op} {literal(value)}"
        case In(_, values):
            return f"{column} {no}IN ({listed(values)})"
        case IsNull():
            return f"{column} IS {no}NULL"
        case Like():
            return like(column, expr.pattern, ignore_case=expr.ignore_case, negate=negate)
        case StartsWith(_, prefix):
            return f"{no}starts_with({column}, {text(prefix)})"
        case Contains(_, value):
            return f"{no}array_has({column}, {literal(value)})"
        case EqualsList(_, values):
            return equals_list(column, values, negate=negate)
    raise FilterError(f"LanceDB has no form for {expr}")


def _on_payload(expr: Expr, ref: Ref, negate: bool) -> str:
    value = PayloadValue(ref.path)
    match expr:
        case Compare(_, op, bool(truth)):
            return value.equals_bool(truth is ((op == "=") is not negate))
        case Compare(_, op, str(words)):
            op = NEGATED_OPERATOR[op] if negate else op  # type: ignore[assignment]
            if op in ("=", "!="):
                return value.equals_text([words], negate=op == "!=")
            return value.compares_text(op, words)
        case Compare():
            return _numbers(expr, value, negate)
        case In(_, values):
            return _in_payload(values, value, negate)
        case IsNull():
            return value.is_null(negate=negate)
        case Like():
            return value.like(expr.pattern, ignore_case=expr.ignore_case, negate=negate)
        case StartsWith(_, prefix):
            return value.starts_with(prefix, negate=negate)
        case Contains(_, item):
            return value.contains(item, negate=negate)
        case EqualsList(_, values):
            return value.equals_list(values, negate=negate)
    raise FilterError(f"LanceDB has no form for {expr}")


def _numbers(expr: Compare | In, value: PayloadValue, negate: bool) -> str:
    """Return a comparison of the value as an int, or else as a float, each exact."""
    forms = []
    columns: Mapping[str, str] = {"i": value.as_int, "f": value.as_float}
    for column, sql in columns.items():
        ref = Ref(column)
        typed = (
            Compare(ref, expr.op, expr.value)
            if isinstance(expr, Compare)
            else In(ref, expr.values)
        )  # fmt: skip
        bound = bind(typed, _NUMBERS)
        if bound is not None:
            compiler = _Compiler(lambda _, sql=sql: sql)  # type: ignore[misc]
            forms.append(compiler.compiled(bound, negate=negate).sql)
    return f"coalesce({', '.join(forms)})"


def _in_payload(values: Sequence[Value], value: PayloadValue, negate: bool) -> str:
    """Return an IN with literals of one type."""
    texts = [v for v in values if isinstance(v, str)]
    if texts:
        return value.equals_text(texts, negate=negate)
    if isinstance(values[0], bool):  # TRUE and FALSE
        either = f"{value.equals_bool(True)} IS NOT NULL"
        return f"nullif({either}, FALSE)" if not negate else f"nullif(NOT {either}, TRUE)"
    return _numbers(In(Ref("f"), tuple(values)), value, negate)
