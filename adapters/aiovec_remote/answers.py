"""Facts of a server's answers, checked before they are believed. Each raises WireError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiovec._http.wire import Message, WireError
from aiovec.backend import Ref, Schema, Value, check_table_name
from aiovec.backend.context import Kept
from aiovec.backend.contract import IndexInfo, TableHandle, TableStats
from aiovec.errors import AiovecError

_Types = Mapping[str, tuple[type, ...]]

MOST = 2**63 - 1
"""Rows that a table may have."""

_TYPES: _Types = {
    "text": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "datetime": (datetime,),
}  # fmt: skip

_STATS: _Types = {
    "table": (str,), "backend": (str,), "rows": (int,), "bytes": (int,), "index": (str,),
    "unindexed_rows": (int,), "scan_memory": (int,), "last_optimize": (datetime, type(None)),
    "details": (dict,),
}  # fmt: skip
_INDEX: _Types = {
    "name": (str,), "kind": (str,), "column": (str,), "parameters": (dict,),
    "rows_indexed": (int,), "rows_unindexed": (int,), "recall": (float, int, type(None)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Served:
    """The store that a server serves: the name of its backend, and what it is able to do."""

    backend: str = ""
    abilities: frozenset[str] = frozenset()


def nothing(answer: Message) -> None:
    """Check an answer that says nothing but that the call was done."""


def served_in(answer: Message) -> Served:
    types: _Types = {"backend": (str,), "abilities": (list,)}
    told = _typed(answer.facts, types, "the answer")
    abilities = frozenset(_texts(told["abilities"], "abilities"))
    return Served(told["backend"], abilities)


def names_in(answer: Message) -> list[str]:
    names = _texts(answer.facts.get("tables"), "tables")
    for name in names:
        try:
            check_table_name(name)
        except AiovecError as exc:
            raise WireError(f"a table is {name!r:.60}") from exc
    return names


def handle_in(answer: Message, name: str) -> TableHandle:
    told = _typed(answer.facts, {"schema": (str,), "state": (str,)}, "the answer")
    try:
        return TableHandle(name, Schema.from_json(told["schema"]), told["state"])
    except AiovecError as exc:
        raise WireError(f"the schema of the table {name!r}: {exc}") from exc


def count_in(answer: Message, most: int = MOST) -> int:
    """Return a number of rows, of which the call can be about so many at most."""
    return _count(answer.facts.get("count"), most)


def _count(told: object, most: int = MOST) -> int:
    if type(told) is not int or not 0 <= told <= most:
        raise WireError(f"a number of rows is {told!r:.60}")
    return told


def kept_in(answer: Message) -> Kept | None:
    told = answer.facts.get("kept", ())
    if told is None:
        return None
    return Kept(_typed(told, {"outcome": (int, type(None))}, "what is kept")["outcome"])


def counts_in(answer: Message, schema: Schema, ref: Ref) -> Sequence[tuple[Value, int]]:
    types = _types_of(schema, ref)
    found = []
    for pair in _listed(answer.facts.get("counts"), "counts"):
        if type(pair) is not list or len(pair) != 2:
            raise WireError(f"a count is {pair!r:.60}")
        found.append((_value(pair[0], types), _count(pair[1])))
    return found


def bounds_in(answer: Message, schema: Schema, ref: Ref) -> tuple[Value, Value] | None:
    types = _types_of(schema, ref)
    found = answer.facts.get("bounds", ())
    if found is None:
        return None
    if type(found) is not list or len(found) != 2:
        raise WireError(f"the bounds are {found!r:.60}")
    return _value(found[0], types), _value(found[1], types)


def stats_in(answer: Message, backend: str) -> TableStats:
    """Return the statistics of a table, as those of this backend."""
    told = _typed(answer.facts.get("stats"), _STATS, "the statistics")
    details = {"server_backend": told["backend"], **told["details"]}
    return TableStats(**{**told, "backend": backend, "details": details})


def indexes_in(answer: Message) -> list[IndexInfo]:
    listed = _listed(answer.facts.get("indexes"), "indexes")
    return [IndexInfo(**_typed(one, _INDEX, "an index")) for one in listed]


def versions_in(answer: Message) -> list[Mapping[str, Any]]:
    listed = _listed(answer.facts.get("versions"), "versions")
    return [_typed(one, {}, "a version") for one in listed]


def _types_of(schema: Schema, ref: Ref) -> tuple[type, ...]:
    """The types that the values of a field, of "id" or of a payload key have in an answer."""
    if ref.path:
        return (str, int, float, bool)
    return _TYPES["text" if ref.name == "id" else schema.fields[ref.name].item_kind]


def _value(value: Any, types: tuple[type, ...]) -> Value:
    if type(value) not in types or value != value:
        raise WireError(f"a value is {value!r:.60}, which no row can have")
    return value  # type: ignore[no-any-return]  # it is one of those


def _typed(told: object, types: _Types, what: str) -> dict[str, Any]:
    """Return the keys of these types of an object; all of it where none are named."""
    if not isinstance(told, dict):
        raise WireError(f"{what} is {told!r:.60}, not an object")
    for name, accepted in types.items():
        if type(told.get(name)) not in accepted:
            raise WireError(f"{name} of {what} is {told.get(name)!r:.60}")
    return {name: told[name] for name in types} if types else told


def _listed(told: object, what: str) -> list[Any]:
    if type(told) is not list:
        raise WireError(f"the {what} are {told!r:.60}, not a list")
    return told


def _texts(told: object, what: str) -> list[str]:
    listed = _listed(told, what)
    if not all(type(one) is str for one in listed):
        raise WireError(f"the {what} are no texts")
    return listed
