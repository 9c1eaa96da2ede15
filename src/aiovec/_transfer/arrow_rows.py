"""Map the columns of foreign Arrow data to ids, vectors, fields and payload."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from .._model.arrow import is_list
from .._model.schema import Field, Schema, check_field_name, may_lack_vectors
from ..backend.foreign import Hints, UnclearVectorError, guessed_vector
from ..errors import AiovecError, ConfigError, InvalidArgumentError

_CARRIED = b"aiovec.schema"


def suggested_schema(
    found: pa.Schema,
    hints: Hints,
    first: Callable[[], pa.Table | None],
    known: Callable[[], Schema | None],
) -> tuple[Schema, tuple[str, ...], tuple[str, ...]]:
    """The schema that the data carries or its columns suggest, notes, and what is not taken.

    It is the ``known`` one where that takes rows without vectors, and the data seem to have none.

    What has no column type here (dates, structs, lists of lists) and what has no legal name as
    a field is kept in the payload.
    """
    carried = (found.metadata or {}).get(_CARRIED)
    if carried is not None and hints.vector_column is None:
        schema = Schema.from_json(carried)
        if schema.vector in found.names:
            return schema, (), _omitted(f.name for f in found if _is_binary(f.type))
    vector = _vector_column(found, hints, first, known)
    if isinstance(vector, Schema):
        return vector, (), _omitted(f.name for f in found if _is_binary(f.type))
    dim = _length(found.field(vector), first)
    if dim is None:
        raise ConfigError(f"the column {vector!r} starts without a vector; pass --schema")
    id_column = id_column_of(found, hints)
    fields: dict[str, Field] = {}
    kept: list[str] = []
    dropped: list[str] = []
    taken = {"id", "payload", _legal(vector).lower()}
    for column in found:
        if column.name in (id_column, vector, "payload"):
            continue
        field = _field_of(column)
        if field is not None and column.name.lower() not in taken:
            fields[column.name] = field
            taken.add(column.name.lower())
        elif _is_binary(column.type):
            dropped.append(column.name)
        else:
            kept.append(column.name)
    notes = []
    if kept:
        notes.append(
            f"kept in the payload, because their name or type suits no field: {', '.join(kept)}"
        )
    return Schema(dim, vector=_legal(vector), fields=fields), tuple(notes), _omitted(dropped)


def _omitted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"the column {name} (binary)" for name in names)


def id_column_of(found: pa.Schema, hints: Hints) -> str:
    name = hints.id_column or "id"
    if name not in found.names:
        raise ConfigError(
            f"there is no column {name!r}; choose the column of the ids with --id-column: "
            f"{', '.join(found.names)}",
            key="--id-column", accepted=", ".join(found.names),
        )  # fmt: skip
    return name


def _vector_column(
    found: pa.Schema,
    hints: Hints,
    first: Callable[[], pa.Table | None],
    known: Callable[[], Schema | None],
) -> str | Schema:
    """The column of the vectors; the ``known`` schema where that takes rows without any."""
    able = [field.name for field in found if _is_vector(field.type)]
    name = hints.vector_column
    if name is None:
        try:
            return guessed_vector(
                able, found.names, lambda name: _length(found.field(name), first), known
            )
        except UnclearVectorError:
            raise ConfigError(
                f"{', '.join(map(repr, able)) or 'no column'} can be the vector, a list of floats; "
                "say by --vector-column where the vectors are, or give a --schema. The columns: "
                f"{', '.join(found.names)}",
                key="--vector-column", accepted=", ".join(able),
            ) from None  # fmt: skip
    if name not in able:
        raise ConfigError(
            f"the column {name!r} holds no lists of floats; those that do: "
            f"{', '.join(able) or 'none'}",
            key="--vector-column", accepted=", ".join(able),
        )  # fmt: skip
    return name


def _length(column: pa.Field, first: Callable[[], pa.Table | None]) -> int | None:
    """The usual length of a column's vectors; None where it begins without one."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    rows = first()
    if rows is None:
        raise ConfigError(
            "there are no rows, so the length of the vectors is unknown; pass --schema"
        )
    usual = pc.mode(pc.list_value_length(rows.column(column.name)).drop_null())
    return (int(usual[0]["mode"].as_py()) or None) if len(usual) else None


class Fitting:
    """Brings batches into the form that the door takes for one table's schema."""

    def __init__(self, found: pa.Schema, target: Schema, own: Schema, hints: Hints) -> None:
        id_column = id_column_of(found, hints)
        vector = hints.vector_column or next(
            (f.name for f in found if _legal(f.name) == own.vector and _is_vector(f.type)),
            own.vector,
        )
        self._names: dict[str, str] = {id_column: "id"}
        # Else an embedder makes the vectors, or the rows have none.
        if vector in found.names or not may_lack_vectors(target):
            self._names[vector] = target.vector
        for column in found:
            if column.name in self._names or _is_binary(column.type):
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


def _is_vector(kind: pa.DataType) -> bool:
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
    )  # fmt: skip


def _legal(name: str) -> str:
    """The name itself where a vector may have it."""
    try:
        return name if check_field_name(name).lower() not in ("id", "payload") else "embedding"
    except AiovecError:
        return "embedding"
