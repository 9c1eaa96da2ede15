"""JSON of payloads: read without loss, and written in its stored form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


class LossyJsonError(ValueError):
    """JSON that would change when stored, such as a repeated key or the number 1e400."""


def read_json(text: str) -> Any:
    """Read JSON; raise ValueError if a key occurs twice in an object.

    Also raises ValueError for a number too large for float64 at the top level, in a member of the
    top-level object, or in a list in one of these places; deeper numbers are not checked.
    ``Infinity``, which Python writes, is accepted.
    """
    value = _DECODER.decode(text)
    if any(map(_has_infinity, value.values() if isinstance(value, dict) else [value])):
        _CAREFUL.decode(text)  # far slower
    return value


def json_text(value: Mapping[str, Any]) -> str:
    """Return JSON in its stored form: compact, with unescaped Unicode and the keys in order."""
    return _ENCODER.encode(value)


def _has_infinity(value: object) -> bool:
    """Return whether a value is an infinite number, or a list with one."""
    if type(value) is list:
        return math.inf in value or -math.inf in value
    return type(value) is float and math.isinf(value)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise LossyJsonError(f"the key {key!r:.60} occurs twice in an object")
            seen.add(key)
    return members


def _in_range(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise LossyJsonError(f"the number {text:.60} is beyond the range of float64")
    return number


# Created once: with these options, ``json.dumps`` would create an encoder for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(object_pairs_hook=_once_each)
_CAREFUL = json.JSONDecoder(object_pairs_hook=_once_each, parse_float=_in_range)
