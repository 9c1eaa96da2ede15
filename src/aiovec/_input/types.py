"""The types of arguments: rows, vectors, values and filters.

Objects of other libraries are described by protocols, so none of these libraries is imported, and
any object with the same methods is accepted. The values of a row's mapping are ``object``: mypy
infers nothing narrower for a dict of mixed values, and every value is checked when it is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import Field as _DataclassField
from datetime import date, datetime
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args
from uuid import UUID

import numpy as np
import numpy.typing as npt

from .._filters.tree import Combinable


class ArrowStream(Protocol):
    """pyarrow and Polars tables, readers, and other objects that stream Arrow data."""

    def __arrow_c_stream__(self, requested_schema: Any = None, /) -> Any: ...


class ArrowArray(Protocol):
    """pyarrow record batches and arrays, and other objects that export one piece of Arrow data."""

    def __arrow_c_array__(self, requested_schema: Any = None, /) -> Any: ...


class DataFrame(Protocol):
    """A pandas frame. Its columns and the named levels of its index are the rows' fields."""

    @property
    def columns(self) -> Any: ...
    @property
    def index(self) -> Any: ...
    @property
    def iloc(self) -> Any: ...


class Model(Protocol):
    """A pydantic model. Its fields are read by their Python names, not by their aliases."""

    def model_dump(self, *, by_alias: bool = ...) -> Mapping[str, Any]: ...


class Dataclass(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, _DataclassField[Any]]]


class NamedTuple(Protocol):
    """An instance of a named tuple."""

    def _asdict(self) -> Mapping[str, Any]: ...


class HasArray(Protocol):
    """Anything that NumPy can read as an array, such as a tensor."""

    def __array__(self) -> npt.NDArray[Any]: ...


JsonValue: TypeAlias = (
    str | int | float | bool | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
)
"""A value of the JSON payload."""

FieldValue: TypeAlias = (
    JsonValue
    | datetime
    | date
    | UUID
    | Enum
    | np.integer[Any]
    | np.floating[Any]
    | np.bool_
    | npt.NDArray[Any]
)
"""A value of a field or of the payload."""

Row: TypeAlias = Mapping[str, object] | Model | Dataclass | NamedTuple
"""One row: ``id``, the vector and the fields, flat. ``Record`` and ``Hit`` are accepted too."""

Frame: TypeAlias = ArrowStream | ArrowArray | DataFrame
"""Many rows in one pyarrow, Polars or pandas object."""

Rows: TypeAlias = Iterable[Row | Frame] | AsyncIterable[Row | Frame] | Frame | Mapping[str, object]
"""Rows for ``insert`` and ``upsert``: an iterable of rows or frames, a frame, or columns."""

Id: TypeAlias = str | int | UUID | np.integer[Any]
"""An id: text, a whole number (converted to its digits) or a UUID."""

Ids: TypeAlias = Id | Iterable[Id]
"""One id or several."""

OnConflict = Literal["fail", "skip", "replace"]
"""An insert's treatment of a row whose id already exists, or occurs twice in the call."""

ON_CONFLICT: tuple[OnConflict, ...] = get_args(OnConflict)

Vector: TypeAlias = (
    Sequence[float | np.floating[Any] | np.integer[Any]] | npt.NDArray[Any] | HasArray
)
"""One vector: a sequence or buffer of numbers, a NumPy array, or a tensor."""

Vectors: TypeAlias = (
    Iterable[Vector]
    | Iterable[Vector | str]
    | AsyncIterable[Vector | str]
    | AsyncIterable[Vector]
    | npt.NDArray[Any]
    | HasArray
    | ArrowStream
    | ArrowArray
)
"""Many vectors: an iterable of vectors, a matrix, or an Arrow column.

A text may replace a vector if the table's schema has ``embed``.
"""

_Condition: TypeAlias = Combinable | str | Mapping[str, Any] | None

Where: TypeAlias = _Condition | Sequence[_Condition]
"""A filter: a condition made with ``F``, filter text, or None for every row.

In a mapping such as ``{"year": 2024}``, a plain value means equality, a list means any of its
items, and None means null. In a list of conditions, all of them must be true.
"""
