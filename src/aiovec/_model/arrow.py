"""Arrow data from outside: validated before anything else reads it, then brought into plain types.

Arrow's own functions trust what they get. An offset that points elsewhere ends the interpreter or
reads other memory, and text that is not UTF-8 is stored as it is. So nothing but this module
touches an array before ``check_table`` or ``check_array`` has accepted it; ``nbytes`` and slices of
nested arrays already follow offsets. Blocking, and for large data slow enough to need a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidRowError
from .arrays import BoolArray, Float32Array

# The offsets of `utf8` and `list` are 32 bits wide.
_MOST_ITEMS = 2**31 - 1
# Python values that an array may become: one for each bit of its buffers, twice over. Nulls without
# a buffer, views that overlap and run ends can stand for any number of values in a few bytes.
_VALUES_PER_BYTE = 16
_VALUES_AT_LEAST = 1_000_000
# Extensions whose storage without its type says nothing: months since 1970, two bare bounds.
_NO_VALUES = frozenset({"pandas.period", "pandas.interval"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = pa.timestamp("us", tz="UTC")


def is_arrow(rows: object) -> bool:
    """Return whether an object is Arrow data, or a frame that offers itself as such."""
    return isinstance(rows, (pa.RecordBatch, pa.Table)) or (
        hasattr(type(rows), "__arrow_c_stream__") or hasattr(type(rows), "__arrow_c_array__")
    )


def table_of(rows: Any) -> pa.Table:
    """Arrow rows of any form as a table. Reads a stream to its end; validates nothing."""
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
    """A column that offers itself as Arrow data, such as a Polars series."""
    try:
        return pa.chunked_array(column) if hasattr(column, "__arrow_c_stream__") else pa.array(
            column
        )  # fmt: skip
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidRowError(
            f"this {type(column).__name__} cannot be read as an Arrow array: {exc}", field=name
        ) from exc


def names_of(table: pa.Table | pa.RecordBatch) -> list[str]:
    """The columns' names."""
    try:
        return cast("list[str]", table.schema.names)
    except UnicodeDecodeError as exc:
        raise InvalidRowError("the name of a column is not valid UTF-8") from exc


# The columns of ``Schema.to_arrow``, which were checked when they were written


def to_matrix(column: pa.Array | pa.ChunkedArray) -> Float32Array:
    """The vectors of a column as one matrix, without a copy where they lie in one piece.

    The row of a null is of NaN, which no vector holds.
    """
    dim = column.type.list_size
    parts = []
    for chunk in _chunks(column):
        # Not flatten(), which goes through Arrow's compute functions: dear for a single row.
        # Below a null may lie nulls, which have to be copied.
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
    """The rows of a matrix that stand for rows without a vector."""
    return np.isnan(matrix[:, 0])


def from_matrix(matrix: Float32Array, missing: BoolArray | None = None) -> pa.FixedSizeListArray:
    """A matrix as a column of vectors, without a copy where it is contiguous.

    The rows that are ``missing`` become null.
    """
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    # For a single row in a third of the time of ``pa.array``.
    values = pa.Array.from_buffers(pa.float32(), len(flat), [None, pa.py_buffer(flat)])
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(values, matrix.shape[1], mask=mask)


def payload_texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """The JSON texts of a payload column."""
    return [text for chunk in _chunks(column) for text in _storage(chunk).to_pylist()]


