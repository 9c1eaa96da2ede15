"""Filters as SQL: this module walks the tree; a dialect writes the leaves for its engine.

The SQL of a condition is NULL where the filter is neither true nor false. NOT is pushed down to the
conditions, which is exact in three-valued logic too. So an engine gets less nesting, and plain
comparisons, for which it can use an index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, Literal, TypeVar, cast

from .._filters.tree import (
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
    one_of,
    word_of,
)
from ..errors import FilterError

_Sql = TypeVar("_Sql")

Word = Literal["AND", "OR"]

NEGATED: Mapping[str, str] = MappingProxyType(
    {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
)
"""The negation of each operator."""


class Operand(ABC, Generic[_Sql]):
    """A column or a payload key, with the seven kinds of condition on it.

    Each condition except ``is_null`` is NULL where the value is null. A payload key may hold any
    value: a condition is also NULL where the value's type is not the literal's, but integers and
    floats count as one type. With ``negate``, a method returns the negation, which is NULL for the
    same rows.
    """

    __slots__ = ()

    @abstractmethod
    def compares(self, op: str, value: Value) -> _Sql:
        """Return the comparison with a value. ``op`` is one of = != < <= > >=; only the first two
        occur with TRUE and FALSE on a payload key."""

    @abstractmethod
    def is_in(self, values: Sequence[Value], *, negate: bool) -> _Sql:
        """Return the condition that the operand equals one of ``values``: at least two, all of one
        type."""

    @abstractmethod
    def is_null(self, *, negate: bool) -> _Sql: ...

    @abstractmethod
    def is_like(self, pattern: str, *, ignore_case: bool, negate: bool) -> _Sql:
        """Return the condition that the operand matches a pattern with the wildcards ``ANY_TEXT``
        and ``ANY_CHARACTER``. Case is ignored letter by letter: see ``same_letter``."""

    @abstractmethod
    def starts_with(self, prefix: str, *, negate: bool) -> _Sql: ...

    @abstractmethod
    def contains(self, value: Value, *, negate: bool) -> _Sql:
        """Return the condition that a list has the value as an item."""

    @abstractmethod
    def equals_list(self, values: Sequence[Value], *, negate: bool) -> _Sql:
        """Return the condition that a list has exactly these items, perhaps none."""

    def leaf(self, expr: Expr, *, negate: bool) -> _Sql:
        """Return the SQL of a leaf of the tree."""
        match expr:
            case Compare(_, op, value):
                return self.compares(NEGATED[op] if negate else op, value)
            case In(_, values):
                return self.is_in(values, negate=negate)
            case IsNull():
                return self.is_null(negate=negate)
            case Like(_, pattern, ignore_case):
                return self.is_like(pattern, ignore_case=ignore_case, negate=negate)
            case StartsWith(_, prefix):
                return self.starts_with(prefix, negate=negate)
            case Contains(_, value):
                return self.contains(value, negate=negate)
            case EqualsList(_, values):
                return self.equals_list(values, negate=negate)
        raise FilterError(f"this backend cannot run the condition {expr}")


class Dialect(ABC, Generic[_Sql]):
    """An engine's SQL for filters; ``condition`` translates a bound filter."""

    __slots__ = ()

    @abstractmethod
    def constant(self, truth: bool) -> _Sql: ...

    @abstractmethod
    def leaf(self, expr: Expr, ref: Ref, *, negate: bool) -> _Sql:
        """Return a condition on ``ref``, made by ``Operand.leaf``."""

    @abstractmethod
    def joined(self, word: Word, parts: Sequence[_Sql]) -> _Sql:
        """Return one or more conditions joined by AND or OR."""

    @abstractmethod
    def is_true(self, item: _Sql, *, negate: bool) -> _Sql:
        """Return ``item`` IS [NOT] TRUE."""

    def kind_of(self, value: Value) -> object:
        """Return a key that is equal for values that may share one IN."""
        return type(value)

    def condition(self, expr: Expr, *, negate: bool = False) -> _Sql:
        """Return the SQL of a bound tree, or of its negation."""
        match expr:
            case Not(item):
                return self.condition(item, negate=not negate)
            case And() | Or():
                # Engines look up the values of an IN, but evaluate many comparisons one by one.
                word = word_of(expr, negate)
                terms = self._merged(word, _terms_of(expr, negate))
                return self.joined(word, [self.condition(term, negate=no) for term, no in terms])
            case Const(value):
                return self.constant(value is not negate)
            case IsTrue(item):
                return self.is_true(self.condition(item), negate=negate)
        return self.leaf(expr, getattr(expr, "ref", Ref("")), negate=negate)

    def _merged(self, word: Word, terms: Iterable[tuple[Expr, bool]]) -> list[tuple[Expr, bool]]:
        """Merge comparisons of one field with several values into one IN or NOT IN.

        ``a = 1 OR a = 2`` is one IN. Values are merged if the IN is null exactly when each
        comparison is.
        """
        groups: dict[object, list[tuple[Expr, bool]]] = {}
        for n, (term, negated) in enumerate(terms):
            key: object = n  # alone
            if isinstance(term, Compare) and term.op in ("=", "!="):
                equal = (term.op == "=") is not negated
                if equal is (word == "OR"):
                    key = term.ref, self.kind_of(term.value)
            groups.setdefault(key, []).append((term, negated))
        return [
            group[0] if len(group) == 1 else (_in([term for term, _ in group]), word == "AND")
            for group in groups.values()
        ]


def _terms_of(expr: And | Or, negate: bool) -> Iterator[tuple[Expr, bool]]:
    """Yield each term and whether it is negated; flatten an AND in an AND, and an OR in an OR."""
    word = word_of(expr, negate)
    for item in expr.items:
        negated = negate
        while isinstance(item, Not):
            item, negated = item.item, not negated
        if isinstance(item, (And, Or)) and word_of(item, negated) == word:
            yield from _terms_of(item, negated)
        else:
            yield item, negated


def _in(terms: Sequence[Expr]) -> Expr:
    comparisons = cast("Sequence[Compare]", terms)
    return one_of(comparisons[0].ref, [term.value for term in comparisons])
