r"""Names and values in Lance's SQL, and conditions on a payload key.

Lance accepts filters only as text, so only this module writes literals. In lancedb
0.40, a quote is doubled, a backslash in a literal is just a backslash, and a name in backticks
keeps its case.

Lance stores JSON in binary form and has functions for it, but they convert between types
(``json_get_int`` turns "3" into 3) and ``json_get_string`` fails on rows whose value is an array.
So a value is read in one of two exact forms: as JSON text, whose first character shows the type,
or, if the characters of a string matter, as the stored bytes. Lance has no CASE; instead,
``nullif`` turns values of other types into NULL.

Lance writes JSON text like Python, except for some exponents: a test compares every character and
many numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from aiovec.backend import ANY_CHARACTER, ANY_TEXT, Kind, Value, same_letter

_LEAST_INT = -(2**63)

# The column types in Lance's SQL, for typed NULLs and empty lists.
_ARROW_TYPES: dict[Kind, str] = {
    "text": "Utf8",
    "int": "Int64",
    "float": "Float64",
    "bool": "Boolean",
    "datetime": 'Timestamp(Microsecond, Some("UTC"))',
    "list[text]": "List(Utf8)",
    "list[int]": "List(Int64)",
    "list[float]": "List(Float64)",
}


def name(column: str) -> str:
    """Return a column's name in SQL. The schema allows no backticks in names."""
    return f"`{column}`"


def no(negate: bool) -> str:
    return "NOT " if negate else ""


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def literal(value: Any) -> str:
    """Return a value as a literal of its column's exact type."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        # The parser reads the minus as an operator, and the number without it is out of range.
        return f"CAST('{value}' AS BIGINT)" if value == _LEAST_INT else str(value)
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE)" if math.isinf(value) else repr(value)
    if isinstance(value, datetime):
        return timestamp(value)
    raise TypeError(f"no literal for {type(value).__name__}")


def timestamp(value: datetime) -> str:
    at = value.astimezone(UTC).replace(tzinfo=None)
    return f"TIMESTAMP '{at.isoformat(timespec='microseconds')}Z'"


def encoded(sql: str) -> str:
    """Return the same text, after making Python cache its UTF-8 form.

    lancedb asks for the UTF-8 form on the event loop, and encoding a megabyte takes milliseconds.
    Arrow asks for it in the same way, so creating an Arrow scalar makes Python encode the text now.
    """
    if not sql.isascii():
        pa.scalar(sql)
    return sql


def listed(values: Iterable[Any]) -> str:
    """Return values as literals, separated by commas."""
    return ", ".join(map(literal, values))


def assigned(value: Any, kind: Kind) -> str:
    """Return the SQL for a field's new value in an UPDATE."""
    if value is None:
        return f"arrow_cast(NULL, {text(_ARROW_TYPES[kind])})"
    if kind.startswith("list["):
        if not value:
            return f"arrow_cast(make_array(), {text(_ARROW_TYPES[kind])})"
        return f"make_array({listed(value)})"
    if isinstance(value, bool):  # Lance would read TRUE as a field with the name "true"
        return f"CAST({int(value)} AS BOOLEAN)"
    return literal(value)


def like(value: str, pattern: str, *, ignore_case: bool, negate: bool) -> str:
    """Return the condition that a text matches a pattern. Lance's LIKE escapes with a backslash."""
    if not ignore_case:
        # translate() would take 100 ms for a pattern of a megabyte.
        written = pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        written = written.replace(ANY_TEXT, "%").replace(ANY_CHARACTER, "_")
        return f"{value} {no(negate)}LIKE {text(written)}"
    # Lance's ILIKE folds case by a different Unicode version.
    body = pattern.strip(ANY_TEXT)
    begin = "" if pattern.startswith(ANY_TEXT) else "^"
    end = "" if pattern.endswith(ANY_TEXT) else "$"
    regex = f"(?s){begin}{''.join(map(_either_case, body))}{end}"
    return f"{no(negate)}regexp_like({value}, {text(regex)})"


def _either_case(character: str) -> str:
    if character == ANY_TEXT:
        return ".*"
    if character == ANY_CHARACTER:
        return "."
    return f"[{_escaped(same_letter(character))}]"


def equals_list(column: str, values: Sequence[Value], *, negate: bool) -> str:
    """Return the condition that a column's list equals ``values``. Lance has no literal for an
    empty list."""
    operator = "<>" if negate else "="
    if not values:
        return f"array_length({column}) {operator} 0"
    return f"{column} {operator} make_array({listed(values)})"


# Lance treats a key of this form as an array index.
_PLACE_IN_ARRAY = re.compile(r"[+-]?[0-9]+\Z")
# A scalar's bytes: a header, then a word with type (1 is text) and length, then the UTF-8 text.
_TEXT_IN_HEX = "200000001.{7}(.*)$"
# CONTAINS sees the items after an array item only if that item is nested no deeper than this.
# Lance's regular expressions allow about 60 levels; a payload may have a hundred.
_DEEPEST = 48


