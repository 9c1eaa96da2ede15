"""Rows in any form, checked once and converted to one batch, or to the parts of an update.

This module is imported off the event loop when a store opens, because it imports NumPy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np

from .._filters import where
from .._model.arrays import Float32Array
from .._model.arrow import check_array, is_arrow, plain, table_of, without_vector
from .._model.ids import id_text
from .._model.ids import new_ids as make_ids
from .._model.patch import PayloadPatch, Remove, path_text
from .._model.records import Hit, Record
from .._model.schema import Field, Schema, may_lack_vectors
from .._tools.lazy_arrow import is_array, is_table, pa
from .._tools.messages import shown
from ..backend.changes import UpdateRows
from ..backend.rows import BYTES_A_VALUE, Batch
from ..backend.threads import arrow_ready
from ..errors import FilterError, InvalidArgumentError, InvalidRowError, InvalidVectorError
from .arguments import check_words, is_iterable, read_all
from .columns import (
    MOST_KEYS,
    Places,
    field_column,
    foreign_values,
    id_texts,
    is_possible_id,
    located,
    payload_column,
    payloads_of,
    plain_payload,
)
from .foreign_rows import array_of_typed, as_row, check_column, columns_of_table, is_frame, is_typed
from .selection import path_of
from .vectors import arrow_matrix, given_matrix, matrix_of

# Columns that can be read again, and types that are not columns.
_READABLE = (list, tuple, np.ndarray, str, bytes, Mapping)
_ID = Field(str)
# Maximum number of fields and payload keys in one update.
_MOST_CHANGES = 10_000

NewIds = Literal["never", "if absent", "always"]
"""The rows that get new ids. "if absent": rows without an id, unless they seem to have one under
another name. "always": every row without an id."""
# A text without any of these is a single word, so it is probably an id.
_FILTER_SIGNS = frozenset(" =<>")


@dataclass(frozen=True, slots=True)
class Collected:
    """A caller's rows, which can be read repeatedly.

    ``data`` is a list of rows, a mapping of columns, or a list of Arrow tables and pandas frames.
    """

    data: Any
    form: Literal["rows", "columns", "tables"] = "rows"

    def __len__(self) -> int:
        """Return the number of rows; for columns, the length of the first column, if any."""
        if self.form == "rows":
            return len(self.data)
        if self.form == "tables":
            return sum(map(len, self.data))
        first = next(iter(self.data.values()), ())
        return len(first) if is_iterable(first) and hasattr(first, "__len__") else 0


async def collect(rows: Any, in_thread: Callable[..., Awaitable[Any]]) -> Collected:
    """Read all rows, in any form, once.

    An Arrow reader may wait for a disk, so it runs in a thread. Imports pyarrow if the rows need
    it.
    """
    if type(rows) is list:
        items = list(rows)  # a copy, because the app may change it while the call waits
    elif _is_tabular(rows):
        items = [rows]
    elif isinstance(rows, Record):
        raise InvalidRowError("rows must be a list of records, not a single record")
    elif isinstance(rows, Mapping):
        return await _collect_columns(rows)
    elif not isinstance(rows, AsyncIterable) and (
        isinstance(rows, (str, bytes)) or not is_iterable(rows) or as_row(rows)
    ):
        raise InvalidRowError(
            "rows must be an Arrow batch or table, a frame, an iterable of these, mappings or "
            f"records, or a mapping of columns, not {type(rows).__name__}"
        )
    else:
        items = await read_all(rows)
    if not items or type(items[0]) is dict or not _is_tabular(items[0]):
        return Collected(items)
    await arrow_ready()
    tables: list[Any] = []
    for item in items:
        if not _is_tabular(item):
            done = sum(map(len, tables))
            raise InvalidRowError("Arrow batches and other rows are mixed", row=done)
        whole = is_table(item) or is_frame(item)
        tables.append(item if whole else await in_thread(table_of, item))
    return Collected(tables, "tables")


def _is_tabular(rows: object) -> bool:
    return is_arrow(rows) or is_frame(rows)


async def _collect_columns(rows: Mapping[str, Any]) -> Collected:
    """Return the columns in a form that can be read again, without checking them."""
    columns = {}
    in_arrow = False
    # A copy, because the app may change the mapping while its columns are read.
    for name, column in dict(rows).items():
        of_library = is_array(column) or is_typed(column)
        in_arrow = in_arrow or of_library
        stays = of_library or isinstance(column, _READABLE) or not is_iterable(column)
        columns[name] = column if stays else await read_all(column)
    if in_arrow:
        await arrow_ready()
    return Collected(columns, "columns")


async def collect_ids(ids: Any) -> Any:
    """Return ids in a form that can be read again; they are not checked yet."""
    return await read_all(ids) if isinstance(ids, Iterator) else ids


def bytes_to_write(rows: Collected | Batch, schema: Schema) -> int:
    """Estimate the memory in bytes that ``to_batch`` needs; the estimate is low for long texts."""
    if isinstance(rows, Batch):
        return rows.nbytes
    return len(rows) * (4 * schema.dim + BYTES_A_VALUE * (2 + len(schema.fields)))


def to_batch(rows: Collected, schema: Schema, *, new_ids: NewIds = "never") -> Batch:
    """Check the rows, and return them as a batch.

    Raises InvalidRowError, InvalidVectorError or DimensionMismatchError with the row's number. The
    batch may repeat ids. New ids ascend in the order of the rows.
    """
    if rows.form == "rows":
        mappings = _mappings_of(rows.data, schema)
        try:
            return _batch(_transposed(mappings, schema, new_ids), schema)
        except InvalidVectorError as exc:
            raise _with_other_name(exc, mappings, schema) from exc.__cause__
    # An embedder makes missing vectors, or they stay null.
    needed = [] if may_lack_vectors(schema) else [schema.vector]
    if new_ids == "never":
        needed.insert(0, "id")
    batches = [_batch(group, schema) for group in _wholes(rows, schema, needed, new_ids)]
    return batches[0].joined(batches[1:]) if len(batches) > 1 else batches[0]


def one_of_each_id(batch: Batch, *, last: bool) -> Batch:
    """Return one row for each id: the last one if ``last``, else the first."""
    ids = batch.ids
    positions = range(len(ids)) if last else range(len(ids) - 1, -1, -1)
    chosen = {ids[position]: position for position in positions}
    return batch if len(chosen) == len(ids) else batch.take(sorted(chosen.values()))


def repeated_ids(ids: Sequence[str]) -> list[str]:
    """Return the ids that occur more than once."""
    if len(set(ids)) == len(ids):
        return []
    return [id for id, count in Counter(ids).items() if count > 1]


def check_ids(ids: Any) -> list[str]:
    """Return the requested ids, one or several, as strings in order."""
    if type(ids) is not list:
        if id_text(ids) is not None:
            ids = [ids]
        if is_array(ids):
            check_array(ids, "ids")
            ids = plain(ids, "ids").to_pylist()
        if isinstance(ids, (bytes, Mapping)) or not is_iterable(ids):
            raise InvalidArgumentError("ids", ids, "an id or an iterable of ids")
    listed = list(ids)
    if not set(map(type, listed)) <= {str}:
        for n, value in enumerate(listed):
            text = id_text(value)
            if text is None:
                raise InvalidArgumentError("ids", value, "text, a whole number or a UUID")
            listed[n] = text
    for text in listed:
        check_words("ids", text)
    return listed


def distinct_ids(ids: Any) -> list[str]:
    """Return the requested ids, each once."""
    return list(dict.fromkeys(check_ids(ids)))


def ids_with_distinct(ids: Any) -> tuple[list[str], list[str]]:
    """Return the requested ids as strings in order, and the same ids without repetitions."""
    listed = check_ids(ids)
    return listed, list(dict.fromkeys(listed))


def ids_to_delete(ids: Any) -> list[str]:
    """Return the ids to delete; raise InvalidArgumentError for a single string that looks like a
    filter."""
    if isinstance(ids, str) and not _FILTER_SIGNS.isdisjoint(ids):
        with suppress(FilterError):
            where(ids)
            raise InvalidArgumentError(
                "ids", ids, "ids of rows (pass a filter as where=, and such an id in a list)"
            )
    return distinct_ids(ids)


def check_new_vectors(ids: Any, vectors: Any, schema: Schema) -> tuple[list[str], Float32Array]:
    """Return the distinct ids and their vectors; the last vector of a repeated id counts.

    Ids that no row can have are left out: every call treats them as absent.
    """
    listed = check_ids(ids)
    if len(vectors) != len(listed):
        raise InvalidArgumentError(
            "vectors", len(vectors), f"a sequence of {len(listed)} vectors, one for each id"
        )
    matrix = given_matrix(vectors, schema, Places(listed))
    last = {id: place for place, id in enumerate(listed) if is_possible_id(id)}
    if len(last) == len(listed):
        return listed, matrix
    return list(last), matrix[list(last.values())]


def check_patch(fields: Mapping[str, Any], schema: Schema) -> tuple[dict[str, Any], PayloadPatch]:
    """Check an update; return its declared fields and its changes to the payload.

    A key ``payload.<key>.<key>`` is a path into the payload, as in filters.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise InvalidArgumentError("fields", fields, "a mapping with at least one field")
    if len(fields) > _MOST_CHANGES:
        raise InvalidArgumentError("fields", len(fields), f"at most {_MOST_CHANGES:,} keys")
    if "id" in fields:
        raise InvalidRowError("update cannot change the id of a row", field="id")
    if schema.vector in fields:
        raise InvalidRowError(
            "update cannot set the vector as a field; pass vector=, or use set_vectors()",
            field=schema.vector,
        )
    values: dict[str, Any] = {}
    others: dict[Any, Any] = {}
    for name, value in fields.items():
        if name in schema.fields:
            (values[name],) = _new_values(name, [value], schema, None)
        else:
            others[name] = value
    return values, _patch(others, schema, None)