def payload_array(texts: Sequence[str | None] | pa.Array) -> pa.Array:
    """JSON texts as a payload column."""
    stored = texts if isinstance(texts, pa.Array) else pa.array(texts, type=pa.utf8())
    return pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), stored)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, without a copy where it lies in one piece."""
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


def check_table(table: pa.Table, first_row: int = 0) -> None:
    """Raise InvalidRowError, with the first damaged row and its field, unless all data is sound."""
    try:
        table.validate(full=True)
        return
    except (pa.ArrowException, UnicodeDecodeError):
        pass  # of which column and row, the following tells
    names = names_of(table)
    try:
        table.validate()
    except pa.ArrowException as exc:
        raise InvalidRowError(_reason(exc)) from exc
    found: tuple[int | None, str, str] | None = None
    for name, column in zip(names, table.columns, strict=True):
        fault = _first_fault(column)
        if fault is None:
            continue
        row, reason = fault
        if found is None or (row is not None and (found[0] is None or row < found[0])):
            found = row, name, reason
    if found is None:
        return
    row, name, reason = found
    id = None if row is None else _id_at(table, row)
    raise InvalidRowError(
        reason, row=None if row is None else first_row + row, id=id, field=name
    )  # fmt: skip


def check_array(array: pa.Array | pa.ChunkedArray, name: str) -> None:
    """As ``check_table``, for one column."""
    fault = _first_fault(array)
    if fault is not None:
        raise InvalidRowError(fault[1], row=fault[0], field=name)


def damaged_rows(table: pa.Table | pa.RecordBatch) -> dict[int, str]:
    """Each row with damaged data and the reason, for a reader that goes on with the others.

    Raises InvalidRowError where the damage belongs to no row.
    """
    faults: dict[int, str] = {}
    for name, column in zip(names_of(table), table.columns, strict=True):
        start = 0
        for chunk in _chunks(column):
            reason = _fault(chunk)
            if reason is not None:
                rows = [start + row for row in _bad_rows(chunk)]
                if not rows:
                    raise InvalidRowError(reason, field=name)
                for row in rows:
                    faults.setdefault(row, f"field {name!r}: {reason}")
            start += len(chunk)
    return faults


def take_sound(array: pa.Array, rows: Sequence[int]) -> pa.Array:
    """Some rows of an array, all of them sound, without the rest of it, which need not be.

    Not by Arrow's ``take``, which looks at offsets of other rows too.
    """
    kind = array.type
    if not len(rows):
        return pa.array([], kind)
    if pa.types.is_dictionary(kind):
        indices = array.indices.take(pa.array(rows, pa.int64()))
        used = indices.drop_null().unique().sort()
        values = take_sound(array.dictionary, used.to_pylist())
        return pa.DictionaryArray.from_arrays(pc.index_in(indices, value_set=used), values)
    if not _has_slices(kind):
        return pa.array([array[row].as_py() for row in rows])
    places = np.asarray(rows)
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return pa.concat_arrays([array.slice(int(run[0]), len(run)) for run in runs])


def _has_slices(kind: pa.DataType) -> bool:
    """Return whether joined slices of a type hold nothing of the rows around them."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return False
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return False
    if isinstance(kind, pa.BaseExtensionType):
        return _has_slices(kind.storage_type)
    return all(_has_slices(kind.field(i).type) for i in range(kind.num_fields))


def _id_at(table: pa.Table, row: int) -> str | None:
    """The row's id for an error, where the ids themselves are sound."""
    if names_of(table).count("id") != 1 or _first_fault(table.column("id")) is not None:
        return None
    id = table.column("id")[row].as_py()
    return id if isinstance(id, str) else None


def _first_fault(column: pa.Array | pa.ChunkedArray) -> tuple[int | None, str] | None:
    start = 0
    for chunk in _chunks(column):
        reason = _fault(chunk)
        if reason is not None:
            row = next(_bad_rows(chunk), None)
            return None if row is None else start + row, reason
        start += len(chunk)
    return None


def _fault(array: pa.Array) -> str | None:
    """Return the fault of an array, with every buffer that its type has; None if it is sound."""
    try:
        array.validate(full=True)
    except pa.ArrowException as exc:
        return _reason(exc)
    return None


def _reason(error: pa.ArrowException) -> str:
    if "UTF8" in str(error):
        return "the text is not valid UTF-8"
    return f"the Arrow data is damaged: {error}"


def _bad_rows(array: pa.Array) -> Iterator[int]:
    """The rows with a fault, in their order, found by halving."""
    try:
        waiting = [(0, len(array))]
    except SystemError:  # its length is negative
        return
    while waiting:
        low, high = waiting.pop()
        if low == high or _is_sound(array.slice(low, high - low)):
            continue
        if high - low == 1:
            yield low
            continue
        middle = (low + high) // 2
        waiting.append((middle, high))
        waiting.append((low, middle))


