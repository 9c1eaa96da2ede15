"""Whatever a user passes in as rows, checked once and turned into one Arrow table.

Imported when a store opens, off the event loop: it brings pyarrow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import Place, encodable, field_column, id_column, python_values
from .errors import InvalidArgumentError, InvalidRowError, InvalidVectorError
from .payload import arrow_payload, payload_column
from .records import Record
from .schema import Schema
from .vectors import Float32Array, arrow_matrix, matrix_of

_PAUSE_EVERY = 256


async def collect(rows: Any, in_thread: Callable[..., Awaitable[Any]]) -> Any:
    """Read an iterable of rows to its end; what has a length already comes back as it is.

    A user's iterator is read on the event loop, where its maker expects it to run, with pauses
    for other tasks. An Arrow reader may wait for a disk, so it is read in a thread.
    """
    if isinstance(rows, AsyncIterable):
        return [item async for item in rows]
    if isinstance(rows, pa.RecordBatchReader):
        return await in_thread(rows.read_all)
    if isinstance(rows, Iterator):
        items = []
        for item in rows:
            items.append(item)
            if not len(items) % _PAUSE_EVERY:
                await asyncio.sleep(0)
        return items
    return rows


def is_small(rows: Any) -> bool:
    """Whether checking the rows takes so little that a hop to a thread would cost more."""
    if isinstance(rows, (pa.RecordBatch, pa.Table)):
        return bool(rows.num_rows <= 16)
    return isinstance(rows, (list, tuple)) and len(rows) <= 16


def to_table(rows: Any, schema: Schema) -> pa.Table:
    """The rows in the layout of ``schema.to_arrow()``, each value checked.

    Raises InvalidRowError, InvalidVectorError or DimensionMismatchError with the row's number.
    Ids may still stand twice.
    """
    if isinstance(rows, (pa.RecordBatch, pa.Table)):
        return _from_arrow(rows, schema)
    if isinstance(rows, Mapping):
        return _from_columns(rows, schema)
    if isinstance(rows, Record):
        raise InvalidRowError("pass a list of records, not a single one")
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
        return _from_arrow(pa.table(rows), schema)
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidRowError(
            "rows are an Arrow batch or table, an iterable of those, of mappings or of records, "
            f"or a mapping of columns, not {type(rows).__name__}"
        )
    items = rows if isinstance(rows, (list, tuple)) else list(rows)
    if items and isinstance(items[0], (pa.RecordBatch, pa.Table)):
        tables = []
        done = 0
        for item in items:
            if not isinstance(item, (pa.RecordBatch, pa.Table)):
                raise InvalidRowError("Arrow batches and other rows are mixed", row=done)
            tables.append(_from_arrow(item, schema, first_row=done))
            done += item.num_rows
        return pa.concat_tables(tables)
    return _from_mappings(items, schema)


def last_of_each_id(table: pa.Table) -> pa.Table:
    """The same rows without those whose id comes again later."""
    ids = table.column("id").to_pylist()
    last = dict(zip(ids, range(len(ids)), strict=True))
    return table if len(last) == len(ids) else table.take(sorted(last.values()))


def repeated_ids(table: pa.Table) -> list[str]:
    """The ids that stand in the table more than once."""
    column = table.column("id")
    if table.num_rows < 2 or pc.count_distinct(column).as_py() == table.num_rows:
        return []
    counts = column.value_counts()
    repeated = pc.greater(counts.field("counts"), 1)
    return cast("list[str]", counts.field("values").filter(repeated).to_pylist())


def check_ids(ids: Any) -> list[str]:
    """Ids to look for: one text or an iterable of texts, in the order given."""
    if isinstance(ids, str):
        return [ids]
    if isinstance(ids, (bytes, Mapping)) or not isinstance(ids, Iterable):
        raise InvalidArgumentError("ids", ids, "a text or an iterable of texts")
    listed = list(ids)
    if not set(map(type, listed)) <= {str} and not all(isinstance(i, str) for i in listed):
        wrong = next(i for i in listed if not isinstance(i, str))
        raise InvalidArgumentError("ids", wrong, "texts")
    for text in listed:
        if not text.isascii():
            encodable(text, partial(InvalidArgumentError, "ids", text, "valid Unicode"))
    return listed


def check_patch(fields: Mapping[str, Any], schema: Schema) -> tuple[dict[str, Any], dict[str, Any]]:
    """The declared fields and the payload's keys that an update sets, each value checked."""
    if not isinstance(fields, Mapping) or not fields:
        raise InvalidArgumentError("fields", fields, "a mapping with at least one field")
    values: dict[str, Any] = {}
    payload: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "id" or name == schema.vector:
            raise InvalidRowError("update sets fields, not the id or the vector", field=name)
        if name in schema.fields:
            column = field_column(name, schema.fields[name], [value], lambda _: (None, None))
            (values[name],) = python_values(column)
        else:
            payload[name] = value
    if payload:
        payload_column([payload], schema, lambda _: (None, None))
    return values, payload


# The forms that rows come in


def _place_by(ids: Sequence[Any], first_row: int = 0) -> Place:
    def place(row: int) -> tuple[int, str | None]:
        id = ids[row] if row < len(ids) else None
        return first_row + row, id if isinstance(id, str) else None

    return place