class _Columns(NamedTuple):
    """Rows as columns: ids, the schema's columns, each row's other keys or None, and places."""

    ids: list[str]
    columns: dict[str, Any]
    extra: list[Any]
    places: Places


def to_changes(rows: Collected, schema: Schema, *, strict: bool) -> UpdateRows:
    """Check rows that change parts of stored rows, and return them as an update."""
    by_row = rows.form == "rows"
    groups = _groups_of_rows(rows.data, schema) if by_row else _wholes(rows, schema, ["id"])
    parts: list[Batch] = []
    payloads: dict[str, PayloadPatch] = {}
    for group in groups:
        if group.ids:
            parts.append(_part(group, schema))
            for row, keys in enumerate(group.extra):
                if keys is not None:
                    patch = _patch(keys, schema, group.places, row)
                    payloads[parts[-1].ids[row]] = patch
    change = UpdateRows(parts, payloads, strict)
    if repeated := repeated_ids(change.ids):
        reason = "the id occurs more than once in this call; give each id a single row"
        raise InvalidRowError(reason, id=repeated[0])
    return change


def _groups_of_rows(items: Sequence[Any], schema: Schema) -> Iterator[_Columns]:
    """Group the rows by the fields that they have, and yield the columns of each group."""
    mappings = _mappings_of(items, schema)
    ids = id_texts([mapping.get("id") for mapping in mappings])
    known = {"id", schema.vector, *schema.fields}
    groups: dict[tuple[frozenset[str], bool], list[int]] = {}
    for row, mapping in enumerate(mappings):
        chosen = {name for name in mapping if name in known and name != "id"}
        if isinstance(items[row], (Record, Hit)) and items[row].vector is None:  # not read
            chosen.discard(schema.vector)
        groups.setdefault((frozenset(chosen), not mapping.keys() <= known), []).append(row)
    for (names, others), places in groups.items():
        rows = [mappings[row] for row in places]
        columns = {name: [row[name] for row in rows] for name in names}
        extra = [
            {key: row[key] for key in row if key not in known} if others else None for row in rows
        ]
        yield _Columns([ids[row] for row in places], columns, extra, Places(ids, chosen=places))


