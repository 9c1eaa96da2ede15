"""Equality of lists, for SQLite.

JSON has many texts for one number and for one character, and a payload's list may have values of
several types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aiovec.backend import Value

_FUNCTION = "aiovec_equals_list"


def register(connection: Any) -> None:
    """Give ``connection``, a DB-API connection to SQLite, the function that ``call`` calls."""
    connection.create_function(_FUNCTION, 2, _equals, deterministic=True)


def call(list_sql: str, mark: str, length: int) -> str:
    """Return SQL that compares a JSON array with the parameter at ``mark``:
    ``argument(values)``."""
    return f"json_array_length({list_sql}) = {length} AND {_FUNCTION}({list_sql}, {mark})"


def argument(values: Sequence[Value]) -> str:
    return json.dumps(values)


def _equals(stored: str | None, wanted: str) -> bool | None:
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
