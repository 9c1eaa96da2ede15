"""Haystack filters as aiovec conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from haystack.errors import FilterError

from aiovec.bridge import all_of, any_of, comparison, shown


def condition(wanted: Mapping[str, Any], fields: Callable[[str], Sequence[Any]]) -> Any:
    """Return the condition for a Haystack filter.

    ``fields`` returns the fields that a name can mean; any of them may match.
    """
    if not isinstance(wanted, Mapping):
        raise FilterError(f"a filter is a mapping, not {type(wanted).__name__}")
    if "field" in wanted:
        return _comparison(wanted, fields)
    operator = _part(wanted, "operator")
    parts = [condition(part, fields) for part in _part(wanted, "conditions")]
    if operator not in ("AND", "OR", "NOT") or not parts:
        raise FilterError(f"expected AND, OR or NOT over conditions, not {shown(wanted)}")
    joined = any_of(parts) if operator == "OR" else all_of(parts)
    return joined.is_not_true() if operator == "NOT" else joined


def _part(wanted: Mapping[str, Any], name: str) -> Any:
    if name not in wanted:
        raise FilterError(f"the filter has no {name!r}: {shown(wanted)}")
    return wanted[name]


def _comparison(wanted: Mapping[str, Any], fields: Callable[[str], Sequence[Any]]) -> Any:
    operator, value = _part(wanted, "operator"), _part(wanted, "value")
    known = fields(_part(wanted, "field"))
    match operator:
        case "in" | "not in" if not isinstance(value, list):
            raise FilterError(f"{operator!r} takes a list, not {type(value).__name__}")
        case ">" | ">=" | "<" | "<=":
            value = _ordered(operator, value)
        case "==" | "!=" | "in" | "not in":
            pass
        case _:
            words = "is not one of ==, !=, >, >=, <, <=, in, not in"
            raise FilterError(f"the operator {operator!r} {words}")
    return comparison(known, _COMPARISONS[operator], value)


def _ordered(operator: str, value: Any) -> Any:
    """Return the value of a comparison: a number, or a date.

    Dates in metadata are ISO strings, which sort correctly only within one time zone. So a date
    with a UTC offset is converted to UTC.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(
                f"{operator!r} takes a number or an ISO date, not {shown(value)}"
            ) from None
        return moment.astimezone(UTC).isoformat() if moment.utcoffset() else value
    if not isinstance(value, int | float | date | None):
        raise FilterError(f"{operator!r} takes a number or a date, not {type(value).__name__}")
    return value


_COMPARISONS = {
    "==": "$eq",
    "!=": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
    "in": "$in",
    "not in": "$nin",
}