def _part(group: _Columns, schema: Schema) -> Batch:
    """Return a group of rows as one part of an update."""
    ids, columns, extra, places = group
    if not columns and extra[0] is None:
        raise InvalidRowError("the row has only an id, and nothing to set", **located(places, 0))
    ids = field_column("id", _ID, ids, places)
    fields = {
        name: _new_values(name, columns[name], schema, places)
        for name in schema.fields
        if name in columns
    }
    embeds = schema.embed is not None and schema.embed.field in fields
    vectors = None
    if schema.vector in columns or embeds:  # an embedder makes missing vectors
        vectors = _vectors(columns.get(schema.vector), len(ids), schema, places)
        missing = without_vector(vectors)
        if missing.any() and not (embeds or schema.vector_nullable):
            reason = "the row has neither a vector nor a text for the embedder"
            raise InvalidRowError(
                reason, field=schema.vector, **located(places, int(missing.argmax()))
            )
    return Batch(ids, fields, None, vectors)


def _new_values(name: str, values: Any, schema: Schema, places: Places | None) -> Any:
    """Check a field's new values, and return them in the field's type."""
    if type(values) is list:
        for row, value in enumerate(values):
            if isinstance(value, Remove):
                reason = "a declared field cannot be removed; set it to None"
                raise InvalidRowError(reason, field=name, **located(places, row))
    return field_column(name, schema.fields[name], values, places)