def _from_mappings(items: Sequence[Any], schema: Schema) -> pa.Table:
    mappings: list[Mapping[str, Any]] = []
    for row, item in enumerate(items):
        if isinstance(item, Mapping):
            mappings.append(item)
        elif isinstance(item, Record):
            mappings.append({**item.fields, "id": item.id, schema.vector: item.vector})
        else:
            raise InvalidRowError(f"a row is a mapping, not {type(item).__name__}", row=row)
    missing = object()
    ids = [m.get("id", missing) for m in mappings]
    place = _place_by(ids)
    for row, m in enumerate(mappings):
        if ids[row] is missing:
            raise InvalidRowError("every row needs an id", row=row, field="id")
        if m.get(schema.vector) is None:
            raise InvalidVectorError(
                f"is missing (key {schema.vector!r})", row=row, id=place(row)[1]
            )
    columns: dict[str, Any] = {name: [m.get(name) for m in mappings] for name in schema.fields}
    known = {"id", schema.vector, *schema.fields}
    extra = [
        {key: value for key, value in m.items() if key not in known}
        if not m.keys() <= known
        else None
        for m in mappings
    ]
    vectors = matrix_of([m[schema.vector] for m in mappings], schema, place)
    return _assemble(ids, vectors, columns, payload_column(extra, schema, place), schema, place)


def _from_columns(columns: Mapping[str, Any], schema: Schema) -> pa.Table:
    for name in ("id", schema.vector):
        if name not in columns:
            raise InvalidRowError(
                f"the columns have no {name!r}; they are: {', '.join(map(repr, columns))}"
            )
    lists: dict[str, Any] = {}
    for name, column in columns.items():
        if name == schema.vector:
            continue
        if isinstance(column, (pa.Array, pa.ChunkedArray)):
            if name in schema.fields:
                lists[name] = _one_array(column)  # it is checked as it is
                continue
            column = python_values(column)
        elif isinstance(column, np.ndarray):
            column = column.tolist()
        if isinstance(column, (str, bytes, Mapping)) or not isinstance(column, Iterable):
            raise InvalidRowError(
                "a mapping is taken as columns, each a list of the rows' values; pass a single row "
                "as a list of one mapping",
                field=name,
            )
        lists[name] = column if isinstance(column, list) else list(column)
    ids = lists.pop("id")
    place = _place_by(ids)
    vectors = columns[schema.vector]
    if isinstance(vectors, (pa.Array, pa.ChunkedArray)):
        vectors = arrow_matrix(_one_array(vectors), schema, place)
    else:
        vectors = matrix_of(
            vectors if isinstance(vectors, np.ndarray) else list(vectors), schema, place
        )
    for name, column in [*lists.items(), (schema.vector, vectors)]:
        if len(column) != len(ids):
            raise InvalidRowError(
                f"the column has {len(column)} values, the ids are {len(ids)}", field=name
            )
    extra_names = [name for name in lists if name not in schema.fields]
    extra: list[Mapping[str, Any] | None] = [None] * len(ids)
    if extra_names:
        keyed = (lists[name] for name in extra_names)
        extra = [dict(zip(extra_names, values, strict=True)) for values in zip(*keyed, strict=True)]
    nothing = [None] * len(ids)
    known = {name: lists.get(name, nothing) for name in schema.fields}
    return _assemble(ids, vectors, known, payload_column(extra, schema, place), schema, place)


def _from_arrow(rows: pa.RecordBatch | pa.Table, schema: Schema, first_row: int = 0) -> pa.Table:
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    names = table.column_names
    for name in ("id", schema.vector):
        if name not in names:
            raise InvalidRowError(f"there is no column {name!r} among {names}")
    if len(set(names)) != len(names):
        raise InvalidRowError(f"a column's name stands twice in {names}")
    id_column = _one_array(table.column("id"))
    ids: Sequence[Any] = _LazyIds(id_column)
    place = _place_by(ids, first_row)
    vectors = arrow_matrix(_one_array(table.column(schema.vector)), schema, place)
    columns: dict[str, Any] = {
        name: _one_array(table.column(name)) if name in names else pa.nulls(len(table))
        for name in schema.fields
    }
    extra_names = [n for n in names if n not in {"id", schema.vector, "payload", *schema.fields}]
    payload: pa.Array | list[Any]
    if "payload" in names and not extra_names:
        payload = arrow_payload(_one_array(table.column("payload")), schema, place)
    else:
        extra: list[dict[str, Any] | None] = [None] * len(table)
        if "payload" in names:
            carried = arrow_payload(_one_array(table.column("payload")), schema, place)
            extra = [None if text is None else json.loads(text) for text in carried.to_pylist()]
        if extra_names:
            columns_of_keys = [python_values(table.column(name)) for name in extra_names]
            for row, values in enumerate(zip(*columns_of_keys, strict=True)):
                keyed = dict(zip(extra_names, values, strict=True))
                extra[row] = {**(extra[row] or {}), **keyed}
        payload = payload_column(extra, schema, place)
    return _assemble(id_column, vectors, columns, payload, schema, place)


class _LazyIds(Sequence[Any]):
    """Ids of an Arrow column, read only where an error names one."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        return self._column[row].as_py()


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        # combine_chunks copies even a single chunk
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # some versions give a chunked array of one chunk
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


def _assemble(
    ids: Any,
    vectors: Float32Array,
    columns: Mapping[str, Any],
    payload: pa.Array | None,
    schema: Schema,
    place: Place,
) -> pa.Table:
    count = len(vectors)
    flat = pa.array(vectors.reshape(-1), type=pa.float32())
    arrays = [
        id_column(ids, place),
        pa.FixedSizeListArray.from_arrays(flat, schema.dim),
        *(field_column(name, field, columns[name], place) for name, field in schema.fields.items()),
    ]
    if schema.payload:
        text = payload if payload is not None else pa.nulls(count, pa.utf8())
        arrays.append(pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), text))
    return pa.Table.from_arrays(arrays, schema=schema.to_arrow())
