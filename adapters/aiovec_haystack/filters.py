"""Haystack's filters as conditions of aiovec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import reduce
from operator import and_, ge, gt, le, lt, or_
from typing import Any

from haystack.errors import FilterError

from aiovec.bridge import storable
from aiovec.errors import shown


def condition(wanted: Mapping[str, Any], fields: Callable[[str], Sequence[Any]]) -> Any:
    """Return the condition for a filter of Haystack.

    ``fields`` returns the fields of a name, one of which has to match.
    """
    if not isinstance(wanted, Mapping):
        raise FilterError(f"a filter is a mapping, not {type(wanted).__name__}")
    if "field" in wanted:
        return _comparison(wanted, fields)
    operator = _part(wanted, "operator")
    made = [condition(one, fields) for one in _part(wanted, "conditions")]
    if operator not in ("AND", "OR", "NOT") or not made:
        raise FilterError(f"expected AND, OR or NOT over conditions, not {shown(wanted)}")
    joined = reduce(or_ if operator == "OR" else and_, made)
    return joined.is_not_true() if operator == "NOT" else joined


def _part(wanted: Mapping[str, Any], name: str) -> Any:
    if name not in wanted:
        raise FilterError(f"the filter has no {name!r}: {shown(wanted)}")
    return wanted[name]


def _comparison(wanted: Mapping[str, Any], fields: Callable[[str], Sequence[Any]]) -> Any:
    operator, value = _part(wanted, "operator"), _part(wanted, "value")
    known = fields(_part(wanted, "field"))

    def matches(test: Callable[[Any], Any]) -> Any:
        return reduce(or_, map(test, known))

    match operator:
        case "==" | "!=":
            literal = storable(value)
            equal = (
                reduce(and_, [one.is_null() for one in known])
                if literal is None
                else matches(lambda one: one == literal)
            )
            return equal if operator == "==" else equal.is_not_true()
        case "in" | "not in":
            if not isinstance(value, list):
                raise FilterError(f"{operator!r} takes a list, not {type(value).__name__}")
            listed = [storable(one) for one in value]
            among = matches(lambda one: one.in_(listed))
            return among if operator == "in" else among.is_not_true()
        case ">" | ">=" | "<" | "<=":
            if value is None:
                return known[0].is_null() & known[0].is_not_null()  # nothing
            bound = _ordered(operator, value)
            return matches(lambda one: _ORDER[operator](one, bound))
    raise FilterError(f"the operator {operator!r} is not one of ==, !=, >, >=, <, <=, in, not in")


def _ordered(operator: str, value: Any) -> Any:
    """Return the value of a comparison: a number, or a date, which metadata has as ISO text."""
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(
                f"{operator!r} takes a number or an ISO date, not {shown(value)}"
            ) from None
    elif not isinstance(value, int | float | date):
        raise FilterError(f"{operator!r} takes a number or a date, not {type(value).__name__}")
    return storable(value)


_ORDER: dict[str, Callable[[Any, Any], Any]] = {">": gt, ">=": ge, "<": lt, "<=": le}