def _patch(
    keys: Mapping[Any, Any], schema: Schema, places: Places | None, row: int = 0
) -> PayloadPatch:
    """Return the changes that a mapping of keys or paths makes to a row's payload."""
    changes: dict[tuple[str, ...], Any] = {}
    for name, value in keys.items():
        path: tuple[str, ...] = (name,)
        if isinstance(name, str) and name.startswith("payload."):
            path = tuple(path_of(name, "field", MOST_KEYS))
            is_field = path[0] in ("id", schema.vector) or path[0] in schema.fields
            if is_field and not isinstance(value, Remove):
                raise InvalidRowError(
                    f"{path[0]!r} is a field of the row, not a key of the payload; set it by its "
                    "name",
                    field=name,
                    **located(places, row),
                )
        if path in changes:
            raise InvalidRowError("is given twice", field=name, **located(places, row))
        changes[path] = _checked_change(path, value, schema, places, row)
    paths = sorted(changes) if len(changes) > 1 else []
    for path, other in pairwise(paths):
        if other[: len(path)] == path:
            raise InvalidRowError(
                f"{path_text(path):.120} and {path_text(other):.120} change the same part of the "
                "payload",
                field=path_text(other),
                **located(places, row),
            )
    return PayloadPatch(tuple(changes.items()))


def _checked_change(
    path: tuple[str, ...], value: Any, schema: Schema, places: Places | None, row: int
) -> Any:
    """Return a value for the payload in its stored form, or REMOVE."""
    removed = isinstance(value, Remove)
    nested: Any = None if removed else value
    for key in reversed(path[1:]):
        nested = {key: nested}
    nested = plain_payload({path[0]: nested}, schema, places, row)
    if removed:
        return value
    for key in path:
        nested = nested[key]
    return nested


# The forms of rows


def _mappings_of(items: Sequence[Any], schema: Schema) -> list[Mapping[str, Any]]:
    mappings: list[Mapping[str, Any]] = []
    for row, item in enumerate(items):
        mapping = item if type(item) is dict else as_row(item, schema.vector, row)
        if mapping is None:
            reason = (
                "a row must be a mapping, a record, a pydantic model, a dataclass or a named "
                f"tuple, not {type(item).__name__}"
            )
            if isinstance(item, str) and schema.embed is not None:
                reason += f"; write {{{schema.embed.field!r}: [{shown(item, 40)}, ...]}}"
            raise InvalidRowError(reason, row=row)
        mappings.append(mapping)
    return mappings


