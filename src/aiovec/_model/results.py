"""Results: the rows of one call as a list that converts to other libraries' tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast, overload

import numpy as np

from .._tools.hints import Hints
from .._tools.lazy_arrow import pa
from ..errors import InvalidVectorError, UnsupportedError
from .arrays import Float32Array
from .records import Hit, Record, time_text
from .schema import Field, Schema
from .serialized import Serialized

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
_R = TypeVar("_R", bound=Record | Hit)

# Maximum number of rows, columns and characters of a value that a notebook shows.
_SHOWN_ROWS, _SHOWN_COLUMNS, _SHOWN_CHARACTERS = 20, 12, 80
_OF_HITS = ("_score", "_distance")


_Value = str | int | float | bool | datetime


class Counts(Serialized, Mapping[_Value, int]):
    """A mapping of values to numbers of rows, the most frequent value first.

    Unlike in a dict, 1 and True are different keys, and so are 0 and False. A negative zero counts
    as 0.0.
    """

    __slots__ = ("_counts",)

    def __init__(self, counts: Iterable[tuple[_Value, int]] = ()) -> None:
        self._counts = {
            (type(value) is bool, value + 0.0 if type(value) is float else value): count
            for value, count in counts
        }

    def __getitem__(self, value: _Value) -> int:
        return self._counts[type(value) is bool, value]

    def __iter__(self) -> Iterator[_Value]:
        return (value for _, value in self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._counts == Counts(other.items())._counts

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{value!r}: {count}" for value, count in self.items())
        return f"Counts({{{shown}}})"

    def to_dict(self) -> dict[str, int]:
        """Return the counts with the values as text, for JSON keys: ``true``, ``1``, an RFC 3339
        time. The counts of values with the same text are added up."""
        counts: Counter[str] = Counter()
        for value, count in self.items():
            text = time_text(value) if isinstance(value, datetime) else value
            counts[text if isinstance(text, str) else json.dumps(text)] += count
        return dict(counts)

    _plain = to_dict


class _AsFrames(Hints, Serialized):
    """Adds ``to_pandas`` and ``to_polars`` to a class with ``to_arrow``."""

    def _plain(self) -> Any:
        return list(cast("list[Any]", self))

    def to_arrow(self) -> pa.Table:
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame; pandas must be installed."""
        try:
            import pandas  # noqa: F401, ICN001
        except ImportError as exc:
            raise _missing("to_pandas", "pandas") from exc
        # Otherwise a null would turn a column of integers into floats.
        frame: pd.DataFrame = self.to_arrow().to_pandas(integer_object_nulls=True)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return the rows as a Polars DataFrame; Polars must be installed."""
        try:
            import polars as pl
        except ImportError as exc:
            raise _missing("to_polars", "polars") from exc
        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))


class Results(list[_R], _AsFrames):
    """A list of records or hits.

    Slices are Results too; pydantic writes rows as ``to_dict`` does.

    ``to_arrow``, ``to_pandas`` and ``to_polars`` return a flat table with a column for each key of
    the rows' ``to_dict``; the column is null for rows without the key. Without rows, the table
    has the requested columns.
    """

    _columns: Mapping[str, Field | None]

    def __init__(
        self, rows: Iterable[_R] = (), *, columns: Mapping[str, Field | None] | None = None
    ) -> None:
        """Create a list. ``columns`` maps the first columns of ``to_arrow`` to their fields."""
        super().__init__(rows)
        self._columns = {} if columns is None else columns

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _R: ...
    @overload
    def __getitem__(self, index: slice, /) -> Results[_R]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> _R | Results[_R]:
        if isinstance(index, slice):
            return Results(super().__getitem__(index), columns=self._columns)
        return super().__getitem__(index)

    def copy(self) -> Results[_R]:
        """Return a copy of the list."""
        return self[:]

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table.

        The values of a payload key are JSON text if they have several types or are objects. A
        process's first Arrow table imports pyarrow, and pandas if it is installed.
        """
        kinds = {name: field.arrow_type() for name, field in self._columns.items() if field}
        kinds |= {name: pa.float64() for name in _OF_HITS if name in self._columns}
        kinds["id"] = pa.utf8()
        kinds |= {row.vector_name: pa.list_(pa.float32()) for row in self if row.vector is not None}
        flat = self._flat().items()
        return pa.table({name: _array(values, kinds.get(name)) for name, values in flat})

    def to_numpy(self) -> Float32Array:
        """Return the vectors as a float32 matrix with one row for each record or hit.

        Raises InvalidVectorError if a record or hit has no vector; searches return vectors with
        ``include_vector=True``.
        """
        vectors = [row.vector for row in self if row.vector is not None]
        if len(vectors) < len(self):
            index = next(index for index, row in enumerate(self) if row.vector is None)
            reason = "is missing; searches return vectors with include_vector=True"
            raise InvalidVectorError(reason, row=index, id=self[index].id)
        return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)

    def _flat(self) -> dict[str, list[Any]]:
        rows = [row.to_dict() for row in self]
        names = dict.fromkeys(self._columns)
        for row in rows:
            names.update(dict.fromkeys(row))
        return {name: [row.get(name) for row in rows] for name in names}

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks. All values are escaped."""
        shown = self[:_SHOWN_ROWS]._flat()
        names = list(shown)[:_SHOWN_COLUMNS]
        heads = "".join(f"<th>{_cell(name)}</th>" for name in names)
        lines = [
            "<tr>" + "".join(f"<td>{_cell(shown[name][n])}</td>" for name in names) + "</tr>"
            for n in range(min(len(self), _SHOWN_ROWS))
        ]
        left = len(shown) - len(names)
        more = f", {left} more columns" if left else ""
        noun = "row" if len(self) == 1 else "rows"
        return (
            f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
            f"<p>{len(self)} {noun}{more}</p>"
        )


class ResultsList(list[Results[Hit]], _AsFrames):
    """The results of several queries, in the order of the queries.

    ``to_arrow``, ``to_pandas`` and ``to_polars`` return one table of all hits. Its first column,
    ``_query``, is the position of the query, from 0.
    """

    def to_arrow(self) -> pa.Table:
        """Return the hits of all queries as an Arrow table."""
        columns = self[0]._columns if self else None
        hits = Results(chain.from_iterable(self), columns=columns).to_arrow()
        positions = [index for index, results in enumerate(self) for _ in results]
        return hits.add_column(0, "_query", pa.array(positions, pa.int64()))


def result_columns(
    schema: Schema, names: Iterable[str], *, hits: bool, vector: bool
) -> dict[str, Field | None]:
    """Return the first columns of the Arrow table of a result with these fields."""
    columns: dict[str, Field | None] = {"id": None}
    if hits:
        columns.update(dict.fromkeys(_OF_HITS))
    if vector:
        columns[schema.vector] = None
    return columns | {name: schema.fields[name] for name in names}


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind is not None:
        return pa.array(values, kind)
    with suppress(pa.ArrowException, OverflowError, TypeError, ValueError):  # values of mixed types
        array = pa.array(values)
        if "struct" not in str(array.type):
            return array
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False, default=str)
        for value in values
    ]
    return pa.array(texts, pa.utf8())


def _cell(value: object) -> str:
    from html import escape  # only for notebooks

    if isinstance(value, list) and len(value) > _SHOWN_COLUMNS:
        return f"&lt;{len(value)} values&gt;"
    text = "" if value is None else str(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return escape(text)


def _missing(call: str, package: str) -> UnsupportedError:
    return UnsupportedError(f"{call}()", "", f"needs {package}: pip install {package}")
