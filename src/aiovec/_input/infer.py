"""Infer schemas from data: find the vector column, and the types of the other columns.

A column becomes a field if all its values are of one type: text, integers, floats, booleans,
datetimes, or lists of texts or numbers. Nulls do not count, and integers mixed with floats become
floats. Columns that are mixed, nested or empty, or have a name that is not allowed for fields, stay
in the payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from .._model.arrow import check_array, is_number, table_of
from .._model.kinds import BY_TYPE, KINDS, Kind, kind_of_arrow, kind_of_dtype
from .._model.schema import Embed, Field, FieldIndex, Metric, Schema, check_field_name
from .._tools.lazy_arrow import is_array, is_list, is_of, pa, pc
from .._tools.messages import shown
from ..backend.changes import indexable_field
from ..errors import InvalidArgumentError, InvalidNameError, InvalidRowError
from .foreign_rows import array_of_typed, as_row, check_column, columns_of_table, is_typed
from .rows import Collected

USUAL_VECTORS = ("embedding", "vector")
"""The column names that are tried first for vectors."""

# The kind of values that stay in the payload, and the kind of lists without items.
_OTHER, _EMPTY = "other", "list[]"
# For each kind of column, the kinds of values that it can have.
_COLUMNS = {
    kind.name: {kind.name, *(each.name for each in kind.mixes), *([_EMPTY] if kind.item else ())}
    for kind in KINDS.values()
}


@dataclass(frozen=True, slots=True)
class TableOptions:
    """A user's options for the schema that is inferred from rows."""

    vector: str | None = None
    metric: Metric | None = None
    model: str | None = None
    text: Sequence[str] = ()
    index: Sequence[str] = ()
    embed: Embed | None = None
    vector_nullable: bool = False


def kinds_in(values: Sequence[Any]) -> set[str]:
    """Return the kinds of these values. None has no kind."""
    seen = set()
    for type_ in set(map(type, values)) - {type(None)}:
        if issubclass(type_, (list, tuple, np.ndarray)):
            seen |= {_kind_of_list(value) for value in values if type(value) is type_}
        else:
            plain = datetime if issubclass(type_, datetime) else type_
            numpy = np.dtype(type_).kind if issubclass(type_, np.generic) else "O"
            kind = BY_TYPE.get(plain) or kind_of_dtype(numpy)
            seen.add(_OTHER if kind is None else kind.name)
    return seen