def _transposed(rows: Sequence[Mapping[str, Any]], schema: Schema, new_ids: NewIds) -> _Columns:
    """Return the columns of whole rows; their values are not checked yet."""
    # One loop over the rows, not one for each column, since most calls have a single row.
    columns: dict[str, list[Any]] = {"id": [], schema.vector: []}
    for name in schema.fields:
        columns[name] = []
    extra: list[dict[str, Any] | None] = []
    for row, mapping in enumerate(rows):
        for name, column in columns.items():
            column.append(mapping.get(name))
        if mapping.keys() <= columns.keys():
            extra.append(None)
        else:
            extra.append({key: mapping[key] for key in mapping if key not in columns})
        if new_ids == "if absent" and columns["id"][row] is None:
            _check_names(extra[row] or (), row)
    ids = _ids(columns.pop("id"), new_ids)
    return _Columns(ids, columns, extra, Places(ids))


def _ids(ids: Any, new_ids: NewIds, first_row: int = 0) -> list[str]:
    """Return ids as strings, with new ids in place of None unless ``new_ids`` is "never"."""
    if new_ids != "never":
        if is_array(ids) and ids.null_count:
            ids = ids.to_pylist()
        if not is_array(ids) and NoneType in set(map(type, ids)):
            new = iter(make_ids(sum(id is None for id in ids)))
            ids = [next(new) if id is None else id for id in ids]
    return id_texts(ids, first_row)


def _check_names(names: Iterable[str], row: int | None = None) -> None:
    """Raise InvalidRowError if one of a row's names was probably meant to be "id".

    Otherwise each upsert of these rows would give them new ids and add them again.
    """
    for name in names:
        if isinstance(name, str) and name.lstrip("_").lower() == "id":
            reason = (
                "there is no 'id' next to it: rename it to 'id', or give each row an 'id' too, "
                "such as aiovec.new_id()"
            )
            raise InvalidRowError(reason, row=row, field=name)


def _with_other_name(
    error: InvalidVectorError, rows: Sequence[Mapping[str, Any]], schema: Schema
) -> InvalidVectorError:
    """Return the error; if another key may hold the missing vector, the message names that key."""
    row = {} if error.row is None else rows[error.row]
    if row.get(schema.vector) is None:
        for key, value in row.items():
            if isinstance(value, (list, tuple, np.ndarray)) and len(value) == schema.dim:
                hint = (
                    f"it has {key!r}: rename that, or create the table with Schema(vector={key!r})"
                )
                return replace(error, reason=f"{error.reason}; {hint}")
    return error


def _wholes(
    rows: Collected, schema: Schema, needed: Sequence[str], new_ids: NewIds = "never"
) -> Iterator[_Columns]:
    """Yield the columns of rows: one ``_Columns`` for a mapping of columns, else one per table."""
    if rows.form == "columns":
        yield _whole(rows.data, schema, needed, new_ids)
        return
    start = 0
    for table in rows.data:
        columns, is_json = columns_of_table(table), not is_frame(table)
        yield _whole(columns, schema, needed, new_ids, start, json_payload=is_json)
        start += len(table)


def _whole(
    given: Mapping[str, Any],
    schema: Schema,
    needed: Sequence[str],
    new_ids: NewIds,
    first_row: int = 0,
    *,
    json_payload: bool = False,
) -> _Columns:
    """Return columns in a form that can be checked; their values are not checked yet.

    With ``json_payload``, the payload column holds JSON texts, as in Arrow data.
    """
    for name in needed:
        if name not in given:
            raise InvalidRowError(
                f"the column {name!r} is missing; the columns are: {', '.join(map(shown, given))}"
            )
    if "id" not in given and new_ids == "if absent":
        _check_names(given)
    columns = {name: _column(name, column, schema) for name, column in given.items()}
    if "id" in columns:
        ids = _ids(columns.pop("id"), new_ids, first_row)
    else:
        ids = make_ids(max(map(len, columns.values()), default=0))
    for name, column in columns.items():
        if len(column) != len(ids):
            raise InvalidRowError(
                f"the column has {len(column)} values for {len(ids)} ids", field=name
            )
    places = Places(ids, first_row)
    _check_zones(columns, places)
    declared = {schema.vector, *schema.fields}
    extra: list[Any] = [None] * len(ids)
    if json_payload and "payload" in columns:
        extra = payloads_of(columns.pop("payload"), schema, places)
    others = {name: columns.pop(name) for name in [*columns] if name not in declared}
    if others:
        values = zip(*(_values(*column) for column in others.items()), strict=True)
        for row, cells in enumerate(values):
            keys = extra[row] or {}
            if twice := keys.keys() & others.keys():
                reason = "is both a key in the payload column and a column"
                raise InvalidRowError(reason, field=min(twice), **located(places, row))
            extra[row] = {**keys, **dict(zip(others, cells, strict=True))}
    return _Columns(ids, columns, extra, places)


