"""The layout of a table in Lance, and notes about the table's state.

A Lance table has the columns and metadata of ``Schema.to_arrow()``, and a name for the table's
incarnation. If a field was added or altered later, its options are stored with its column, so that
both appear in one commit.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from aiovec.backend import Field, Schema
from aiovec.backend.contract import Columns, TableHandle
from aiovec.errors import AiovecError, CorruptStoreError

from .index.effort import KEY, Tuned, tuned_of

_SCHEMA = b"aiovec.schema"
_INCARNATION = b"aiovec.table"
_FIELD = b"aiovec.field"
_EMBEDDED = b"aiovec.embedded"
_LAYOUT = b"aiovec.layout"
LAYOUT = 1
"""The number of the layout that ``docs/internals/lancedb.md`` describes."""
MOVING = "aiovec.move"
"""A note on the id column: the store may have a migration's mark, which every read has to check."""

NUMBERING = "aiovec.changes"
"""A note on the id column: the numbering of the table's changes, if its rows have stable ids."""

LOADED = "aiovec.load"
"""A note on the id column: the current or last load into the table by an engine."""

_NOTES = "aiovec.note."
"""The prefix of keys on the id column, for notes that callers keep with the table."""

# On the id column: with this key, Lance makes concurrent merges of the same id conflict. So two
# writers in a bucket cannot insert an id twice.
_KEY = b"lance-schema:unenforced-primary-key"

PAYLOAD = "payload"

ROW = "_rowid"
"""Lance's column of row numbers, which identify rows within one version."""


def new_table(schema: Schema, *, moving: bool = False) -> pa.Schema:
    """Return the Lance schema of a new table; with ``moving``, it has the note ``MOVING``."""
    arrow = schema.to_arrow()
    place = arrow.get_field_index("id")
    noted: dict[str | bytes, str] = {NUMBERING: new_numbering(), _KEY: "true"}
    if moving:
        noted[MOVING] = "1"
    arrow = arrow.set(place, arrow.field(place).with_metadata(noted))
    state = {_LAYOUT: str(LAYOUT).encode(), _INCARNATION: uuid.uuid4().hex.encode()}
    return arrow.with_metadata({**arrow.metadata, **state})


