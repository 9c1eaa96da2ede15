"""One field's values, whatever they came as, checked and turned into an Arrow array."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from itertools import accumulate
from struct import pack
from typing import Any, cast
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .._filters.text import moment_text
from .._model.arrow import check_weight, is_list, is_number, python_values, without_finer
from .._model.ids import id_text
from .._model.json_text import LossyJsonError, read_json
from .._model.schema import MAX_ID_BYTES, Field, Schema
from ..errors import InvalidRowError

Place = Callable[[int], tuple[int | None, str | None]]
"""Gives, for a position in a column, the row's number and id for an error."""

_INT64 = range(-(2**63), 2**63)
_FEW = 16
# Of texts that are turned into Arrow in one piece: it takes some milliseconds.
_MOST_CHARACTERS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = pa.timestamp("us", tz="UTC")
_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


def encodable(text: str, error: Callable[[], Exception]) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise error() from exc


def foreign_values(column: pa.Array, name: str) -> list[Any]:
    """The values of a column of ``arrow_data.plain`` as Python's own, or InvalidRowError."""
    check_weight(column, name)
    try:
        return python_values(column)
    except (pa.ArrowException, ValueError, OverflowError, LookupError, ImportError) as exc:
        raise InvalidRowError(
            f"the values of {column.type} cannot be read: {exc}", field=name
        ) from exc


def id_column(ids: Any, place: Place) -> pa.Array:
    if isinstance(ids, pa.Array):
        column = ids.cast(pa.utf8())
    else:
        if not set(map(type, ids)) <= {str}:
            ids = [_id_of(row, id, place) for row, id in enumerate(ids)]
        column = text_array("id", ids, place)
        # For a few rows Arrow's compute functions cost more than all the rest.
        if len(ids) <= _FEW and all(map(_is_plain_id, ids)):
            return column
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise InvalidRowError("every row needs an id", row=place(row)[0], field="id")
    lengths = pc.binary_length(column)
    bad = pc.or_(
        pc.or_(pc.less(lengths, 1), pc.greater(lengths, MAX_ID_BYTES)),
        pc.match_substring(column, "\0"),
    )
    if len(column) and pc.any(bad).as_py():
        row = bad.index(True).as_py()
        number, id_ = place(row)
        raise InvalidRowError(
            f"an id is text of 1 to {MAX_ID_BYTES} bytes without NUL",
            row=number,
            id=id_,
            field="id",
        )
    return column


def _id_of(row: int, value: object, place: Place) -> str:
    text = id_text(value)
    if text is None:
        raise InvalidRowError(
            f"an id is text, a whole number or a UUID, not {type(value).__name__}",
            row=place(row)[0], field="id",
        )  # fmt: skip
    return text


def _is_plain_id(id: str) -> bool:
    return id.isascii() and 0 < len(id) <= MAX_ID_BYTES and "\0" not in id


def text_array(name: str, values: Sequence[Any], place: Place) -> pa.Array:
    try:
        if len(values) <= _FEW and (few := _few_texts(values)) is not None:
            return few
        parts = [pa.array(part, type=pa.utf8()) for part in _in_parts(values)]
        return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
    except (UnicodeEncodeError, pa.ArrowException, TypeError) as exc:
        for row, value in enumerate(values):
            if isinstance(value, str):
                number, id = place(row)
                encodable(
                    value,
                    lambda number=number, id=id: InvalidRowError(  # type: ignore[misc]  # defaults bind the loop's values
                        "the text is not valid Unicode (a lone surrogate)",
                        row=number, id=id, field=name,
                    ),
                )  # fmt: skip
        raise InvalidRowError(str(exc), field=name) from exc


