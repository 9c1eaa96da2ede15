"""Map the columns of foreign Arrow data to ids, vectors, fields and payload."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from .._model.arrow import is_list
from .._model.schema import Field, Schema, check_field_name
from ..errors import AiovecError, ConfigError, InvalidArgumentError
from .files import legal_vector


def suggested_schema(found: pa.Schema, id_column: str, vector: str, dim: int) -> tuple[Schema, str]:
    """The schema that columns suggest, and a note on those that are kept in the payload.

    There goes what has no column type here (dates, structs, lists of lists) and what has no legal
    name as a field.
    """
    fields: dict[str, Field] = {}
    kept: list[str] = []
    taken = {"id", "payload", legal_vector(vector).lower()}
    for column in found:
        if column.name in (id_column, vector, "payload") or is_binary(column.type):
            continue
        field = _field_of(column)
        if field is not None and column.name.lower() not in taken:
            fields[column.name] = field
            taken.add(column.name.lower())
        else:
            kept.append(column.name)
    why = "kept in the payload, because their name or type suits no field: "
    note = f"{why}{', '.join(kept)}" if kept else ""
    return Schema(dim, vector=legal_vector(vector), fields=fields), note


class Fitting:
    """Brings batches into the form that the door takes for one table's schema."""

    def __init__(
        self, found: pa.Schema, target: Schema, id_column: str, vector: str | None
    ) -> None:
        self._names: dict[str, str] = {id_column: "id"}
        if vector is not None:
            self._names[vector] = target.vector
        for column in found:
            if column.name in self._names or is_binary(column.type):
                continue
            if column.name in ("id", target.vector):
                raise ConfigError(
                    f"the column {column.name!r} is in the way: another one was said to be it"
                )
            self._names[column.name] = column.name
        self._target = target

    def of(self, table: pa.Table) -> pa.Table:
        columns = {}
        for old, new in self._names.items():
            column = table.column(old)
            if new == "id" and pa.types.is_integer(column.type):
                column = column.cast(pa.utf8())
            elif new not in ("id", "payload", self._target.vector, *self._target.fields):
                column = _as_json(column)
            columns[new] = column
        return pa.table(columns)


def _as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column for the payload: what JSON has no form for becomes text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_json(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit, "UTC"))  # a moment, as ``insert`` takes it
    if pa.types.is_timestamp(kind):
        return pc.replace_substring(column.cast(pa.utf8()), " ", "T", max_replacements=1)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.utf8())
    return column


def _field_of(column: pa.Field) -> Field | None:
    try:
        check_field_name(column.name)
        (field,) = Schema.from_arrow(
            pa.schema([pa.field("v", pa.list_(pa.float32(), 1)), pa.field("f", column.type)])
        ).fields.values()
    except (AiovecError, InvalidArgumentError):
        return None
    return Field(field.kind, nullable=column.nullable)


def is_vector(kind: pa.DataType) -> bool:
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))


def is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
    )  # fmt: skip