def _is_sound(array: pa.Array) -> bool:
    """Return whether the rows of a slice are sound, whatever is wrong outside it.

    Arrow validates the items of nested arrays as a whole, also those of no row in the slice.
    """
    if _fault(array) is None:
        return True
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _is_sound(array.storage)
    try:
        if pa.types.is_fixed_size_list(kind):
            size = kind.list_size
            return _is_sound(array.values.slice(array.offset * size, len(array) * size))
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            offsets = _numbers(array.offsets)
            low, high = int(offsets[0]), int(offsets[-1])
            return bool(
                0 <= low <= high <= len(array.values)
                and bool((np.diff(offsets) >= 0).all())
                and _is_sound(array.values.slice(low, high - low))
            )
        if pa.types.is_struct(kind):
            # Arrow cuts a child to the rows of the struct, and aborts where the child is too short.
            array.validate()
            return all(_is_sound(array.field(i)) for i in range(kind.num_fields))
        if pa.types.is_dictionary(kind):
            used = np.unique(_numbers(array.indices.drop_null()))
            return not len(used) or bool(
                used[0] >= 0
                and used[-1] < len(array.dictionary)
                and all(_is_sound(array.dictionary.slice(int(i), 1)) for i in used)
            )
    except (pa.ArrowException, LookupError, ValueError, OverflowError, SystemError):
        pass  # its parts cannot even be taken; SystemError: a length is negative
    return False


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    return cast("npt.NDArray[Any]", array.to_numpy(zero_copy_only=False))


# Plain types


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, of any width."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type is a number, whole or not."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list of anything, of any layout."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    )  # fmt: skip


def plain(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """A checked column as one array of the types that this package reads.

    Text is ``utf8``, lists are ``list`` or, of numbers, ``fixed_size_list``; nothing is a
    dictionary, run-end encoded, a view or an extension. What is plain already is not copied.
    """
    try:
        if isinstance(column, pa.ChunkedArray) and column.num_chunks > 1:
            return pa.concat_arrays([_plain(chunk) for chunk in column.chunks])
        return _plain(one_array(column))
    except (_TooLargeError, _NoValueError, pa.ArrowException, MemoryError) as exc:
        raise InvalidRowError(
            f"the column of {column.type} cannot be unpacked: {exc}", field=name
        ) from exc


class _NoValueError(Exception):
    pass


class _TooLargeError(Exception):
    def __init__(self, items: int, what: str) -> None:
        super().__init__(f"it unpacks to {items:,} {what}; pass fewer rows at once")


def _fits(items: int, what: str) -> None:
    if items > _MOST_ITEMS:
        raise _TooLargeError(items, what)


def _plain(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        if kind.extension_name in _NO_VALUES:
            raise _NoValueError("it is no value that a row can have; convert it first")
        if kind.extension_name == "arrow.uuid":
            return pa.array([id and str(id) for id in array.to_pylist()], pa.utf8())
        return _plain(array.storage)
    if pa.types.is_string(kind):
        return _without_hidden_bytes(array)
    if is_text(kind):
        _fits(_text_bytes(array), "bytes")
        return _without_hidden_bytes(array.cast(pa.utf8()))
    if pa.types.is_dictionary(kind):
        values = _plain(array.dictionary)
        indices = array.indices
        if pa.types.is_string(values.type):
            lengths = pc.fill_null(pc.binary_length(values), 0)
            _fits(pc.sum(lengths.take(indices), min_count=0).as_py(), "bytes")
        return _plain(values.take(indices))
    if pa.types.is_run_end_encoded(kind):
        values = array.values
        if is_text(values.type) and len(values):
            _fits(len(array) * (pc.max(pc.binary_length(values)).as_py() or 0), "bytes")
        elif not pa.types.is_primitive(values.type):
            _fits(len(array) * len(values), "items")
        return _plain(pc.run_end_decode(array))
    if pa.types.is_struct(kind) and kind.num_fields:
        fields = [array.field(i) for i in range(kind.num_fields)]
        plain_fields = [_plain(field) for field in fields]
        if all(new is old for new, old in zip(plain_fields, fields, strict=True)):
            return array
        mask = array.is_null() if array.null_count else None
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(plain_fields, names=names, mask=mask)
    if is_list(kind):
        return _plain_list(array)
    return array


def _plain_list(array: pa.Array) -> pa.Array:
    kind = array.type
    value = kind.value_type
    if is_number(value) and (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)):
        return array
    if pa.types.is_string(value) and pa.types.is_list(kind):
        return array
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    total = pc.sum(lengths, min_count=0).as_py()
    _fits(total, "items")
    _check_weight(array, total)
    values = _plain(pc.list_flatten(array))
    offsets = np.zeros(len(array) + 1, dtype=np.int32)
    np.cumsum(_numbers(lengths), out=offsets[1:])
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)


