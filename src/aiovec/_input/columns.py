"""One field's values, in any form, checked and converted to the field's type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import numpy as np

from .._filters.literals import in_utc, moment_text
from .._model.arrow import python_values
from .._model.ids import id_text
from .._model.json_text import json_text, read_json
from .._model.kinds import KINDS, FieldKind
from .._model.schema import MAX_ID_BYTES, Field, Schema
from .._tools.lazy_arrow import arrow_errors, is_array, is_list, pa
from .._tools.messages import shown
from ..errors import InvalidRowError


class Places(NamedTuple):
    """The row numbers of values, for errors, and the rows' ids if known.

    Without ``chosen``, the rows are consecutive from ``first``. Otherwise value ``i`` is in row
    ``first + chosen[i]``.
    """

    ids: Sequence[str] = ()
    first: int = 0
    chosen: Any = None  # a sequence or an array of row numbers

    def of(self, indices: Any) -> Places:
        """Return the places of the values at these indices."""
        if self.chosen is not None:
            indices = [self.chosen[index] for index in indices]
        return Places(self.ids, self.first, indices)


def located(places: Places | None, index: int) -> dict[str, Any]:
    """Return the number and the id of a value's row, for errors; {} if ``places`` is None."""
    if places is None:
        return {}
    row = index if places.chosen is None else int(places.chosen[index])
    return {"row": places.first + row, "id": places.ids[row] if row < len(places.ids) else None}


_Of = TypeVar("_Of")
_NOT_UNICODE = "the text is not valid Unicode (a lone surrogate)"


def faults() -> tuple[type[Exception], ...]:
    """Return the exceptions that conversions raise when they refuse a value."""
    return (ValueError, TypeError, OverflowError, *arrow_errors())


def first_fault(
    convert: Callable[[_Of, Any], object], of: _Of, values: Any
) -> tuple[int, Exception]:
    """Find by bisection the first value that ``convert(of, values)`` refuses, and its error.

    ``values`` is a sequence or an array that ``convert`` has refused as a whole.
    """
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(of, values[low:middle])
        except faults():
            high = middle
        else:
            low = middle
    try:
        convert(of, values[low:high])
    except faults() as exc:
        return low, exc
    return low, ValueError("the values are too many or too large to be stored at once")


