"""Arrow data from outside: validated before anything else reads it, then converted to plain types.

Arrow's functions trust their input: a wrong offset crashes the interpreter or reads other memory,
and text that is not UTF-8 is stored unchanged. So only this module touches an array before
``check_table`` or ``check_array`` has accepted it; even ``nbytes`` and slices of nested arrays
follow offsets. These functions block; large data needs a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np

from .._tools.lazy_arrow import is_list, is_table, is_text, pa, pc
from ..errors import InvalidRowError
from .arrays import BoolArray, Float32Array, Int64Array

# Data from outside may unpack to far more than its size, for example texts repeated by a dictionary
# or by views, or lists of nulls. It is refused if the unpacked size exceeds both of these limits: a
# number of bytes, and a multiple of its size.
_LEAST_BYTES = 2**28
_MOST_TIMES = 512
# Estimated size in bytes of a Python value or an offset.
_VALUE_BYTES = 32
_AT_ONCE = 1000
# Extension types whose storage is meaningless without the type: months since 1970, or the two
# bounds of an interval.
_NO_VALUES = frozenset({"pandas.period", "pandas.interval"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_arrow(rows: object) -> bool:
    """Return whether an object is Arrow data, or a frame with Arrow's interface."""
    return is_table(rows) or (
        hasattr(type(rows), "__arrow_c_stream__") or hasattr(type(rows), "__arrow_c_array__")
    )


def table_of(rows: Any) -> pa.Table:
    """Return Arrow rows of any form as a table. Reads a stream to its end; validates nothing."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    try:
        if isinstance(rows, pa.RecordBatchReader):
            return rows.read_all()
        return pa.table(rows)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidRowError(
            f"this {type(rows).__name__} cannot be read as an Arrow table: {exc}"
        ) from exc


def array_of(column: Any, name: str) -> pa.Array | pa.ChunkedArray:
    """Return a column with Arrow's interface, such as a Polars series, as an array."""
    try:
        streams = hasattr(column, "__arrow_c_stream__")
        return pa.chunked_array(column) if streams else pa.array(column)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidRowError(
            f"this {type(column).__name__} cannot be read as an Arrow array: {exc}", field=name
        ) from exc


def names_of(table: pa.Table | pa.RecordBatch) -> list[str]:
    """Return the names of the columns."""
    try:
        return cast("list[str]", table.schema.names)
    except UnicodeDecodeError as exc:
        raise InvalidRowError("the name of a column is not valid UTF-8") from exc


# Columns of ``Schema.to_arrow``, which were checked when they were written


def to_matrix(column: pa.Array | pa.ChunkedArray) -> Float32Array:
    """Return the vectors of a column as one matrix, without a copy if they are contiguous.

    A null becomes a row of NaN, which no stored vector contains.
    """
    dim = column.type.list_size
    parts = []
    for chunk in _chunks(column):
        # flatten() would use Arrow's compute functions, which are slow for a single row. The values
        # of a null list may be null, so they are copied.
        flat = chunk.values.to_numpy(zero_copy_only=not chunk.null_count).reshape(-1, dim)
        part = flat[chunk.offset : chunk.offset + len(chunk)]
        if chunk.null_count:
            part = part.copy()
            part[chunk.is_null().to_numpy(zero_copy_only=False)] = np.nan
        parts.append(part)
    if not parts:
        return np.empty((0, dim), dtype=np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def without_vector(matrix: Float32Array) -> BoolArray:
    """Return a mask of the rows whose vector is missing."""
    return np.isnan(matrix[:, 0])


def from_matrix(matrix: Float32Array, missing: BoolArray | None = None) -> pa.FixedSizeListArray:
    """Return a matrix as a column of vectors, without a copy if it is contiguous.

    ``missing`` rows become null.
    """
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    # For a single row, this takes a third of the time of ``pa.array``.
    values = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1], mask=mask)