def _text_bytes(array: pa.Array) -> int:
    """The bytes of text, of which views may count some many times."""
    if not pa.types.is_string_view(array.type):
        return int(pc.sum(pc.binary_length(array), min_count=0).as_py())
    count = 4 * (array.offset + len(array))  # four numbers a view, of which the first is its length
    views = np.frombuffer(array.buffers()[1], dtype=np.int32, count=count).reshape(-1, 4)
    lengths = views[array.offset :, 0].astype(np.int64)
    if array.null_count:
        lengths = lengths[_numbers(array.is_valid())]
    return int(lengths.sum())


def _without_hidden_bytes(array: pa.Array) -> pa.Array:
    """The same text with nothing below its nulls.

    Arrow validates no bytes of null values, and keeps them; LanceDB does validate them.
    """
    if not array.null_count:
        return array
    hidden = pa.Array.from_buffers(
        array.type, len(array), [None, *array.buffers()[1:]], offset=array.offset
    )
    if pc.sum(pc.binary_length(hidden), min_count=0).as_py() == pc.sum(
        pc.binary_length(array), min_count=0
    ).as_py():  # fmt: skip
        return array
    return array.take(pa.array(np.arange(len(array))))  # a copy of what is not null


def _check_weight(array: pa.Array | pa.ChunkedArray, values: int) -> None:
    """Refuse a few bytes that stand for values without number."""
    if values > max(_VALUES_AT_LEAST, _VALUES_PER_BYTE * array.get_total_buffer_size()):
        raise _TooLargeError(values, "values")


def check_weight(column: pa.Array, name: str) -> None:
    """Refuse a plain column whose values would fill the memory as Python's own."""
    try:
        _check_weight(column, _count_values(column) - len(column))
    except _TooLargeError as exc:
        raise InvalidRowError(f"the column cannot be unpacked: {exc}", field=name) from exc


def check_id_weight(column: pa.Array | pa.ChunkedArray, name: str) -> None:
    """Refuse more rows than so few bytes can tell apart, before any column of them is unpacked."""
    try:
        _check_weight(column, len(column))
    except _TooLargeError as exc:
        raise InvalidRowError(f"the column cannot be unpacked: {exc}", field=name) from exc


def _count_values(array: pa.Array) -> int:
    kind = array.type
    count = len(array)
    if isinstance(array, pa.ExtensionArray):
        return _count_values(array.storage)
    if pa.types.is_struct(kind):
        return count + sum(_count_values(array.field(i)) for i in range(kind.num_fields))
    if is_list(kind) or pa.types.is_map(kind):
        return count + _count_values(array.values)
    return count


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The column's values as Python's own.

    Arrow's ``to_pylist`` looks the zone of a datetime up in the machine's time zone database,
    which means reading files, and which not every machine has.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        numbers = without_finer(column).cast(_MICROSECONDS).cast(pa.int64()).to_pylist()
        return [None if n is None else _EPOCH + timedelta(microseconds=n) for n in numbers]
    return cast("list[Any]", column.to_pylist())


def without_finer(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The column without the digits of its datetimes that are finer than a microsecond.

    Before 1970 too, where a cast would cut towards that year.
    """
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.unit != "ns":
        return column
    finer = column.cast(pa.int64())
    whole = pc.divide(finer, 1000)
    whole = pc.subtract(whole, pc.less(finer, pc.multiply(whole, 1000)).cast(pa.int64()))
    return whole.cast(pa.timestamp("us", kind.tz))


def last_of_each_id(table: pa.Table, ids: Sequence[str] | None = None) -> pa.Table:
    """Drop each row whose id comes again later; ``ids`` are those of the rows, if at hand."""
    if table.num_rows < 2:
        return table
    if ids is None:
        ids = table.column("id").to_pylist()
    last = dict(zip(ids, range(len(ids)), strict=True))
    return table if len(last) == len(ids) else table.take(sorted(last.values()))
