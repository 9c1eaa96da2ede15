"""The types of fields, each described once. Each backend decides how it stores their values."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple

from .._tools.lazy_arrow import is_list, is_text, pa

Kind = Literal["text", "int", "float", "bool", "datetime", "list[text]", "list[int]", "list[float]"]


class FieldKind(NamedTuple):
    """A field type.

    ``expected`` and ``literal`` describe its values in errors about rows and filters, and ``numpy``
    has the letters of its NumPy dtype kinds. Rows may also have values of the types in ``also`` and
    of the kinds in ``mixes``. For lists, ``item`` is the kind of the items.
    """

    name: Kind
    python: Any
    expected: str
    literal: str = ""
    numpy: str = ""
    also: tuple[type, ...] = ()
    mixes: tuple[FieldKind, ...] = ()
    item: FieldKind | None = None

    @property
    def single(self) -> FieldKind:
        """The kind of a single value; for lists, the kind of an item."""
        return self.item or self

    def arrow(self) -> pa.DataType:
        """Return the Arrow type of the kind's values."""
        return _arrow_types()[self.name] if self.item is None else pa.list_(self.item.arrow())


_MOMENT = "a time: TIMESTAMP '...Z' in text, a datetime with a time zone in Python"
_TEXT = FieldKind("text", str, "text", "text", "UT")
_INT = FieldKind("int", int, "a whole number of up to 64 bits", "a number", "iu")
_FLOAT = FieldKind("float", float, "a number", "a number", "f", mixes=(_INT,))
_BOOL = FieldKind("bool", bool, "True or False", "TRUE or FALSE", "b")
_DATETIME = FieldKind("datetime", datetime, "a datetime with a time zone", _MOMENT, also=(str,))
_TEXTS = FieldKind("list[text]", list[str], "a list of text", item=_TEXT)
_INTS = FieldKind("list[int]", list[int], "a list of whole numbers", item=_INT)
_FLOATS = FieldKind("list[float]", list[float], "a list of numbers", mixes=(_INTS,), item=_FLOAT)

SINGLE = (_TEXT, _INT, _FLOAT, _BOOL, _DATETIME)
"""The kinds of single values."""

KINDS = {kind.name: kind for kind in (*SINGLE, _TEXTS, _INTS, _FLOATS)}

BY_TYPE: dict[Any, FieldKind] = {kind.python: kind for kind in KINDS.values()}
"""The kinds, by the Python type of their values."""


def kind_of_dtype(letter: str) -> FieldKind | None:
    """Return the field kind for a NumPy dtype's kind letter; None if there is none."""
    return next((kind for kind in SINGLE if letter in kind.numpy), None)


def kind_of_arrow(kind: pa.DataType) -> FieldKind | None:
    """Return the field kind for an Arrow type; None if there is none."""
    if is_list(kind):
        of = kind_of_arrow(kind.value_type)
        return next((each for each in KINDS.values() if of is not None and each.item is of), None)
    if pa.types.is_timestamp(kind):
        return _DATETIME if kind.tz else None
    if is_text(kind):
        return _TEXT
    if pa.types.is_boolean(kind):
        return _BOOL
    if pa.types.is_integer(kind):
        return _INT
    return _FLOAT if pa.types.is_floating(kind) else None


@cache
def _arrow_types() -> dict[str, pa.DataType]:
    numbers = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    return {"text": pa.utf8(), "datetime": pa.timestamp("us", tz="UTC"), **numbers}
