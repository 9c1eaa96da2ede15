"""Names and values as they stand in Lance's SQL.

Lance takes filters as text only, so every literal is written out here and nowhere else. Tried with
lancedb 0.40: a quote is doubled, a backslash in a literal means itself, and a name in backticks
keeps its case.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from aiovec.backend import Kind

_LEAST_INT = -(2**63)

# What Lance's SQL calls the columns' types, for a null of the type. A list has none there.
_TYPES: dict[Kind, str] = {
    "text": "STRING",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
}
_ARROW_TYPES: dict[Kind, str] = {
    "datetime": 'Timestamp(Microsecond, Some("UTC"))',
    "list[text]": "List(Utf8)",
}


def name(column: str) -> str:
    """A column's name. Schema lets no backtick into one."""
    return f"`{column}`"


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def literal(value: Any) -> str:
    """A value of a column's exact type, as ``aiovec._filters.bind`` gives it."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        # The parser takes the minus for an operator, and the number without it is too large.
        return f"CAST('{value}' AS BIGINT)" if value == _LEAST_INT else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime):
        return timestamp(value)
    raise TypeError(f"no literal for {type(value).__name__}")


def timestamp(value: datetime) -> str:
    at = value.astimezone(UTC).replace(tzinfo=None)
    return f"TIMESTAMP '{at.isoformat(timespec='microseconds')}Z'"


def listed(values: Iterable[Any]) -> str:
    """Values for an IN."""
    return ", ".join(map(literal, values))


def assigned(value: Any, kind: Kind) -> str:
    """A field's new value, for an UPDATE."""
    if value is None:
        if kind in _TYPES:
            return f"CAST(NULL AS {_TYPES[kind]})"
        return f"arrow_cast(NULL, {text(_ARROW_TYPES[kind])})"
    if kind == "list[text]":
        if not value:
            return f"arrow_cast(make_array(), {text(_ARROW_TYPES[kind])})"
        return f"make_array({listed(value)})"
    return literal(value)


def like_pattern(pattern: str) -> str:
    """A LIKE pattern as a literal. Lance's LIKE knows an escape, ours does not."""
    return text(pattern.replace("\\", "\\\\"))
