"""The filter tree: what ``where`` means, whoever wrote it and whatever will run it.

A tree is immutable and shallow: AND and OR hold any number of terms, and a tree deeper than
``MAX_DEPTH`` cannot be built. So every walk over one may recurse. ``str(tree)`` is filter text
that parses to an equal tree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ..errors import FilterError
from . import patterns, text

Value = str | int | float | bool | datetime
Operator = Literal["=", "!=", "<", "<=", ">", ">="]

# SQLite refuses expressions deeper than 1,000; each level here may cost it ten or so.
MAX_DEPTH = 64
# Every literal is a bound parameter; SQLite allows 32,766 of them. A condition without a literal
# counts as one, so that this bounds the size of the whole tree.
MAX_LITERALS = 30_000
# Names in a payload key. SQLite looks each one up in a table of its own and joins at most 64.
MAX_NAMES = 64

_REPR_LENGTH = 1_000


class Combinable(ABC):
    """Something that is a condition, or can be taken as one: combine with ``&``, ``|``, ``~``."""

    __slots__ = ()

    @abstractmethod
    def as_condition(self) -> Expr:
        """The condition that this stands for."""

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
        """Two-valued: a row matches where this is true, and its negation where it is not.

        Rows where the condition is null, because a field is null, absent or of another type, count
        as not matching.
        """
        return is_true(self.as_condition())

    def is_not_true(self) -> Expr:
        """The negation of ``is_true``: false or null."""
        return negated(is_true(self.as_condition()))

    def __bool__(self) -> bool:
        raise FilterError(
            "a condition has no truth value before it runs: combine conditions with & | ~ in "
            "parentheses, not with and, or, not, and write a range as F.x.between(1, 3)"
        )


class Expr(Combinable):
    """A condition. Combine conditions with ``&``, ``|`` and ``~``.

    Two are equal when they have the same shape and literals of the same types: ``x = 1`` is
    neither ``x = 1.0`` nor ``x = TRUE``.
    """

    __slots__ = ()

    @property
    def depth(self) -> int:
        return 1

    @property
    def literals(self) -> int:
        return 1

    def as_condition(self) -> Expr:
        return self

    @abstractmethod
    def _key(self) -> tuple[Any, ...]:
        """The parts that tell this condition from others of its class."""

    @abstractmethod
    def __str__(self) -> str:
        """Filter text that parses to an equal tree."""

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
    """A field, or with a ``path`` a key within the JSON payload."""

    name: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return text.reference(self.name, self.path)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Const(Expr):
    value: bool

    def _key(self) -> tuple[Any, ...]:
        return (self.value,)

    def __str__(self) -> str:
        return text.literal(self.value)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Expr):
    ref: Ref
    op: Operator
    value: Value

    def _key(self) -> tuple[Any, ...]:
        return self.ref, self.op, type(self.value), self.value

    def __str__(self) -> str:
        return f"{self.ref} {self.op} {text.literal(self.value)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class In(Expr):
    """``ref`` equals one of ``values``; there is at least one."""

    ref: Ref
    values: tuple[Value, ...]

    @property
    def literals(self) -> int:
        return len(self.values)

    def _key(self) -> tuple[Any, ...]:
        return self.ref, tuple(map(type, self.values)), self.values

    def __str__(self) -> str:
        return f"{self.ref} IN ({', '.join(map(text.literal, self.values))})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IsNull(Expr):
    ref: Ref

    def _key(self) -> tuple[Any, ...]:
        return (self.ref,)

    def __str__(self) -> str:
        return f"{self.ref} IS NULL"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Like(Expr):
    """``%`` stands for any text, ``_`` for one character, unless ``escape`` stands before them.

    ``ignore_case`` is ILIKE. A backend reads ``marked``, in which no character is special.
    """

    ref: Ref
    pattern: str
    escape: str | None = None
    ignore_case: bool = False

    @property
    def marked(self) -> str:
        """The pattern with ``ANY_TEXT`` and ``ANY_CHARACTER`` for its wildcards."""
        return patterns.marked(self.pattern, self.escape)

    def _key(self) -> tuple[Any, ...]:
        return self.ref, self.pattern, self.escape, self.ignore_case

    def __str__(self) -> str:
        return self.text(negate=False)

    def text(self, *, negate: bool) -> str:
        """Filter text for the condition, or for its negation."""
        words = f"{'NOT ' if negate else ''}{'ILIKE' if self.ignore_case else 'LIKE'}"
        escape = "" if self.escape is None else f" ESCAPE {text.literal(self.escape)}"
        return f"{self.ref} {words} {text.literal(self.pattern)}{escape}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StartsWith(Expr):
    ref: Ref
    prefix: str

    def _key(self) -> tuple[Any, ...]:
        return self.ref, self.prefix

    def __str__(self) -> str:
        return f"{self.ref} STARTSWITH {text.literal(self.prefix)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Contains(Expr):
    """The list in ``ref`` has ``value`` as an item."""

    ref: Ref
    value: Value

    def _key(self) -> tuple[Any, ...]:
        return self.ref, type(self.value), self.value

    def __str__(self) -> str:
        return f"{self.ref} CONTAINS {text.literal(self.value)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EqualsList(Expr):
    """The list in ``ref`` has exactly these items; with none, the list is empty."""

    ref: Ref
    values: tuple[Value, ...]

    @property
    def literals(self) -> int:
        return len(self.values) or 1

    def _key(self) -> tuple[Any, ...]:
        return self.ref, tuple(map(type, self.values)), self.values

    def __str__(self) -> str:
        return self.text(negate=False)

    def text(self, *, negate: bool) -> str:
        """Filter text for the condition, or for its negation."""
        if not self.values:
            return f"{self.ref} IS {'NOT ' if negate else ''}EMPTY"
        listed = ", ".join(map(text.literal, self.values))
        return f"{self.ref} {'!=' if negate else '='} [{listed}]"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IsTrue(Expr):
    """TRUE where ``item`` is, else FALSE, also where ``item`` is null. Build with ``is_true``."""

    item: Expr
    depth: int = field()
    literals: int = field()

    def _key(self) -> tuple[Any, ...]:
        return (self.item,)

    def __str__(self) -> str:
        return self.text(negate=False)

    def text(self, *, negate: bool) -> str:
        """Filter text for the condition, or for its negation."""
        item, truth = (
            (self.item.item, "FALSE") if isinstance(self.item, Not) else (self.item, "TRUE")
        )
        return f"({item}) IS {'NOT ' if negate else ''}{truth}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Not(Expr):
    """Build with ``negated``."""

    item: Expr
    depth: int = field()
    literals: int = field()

    def _key(self) -> tuple[Any, ...]:
        return (self.item,)

    def __str__(self) -> str:
        match self.item:
            case In(ref, values):
                return f"{ref} NOT IN ({', '.join(map(text.literal, values))})"
            case IsNull(ref):
                return f"{ref} IS NOT NULL"
            case Like() | EqualsList() | IsTrue() as item:
                return item.text(negate=True)
            case Contains(ref, value):
                return f"{ref} NOT CONTAINS {text.literal(value)}"
            case And() | Or():
                return f"NOT ({self.item})"
            case _:
                return f"NOT {self.item}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class And(Expr):
    """All of two or more terms, none of them an And. Build with ``all_of``."""

    items: tuple[Expr, ...]
    depth: int = field()
    literals: int = field()

    def _key(self) -> tuple[Any, ...]:
        return self.items

    def __str__(self) -> str:
        return " AND ".join(f"({i})" if isinstance(i, Or) else str(i) for i in self.items)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Or(Expr):
    """Any of two or more terms, none of them an Or. Build with ``any_of``."""

    items: tuple[Expr, ...]
    depth: int = field()
    literals: int = field()

    def _key(self) -> tuple[Any, ...]:
        return self.items

    def __str__(self) -> str:
        return " OR ".join(map(str, self.items))


def condition(obj: object) -> Expr:
    """``obj`` as a condition: one that is, or a field that stands for ``field = TRUE``."""
    if isinstance(obj, Combinable):
        return obj.as_condition()
    raise FilterError(
        f"{text.shown(obj)} is not a condition; put each comparison in parentheses: "
        '(F.year >= 2024) & (F.lang == "en")'
    )


def all_of(items: Iterable[Expr]) -> Expr:
    """AND over ``items``; TRUE where there are none."""
    return _joined(And, items, empty=True)


def any_of(items: Iterable[Expr]) -> Expr:
    """OR over ``items``; FALSE where there are none."""
    return _joined(Or, items, empty=False)


def negated(expr: Expr) -> Expr:
    """NOT ``expr``, without the NOT where there were two."""
    if isinstance(expr, Not):
        return expr.item
    if isinstance(expr, Const):
        return Const(not expr.value)
    return Not(expr, _checked_depth(expr.depth + 1), expr.literals)


def contains_text(ref: Ref, part: str) -> Expr:
    """``ref`` LIKE any text with ``part`` in it."""
    any_text = patterns.ANY_TEXT
    return Like(ref, *patterns.written(f"{any_text}{part}{any_text}"))


def is_true(expr: Expr) -> Expr:
    """``expr`` IS TRUE, or ``expr`` itself where that cannot be null."""
    inner = expr.item if isinstance(expr, Not) else expr
    if isinstance(inner, (Const, IsNull, IsTrue)):
        return expr
    return IsTrue(expr, _checked_depth(expr.depth + 1), expr.literals)


def _joined(kind: type[And] | type[Or], items: Iterable[Expr], *, empty: bool) -> Expr:
    flat: list[Expr] = []
    depth = literals = 0
    # The sizes of an inner AND are taken as it knows them, so that adding one term to many does
    # not count the many again.
    for item in items:
        if isinstance(item, kind):
            flat.extend(item.items)
            depth = max(depth, item.depth - 1)
        else:
            flat.append(item)
            depth = max(depth, item.depth)
        literals += item.literals
    if not flat:
        return Const(empty)
    if len(flat) == 1:
        return flat[0]
    return kind(tuple(flat), _checked_depth(depth + 1), check_literals(literals))


def characters_of(expr: Expr) -> int:
    """Return the number of characters in the texts of a condition."""
    match expr:
        case And(items) | Or(items):
            return sum(map(characters_of, items))
        case Not(item) | IsTrue(item):
            return characters_of(item)
        case Like(_, given) | StartsWith(_, given):
            return len(given)
        case Compare(_, _, str(given)) | Contains(_, str(given)):
            return len(given)
        case In(_, values) | EqualsList(_, values):
            return sum(len(value) for value in values if isinstance(value, str))
    return 0


def check_literals(count: int) -> int:
    """``count``, or FilterError when a filter must not hold so many literals."""
    if count > MAX_LITERALS:
        raise FilterError(f"the filter holds more than {MAX_LITERALS:,} literals")
    return count


def _checked_depth(depth: int) -> int:
    if depth > MAX_DEPTH:
        raise FilterError(
            f"the filter nests AND, OR, NOT and IS TRUE more than {MAX_DEPTH} levels deep"
        )
    return depth
