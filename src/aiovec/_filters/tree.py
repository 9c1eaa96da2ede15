"""The filter tree: the meaning of ``where``, independent of its form and of the backend.

A tree is immutable and shallow: AND and OR have any number of terms, and a tree deeper than
``MAX_DEPTH`` cannot be built. So every walk over a tree may recurse. ``str(tree)`` is filter text
that parses to an equal tree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from .._tools.messages import shown
from ..errors import FilterError
from . import literals, patterns

Value = str | int | float | bool | datetime
Operator = Literal["=", "!=", "<", "<=", ">", ">="]

# SQLite refuses expressions deeper than 1,000; each level here can become about ten levels there.
MAX_DEPTH = 64
# Every literal is a bound parameter; SQLite allows 32,766 of them. A condition without a literal
# counts as one, so this limit bounds the size of the whole tree.
MAX_LITERALS = 30_000
# Maximum number of names in a payload key. SQLite joins a table for each one, at most 64 tables.
MAX_NAMES = 64

_REPR_LENGTH = 1_000


def _literals(values: Iterable[Value]) -> str:
    return ", ".join(map(literals.literal, values))


class Combinable(ABC):
    """An object that is a condition, or can be used as one: combine with ``&``, ``|``, ``~``."""

    __slots__ = ()

    @abstractmethod
    def as_condition(self) -> Expr:
        """Return this object as a condition."""

    def __and__(self, other: object) -> Expr:
        return all_of((self.as_condition(), condition(other)))

    def __rand__(self, other: object) -> Expr:
        return all_of((condition(other), self.as_condition()))

    def __or__(self, other: object) -> Expr:
        return any_of((self.as_condition(), condition(other)))

    def __ror__(self, other: object) -> Expr:
        return any_of((condition(other), self.as_condition()))

    def __invert__(self) -> Expr:
        return negated(self.as_condition())

    def is_true(self) -> Expr:
        """Return a condition that is TRUE if this is true, and FALSE if this is false or null.

        A comparison is null for rows in which its field is null, absent or of another type.
        """
        return is_true(self.as_condition())

    def is_not_true(self) -> Expr:
        """Return the negation of ``is_true``: TRUE if this is false or null."""
        return negated(is_true(self.as_condition()))

    def __bool__(self) -> bool:
        raise FilterError(
            "a condition has no truth value before it runs: combine conditions with & | ~ in "
            "parentheses, not with and, or, not; write a range as F.x.between(1, 3), and one of "
            "several values as F.x.in_([1, 2])"
        )


class Expr(Combinable):
    """A condition. Combine conditions with ``&``, ``|`` and ``~``.

    Two conditions are equal if they have the same shape and equal literals of the same types:
    ``x = 1`` equals neither ``x = 1.0`` nor ``x = TRUE``.
    """

    __slots__ = ("source",)
    __match_args__: ClassVar[tuple[str, ...]]

    source: tuple[str, tuple[int, ...]]
    """For a parsed condition: the whole text, and the positions of the field and the literals in
    the text, for errors. The source stays with the condition in larger filters."""

    @property
    def depth(self) -> int:
        return 1

    @property
    def literals(self) -> int:
        return 1

    def as_condition(self) -> Expr:
        return self

    @abstractmethod
    def _text(self, no: str) -> str:
        """Return filter text for the condition or, with "NOT " as ``no``, for its negation."""

    def __str__(self) -> str:
        return self._text("")

    def _key(self) -> tuple[Any, ...]:
        """Return the parts of the condition, with the types of its literals."""
        key: list[Any] = []
        for name in self.__match_args__:
            part = getattr(self, name)
            key += [part, tuple(map(type, part)) if isinstance(part, tuple) else type(part)]
        return tuple(key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = str(self)
        if len(shown) > _REPR_LENGTH:
            shown = f"{shown[:_REPR_LENGTH]}… {len(shown):,} characters"
        return f"<filter {shown}>"


@dataclass(frozen=True, slots=True)
class Ref:
    """A field or, with a ``path``, a key within the JSON payload."""

    name: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return literals.reference(self.name, self.path)


@dataclass(slots=True, eq=False, repr=False)
class Const(Expr):
    value: bool

    def _text(self, no: str) -> str:
        return f"{no}{literals.literal(self.value)}"


@dataclass(slots=True, eq=False, repr=False)
class Compare(Expr):
    ref: Ref
    op: Operator
    value: Value

    def _text(self, no: str) -> str:
        return f"{no}{self.ref} {self.op} {literals.literal(self.value)}"


@dataclass(slots=True, eq=False, repr=False)
class In(Expr):
    """``ref`` equals one of ``values``. There is at least one value; ``bind`` makes them
    distinct."""

    ref: Ref
    values: tuple[Value, ...]

    @property
    def literals(self) -> int:
        return len(self.values)

    def _text(self, no: str) -> str:
        return f"{self.ref} {no}IN ({_literals(self.values)})"


@dataclass(slots=True, eq=False, repr=False)
class IsNull(Expr):
    ref: Ref

    def _text(self, no: str) -> str:
        return f"{self.ref} IS {no}NULL"


@dataclass(slots=True, eq=False, repr=False)
class Like(Expr):
    """LIKE with a pattern whose wildcards are ``ANY_TEXT`` and ``ANY_CHARACTER``.

    No other character in it is special. With ``ignore_case``, the condition is ILIKE.
    """

    ref: Ref
    pattern: str
    ignore_case: bool = False

    def _text(self, no: str) -> str:
        word = "ILIKE" if self.ignore_case else "LIKE"
        return f"{self.ref} {no}{word} {patterns.written(self.pattern)}"


@dataclass(slots=True, eq=False, repr=False)
class StartsWith(Expr):
    ref: Ref
    prefix: str

    def _text(self, no: str) -> str:
        return f"{no}{self.ref} STARTSWITH {literals.literal(self.prefix)}"


@dataclass(slots=True, eq=False, repr=False)
class Contains(Expr):
    """The list in ``ref`` has ``value`` as an item."""

    ref: Ref
    value: Value

    def _text(self, no: str) -> str:
        return f"{self.ref} {no}CONTAINS {literals.literal(self.value)}"


@dataclass(slots=True, eq=False, repr=False)
class EqualsList(Expr):
    """The list in ``ref`` has exactly these items, or no items if ``values`` is empty."""

    ref: Ref
    values: tuple[Value, ...]

    @property
    def literals(self) -> int:
        return len(self.values) or 1

    def _text(self, no: str) -> str:
        if not self.values:
            return f"{self.ref} IS {no}EMPTY"
        return f"{self.ref} {'!=' if no else '='} [{_literals(self.values)}]"


@dataclass(slots=True, eq=False, repr=False)
class IsTrue(Expr):
    """TRUE if ``item`` is true, FALSE if it is false or null. Build with ``is_true``."""

    item: Expr
    depth: int = field()
    literals: int = field()

    def _text(self, no: str) -> str:
        if isinstance(self.item, Not):
            return f"({self.item.item}) IS {no}FALSE"
        return f"({self.item}) IS {no}TRUE"


@dataclass(slots=True, eq=False, repr=False)
class Not(Expr):
    """The negation of ``item``. Build with ``negated``."""

    item: Expr
    depth: int = field()
    literals: int = field()

    def _text(self, no: str) -> str:
        return self.item._text("NOT ")


@dataclass(slots=True, eq=False, repr=False)
class And(Expr):
    """All of two or more terms, none of them an And. Build with ``all_of``."""

    items: tuple[Expr, ...]
    depth: int = field()
    literals: int = field()

    def _text(self, no: str) -> str:
        terms = (f"({item})" if isinstance(item, Or) else str(item) for item in self.items)
        joined = " AND ".join(terms)
        return f"NOT ({joined})" if no else joined


@dataclass(slots=True, eq=False, repr=False)
class Or(Expr):
    """Any of two or more terms, none of them an Or. Build with ``any_of``."""

    items: tuple[Expr, ...]
    depth: int = field()
    literals: int = field()

    def _text(self, no: str) -> str:
        joined = " OR ".join(map(str, self.items))
        return f"NOT ({joined})" if no else joined


def condition(obj: object) -> Expr:
    """Return an object as a condition; a field becomes ``field = TRUE``."""
    if isinstance(obj, Combinable):
        return obj.as_condition()
    fix = "put each comparison in parentheses: (F.year >= 2024) & (F.lang == 'en')"
    if isinstance(obj, str):
        fix = "pass filter text as aiovec.where('...')"
    raise FilterError(f"{shown(obj)} is not a condition; {fix}")


def all_of(items: Iterable[Expr]) -> Expr:
    """Return the items joined with AND; TRUE if there are none."""
    return _joined(And, items, empty=True)


def any_of(items: Iterable[Expr]) -> Expr:
    """Return the items joined with OR; FALSE if there are none."""
    return _joined(Or, items, empty=False)


def negated(expr: Expr) -> Expr:
    """Return NOT ``expr``; for a negation, its inner condition."""
    if isinstance(expr, Not):
        return expr.item
    if isinstance(expr, Const):
        return Const(not expr.value)
    return Not(expr, _checked_depth(expr.depth + 1), expr.literals)


def is_true(expr: Expr) -> Expr:
    """Return ``expr`` IS TRUE, or ``expr`` itself if ``expr`` cannot be null."""
    inner = expr.item if isinstance(expr, Not) else expr
    if isinstance(inner, (Const, IsNull, IsTrue)):
        return expr
    return IsTrue(expr, _checked_depth(expr.depth + 1), expr.literals)


def _joined(kind: type[And] | type[Or], items: Iterable[Expr], *, empty: bool) -> Expr:
    flat: list[Expr] = []
    depth = literals = 0
    # An inner AND knows its size, so adding a term to many terms does not count them all again.
    for item in items:
        if isinstance(item, kind):
            flat.extend(item.items)
            depth = max(depth, item.depth - 1)
        elif not (isinstance(item, Const) and item.value is empty):  # adds nothing
            flat.append(item)
            depth = max(depth, item.depth)
        literals += item.literals
    if not flat:
        return Const(empty)
    if len(flat) == 1:
        return flat[0]
    return kind(tuple(flat), _checked_depth(depth + 1), check_literals(literals))


def check_literals(count: int) -> int:
    """Return the count, or raise FilterError if a filter cannot have that many literals."""
    if count > MAX_LITERALS:
        raise FilterError(f"the filter holds more than {MAX_LITERALS:,} literals")
    return count


def _checked_depth(depth: int) -> int:
    if depth > MAX_DEPTH:
        raise FilterError(
            f"the filter nests AND, OR, NOT and IS TRUE more than {MAX_DEPTH} levels deep"
        )
    return depth


def word_of(expr: And | Or, negate: bool) -> Literal["AND", "OR"]:
    """Return the word that joins the terms of ``expr``, or of its negation: ``NOT (a AND b)`` is
    ``NOT a OR NOT b``, even if ``a`` or ``b`` is null."""
    return "AND" if isinstance(expr, And) is not negate else "OR"


def one_of(ref: Ref, values: Iterable[Value]) -> Expr:
    """Return the condition that ``ref`` equals one of these values, which are all of one kind."""
    distinct = tuple(dict.fromkeys(values))
    return In(ref, distinct) if len(distinct) > 1 else Compare(ref, "=", distinct[0])
