"""Selections: the parts of a row that a call returns, and the records made from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .._filters.literals import PATH_RULE, names_in
from .._filters.tree import Ref
from .._model.arrays import Float32Array
from .._model.kinds import SINGLE
from .._model.records import Record
from .._model.results import result_columns
from .._model.schema import Field, Schema
from .._tools.messages import did_you_mean, listed, shown
from ..backend.contract import Columns, Order
from ..backend.rows import Batch
from ..errors import CorruptStoreError, FilterError, InvalidArgumentError, InvalidNameError
from .arguments import is_iterable

_PAYLOAD = "payload"
# Maximum number of names in a selection, and of keys in an order: LanceDB's parser allows about 40
# levels.
_MOST_NAMES, _MOST_KEYS = 2_000, 32
# Maximum number of characters in a key, and of keys on a path into the payload.
_LONGEST_KEY, _MOST_LEVELS = 4_096, 32

_Keys = dict[str, "_Keys | None"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The columns that the backend reads, and the parts of them that the user gets.

    ``keys`` maps each selected key of the payload to the selected keys within its value, or to None
    for the whole value. If ``keys`` is None, all of the payload is selected except the ``hidden``
    keys, each of which has the name of a field that was not selected.
    """

    columns: Columns
    vector_name: str
    keys: _Keys | None = None
    shows_vector: bool = False
    hidden: frozenset[str] = frozenset()

    def fields_of(self, rows: Batch, i: int) -> dict[str, Any]:
        """Return one row's fields, flat. A declared field hides a payload key of the same name."""
        fields = {name: values[i] for name, values in rows.fields.items()}
        if rows.payloads is None or rows.payloads[i] is None:
            return fields
        payload = _payload_of(rows, i)
        if self.keys is not None:
            payload = _part(payload, self.keys)
        elif self.hidden:
            payload = {key: value for key, value in payload.items() if key not in self.hidden}
        return {**fields, **payload, **fields}

    def fields_of_each(self, rows: Batch, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return the fields of the rows at these positions."""
        if rows.payloads is not None and rows.payloads.count(None) < len(rows.payloads):
            return [self.fields_of(rows, i) for i in positions]
        names = list(rows.fields)
        values = list(zip(*rows.fields.values(), strict=True)) or [()] * len(rows.ids)
        return [dict(zip(names, values[i], strict=True)) for i in positions]

    def vector_of(self, rows: Batch, i: int) -> Float32Array | None:
        if not self.shows_vector or rows.vectors is None:
            return None
        vector = rows.vectors[i]
        return None if vector[0] != vector[0] else vector  # NaN: no vector

    def first_columns(self, schema: Schema) -> dict[str, Field | None]:
        """Return the columns of an Arrow table of the records, without the payload's keys."""
        return result_columns(schema, self.columns.fields, hits=False, vector=self.shows_vector)

    def records(self, rows: Batch) -> list[Record]:
        every = range(len(rows.ids))
        return [
            Record(rows.ids[i], self.vector_of(rows, i), fields, self.vector_name)
            for i, fields in zip(every, self.fields_of_each(rows, every), strict=True)
        ]


def selected_names(select: Iterable[str] | None) -> list[str] | None:
    """Read the names in ``select`` once, because the call is repeated if the table was altered."""
    return None if select is None else read_names("select", select)


def order_keys(order_by: str | Iterable[str] | None) -> list[str]:
    """Read the keys in ``order_by`` once, like ``selected_names``."""
    return [] if order_by is None else read_names("order_by", order_by, _MOST_KEYS)


def read_names(
    argument: str, value: str | bytes | Iterable[str], most: int = _MOST_NAMES
) -> list[str]:
    """Return the names in an argument, which is a name or an iterable of names."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes) or not is_iterable(value):
        raise InvalidArgumentError(argument, value, "a name, an iterable of names or None")
    names = list(islice(value, most + 1))
    if len(names) > most:
        raise InvalidArgumentError(argument, names, f"at most {most:,} names")
    return names


def select_columns(
    schema: Schema,
    select: Sequence[str] | None,
    *,
    include_vector: bool = False,
    whole_payload: bool = False,
) -> Selection:
    """Return the selection for ``select``: fields, the vector's name, "payload" or "payload.<key>".

    Dots lead into nested objects, as in filters, and ``payload."a.b"`` is the key ``a.b``. None
    selects every field and the payload. A record lacks a selected payload key if its row lacks it.
    With ``whole_payload``, single payload keys are refused.
    """
    if select is None:
        columns = Columns(tuple(schema.fields), schema.payload, include_vector)
        return Selection(columns, schema.vector, shows_vector=include_vector)
    fields: list[str] = []
    keys: _Keys = {}
    payload = False
    vector = include_vector
    for name in select:
        if not isinstance(name, str):
            raise _unknown(name, schema, whole_payload)
        if name in schema.fields:
            fields.append(name)
        elif name == schema.vector:
            vector = True
        elif name == _PAYLOAD and schema.payload:
            payload = True
        elif name.startswith(f"{_PAYLOAD}.") and schema.payload and not whole_payload:
            _add_path(keys, path_of(name))
        elif name != "id":
            raise _unknown(name, schema, whole_payload)
    columns = Columns(tuple(dict.fromkeys(fields)), payload or bool(keys), vector)
    some = None if payload or not keys else keys
    hidden = frozenset(schema.fields).difference(fields, keys)
    return Selection(columns, schema.vector, some, shows_vector=vector, hidden=hidden)


def sort_order(schema: Schema, keys: Sequence[str], *, descending: bool) -> tuple[Order, ...]:
    """Return the order for keys from ``order_keys``. The id is the last key, added if missing.

    A leading minus sorts a key descending, and ``descending`` reverses every key.
    """
    orders: dict[Ref, Order] = {}
    for key in keys:
        falling = isinstance(key, str) and key.startswith("-")
        name = key[1:] if falling else key
        ref = value_ref(schema, name, "order_by", hint=_without_sql(name))
        orders.setdefault(ref, Order(ref, falling is not descending))
        if ref.name == "id":
            return tuple(orders.values())
    orders[Ref("id")] = Order(Ref("id"), descending and not keys)
    return tuple(orders.values())


def _without_sql(key: object) -> str:
    """Return the end of a message that corrects a key like "year DESC" or ("year", "desc")."""
    words = key.split() if isinstance(key, str) else key
    if isinstance(words, (list, tuple)) and words and str(words[-1]).lower() in ("asc", "desc"):
        sign = "-" if str(words[-1]).lower() == "desc" else ""
        return (
            f"; write {sign + str(words[0])!r}" if len(words) > 1 else "; '-year' sorts descending"
        )
    return ""


def value_ref(
    schema: Schema,
    name: object,
    argument: str,
    *,
    lists: bool = False,
    ids: bool = True,
    hint: str = "",
) -> Ref:
    """Return the field, "id" or payload key of this name, or raise InvalidArgumentError.

    List fields are accepted only with ``lists``, "id" only with ``ids``. ``hint`` ends the message.
    """
    ref = _ref_of(schema, name, lists=lists)
    if ref is not None and (ids or ref.name != "id"):
        return ref
    able = ["id"] if ids else []
    able += [each for each, field in schema.fields.items() if lists or not field.is_list]
    payload = ["payload.<key>"] if schema.payload else []
    expected = f"one of {listed(able, *payload) or 'none, since the table has no fields'}"
    hint = hint or did_you_mean(name, able)
    reason = f"{argument} must be {expected}, not {shown(name)}{hint}"
    raise InvalidArgumentError(argument, name, reason=reason)


def _ref_of(schema: Schema, name: object, *, lists: bool) -> Ref | None:
    if not isinstance(name, str) or len(name) > _LONGEST_KEY:
        return None
    field = schema.fields.get(name)
    if name == "id" or (field is not None and (lists or not field.is_list)):
        return Ref(name)
    if name.startswith(f"{_PAYLOAD}.") and schema.payload:
        with suppress(InvalidNameError):
            return Ref(_PAYLOAD, tuple(path_of(name)))
    return None


def values_of(rows: Batch, positions: Sequence[int], name: str) -> list[Any]:
    """Return the values of a field or ``payload.<key>`` in the rows at these positions."""
    if not name.startswith(f"{_PAYLOAD}."):
        return [rows.fields[name][i] for i in positions]
    path, values = path_of(name), []
    for i in positions:
        value: Any = _payload_of(rows, i)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(value)
    return values


def _payload_of(rows: Batch, i: int) -> dict[str, Any]:
    """Return a row's payload, including keys that fields of the same name hide."""
    text = None if rows.payloads is None else rows.payloads[i]
    try:
        payload = json.loads(text or "{}")
        if not isinstance(payload, dict):
            raise TypeError(f"a {type(payload).__name__}")
    except (ValueError, TypeError, RecursionError) as exc:
        raise CorruptStoreError(
            f"row {rows.ids[i]!r}", "its payload is not a JSON object; restore it from a backup"
        ) from exc
    return payload


def path_of(name: str, kind: str = "selected column", most: int = _MOST_LEVELS) -> list[str]:
    """Return the keys of the path ``payload.<key>.<key>``."""
    try:
        path = names_in(name)[1:]
    except FilterError as exc:
        raise InvalidNameError(name, kind, PATH_RULE) from exc
    if len(path) > most:
        raise InvalidNameError(name, kind, f"a path may have at most {most} keys")
    return path


_TYPES = {**{kind.python: kind.name for kind in SINGLE}, list: "list", dict: "object"}


def count_types(rows: Batch, fields: Mapping[str, Field], counts: dict[str, Counter[str]]) -> int:
    """Count the types of the rows' values, by field and payload key; return the number of rows."""
    for name, values in rows.fields.items():
        counts[name][fields[name].kind] += len(values) - values.count(None)
    for text in rows.payloads or ():
        for key, value in json.loads(text or "{}").items():
            if value is not None:
                name = str(Ref(_PAYLOAD, (key,)))
                counts.setdefault(name, Counter())[_TYPES[type(value)]] += 1
        if len(counts) > 10_000:
            reason = "the rows have more than 10,000 fields and payload keys; select fewer rows"
            raise InvalidArgumentError("where", len(counts), reason=f"{reason} with where=")
    return len(rows.ids)


def _add_path(keys: _Keys, path: list[str]) -> None:
    *outer, last = path
    for key in outer:
        within = keys.setdefault(key, {})
        if within is None:  # the whole value is selected already
            return
        keys = within
    keys[last] = None


def _part(value: Mapping[str, Any], keys: _Keys) -> dict[str, Any]:
    """Return the selected keys of an object. Omits a path if a value on it is not an object."""
    selected: dict[str, Any] = {}
    for key, item in value.items():
        if key not in keys:
            continue
        within = keys[key]
        if within is None:
            selected[key] = item
        elif isinstance(item, dict) and (part := _part(item, within)):
            selected[key] = part
    return selected


def _unknown(name: object, schema: Schema, whole_payload: bool) -> InvalidNameError:
    able = ["id", schema.vector, *schema.fields]
    hint = did_you_mean(name, able)
    payload = [_PAYLOAD] if whole_payload else [_PAYLOAD, "payload.<key>"]
    names = listed(able, *(payload if schema.payload else ()))
    return InvalidNameError(name, "selected column", f"the columns are {names}{hint}")
