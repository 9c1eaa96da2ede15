"""Conditions written as Python: ``(F.year >= 2024) & F.lang.in_(["en", "de"])``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from uuid import UUID

from .._tools.messages import did_you_mean, shown
from ..errors import FilterError
from . import literals, patterns
from .tree import (
    Combinable,
    Compare,
    Const,
    Contains,
    EqualsList,
    Expr,
    In,
    IsNull,
    Like,
    Operator,
    Ref,
    StartsWith,
    Value,
    all_of,
    check_literals,
    negated,
)

_PANDAS = {"isin": "in_", "isna": "is_null", "notna": "is_not_null"}

# The Python types of literals.
Given = Value | date | UUID | Enum


class FieldRef(Combinable):
    """A field in a filter. Comparing it returns a condition.

    A bool field is itself a condition: ``F.live & (F.year > 2000)``. ``F.payload["a.b"]`` is the
    payload's key ``a.b``, and a second pair of brackets goes one level deeper.
    """

    __slots__ = ("_ref",)
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # == returns a condition
    # Without this, iterating would call __getitem__ with 0, 1, 2 and fail with an error about them.
    __iter__: ClassVar[None] = None

    def __init__(self, ref: Ref) -> None:
        self._ref = ref

    def as_condition(self) -> Expr:
        return Compare(self._ref, "=", True)

    def __getitem__(self, key: str) -> FieldRef:
        return FieldRef(Ref(self._ref.name, (*self._ref.path, literals.checked_text(key))))

    def __eq__(  # type: ignore[override]  # as ORMs do
        self, other: Given | Sequence[Value] | FieldRef | None
    ) -> Expr:
        if isinstance(other, (list, tuple)):
            return self._equals_list(other)
        return self.is_null() if other is None else self._compare("=", other)

    def __ne__(  # type: ignore[override]  # as ORMs do
        self, other: Given | Sequence[Value] | FieldRef | None
    ) -> Expr:
        if isinstance(other, (list, tuple)):
            return negated(self._equals_list(other))
        return self.is_not_null() if other is None else self._compare("!=", other)

    def __lt__(self, other: str | int | float | datetime) -> Expr:
        return self._compare("<", other)

    def __le__(self, other: str | int | float | datetime) -> Expr:
        return self._compare("<=", other)

    def __gt__(self, other: str | int | float | datetime) -> Expr:
        return self._compare(">", other)

    def __ge__(self, other: str | int | float | datetime) -> Expr:
        return self._compare(">=", other)

    def in_(self, values: Iterable[Given]) -> Expr:
        """Match rows whose value is one of ``values``; if ``values`` is empty, match no rows."""
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise FilterError(f"in_ takes a list of values, not {shown(values)}")
        checked = literals.checked_values(values)
        check_literals(len(checked))
        return In(self._ref, checked) if checked else Const(False)

    def not_in(self, values: Iterable[Given]) -> Expr:
        """Match rows whose value is none of ``values``. A null matches neither ``not_in`` nor
        ``in_``."""
        return negated(self.in_(values))

    def between(
        self, low: str | int | float | datetime, high: str | int | float | datetime
    ) -> Expr:
        """Match values from ``low`` to ``high``, both included."""
        return all_of((self >= low, self <= high))

    def is_null(self) -> Expr:
        """Match rows without a value."""
        return IsNull(self._ref)

    def is_not_null(self) -> Expr:
        """Match rows with a value."""
        return negated(IsNull(self._ref))

    def is_empty(self) -> Expr:
        """Match lists without items. A null field is neither empty nor not empty."""
        return EqualsList(self._ref, ())

    def is_not_empty(self) -> Expr:
        """Match lists with items."""
        return negated(self.is_empty())

    def like(self, pattern: str, *, escape: str | None = None) -> Expr:
        """Match a pattern: ``%`` is any text, ``_`` is one character. Case-sensitive.

        ``escape`` is a single character; the character after it is literal.
        """
        return self._like(pattern, escape, ignore_case=False)

    def ilike(self, pattern: str, *, escape: str | None = None) -> Expr:
        """Match like ``like``, ignoring case by simple case folding: ß matches ẞ, not "ss"."""
        return self._like(pattern, escape, ignore_case=True)

    def contains_text(self, part: str) -> Expr:
        """Match texts that contain ``part`` literally. Case-sensitive."""
        text = literals.checked_text(part)
        return Like(self._ref, f"{patterns.ANY_TEXT}{text}{patterns.ANY_TEXT}")

    def startswith(self, prefix: str) -> Expr:
        """Match texts that begin with ``prefix``, taken literally. Case-sensitive."""
        return StartsWith(self._ref, literals.checked_text(prefix))

    def contains(self, value: Value) -> Expr:
        """Match lists that have ``value`` as an item."""
        return Contains(self._ref, literals.checked_value(value))

    def _like(self, pattern: str, escape: str | None, *, ignore_case: bool) -> Expr:
        sign = None if escape is None else patterns.checked_escape(escape)
        return Like(self._ref, patterns.marked(literals.checked_text(pattern), sign), ignore_case)

    def _equals_list(self, values: Sequence[object]) -> Expr:
        checked = literals.checked_values(values) if values else ()
        check_literals(len(checked))
        return EqualsList(self._ref, checked)

    def _compare(self, op: Operator, other: object) -> Expr:
        if isinstance(other, Combinable):
            raise FilterError(
                f"{self} can be compared with a value only, not with another field or condition"
            )
        return Compare(self._ref, op, literals.checked_value(other))

    def __contains__(self, value: object) -> NoReturn:
        raise FilterError(
            f"write F.{self}.contains({shown(value)}), or .in_([...]) for one of several "
            "values; Python's in cannot be used in a filter"
        )

    def __str__(self) -> str:
        return str(self._ref)

    def __repr__(self) -> str:
        return f"<field {self._ref}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return FieldRef, (self._ref,)

    if not TYPE_CHECKING:  # so that mypy still reports unknown names

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute.startswith("_"):
                raise AttributeError(attribute)
            known = [name for name in dir(FieldRef) if not name.startswith("_")]
            like = did_you_mean(_PANDAS.get(attribute, attribute), known)
            raise AttributeError(
                f"a field has no {attribute!r}{like}"
                if like
                else f'a field has no {attribute!r}; write a payload key as F["{self}.{attribute}"]'
            )


class FieldNames:
    """The type of ``F``: ``F.year``, ``F["year"]``, ``F["payload.kind"]``, ``F.payload["a.b"]``."""

    __slots__ = ()
    __iter__: ClassVar[None] = None

    def __getattr__(self, name: str) -> FieldRef:
        # No field's name begins with an underscore, but copy, pickle, inspect and notebooks look
        # for such attributes.
        if name.startswith("_"):
            raise AttributeError(name)
        return FieldRef(Ref(name))

    def __getitem__(self, name: str) -> FieldRef:
        """Return the field or payload key ``name``, written as in filter text."""
        first, *path = literals.names_in(name)
        return FieldRef(Ref(first, tuple(path)))

    if not TYPE_CHECKING:

        def __call__(self, name: object = "year", *_: object) -> NoReturn:
            raise TypeError(f"F cannot be called; write F[{shown(name)}]")

    def __repr__(self) -> str:
        return "F"

    def __reduce__(self) -> str:
        return "F"


F = FieldNames()