def _kind_of_list(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            return _OTHER
        if value.dtype != object:
            kind = kind_of_dtype(value.dtype.kind)
            return _OTHER if kind is None else _list_of(kind.name)
        value = value.tolist()
    if not len(value):
        return _EMPTY
    common = None if None in value else _common_kind(kinds_in(value))
    return _OTHER if common is None else _list_of(common)


def _list_of(kind: str) -> str:
    return name if (name := f"list[{kind}]") in KINDS else _OTHER


def _common_kind(kinds: set[str]) -> Kind | None:
    """Return the kind of a column with values of these kinds; None if no kind fits."""
    if kinds <= {_EMPTY}:
        return None
    return next((name for name, able in _COLUMNS.items() if kinds <= able), None)


def field_of_kinds(kinds: set[str]) -> Field | None:
    """Return the field for a column with values of these kinds; None if it stays in the payload."""
    kind = _common_kind(kinds)
    return None if kind is None else Field(kind)


def field_of_arrow(column: pa.Field) -> Field | None:
    """Return the field for an Arrow column; None if no field has its type."""
    dictionary = pa.types.is_dictionary(column.type)
    kind = kind_of_arrow(column.type.value_type if dictionary else column.type)
    return None if kind is None else Field(kind.name, nullable=column.nullable)


def fields_of(
    columns: Mapping[str, Field | None], vector: str
) -> tuple[dict[str, Field], list[str]]:
    """Return the fields of columns, and the names of the columns that stay in the payload."""
    fields: dict[str, Field] = {}
    others = []
    taken = {"id", "payload", vector.lower()}
    for name, field in columns.items():
        # Some apps use data as keys, so that every row has new keys. Only 200 become fields.
        free = _may_name(name) and name.lower() not in taken and len(fields) < 200
        if field is not None and free:
            fields[name] = field
            taken.add(name.lower())
        else:
            others.append(name)
    return fields, others


def _may_name(name: object) -> bool:
    try:
        return bool(check_field_name(name))
    except InvalidNameError:
        return False


def with_indexes(schema: Schema, text: Sequence[str], index: Sequence[str]) -> Schema:
    """Return the schema with keyword search over ``text`` and filter indexes for ``index``."""
    indexes: list[tuple[str, FieldIndex, str]] = [(name, "text", "text") for name in text]
    for name, kind, argument in [*indexes, *((name, "btree", "index") for name in index)]:
        indexable_field(schema, name, kind, argument)
        schema = schema.with_changed_field(name, schema.fields[name].with_index(kind))
    return schema


def inferred(rows: Collected, options: TableOptions) -> Schema:
    """Infer the schema of rows.

    Raises InvalidRowError if there are no vectors, and the options name no field to embed.
    """
    # These override the schema in the rows' metadata.
    names = ("metric", "model", "embed", "vector_nullable")
    given = {n: v for n in names if (v := getattr(options, n)) is not None and v is not False}
    schema = _carried(rows) if options.vector is None else None
    if schema is None:
        columns = _columns_of(rows)
        vector = _vector_of(columns, options)
        column = None if vector is None else columns.pop(vector)
        dim = 0 if vector is None else _length(vector, column, first=True)
        if not dim and options.embed is None:
            where = "since there are no columns"
            if vector is not None:
                where = f"in the column {vector!r}, which holds {_instead_of_vectors(column)}"
            elif columns:
                where = f"among the columns {shown(list(columns), 200)}"
            raise InvalidRowError(
                f"no vectors were found {where}; name their column with vector=, or pass "
                "embed=Embed('field') to make them from a text"
            )
        for name in ("id", "payload"):
            columns.pop(name, None)
        vector = vector or USUAL_VECTORS[0]
        types = {name: _field(name, column) for name, column in columns.items()}
        schema = Schema(dim or 0, vector=vector, fields=fields_of(types, vector)[0], **given)
    return with_indexes(replace(schema, **given), options.text, options.index)


def _carried(rows: Collected) -> Schema | None:
    """Return the schema that an export wrote into the metadata of Arrow rows, or None."""
    columns: Any = getattr(rows.data[0], "schema", None) if rows.form == "tables" else None
    if not is_of(columns, "pyarrow", "Schema") or b"aiovec.schema" not in (columns.metadata or {}):
        return None
    return Schema.from_arrow(columns)


def _columns_of(rows: Collected) -> dict[str, Any]:
    """Return the columns of rows by name."""
    if rows.form == "rows":
        values_by_name: dict[str, list[Any]] = {}
        for row, item in enumerate(rows.data):
            mapping = as_row(item, getattr(item, "vector_name", ""), row)
            for name, value in {} if mapping is None else mapping.items():
                values_by_name.setdefault(name, []).append(value)
        return values_by_name
    if rows.form == "columns":
        columns = dict(rows.data)
    elif len(rows.data) == 1:
        columns = columns_of_table(rows.data[0])
    else:
        try:
            columns = columns_of_table(pa.concat_tables(map(table_of, rows.data)))
        except pa.ArrowException as exc:
            raise InvalidRowError(f"the batches have different columns: {exc}") from exc
    for name, column in columns.items():
        check_column(name, column)
        if is_typed(column):
            columns[name] = array_of_typed(column, name)
    return columns


def _vector_of(columns: Mapping[str, Any], options: TableOptions) -> str | None:
    """Return the name of the vector column, from the options or detected; None if there is none."""
    if options.vector is not None and options.vector in columns:
        return options.vector
    if options.vector is not None and options.embed is None:
        raise InvalidArgumentError(
            "vector", options.vector, f"one of the columns: {', '.join(map(shown, columns)):.200}"
        )
    usual = [name for name in USUAL_VECTORS if name in columns]
    if usual or options.embed is not None:
        return usual[0] if usual else None
    able = [name for name, column in columns.items() if _length(name, column)]
    return able[0] if len(able) == 1 else None


def _length(name: str, column: Any, *, first: bool = False) -> int | None:
    """Return the length of the vectors in a column; None if it has no vectors.

    All vectors must have the same length; with ``first``, only the first one is checked.
    """
    if isinstance(column, np.ndarray) and column.dtype != object:
        return column.shape[1] if column.ndim == 2 and column.dtype.kind in "fiu" else None
    if is_array(column):
        kind = column.type
        if not is_list(kind) or not is_number(kind.value_type):
            return None
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        check_array(column, name)
        lengths = pc.list_value_length(column).drop_null().unique().to_pylist()
    else:
        known = (vector_length(value) for value in column if value is not None)
        lengths = [next(known, None)] if first else list(set(known))
    return lengths[0] if len(lengths) == 1 or (first and lengths) else None


def _instead_of_vectors(column: Any) -> str:
    """Describe what a column contains instead of vectors."""
    if not len(column):
        return "no value (pass a Schema to create a table without rows)"
    first = column[0].as_py() if is_of(column[0], "pyarrow", "Scalar") else column[0]
    return "text (parse it, as with json.loads)" if isinstance(first, str) else "none"


def vector_length(value: Any) -> int | None:
    """Return the length of a vector; None for any other value."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return len(value) if _kind_of_list(value) in ("list[int]", "list[float]") else None
    return None


def _field(name: str, column: Any) -> Field | None:
    """Return the field for a column; None if it stays in the payload."""
    if isinstance(column, np.ndarray) and column.dtype != object and column.ndim == 1:
        kind = kind_of_dtype(column.dtype.kind)
        return None if kind is None else Field(kind.name)
    if is_array(column):
        return field_of_arrow(pa.field(name, column.type))
    return field_of_kinds(kinds_in(column))
