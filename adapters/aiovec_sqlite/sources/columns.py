"""What becomes of the columns beside the vector: fields, keys of the payload, parts of an id."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiovec.backend import Field

from ..layout import quoted
from .catalog import Column, field_of

# A column of one of these names that holds JSON objects is the row's own payload.
_METADATA = ("metadata", "payload", "meta", "cmetadata", "attributes", "properties")

Form = Literal["value", "json", "keys"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A column that is taken, and how.

    ``value``: as it is. ``json``: its text is read as JSON. ``keys``: an object whose keys become
    keys of the row's payload.
    """

    column: Column
    form: Form = "value"


def kept_columns(
    db: sqlite3.Connection, table: str, columns: Sequence[tuple[Column, bool]]
) -> tuple[tuple[Kept, ...], dict[str, Field], list[str]]:
    """The columns that are taken, the fields that they become, and what is not taken."""
    kept: list[Kept] = []
    fields: dict[str, Field] = {}
    omitted: list[str] = []
    for column, is_partition in columns:
        blobs = _blobs_alone(db, table, column)
        if blobs:
            omitted.append(f"the column {column.name} ({blobs:,} BLOBs)")
            continue
        if blobs == 0 and column.kind in ("blob", "other"):
            continue
        form = "value" if is_partition else _form_of(db, table, column)
        if form == "keys" and any(other.form == "keys" for other in kept):
            form = "json"
        field = field_of(column, is_partition=is_partition) if form == "value" else None
        if field is not None:
            fields[column.name] = field
        kept.append(Kept(column, form))
    return tuple(kept), fields, omitted


def free_names(names: Sequence[str], reserved: Container[str]) -> list[str]:
    """The names, all different, with ``_`` before each that is reserved."""
    used = set(names)
    free = []
    for name in names:
        here = name
        while here in reserved or (here != name and here in used):
            here = f"_{here}"
        used.add(here)
        free.append(here)
    return free


def _blobs_alone(db: sqlite3.Connection, table: str, column: Column) -> int | None:
    """How many BLOBs are all that a column holds; None where it holds other values."""
    # The sign keeps vec0 from having to filter by its own columns.
    values = f"(SELECT +{quoted(column.name)} AS c FROM {quoted(table)})"
    others = f"SELECT 1 FROM {values} WHERE typeof(c) NOT IN ('blob', 'null') LIMIT 1"
    if db.execute(others).fetchone() is not None:
        return None
    (blobs,) = db.execute(f"SELECT count(c) FROM {values}").fetchone()
    return int(blobs)


def _form_of(db: sqlite3.Connection, table: str, column: Column) -> Form:
    if column.kind not in ("text", "blob", "other"):
        return "value"
    values = (
        "SELECT CASE WHEN typeof(c) <> 'text' OR NOT json_valid(c) THEN 'none' ELSE json_type(c) "
        f"END AS kind FROM (SELECT +{quoted(column.name)} AS c FROM {quoted(table)}) "
        "WHERE c IS NOT NULL AND c <> ''"
    )

    def some(condition: str) -> bool:
        sql = f"SELECT 1 FROM ({values}) WHERE {condition} LIMIT 1"
        return db.execute(sql).fetchone() is not None

    if column.name.lower() in _METADATA:
        return "keys" if some("kind = 'object'") else "value"
    if "json" in column.type.lower():
        return "json"
    return "json" if not some("kind <> 'object'") and some("kind = 'object'") else "value"


def parsed(value: Any) -> Any:
    """A text as what it says in JSON; any other value, and a text that is no JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def merged(name: str, value: Any, reserved: Container[str]) -> Mapping[str, Any]:
    """The keys of an object, none of them a reserved name; of anything else, one key ``name``."""
    if value is None:
        return {}
    found = parsed(value)
    if not isinstance(found, dict):
        return {name: value}
    return dict(zip(free_names(list(found), reserved), found.values(), strict=True))


def composed(values: Sequence[Any]) -> str | None:
    """One id of the values of a key: 1 and "a" give "1/a".

    Two keys give the same only where a column holds both a number and its text.
    """
    parts = []
    for value in values:
        if not isinstance(value, (str, int, float)):
            return None
        parts.append(str(value).replace("%", "%25").replace("/", "%2F"))
    return "/".join(parts)
