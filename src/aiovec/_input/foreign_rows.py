"""Rows and columns in other libraries' types: models, dataclasses, pandas, Polars.

This module imports none of these libraries: an app that passes their objects has imported them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from .._model.arrow import array_of, names_of, table_of
from .._model.records import Hit, Record
from .._tools.lazy_arrow import is_array, is_of, pa
from .._tools.messages import shown
from ..errors import InvalidRowError
from .arguments import is_iterable


def as_row(item: Any, vector: str = "", row: int | None = None) -> Mapping[str, Any] | None:
    """Return a row as a flat mapping; None if the object is not a row.

    A pydantic model's fields are read by their Python names, not by their aliases.
    """
    if isinstance(item, (Record, Hit)):
        return {**item.fields, "id": item.id, vector: item.vector}
    if isinstance(item, Mapping):
        return item
    kind = type(item)
    if hasattr(kind, "model_fields") and callable(getattr(kind, "model_dump", None)):
        try:
            dumped = item.model_dump(by_alias=False)
        except ValueError as exc:  # pydantic's errors are ValueErrors
            raise InvalidRowError(f"the model cannot be dumped: {exc}", row=row) from exc
        return dumped if isinstance(dumped, Mapping) else None
    if is_dataclass(kind):
        return {field.name: _dumped(getattr(item, field.name)) for field in fields(item)}
    if isinstance(item, tuple) and hasattr(kind, "_fields") and hasattr(kind, "_asdict"):
        return dict(zip(kind._fields, item, strict=False))
    return None


def _dumped(value: Any) -> Any:
    """Return a dataclass's value with nested dataclasses as dicts, and arrays unchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if type(value) is list and any(map(is_dataclass, value)):
        return [_dumped(item) for item in value]
    if type(value) is dict and any(map(is_dataclass, value.values())):
        return {key: _dumped(item) for key, item in value.items()}
    return value


def check_column(name: str, column: object) -> None:
    """Raise InvalidRowError unless ``column`` is an iterable other than text or a mapping."""
    if isinstance(column, (str, bytes, Mapping, type)) or not is_iterable(column):
        reason = "must be a list of the rows' values; pass a single row as a list of one mapping"
        if isinstance(column, type):
            reason = "is a type; create a table without rows from aiovec.Schema(dim, fields={...})"
        raise InvalidRowError(reason, field=name)


def is_frame(rows: object) -> bool:
    """Return whether an object is a pandas frame. Polars frames are read as Arrow data."""
    return is_of(rows, "pandas", "DataFrame")


def columns_of_frame(frame: Any) -> dict[str, Any]:
    """Return a pandas frame's columns by name. Named levels of its index are columns too."""
    named = [name for name in frame.index.names if name is not None]
    columns: dict[str, Any] = {
        name: frame.index.get_level_values(name) for name in named if name not in frame.columns
    }
    for position, name in enumerate(frame.columns):
        if name in columns:
            raise InvalidRowError(
                f"a column's name occurs twice in {shown(list(frame.columns), 200)}"
            )
        columns[name] = frame.iloc[:, position]
    for name in columns:
        if not isinstance(name, str):
            raise InvalidRowError(f"the name of a column must be text, not {shown(name, 60)}")
    return columns


def columns_of_table(rows: Any) -> dict[str, Any]:
    """Return the columns of a frame or of Arrow data by name."""
    if is_frame(rows):
        return columns_of_frame(rows)
    table = table_of(rows)
    names = names_of(table)
    if len(set(names)) != len(names):
        raise InvalidRowError(f"a column's name occurs twice in {names}")
    return dict(zip(names, table.columns, strict=True))


def is_typed(column: object) -> bool:
    """Return whether a column is a typed array of another library."""
    return _is_series(column) or (
        not (isinstance(column, np.ndarray) or is_array(column))
        and (hasattr(column, "__arrow_c_stream__") or hasattr(column, "__arrow_c_array__"))
    )


def _is_series(column: object) -> bool:
    return is_of(column, "pandas", "Series", "Index")


def array_of_typed(column: Any, name: str) -> Any:
    """Return a typed column as an Arrow array or, for a pandas column of objects, as a list.

    Values that pandas treats as missing become null.
    """
    if not _is_series(column):
        return array_of(column, name)
    if column.dtype == object:
        missing = column.isna()
        return [None if gap else value for value, gap in zip(column, missing, strict=True)]
    try:
        return pa.Array.from_pandas(column)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError, AttributeError) as exc:
        raise InvalidRowError(
            f"the column of {column.dtype} cannot be read: {exc}", field=name
        ) from exc
