"""The types of fields, each described once. What a backend stores for one is its own matter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, NamedTuple

from .._tools.lazy_arrow import is_list, is_text, pa

Kind = Literal[
    "text", "int", "float", "bool", "datetime", "list[text]", "list[int]", "list[float]"
]  # fmt: skip


class FieldKind(NamedTuple):
    """A type of fields.

    ``expected`` and ``literal`` describe its values in the errors of rows and of filters.
    ``is_arrow`` accepts the Arrow types of the same meaning, and ``numpy`` has the kinds of such
    dtypes. Rows may also bring values of the types in ``also``, and mix values of the kinds in
    ``mixes`` with its own. The kind of a list has that of its ``item``.
    """

    name: Kind
    python: Any
    expected: str
    arrow: Callable[[], pa.DataType]
    is_arrow: Callable[[pa.DataType], object]
    literal: str = ""
    numpy: str = ""
    also: tuple[type, ...] = ()
    mixes: tuple[FieldKind, ...] = ()
    item: FieldKind | None = None

    @property
    def single(self) -> FieldKind:
        """The kind of a single value: of an item, if the values are lists."""
        return self.item or self


_TEXT = FieldKind("text", str, "text", lambda: pa.utf8(), is_text, "text", "UT")
_INT = FieldKind(
    "int", int, "a whole number of up to 64 bits",
    lambda: pa.int64(), lambda kind: pa.types.is_integer(kind), "a number", "iu",
)  # fmt: skip
_FLOAT = FieldKind(
    "float", float, "a number",
    lambda: pa.float64(), lambda kind: pa.types.is_floating(kind), "a number", "f", mixes=(_INT,),
)  # fmt: skip
_BOOL = FieldKind(
    "bool", bool, "True or False",
    lambda: pa.bool_(), lambda kind: pa.types.is_boolean(kind), "TRUE or FALSE", "b",
)  # fmt: skip
_DATETIME = FieldKind(
    "datetime", datetime, "a datetime with a time zone",
    lambda: pa.timestamp("us", tz="UTC"), lambda kind: pa.types.is_timestamp(kind) and kind.tz,
    "a time: TIMESTAMP '...Z' in text, a datetime with a time zone in Python", also=(str,),
)  # fmt: skip


def _lists(name: Kind, python: Any, expected: str, item: FieldKind, *mixes: FieldKind) -> FieldKind:
    return FieldKind(
        name, python, expected, lambda: pa.list_(item.arrow()),
        lambda kind: is_list(kind) and item.is_arrow(kind.value_type), mixes=mixes, item=item,
    )  # fmt: skip


_INTS = _lists("list[int]", list[int], "a list of whole numbers", _INT)

SINGLE = (_TEXT, _INT, _FLOAT, _BOOL, _DATETIME)
"""The kinds of fields without lists."""

KINDS = {
    kind.name: kind
    for kind in (
        *SINGLE, _lists("list[text]", list[str], "a list of text", _TEXT), _INTS,
        _lists("list[float]", list[float], "a list of numbers", _FLOAT, _INTS),
    )
}  # fmt: skip

BY_TYPE: dict[Any, FieldKind] = {kind.python: kind for kind in KINDS.values()}
"""The kinds by the Python types of their values."""


def kind_of_dtype(letter: str) -> FieldKind | None:
    """Return the kind of an array's values by the kind of its dtype; None if there is none."""
    return next((kind for kind in SINGLE if letter in kind.numpy), None)