class PayloadValue:
    """The payload value at a path. Most methods return SQL that is NULL for other value types."""

    def __init__(self, path: Sequence[str]) -> None:
        containers = ["payload"]
        for key in path:
            containers.append(f"json_get({containers[-1]}, {text(key)})")
        self._value = containers[-1]
        # An array has no keys, so the parent of a key that looks like an index must be an object.
        self._objects = [
            containers[i]
            for i, key in enumerate(path)
            if i and _PLACE_IN_ARRAY.match(key)
        ]  # fmt: skip
        # The pattern requires a character, because concat treats NULL as an empty string.
        self._as_json = self._guarded(_json_of(self._value), "(.+)$")

    def _guarded(self, sql: str, pattern: str, *, always: bool = False) -> str:
        """Return SQL for the part of ``sql`` that the group in ``pattern`` matches.

        The SQL is NULL if Lance would use a key of the path as an array index. If no key looks like
        an index, return ``sql`` unchanged, unless ``always`` is set.
        """
        if not self._objects and not always:
            return sql
        heads = "".join(f"left({_json_of(container)}, 1), " for container in self._objects)
        subject = f"concat({heads}{sql})" if heads else sql
        marks = r"\{" * len(self._objects)
        return f"array_element(regexp_match({subject}, {text('(?s)^' + marks + pattern)}), 1)"

    @property
    def _as_text(self) -> str:
        encoded_text = self._guarded(f"encode({self._value}, 'hex')", _TEXT_IN_HEX, always=True)
        return f"arrow_cast(decode({encoded_text}, 'hex'), 'Utf8')"

    @property
    def as_items(self) -> str:
        """The value as JSON text; NULL for objects."""
        return f"array_element(regexp_match({self._as_json}, '(?s)^([^{{].*)$'), 1)"

    @property
    def as_scalar(self) -> str:
        """The value as JSON text; NULL for objects and arrays."""
        return f"array_element(regexp_match({self._as_json}, '(?s)^([^\\[{{].*)$'), 1)"

    @property
    def as_int(self) -> str:
        return f"TRY_CAST({self._as_json} AS BIGINT)"

    @property
    def as_float(self) -> str:
        """The value as a float. Ints are converted too, so use this only if ``as_int`` is NULL."""
        return f"TRY_CAST({self._as_json} AS DOUBLE)"

    def is_null(self, *, negate: bool) -> str:
        return f"coalesce({self._as_json}, 'null') {'<>' if negate else '='} 'null'"

    def equals_text(self, values: Sequence[str], *, negate: bool) -> str:
        listed = ", ".join(text(_json_text(value)) for value in values)
        return self._only(f"{self._as_json} {no(negate)}IN ({listed})", '"', negate=negate)

    def compares_text(self, operator: str, value: str) -> str:
        return f"{self._as_text} {operator} {text(value)}"

    def is_like(self, pattern: str, *, ignore_case: bool, negate: bool) -> str:
        return like(self._as_text, pattern, ignore_case=ignore_case, negate=negate)

    def starts_with(self, prefix: str, *, negate: bool) -> str:
        begin = text(_json_text(prefix)[:-1])
        return self._only(f"{no(negate)}starts_with({self._as_json}, {begin})", '"', negate=negate)

    def equals_bool(self, value: bool) -> str:
        right, wrong = ("true", "false") if value else ("false", "true")
        return f"({self._as_json} = '{right}' OR nullif({self._as_json} <> '{wrong}', TRUE))"

    def contains(self, value: Value, *, negate: bool) -> str:
        item = "|".join(_forms_in_json(value))
        return self._matches(rf"^\[(?:{_ITEM},)*(?:{item})(?:,|\]$)", negate=negate)

    def equals_list(self, values: Sequence[Value], *, negate: bool) -> str:
        items = ",".join(f"(?:{'|'.join(_forms_in_json(value))})" for value in values)
        return self._matches(rf"^\[{items}\]$", negate=negate)

    def _matches(self, pattern: str, *, negate: bool) -> str:
        """Return the condition that the JSON text of an array matches a pattern."""
        sql = f"{no(negate)}regexp_like({self._as_json}, {text(pattern)})"
        return self._only(sql, "[", negate=negate)

    def _only(self, sql: str, first: str, *, negate: bool) -> str:
        """Return SQL with the value of ``sql`` if the JSON text begins with ``first``, else NULL.

        For other JSON texts, ``sql`` must be FALSE, or TRUE with ``negate``.
        """
        begins = f"starts_with({self._as_json}, {text(first)})"
        if negate:
            return f"({sql} AND nullif({begins}, FALSE))"
        return f"({sql} OR nullif(NOT {begins}, TRUE))"


def _json_of(value: str) -> str:
    return f"json_extract({value}, '$')"


def _json_text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _forms_in_json(value: Value) -> list[str]:
    """Return regular expressions for the JSON texts that represent ``value``."""
    if isinstance(value, str):
        return [_escaped(_json_text(value))]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{type(value).__name__} is not JSON")
    if not value:
        return ["-?0", r"-?0\.0"]
    forms = set()
    if value == int(value):
        forms.add(str(int(value)))
    if float(value) == value:
        shortest = repr(float(value))
        forms.add(shortest)
        forms.add(re.sub(r"e([+-])0", r"e\1", shortest))
        forms.add(format(Decimal(shortest), "f"))
    return sorted(map(_escaped, forms))


def _escaped(literal: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else rf"\x{{{ord(c):x}}}" for c in literal)


def _item_pattern() -> str:
    """Return a regular expression for one item of a well-formed JSON array."""
    string = r'"(?:[^"\\]|\\.)*"'
    nested = r"[\[{]" + rf'(?:{string}|[^"\[\]{{}}])*' + r"[\]}]"
    for _ in range(_DEEPEST):
        nested = r"[\[{]" + rf'(?:{string}|[^"\[\]{{}}]|{nested})*' + r"[\]}]"
    return rf'(?:{string}|[^"\[\]{{}},]+|{nested})'


_ITEM = _item_pattern()