def id_texts(ids: Any, first_row: int = 0) -> list[str]:
    """Return ids as text, from an Arrow column or a sequence of texts, whole numbers and UUIDs."""
    if is_array(ids):
        if pa.types.is_integer(ids.type):
            ids = ids.cast(pa.utf8())
        if not pa.types.is_string(ids.type) and len(ids):
            raise InvalidRowError(
                f"ids must be text or whole numbers, not {ids.type}", row=first_row, field="id"
            )
        ids = ids.to_pylist()
    if not set(map(type, ids)) <= {str}:
        ids = [_id_of(first_row + row, id) for row, id in enumerate(ids)]
    lengths = list(map(len, ids))
    # A character takes at most four bytes.
    if ids and (min(lengths) < 1 or max(lengths) > MAX_ID_BYTES // 4 or "\0" in "".join(ids)):
        for row, id in enumerate(ids):
            if not is_possible_id(id):
                reason = f"an id must be text of 1 to {MAX_ID_BYTES} bytes without NUL"
                raise InvalidRowError(reason, row=first_row + row, id=id, field="id")
    return cast("list[str]", ids)


def is_possible_id(id: str) -> bool:
    """Return whether a row can have this id."""
    return 1 <= len(id.encode(errors="replace")) <= MAX_ID_BYTES and "\0" not in id


def _id_of(row: int, value: object) -> str:
    text = id_text(value)
    if text is None:
        reason = f"an id must be text, a whole number or a UUID, not {type(value).__name__}"
        if value is None:
            reason = "every row needs an id"
        raise InvalidRowError(reason, row=row, field="id")
    return text


def _types_of(kind: FieldKind) -> tuple[type, ...]:
    """Return the Python and NumPy types that values of this kind may have."""
    if kind.item is not None:
        return (list, tuple, np.ndarray)
    scalars = {dtype.type for dtype in _DTYPES if dtype.kind in kind.numpy}
    return (kind.python, *kind.also, *scalars, *chain(*map(_types_of, kind.mixes)))


_DTYPES = tuple(map(np.dtype, np.typecodes["All"]))
_ACCEPTED = {name: _types_of(kind) for name, kind in KINDS.items()}
_WHOLE: tuple[type[int], ...] = _ACCEPTED["int"]
_INT64 = range(-(2**63), 2**63)
# A float represents every whole number up to this one exactly.
_MOST_IN_A_FLOAT = 2**53


def field_column(name: str, field: Field, values: Any, places: Places | None) -> Any:
    """Return one field's values, converted to exactly the field's type.

    A sequence becomes a list of Python values. An array from ``arrow.plain`` stays an array if it
    has the field's type.
    """
    convert: Callable[[Any, Any], Any]
    of: Any
    if is_array(values):
        convert, of = _from_arrow, field
    else:
        convert, of = _lists if field.is_list else _plain_values, KINDS[field.kind]
    try:
        column = convert(of, values)
    except faults():
        row, exc = first_fault(convert, of, values)
        reason = str(exc)
        if isinstance(exc, UnicodeEncodeError):
            reason = _NOT_UNICODE
        elif isinstance(exc, (*arrow_errors(), TypeError, OverflowError)):
            reason = f"must be {KINDS[field.kind].expected}; {exc}"
        raise InvalidRowError(reason, field=name, **located(places, row)) from exc
    if not field.nullable and (missing := _first_null(column)) is not None:
        raise InvalidRowError("must not be null", field=name, **located(places, missing))
    return column


def _first_null(column: list[Any] | pa.Array) -> int | None:
    if isinstance(column, list):
        return column.index(None) if None in column else None
    return column.is_null().index(True).as_py() if column.null_count else None


def _lists(kind: FieldKind, values: Sequence[Any]) -> list[Any]:
    """Return each list as a list of Python values, or raise ValueError."""
    _check_types(values, kind)
    return [
        None if items is None else _plain_values(kind.single, _plain_items(kind, items), kind)
        for items in values
    ]


def _plain_values(
    kind: FieldKind, values: Sequence[Any], within: FieldKind | None = None
) -> list[Any]:
    """Convert values to Python's types, or raise ValueError.

    ``within`` is the kind of the list that holds the values, if any.
    """
    types = _check_types(values, kind, within)
    if kind.name == "datetime":
        return [None if value is None else moment(value) for value in values]
    if not types <= {kind.python, type(None)}:
        if kind.name == "float":
            _check_exact(values)
        convert = str.__str__ if kind.name == "text" else kind.python
        values = [None if value is None else convert(value) for value in values]
    if kind.name == "text":
        for text in values:
            if text is not None and not text.isascii():
                text.encode()
    elif kind.name == "int":
        for number in values:
            if number is not None and number not in _INT64:
                raise ValueError(f"must be {kind.expected}")
    elif kind.name == "float":
        for number in values:
            if number != number:
                raise ValueError(_NAN)
    return list(values)


def _check_exact(values: Sequence[Any]) -> None:
    """Raise ValueError for whole numbers that a float cannot hold exactly."""
    for value in values:
        if isinstance(value, _WHOLE) and not -_MOST_IN_A_FLOAT <= value <= _MOST_IN_A_FLOAT:
            raise ValueError(f"must be {KINDS['float'].expected}; {value} is beyond 2**53")


def _check_types(
    values: Sequence[Any], kind: FieldKind, within: FieldKind | None = None
) -> set[type[object]]:
    """Return the types of values; raise ValueError for a wrong type, or for None in a list."""
    accepted = _ACCEPTED[kind.name]
    types = set(map(type, values))
    for type_ in types.difference(accepted):
        if type_ is type(None) and within is None:
            continue
        is_flag = issubclass(type_, _ACCEPTED["bool"])
        if issubclass(type_, accepted) and (kind.name == "bool" or not is_flag):
            continue
        value = next(value for value in values if type(value) is type_)
        fault = f"must be {kind.expected}, not {shown(value, 60)} ({type_.__name__})"
        raise ValueError(fault if within is None else f"must be {within.expected}: {fault}")
    return types


def _plain_items(kind: FieldKind, items: Any) -> Any:
    if not isinstance(items, np.ndarray):
        return items
    if items.ndim != 1:
        raise ValueError(f"must be {kind.expected}, not an array of {items.ndim} dimensions")
    return items.tolist()


_NAN = "NaN cannot be stored; use None"
_NO_ZONE = (
    "a datetime needs a time zone: datetime.now(UTC) has one, .replace(tzinfo=UTC) adds one, "
    "and text ends with it, as in 2026-01-31T12:00:00Z"
)


def moment(value: Any) -> datetime:
    """Return a datetime or RFC 3339 text as a datetime in UTC, or raise ValueError."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError as exc:
            raise ValueError(
                f"must be a datetime or RFC 3339 text, not {shown(value, 60)}"
            ) from exc
    if value != value:  # pandas.NaT
        raise ValueError("NaT cannot be stored; use None")
    if value.utcoffset() is None:
        raise ValueError(_NO_ZONE)
    return in_utc(value)


def _from_arrow(field: Field, values: pa.Array) -> list[Any] | pa.Array:
    kind, stored = KINDS[field.kind], field.arrow_type()
    item_type = values.type.value_type if is_list(values.type) else values.type
    if field.item_kind == "int" and pa.types.is_floating(item_type):
        values = values.cast(stored)  # frames store integers with nulls as floats
    if kind.name == "datetime" or values.type != stored:
        return (_lists if field.is_list else _plain_values)(kind, python_values(values))
    items = values.flatten() if field.is_list else values
    if field.is_list and items.null_count:
        raise ValueError(f"must be {kind.expected}, without null")
    if field.item_kind == "float":
        numbers = items.to_numpy(zero_copy_only=False)  # a null becomes NaN
        if np.count_nonzero(np.isnan(numbers)) > items.null_count:
            raise ValueError(_NAN)
    return values


# The payload

MAX_DEPTH = 100
# The length of the path to the deepest value in a payload.
MOST_KEYS = MAX_DEPTH + 2


def payload_column(
    extra: Sequence[Mapping[str, Any] | None], schema: Schema, places: Places | None
) -> list[str | None]:
    """Return each row's undeclared keys as JSON text; None for a row without such keys."""
    if not any(extra):
        return [None] * len(extra)
    return [
        json_text(plain_payload(keys, schema, places, row)) if keys else None
        for row, keys in enumerate(extra)
    ]


def plain_payload(
    keys: Mapping[str, Any], schema: Schema, places: Places | None, row: int = 0
) -> dict[str, Any]:
    """Return a row's undeclared keys, with their values converted to exactly JSON's types."""

    def refuse(key: object, reason: str) -> InvalidRowError:
        return InvalidRowError(reason, field=str(key), **located(places, row))

    payload = {}
    for key, value in keys.items():
        if not schema.payload:
            raise refuse(key, "the table keeps only declared fields (payload=False)")
        try:
            payload[_json_key(key)] = _json_value(value)
        except UnicodeEncodeError as exc:
            raise refuse(key, _NOT_UNICODE) from exc
        except ValueError as exc:
            raise refuse(key, str(exc)) from exc
    return payload


def _json_key(key: object) -> str:
    if type(key) is str and key.isascii():
        return key
    if not isinstance(key, str):
        raise ValueError(f"a key must be text, not {type(key).__name__}")
    return cast("str", _json_value(key))


def _json_value(value: Any, depth: int = 0) -> Any:
    """Return a value as plain JSON, or raise ValueError if JSON cannot express it."""
    kind = type(value)
    if kind is str:
        if not value.isascii():
            value.encode()
    elif kind is int:
        if value not in _INT64:
            raise ValueError("an integer is beyond 64 bits")
    elif kind is float:
        if not math.isfinite(value):
            raise ValueError("NaN and infinity are not JSON")
    elif value is None or kind is bool:
        pass
    elif depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    elif kind is dict:
        return {_json_key(key): _json_value(part, depth + 1) for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        return [_json_value(part, depth + 1) for part in value]
    else:
        return _json_value(_plainer(value), depth)
    return value


def _plainer(value: Any) -> Any:
    """Return the JSON value for an object of another type, or raise ValueError."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, _WHOLE):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, datetime):
        return moment_text(moment(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind not in "mM":  # times would become ints
        return value.tolist()
    name, fix = type(value).__name__, "convert it"
    if name in ("timedelta", "Timedelta", "timedelta64"):
        fix += ", as by total_seconds(), in a frame df['x'].dt.total_seconds()"
    raise ValueError(
        f"{name} is not JSON (text, numbers, booleans, None, lists, dicts, datetimes, dates, "
        f"UUIDs); {fix}"
    )


def payloads_of(column: pa.Array, schema: Schema, places: Places | None) -> list[dict[str, Any]]:
    """Return the objects in a column of JSON text from ``arrow.plain``; null becomes ``{}``."""

    def refuse(row: int, reason: str) -> InvalidRowError:
        return InvalidRowError(reason, field="payload", **located(places, row))

    if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        raise refuse(0, f"the payload column must be JSON text, not {column.type}")
    objects = []
    for row, text in enumerate(column.to_pylist()):
        try:
            value = {} if text is None else read_json(text)
        except (ValueError, RecursionError) as exc:
            raise refuse(row, f"is not valid JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise refuse(row, "the payload must be a JSON object")
        for key in ("id", schema.vector):
            if key in value:
                raise refuse(row, f"the key {key!r} is reserved for the row")
        objects.append(value)
    return objects


def foreign_values(column: pa.Array, name: str) -> list[Any]:
    """Return a column from ``arrow.plain`` as Python values, or raise InvalidRowError."""
    try:
        return python_values(column)
    except (pa.ArrowException, ValueError, OverflowError, LookupError, ImportError) as exc:
        raise InvalidRowError(
            f"the values of {column.type} cannot be read: {exc}", field=name
        ) from exc
