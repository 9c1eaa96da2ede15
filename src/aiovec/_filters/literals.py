"""Names and literals in filter text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from numbers import Integral, Real
from uuid import UUID

from .._tools.messages import shown
from ..errors import FilterError

MIN_INT, MAX_INT = -(2**63), 2**63 - 1

# The most characters of a text in a filter: a longer text would block the event loop.
_MOST_CHARACTERS = 2**20

# Other keywords, such as CONTAINS and TIMESTAMP, occur only where no name can, so they may also be
# names of fields.
RESERVED = frozenset(("AND", "OR", "NOT", "IN", "BETWEEN", "IS", "NULL", "LIKE", "TRUE", "FALSE"))

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# A name in a path: text in double quotes, or everything up to the next dot.
_NAME_IN_PATH = re.compile(r'"(?P<quoted>(?:[^"]|"")*+)"|(?P<plain>[^".]++)(?<!\s)')
PATH_RULE = (
    "each dot must be followed by a payload key in valid Unicode; put a key in double quotes if it "
    "is empty, contains a dot or a quote, or starts or ends with a space"
)
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def name(value: str) -> str:
    """Return a name as filter text, quoted if necessary."""
    if _PLAIN_NAME.match(value) and value.upper() not in RESERVED:
        return value
    return quoted(value)


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def reference(field: str, path: Sequence[str]) -> str:
    # A word after a dot is always a key, but reserved words read better in quotes.
    return ".".join(map(name, (field, *path)))


def names_in(path: object) -> list[str]:
    """Return the names in a path such as ``payload.kind."a.b"``, as ``reference`` writes them.

    Raises FilterError if the text is not a path.
    """
    path = checked_text(path)
    names: list[str] = []
    at = 0
    while match := _NAME_IN_PATH.match(path, at):
        quoted, plain = match["quoted"], match["plain"]
        if quoted is None and plain[0].isspace():
            break
        names.append(plain if quoted is None else quoted.replace('""', '"'))
        if match.end() == len(path):
            return names
        if path[match.end()] != ".":
            break
        at = match.end() + 1
    raise FilterError(f"{shown(path)} names no field: {PATH_RULE}")


def literal(value: str | int | float | bool | datetime) -> str:
    """Return a literal as filter text."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat().replace('+00:00', 'Z')}'"
    return repr(value)


def checked_value(value: object) -> str | int | float | bool | datetime:
    """Return a Python value as a literal of exactly one filter type, or raise FilterError.

    Subclasses and NumPy scalars become plain types, and datetimes are converted to UTC.
    """
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        plain = value.item()  # type: ignore[attr-defined]  # NumPy's scalars have it
        if kind in ("m", "M") and isinstance(plain, int):  # such as a count of nanoseconds
            raise _no_literal(value)
        value = plain
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return checked_text(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Integral):
        number = int(value)
        if not MIN_INT <= number <= MAX_INT:
            raise FilterError("an integer literal does not fit in 64 bits; write it as a float")
        return number
    if isinstance(value, Real):
        fraction = float(value)
        if not math.isfinite(fraction):
            raise FilterError(f"{fraction!r} cannot be a literal; numbers must be finite")
        return fraction
    if isinstance(value, datetime):
        return in_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if value is None:
        raise FilterError("a comparison with None is never true; use is_null() or IS NULL")
    raise _no_literal(value)


def _no_literal(value: object) -> FilterError:
    return FilterError(
        f"{shown(value)} cannot be a literal; use str, int, float, bool or a datetime with a "
        "time zone"
    )


def checked_values(values: Iterable[object]) -> tuple[str | int | float | bool | datetime, ...]:
    """Return Python values as literals; values of a single plain type are checked together."""
    listed = values if isinstance(values, (list, tuple)) else list(values)
    kinds = set(map(type, listed))
    if (
        kinds == {str}
        and all(map(str.isascii, listed))
        and max(map(len, listed)) <= _MOST_CHARACTERS
    ):
        return tuple(listed)
    if kinds == {int} and min(listed) >= MIN_INT and max(listed) <= MAX_INT:
        return tuple(listed)
    return tuple(map(checked_value, listed))


def checked_text(value: object) -> str:
    """Return a plain str that can be stored as UTF-8, or raise FilterError."""
    if not isinstance(value, str):
        raise FilterError(f"{shown(value)} is not text")
    plain = str.__str__(value)
    if len(plain) > _MOST_CHARACTERS:
        raise FilterError(
            f"a text of {len(plain):,} characters is too long for a filter (at most "
            f"{_MOST_CHARACTERS:,})"
        )
    if not plain.isascii() and _LONE_SURROGATE.search(plain):
        raise FilterError(f"{shown(plain)} holds a lone surrogate, which no stored text can")
    return plain


def timestamp(value: str) -> datetime:
    """Return an RFC 3339 string as a datetime, or raise FilterError."""
    if not _TIMESTAMP.match(value):
        raise FilterError(f"{shown(value)} is not a timestamp such as '2024-01-31T12:00:00.5Z'")
    try:
        return in_utc(datetime.fromisoformat(value.upper()))
    except ValueError as exc:
        raise FilterError(f"{shown(value)} is not a timestamp ({exc})") from exc


def moment_text(value: datetime) -> str:
    """Return a moment as a string for the payload. These strings sort chronologically."""
    return in_utc(value).isoformat(timespec="microseconds").replace("+00:00", "Z")


def in_utc(value: datetime) -> datetime:
    """Return a moment in UTC, or raise FilterError, which is a ValueError."""
    try:
        offset = value.utcoffset()
    except ValueError as exc:  # pandas.NaT
        raise FilterError(f"{shown(value)} is not a time") from exc
    if offset is None:
        raise FilterError(f"{shown(value)} has no time zone; add one, for instance UTC")
    try:
        moment = value.astimezone(UTC)
    except OverflowError as exc:
        raise FilterError(f"{shown(value)} is out of range in UTC") from exc
    if type(moment) is datetime:
        return moment
    return datetime.combine(moment.date(), moment.time(), UTC)  # pandas has its own types