def new_numbering() -> str:
    """Return an identifier for a new numbering of changes, greater than all earlier ones."""
    return str(time.time_ns() // 1000)


def _note_in(arrow: pa.Schema, key: str) -> bytes | None:
    """Return the id column's note with this key; None if it has none."""
    place = arrow.get_field_index("id")  # a table from another program may lack it
    text: bytes | None = (
        (arrow.field(place).metadata or {}).get(key.encode()) if place >= 0 else None
    )
    return text


def notes_in(arrow: pa.Schema) -> dict[str, str]:
    """Return the notes that callers keep with the table, by name."""
    known = arrow.field("id").metadata or {}
    return {
        name: text.decode()
        for key, text in known.items()
        if (name := key.decode().removeprefix(_NOTES)) != key.decode()
    }


def as_notes(change: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return callers' notes with the keys that these notes have on the id column."""
    return {_NOTES + name: text for name, text in change.items()}


def numbering_in(arrow: pa.Schema) -> int | None:
    """Return the numbering of a table's changes; None if its rows have no stable ids."""
    noted = _note_in(arrow, NUMBERING)
    return int(noted) if noted is not None and noted.isdigit() else None


def added_column(name: str, field: Field) -> pa.Schema:
    return pa.schema([pa.field(name, field.arrow_type(), metadata=options_of(field))])


def options_of(field: Field) -> dict[str, str]:
    """Return the column notes that contain a field's options."""
    return {_FIELD.decode(): json.dumps(field.to_dict())}


def renamable(schema: Schema, name: str) -> dict[str, str]:
    """Return the notes that keep a field's options with its column when the column is renamed."""
    notes = options_of(schema.fields[name])
    if schema.embed is not None and schema.embed.field == name:
        notes[_EMBEDDED.decode()] = "1"
    return notes


class LoadNote(NamedTuple):
    """The note about an engine's load into a table.

    While the load is ``filling``, nobody else writes. ``attempt`` identifies an attempt at the
    load, and is empty until writes that began earlier can no longer commit. ``before`` is the
    number of rows when the load began.
    """

    run: str
    filling: bool
    attempt: str
    before: int = 0

    def to_json(self) -> str:
        return json.dumps(self)


def load_in(arrow: pa.Schema) -> LoadNote | None:
    """Return the note about the current or last load by an engine; None if there was none."""
    noted = _note_in(arrow, LOADED)
    return None if noted is None else LoadNote(*json.loads(noted))


def epoch_of(arrow: pa.Schema) -> tuple[Any, ...]:
    """Return a table's epoch, which changes when the incarnation or the fields change."""
    metadata = arrow.metadata or {}
    options = [(column.metadata or {}).get(_FIELD) for column in arrow]
    return incarnation_in(arrow), metadata.get(_SCHEMA), tuple(arrow.names), tuple(options)


def incarnation_in(arrow: pa.Schema) -> bytes | None:
    """Return the name of a table's incarnation; None if another program created the table."""
    name: bytes | None = (arrow.metadata or {}).get(_INCARNATION)
    return name


def is_moving(arrow: pa.Schema) -> bool:
    return _note_in(arrow, MOVING) is not None


def notes_of_copy(arrow: pa.Schema) -> dict[str, str | None]:
    """Return changes to the id column's notes for a copied table, which belongs to no migration or
    load and gets a new numbering. The result is empty if the table has none of these notes."""
    notes: dict[str, str | None] = {
        NUMBERING: new_numbering(), MOVING: None, LOADED: None,
    }  # fmt: skip
    return {key: value for key, value in notes.items() if _note_in(arrow, key) is not None}


def tuned_in(arrow: pa.Schema, schema: Schema) -> Tuned:
    """Return the ``Tuned`` in the note about the vector index."""
    return tuned_of((arrow.field(schema.vector).metadata or {}).get(KEY.encode(), b"{}"))


def incarnation_of(handle: TableHandle) -> Hashable:
    """Return a value that changes only if the table is dropped and created again, not if its
    fields change."""
    epoch = handle.epoch
    return epoch[0] if isinstance(epoch, tuple) else epoch


def handle_of(name: str, arrow: pa.Schema, target: str) -> TableHandle:
    return TableHandle(name, _schema_of(name, arrow, target), epoch_of(arrow))


def _schema_of(name: str, arrow: pa.Schema, target: str) -> Schema:
    metadata = arrow.metadata or {}
    try:
        if _SCHEMA not in metadata:
            raise ValueError("it has no aiovec schema")
        if int(metadata.get(_LAYOUT, LAYOUT)) > LAYOUT:
            raise ValueError("a newer version of aiovec wrote it; upgrade aiovec")
        schema = _altered(Schema.from_json(metadata[_SCHEMA]), arrow)
        types = {column.name: column.type for column in arrow}
        for column in schema.to_arrow():
            stored = types.get(column.name)
            if stored is None:
                raise ValueError(f"the column {column.name!r} is missing")
            if column.name != PAYLOAD and stored != column.type:
                raise ValueError(f"its column {column.name!r} holds {stored}, not {column.type}")
    except (ValueError, AiovecError) as exc:
        raise CorruptStoreError(target, f"the table {name!r} cannot be used: {exc}") from exc
    return schema


def _altered(original: Schema, arrow: pa.Schema) -> Schema:
    """Return the schema that the table was created with, but with its current fields.

    An original field without a column was dropped or renamed.
    """
    names = set(arrow.names)  # each access makes a list
    altered = any(_FIELD in (column.metadata or {}) for column in arrow)
    if not altered and names.issuperset(original.fields):
        return original
    form = original.to_dict()
    fields: dict[str, Any] = {}
    for column in arrow:
        metadata = column.metadata or {}
        if _FIELD in metadata:
            fields[column.name] = json.loads(metadata[_FIELD])
        elif column.name in original.fields:
            fields[column.name] = form["fields"][column.name]
        if _EMBEDDED in metadata and "embed" in form:
            form["embed"] = {**form["embed"], "field": column.name}
    return Schema.from_json({**form, "fields": fields})


def column_names(schema: Schema, columns: Columns) -> list[str]:
    """Return the names of the columns to read, including the id, in the order of
    ``Schema.to_arrow()``."""
    names: list[str] = columns.layout(schema).names
    return names