def _column(name: str, column: Any, schema: Schema) -> Any:
    """Return a column as a list of Python values, a plain Arrow array, or an ndarray of vectors or
    times."""
    if is_typed(column):
        column = array_of_typed(column, name)
    if isinstance(column, np.ndarray) and column.ndim:
        if name == schema.vector and column.dtype != object:
            return column
        # NumPy's times have no zone; ``_check_zones`` refuses them. Dates have the same kind of
        # dtype, but need no zone.
        moments = column.dtype.kind == "M" and column.dtype != "M8[D]"
        return column if moments else column.tolist()
    if is_array(column):
        check_array(column, name)
        return plain(column, name)
    check_column(name, column)
    return column if isinstance(column, list) else list(column)


def _check_zones(columns: dict[str, Any], places: Places) -> None:
    """Raise InvalidRowError for a column of times without a time zone.

    A column of NumPy times that are all NaT becomes a list of None.
    """
    for name, column in columns.items():
        if isinstance(column, np.ndarray) and column.dtype.kind == "M":
            valid = ~np.isnat(column)
            columns[name] = [None] * len(column)
        elif is_array(column) and pa.types.is_timestamp(column.type) and column.type.tz is None:
            valid = column.is_valid().to_numpy(zero_copy_only=False)
        else:
            continue
        if valid.any():
            raise InvalidRowError(
                f"its times have no time zone; add one: df[{name!r}].dt.tz_localize('UTC') "
                f"in pandas, pl.col({name!r}).dt.replace_time_zone('UTC') in Polars",
                field=name,
                **located(places, int(valid.argmax())),
            )


def _values(name: str, column: Any) -> list[Any]:
    return foreign_values(column, name) if is_array(column) else list(column)


def _vectors(given: Any, count: int, schema: Schema, places: Places) -> Float32Array:
    """Return the vectors of rows. Missing vectors are NaN; an embedder may make them later."""
    in_arrow = is_array(given)
    convert = arrow_matrix if in_arrow else matrix_of
    if not may_lack_vectors(schema):
        return convert(given, schema, places)
    missing = np.zeros(count, dtype=bool)
    if given is None:
        missing[:] = True
    elif in_arrow:
        missing = given.is_null().to_numpy(zero_copy_only=False)
        given = given.drop_null()
    elif not isinstance(given, np.ndarray):
        missing = np.fromiter((vector is None for vector in given), dtype=bool, count=count)
        given = [vector for vector in given if vector is not None]
    if given is not None and not missing.any():
        return convert(given, schema, places)
    whole = np.full((count, schema.dim), np.nan, dtype=np.float32)
    present = np.flatnonzero(~missing)
    if len(present):
        whole[present] = convert(given, schema, places.of(present))
    return whole


def _batch(group: _Columns, schema: Schema) -> Batch:
    """Check the values of whole rows, and return them as a batch."""
    ids, columns, extra, places = group
    ids = field_column("id", _ID, ids, places)
    matrix = _vectors(columns.get(schema.vector), len(ids), schema, places)
    nulls = [None] * len(ids)
    fields = {
        name: field_column(name, field, columns.get(name, nulls), places)
        for name, field in schema.fields.items()
    }
    payloads = payload_column(extra, schema, places)
    return Batch(ids, fields, payloads if schema.payload else None, matrix)