def _few_texts(values: Sequence[Any]) -> pa.Array | None:
    """A few texts and nulls as an Arrow array, sooner than by ``pa.array``; None for other values.

    The fewer there are the sooner: those of a single row in a tenth of the time.
    """
    if len(values) == 1:
        (value,) = values
        if value is None:
            return pa.nulls(1, pa.utf8())
        if type(value) is str:
            text = value.encode()
            ends = pa.py_buffer(pack("=ii", 0, len(text)))
            return pa.Array.from_buffers(pa.utf8(), 1, [None, ends, pa.py_buffer(text)])
    if not set(map(type, values)) <= {str, type(None)}:
        return None
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = pa.py_buffer(array("i", accumulate(map(len, encoded), initial=0)))
    there = sum(1 << row for row, value in enumerate(values) if value is not None)
    known = None
    if there + 1 != 1 << len(values):
        known = pa.py_buffer(there.to_bytes(_FEW // 8, "little"))
    buffers = [known, ends, pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.utf8(), len(values), buffers)


def _in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the texts in parts of which each is soon an Arrow array.

    Arrow holds the interpreter's lock meanwhile, for which the event loop waits.
    """
    try:
        whole = sum(map(len, values)) <= _MOST_CHARACTERS
    except TypeError:  # some are null
        whole = False
    if whole:
        yield values
        return
    start = characters = 0
    for row, value in enumerate(values, start=1):
        characters += len(value) if isinstance(value, str) else 0
        if characters > _MOST_CHARACTERS:
            yield values[start:row]
            start, characters = row, 0
    if start < len(values) or not start:
        yield values[start:]


# NumPy's durations are "integers" too, and no numbers.
_WHOLE: tuple[type[int | np.integer[Any]], ...] = (
    int, *{np.dtype(code).type for code in np.typecodes["AllInteger"]},
)  # fmt: skip
_ACCEPTED: dict[str, tuple[tuple[type, ...], str]] = {
    "text": ((str,), "text"),
    "int": (_WHOLE, "a whole number"),
    "float": ((float, np.floating, *_WHOLE), "a number"),
    "bool": ((bool, np.bool_), "True or False"),
    "datetime": ((datetime, str), "a datetime with a time zone"),
    "list[text]": ((list, tuple, np.ndarray), "a list of text"),
    "list[int]": ((list, tuple, np.ndarray), "a list of whole numbers"),
    "list[float]": ((list, tuple, np.ndarray), "a list of numbers"),
}


def field_column(name: str, field: Field, values: Any, place: Place) -> pa.Array:
    """One field's values as an Arrow array of exactly the field's type."""
    if isinstance(values, pa.Array):
        column = _arrow_column(name, field, values, place)
    else:
        column = _python_column(name, field, values, place)
    if not field.nullable and column.null_count:
        number, id = place(column.is_null().index(True).as_py())
        raise InvalidRowError("must not be null", row=number, id=id, field=name)
    if field.kind == "float":
        nan = pc.is_nan(column)
        if pc.any(nan).as_py():
            number, id = place(nan.index(True).as_py())
            raise InvalidRowError("NaN is no value; use None", row=number, id=id, field=name)
    return column


def _python_column(name: str, field: Field, values: Sequence[Any], place: Place) -> pa.Array:
    accepted, words = _ACCEPTED[field.kind]

    def refuse(row: int, reason: str) -> InvalidRowError:
        number, id = place(row)
        return InvalidRowError(reason, row=number, id=id, field=name)

    # Types are looked at as a set first: one pass in C for a column that is right.
    plain = {*accepted, type(None)}
    kinds = set(map(type, values))
    if not kinds <= plain:
        for row, value in enumerate(values):
            is_flag = isinstance(value, (bool, np.bool_))
            if value is None or (isinstance(value, accepted) and is_flag == (field.kind == "bool")):
                continue
            raise refuse(row, f"must be {words}, not {value!r:.60} ({type(value).__name__})")
    if field.kind == "text":
        return text_array(name, values, place)
    if field.kind == "int":
        try:
            return pa.array(values, type=pa.int64())
        except (OverflowError, pa.ArrowException) as exc:
            row = next(r for r, v in enumerate(values) if v is not None and int(v) not in _INT64)
            raise refuse(row, "is beyond 64 bits") from exc
    if field.kind == "float":
        try:
            floats = [None if v is None else float(v) for v in values]
        except OverflowError as exc:
            most = int(np.finfo(np.float64).max)
            row = next(r for r, v in enumerate(values) if isinstance(v, int) and abs(v) > most)
            raise refuse(row, "is too large for a float") from exc
        # Python compares whole numbers and floats as what they are, in one pass; NumPy does not.
        if not kinds <= {float, int, type(None)} or list(values) != floats:
            for row, (value, number) in enumerate(zip(values, floats, strict=True)):
                if isinstance(value, _WHOLE) and int(value) != number:
                    raise refuse(row, f"must be a number, and {value} is none that fits double")
        return pa.array(floats, type=pa.float64(), from_pandas=False)
    if field.kind == "bool":
        return pa.array([None if v is None else bool(v) for v in values], type=pa.bool_())
    if field.kind == "datetime":
        moments = [
            None if v is None else _moment(v, lambda reason, row=row: refuse(row, reason))  # type: ignore[misc]  # defaults bind the loop's values
            for row, v in enumerate(values)
        ]
        return pa.array(moments, type=pa.timestamp("us", tz="UTC"))
    values = [_plain_list(items) for items in values]
    if field.kind != "list[text]":
        return _number_lists(name, field, values, place)
    for row, items in enumerate(values):
        if items is not None and not all(isinstance(item, str) for item in items):
            raise refuse(row, "must be a list of text")
    try:
        return pa.array(values, type=pa.list_(pa.utf8()))
    except (UnicodeEncodeError, pa.ArrowException) as exc:
        for row, items in enumerate(values):
            for item in items or ():
                encodable(item, lambda row=row: refuse(row, "the text is not valid Unicode"))  # type: ignore[misc]  # defaults bind the loop's values
        raise InvalidRowError(str(exc), field=name) from exc


def _plain_list(items: Any) -> Any:
    """An array of one dimension as a list. One without is no list, so it stays as its only item."""
    if not isinstance(items, np.ndarray):
        return items
    return items.tolist() if items.ndim == 1 else [items]


def _number_lists(
    name: str, field: Field, values: Sequence[Sequence[Any] | None], place: Place
) -> pa.Array:
    """Lists whose items are checked as the values of a field of their own."""
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(items or ()) for items in values], out=offsets[1:])

    def place_of(item: int) -> tuple[int | None, str | None]:
        return place(int(np.searchsorted(offsets, item, side="right")) - 1)

    flat = [item for items in values for item in items or ()]
    try:
        items = field_column(name, Field(field.item_kind, nullable=False), flat, place_of)
    except InvalidRowError as exc:
        words = _ACCEPTED[field.kind][1]
        raise InvalidRowError(
            f"must be {words}; an item {exc.reason}", row=exc.row, id=exc.id, field=name
        ) from exc
    mask = pa.array([items is None for items in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=mask)


_NO_ZONE = (
    "a datetime needs a time zone: datetime.now(UTC) has one, .replace(tzinfo=UTC) gives it one, "
    "and text ends with it, as in 2026-01-31T12:00:00Z"
)


def _moment(value: Any, refuse: Callable[[str], Exception]) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError as exc:
            raise refuse(f"must be a datetime or RFC 3339 text, not {value!r:.60}") from exc
    if value != value:  # what pandas calls NaT
        raise refuse("not a time is no value; use None")
    if value.utcoffset() is None:
        raise refuse(_NO_ZONE)
    try:
        return cast("datetime", value.astimezone(UTC))
    except OverflowError as exc:
        raise refuse("the datetime is out of range in UTC") from exc


def _arrow_column(name: str, field: Field, values: pa.Array, place: Place) -> pa.Array:
    """A column of ``arrow_data.plain`` in the field's type."""
    wanted = field.arrow_type()
    given = values.type
    if given == wanted:
        column = values
    elif field.kind == "datetime" and pa.types.is_string(given):
        column = _python_column(name, field, values.to_pylist(), place)
    elif not _converts(field, given):
        raise InvalidRowError(_unfit(field, given), row=place(0)[0], field=name)
    else:
        # Finer than a microsecond is cut off; anything else that would change is refused.
        cut = without_finer(values)
        try:
            column = cut.cast(wanted)
        except pa.ArrowException as exc:
            row = _first_that_fails(cut, lambda part: part.cast(wanted))
            number, id = place(row)
            value = _shown(values, row)
            raise InvalidRowError(
                f"must be {_ACCEPTED[field.kind][1]}, and {value} is none that fits {wanted}",
                row=number, id=id, field=name,
            ) from exc  # fmt: skip
    if field.kind == "datetime" and len(column):
        # Arrow's range is wider than that of Python's datetimes.
        outside = pc.or_(
            pc.less(column, pa.scalar(_FIRST_MOMENT, _MICROSECONDS)),
            pc.greater(column, pa.scalar(_LAST_MOMENT, _MICROSECONDS)),
        )
        if pc.any(outside).as_py():
            number, id = place(outside.index(True).as_py())
            raise InvalidRowError(
                "the datetime is before the year 1 or after 9999", row=number, id=id, field=name
            )
    if field.is_list:
        items = column.flatten()
        if items.null_count or (field.kind == "list[float]" and pc.any(pc.is_nan(items)).as_py()):
            for row, listed in enumerate(column.to_pylist()):
                # A NaN differs from itself.
                if listed is not None and any(item is None or item != item for item in listed):
                    number, id = place(row)
                    raise InvalidRowError(
                        f"must be {_ACCEPTED[field.kind][1]}, without null or NaN",
                        row=number, id=id, field=name,
                    )  # fmt: skip
    return column


def _converts(field: Field, given: pa.DataType) -> bool:
    """Return whether values of an Arrow type can be those of a field, if they are in its range."""
    if pa.types.is_null(given):
        return True
    match field.kind:
        case "int" | "float":
            # Frames keep whole numbers with gaps as floats; a fraction does not fit an int field.
            return bool(pa.types.is_integer(given) or pa.types.is_floating(given))
        case "datetime":
            return bool(pa.types.is_timestamp(given)) and given.tz is not None
        case "list[text]":
            return bool(pa.types.is_list(given)) and (
                pa.types.is_string(given.value_type) or pa.types.is_null(given.value_type)
            )
        case "list[int]" | "list[float]":
            return is_list(given) and (
                is_number(given.value_type) or bool(pa.types.is_null(given.value_type))
            )
    return False


def _unfit(field: Field, given: pa.DataType) -> str:
    if field.kind == "datetime" and pa.types.is_timestamp(given):
        return "the column's datetimes have no time zone"
    reason = f"the column is {given}, the field {field.kind}"
    if pa.types.is_decimal(given) and field.kind in ("int", "float"):
        reason += "; convert decimals to floats or whole numbers first, as they may lose digits"
    return reason


def _first_that_fails(values: pa.Array, convert: Callable[[pa.Array], object]) -> int:
    """The first row that a conversion refuses; one of them does."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values.slice(low, middle - low))
        except pa.ArrowException:
            high = middle
        else:
            low = middle
    return low


def _shown(values: pa.Array, row: int) -> str:
    """A value for an error."""
    if pa.types.is_timestamp(values.type):  # Python may have no such datetime, or no such zone
        return f"{values.slice(row, 1).cast(pa.int64())[0]} {values.type.unit} since 1970"
    return f"{values[row]!s:.60}"


_INT64 = range(-(2**63), 2**63)
MAX_DEPTH = 100
# Of the path to a value in the deepest object that a payload may hold.
MOST_KEYS = MAX_DEPTH + 2


def payload_column(
    extra: Sequence[Mapping[str, Any] | None], schema: Schema, place: Place
) -> pa.Array | None:
    """The rows' undeclared keys as JSON text; None where there are none at all."""
    texts: list[str | None] = []
    for row, keys in enumerate(extra):
        if not keys:
            texts.append(None)
            continue
        number, id = place(row)
        if not schema.payload:
            raise InvalidRowError(
                "the table keeps only declared fields (payload=False)",
                row=number, id=id, field=str(next(iter(keys))),
            )  # fmt: skip
        converts = False
        for key, value in keys.items():
            converts |= _check_json(key, value, number, id)
        if converts:
            keys = {key: _as_json(value) for key, value in keys.items()}
        texts.append(json_text(keys))
    if not any(texts):
        return None
    return text_array("payload", texts, place)


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as it is stored: compact, in Unicode as it is, keys in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_JSON_PLAIN = frozenset((str, bool, type(None)))


def _check_json(key: Any, value: Any, row: int | None, id: str | None) -> bool:
    """Refuse what JSON cannot carry; return True where something has to be converted to JSON."""

    def refuse(reason: str) -> InvalidRowError:
        return InvalidRowError(reason, row=row, id=id, field=str(key))

    if not isinstance(key, str):
        raise refuse(f"a key is text, not {type(key).__name__}")
    encodable(key, lambda: refuse("the key is not valid Unicode"))
    converts = False
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        kind = type(item)
        if kind is str:
            encodable(item, lambda: refuse("the text is not valid Unicode (a lone surrogate)"))
        elif kind in _JSON_PLAIN:
            continue
        elif kind is int:
            if item not in _INT64:
                raise refuse("an integer is beyond 64 bits")
        elif kind is float:
            if not math.isfinite(item):
                raise refuse("NaN and infinity are not JSON")
        elif depth > MAX_DEPTH:
            raise refuse(f"is nested deeper than {MAX_DEPTH} levels")
        elif kind is list or isinstance(item, tuple):
            converts |= kind is not list
            waiting.extend((part, depth + 1) for part in item)
        elif kind is dict:
            for name, part in item.items():
                if type(name) is not str:
                    raise refuse(f"a key is text, not {type(name).__name__}")
                waiting.append((name, depth))
                waiting.append((part, depth + 1))
        else:
            try:
                plain_item = _plain(item)
            except ValueError as exc:
                raise refuse(f"is not JSON: {exc}") from exc
            if plain_item is item:
                raise refuse(
                    f"{kind.__name__} is not JSON (text, numbers, booleans, None, lists, dicts, "
                    "datetimes, dates, UUIDs); declare a field for it, or convert it"
                )
            converts = True
            waiting.append((plain_item, depth))
    return converts


def _plain(item: Any) -> Any:
    """Return the JSON value that stands for another one, or the item itself where none does.

    ValueError where the item is a datetime that no text stands for.
    """
    if isinstance(item, Enum):
        return item.value
    if isinstance(item, str):
        return str.__str__(item)
    if isinstance(item, dict):
        return dict(item)
    if isinstance(item, list):
        return list(item)
    if isinstance(item, _WHOLE):
        return int(item)
    if isinstance(item, (float, np.floating)):
        return float(item)
    if isinstance(item, np.bool_):
        return bool(item)
    if isinstance(item, datetime):
        return moment_text(_moment(item, ValueError))
    if isinstance(item, date):
        return item.isoformat()
    return str(item) if isinstance(item, UUID) else item


def _as_json(item: Any) -> Any:
    """A value that ``_check_json`` lets pass as plain JSON."""
    kind = type(item)
    if kind in _JSON_PLAIN or kind is int or kind is float:
        return item
    if kind is dict:
        return {key: _as_json(part) for key, part in item.items()}
    if kind is list or isinstance(item, tuple):
        return [_as_json(part) for part in item]
    return _as_json(_plain(item))


def arrow_payload(column: pa.Array, schema: Schema, place: Place) -> pa.Array:
    """A payload column of ``arrow_data.plain``: JSON text, an object for each row, or null."""
    if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        raise InvalidRowError(
            f"the payload column is JSON text, not {column.type}", row=place(0)[0], field="payload"
        )
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.utf8())
    texts: list[str | None] = []
    for row, text in enumerate(column.to_pylist()):
        number, id = place(row)
        if text is None:
            texts.append(None)
            continue
        try:
            value = read_json(text)
        except LossyJsonError as exc:
            raise InvalidRowError(str(exc), row=number, id=id, field="payload") from exc
        except (ValueError, RecursionError) as exc:
            raise InvalidRowError(
                f"is not valid JSON: {exc}", row=number, id=id, field="payload"
            ) from exc
        if not isinstance(value, dict):
            raise InvalidRowError(
                "the payload is a JSON object", row=number, id=id, field="payload"
            )
        if value and not schema.payload:
            raise InvalidRowError(
                "the table keeps only declared fields (payload=False)",
                row=number, id=id, field="payload",
            )  # fmt: skip
        for key, part in value.items():
            if key in ("id", schema.vector):
                raise InvalidRowError(
                    f"the key {key!r} is the row's own", row=number, id=id, field="payload"
                )
            _check_json(key, part, number, id)
        texts.append(json_text(value) if value else None)
    return pa.array(texts, type=pa.utf8())