def payload_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Return the JSON texts of a payload column."""
    return [text for chunk in _chunks(column) for text in _storage(chunk).to_pylist()]


def payload_array(texts: Sequence[str | None] | pa.Array) -> pa.Array:
    """Return JSON texts as a payload column."""
    stored = texts if isinstance(texts, pa.Array) else pa.array(texts, type=pa.utf8())
    return pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), stored)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy if it has one chunk."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:  # combine_chunks would copy even this
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _chunks(column: pa.Array | pa.ChunkedArray) -> Sequence[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


# Checks


def check_table(table: pa.Table) -> None:
    """Raise InvalidRowError, with the field, if the data of a column is damaged."""
    try:
        table.validate()
    except pa.ArrowException as exc:
        raise InvalidRowError(f"the Arrow data is damaged: {exc}") from exc
    for name, column in zip(names_of(table), table.columns, strict=True):
        check_array(column, name)


def check_array(array: pa.Array | pa.ChunkedArray, name: str) -> None:
    """Raise InvalidRowError if the data of a column is damaged."""
    try:
        array.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError, SystemError) as exc:
        reason = f"the Arrow data is damaged: {exc}"
        if "UTF8" in str(exc):
            reason = "the text is not valid UTF-8"
        raise InvalidRowError(reason, field=name) from exc


# Plain types


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is an integer or floating-point type."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def unstorable(kind: pa.DataType) -> str:
    """Return the name of a type that cannot be stored, if ``kind`` is or contains one; else ""."""
    if pa.types.is_dictionary(kind):
        return unstorable(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return "" if kind == pa.uuid() else unstorable(kind.storage_type)
    if (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    ):
        return "binary"
    if pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return "durations"
    return next(filter(None, (unstorable(kind.field(i).type) for i in range(kind.num_fields))), "")


def plain(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """Return a checked column as one array of a type that this package reads.

    Text becomes ``utf8``, and lists become ``list``, except fixed-size lists of numbers;
    dictionaries and extension types are unpacked. Plain data is not copied.
    """
    try:
        size = sum(map(_unpacked_bytes, _chunks(column)))
        if size > max(_LEAST_BYTES, _MOST_TIMES * column.get_total_buffer_size()):
            raise pa.ArrowInvalid(f"it unpacks to {size:,} bytes; pass fewer rows at once")
        if isinstance(column, pa.ChunkedArray) and column.num_chunks > 1:
            return pa.concat_arrays([_plain(chunk) for chunk in column.chunks])
        return _plain(one_array(column))
    except (pa.ArrowException, ValueError, OverflowError, LookupError, MemoryError) as exc:
        raise InvalidRowError(
            f"the column of {column.type} cannot be unpacked: {exc}", field=name
        ) from exc


def _unpacked_bytes(array: pa.Array) -> int:
    """Estimate the memory that an array takes as plain Arrow data or as Python values."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _unpacked_bytes(array.storage)
    size = _VALUE_BYTES * len(array)
    if pa.types.is_string_view(kind):
        return size + int(_text_lengths(array).sum())
    if pa.types.is_dictionary(kind):
        values = array.dictionary
        if not is_text(values.type):
            return len(array) * (_VALUE_BYTES + _unpacked_bytes(values))
        used = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return size + int(_text_lengths(values)[used].sum())
    if pa.types.is_struct(kind):
        return size + sum(_unpacked_bytes(array.field(i)) for i in range(kind.num_fields))
    if is_list(kind) or pa.types.is_map(kind):
        return size + _unpacked_bytes(array.values)
    return size  # text with offsets does not grow


def _text_lengths(texts: pa.Array) -> Int64Array:
    """Return the size of each text in bytes."""
    if pa.types.is_string_view(texts.type):  # each view is four numbers, first the length
        views = np.frombuffer(texts.buffers()[1], np.int32, 4 * (texts.offset + len(texts)))
        lengths = views[4 * texts.offset :: 4].astype(np.int64)
        lengths[texts.is_null().to_numpy(zero_copy_only=False)] = 0
        return lengths
    sizes = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    return cast("Int64Array", sizes.astype(np.int64))


def _plain(array: pa.Array) -> pa.Array:
    kind = array.type
    if kind == pa.uuid():
        return pa.array([id and str(id) for id in array.to_pylist()], pa.utf8())
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary).take(array.indices)
    wanted = _plain_type(kind)
    if _has_views(kind):
        # A cast would follow the views of nulls, which validation skips.
        return pa.array(array.to_pylist(), wanted)
    if kind != wanted:
        array = array.cast(wanted)
    if array.null_count and pa.types.is_string(wanted):
        # Arrow keeps the bytes of nulls and does not validate them, but LanceDB reads them.
        return array.take(pa.array(np.arange(len(array))))
    return array


def _has_views(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_views(kind.storage_type)
    parts = (kind.field(i).type for i in range(kind.num_fields))
    return pa.types.is_string_view(kind) or any(map(_has_views, parts))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name in _NO_VALUES:
            raise pa.ArrowInvalid("a row cannot hold such values; convert them first")
        return _plain_type(kind.storage_type)
    if is_text(kind):
        return pa.utf8()
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind) and is_number(kind.value_type):
        return kind
    if is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if (
        pa.types.is_run_end_encoded(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    ):
        raise pa.ArrowInvalid("this layout is not supported; convert it first")
    return kind


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the column's values as Python objects.

    Arrow's ``to_pylist`` reads time zones from the machine's time zone database, which may be
    missing.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        numbers = without_finer(column).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
        return [None if n is None else _EPOCH + timedelta(microseconds=n) for n in numbers]
    # The column is converted in parts, so that other threads can run between them.
    parts = (column.slice(start, _AT_ONCE) for start in range(0, len(column), _AT_ONCE))
    return [value for part in parts for value in part.to_pylist()]


def without_finer(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the column with datetimes rounded down to microseconds.

    A cast would round datetimes before 1970 up.
    """
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.unit != "ns":
        return column
    finer = column.cast(pa.int64())
    whole = pc.divide(finer, 1000)
    whole = pc.subtract(whole, pc.less(finer, pc.multiply(whole, 1000)).cast(pa.int64()))
    return whole.cast(pa.timestamp("us", kind.tz))
