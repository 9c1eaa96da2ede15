"""Create, alter, rename and drop tables, each in one write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from aiovec.backend import Schema
from aiovec.backend.changes import (
    AddField,
    DropField,
    IndexField,
    RenameField,
    SchemaChange,
    UnindexField,
)
from aiovec.backend.contract import TableHandle
from aiovec.errors import TableExistsError, TableNotFoundError

from . import text_index as text
from .connection import Transaction
from .layout import (
    TableLayout,
    column_definition,
    current_table,
    default_stem,
    exists,
    forget_tokens,
    notes_of,
    put_note,
    quoted,
    read_table,
)

Check = Callable[[Transaction], None]
"""Raises an error if a migration relies on the schemas. Called only if something changes."""

# The row count of a statement that may rewrite the whole table, so it gets its own commit.
_EVERY_ROW = 2**63 - 1


def table_names(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT name FROM aiovec_tables ORDER BY name")]


def open_table(db: sqlite3.Connection, name: str) -> TableHandle:
    table = _existing(db, name)
    return TableHandle(name, table.schema, table.epoch)


def _existing(db: sqlite3.Connection, name: str) -> TableLayout:
    table = read_table(db, name)
    if table is None:
        raise TableNotFoundError(name, table_names(db))
    return table


def create_table(
    tx: Transaction, name: str, schema: Schema, chunk_size: int, check_free: Check
) -> None:
    if read_table(tx.db, name) is not None:
        raise TableExistsError(name)
    check_free(tx)
    text.check_can_index(schema)
    epoch = tx.take()
    # A renamed table may have kept these names in the file. No user's name begins with "_" and
    # digits.
    free = not exists(tx.db, default_stem(name))
    table = TableLayout(name, schema, epoch, stem=default_stem(name) if free else f"_{epoch}")
    for statement in table.create_statements(chunk_size):
        tx.db.execute(statement)
    tx.db.execute(
        # Numbers up to the floor belong to an earlier table of this name.
        "INSERT INTO aiovec_tables (name, epoch, schema, created, floor) VALUES (?, ?, ?, ?, ?)",
        (name, epoch, table.entry(schema), datetime.now(UTC).isoformat(), epoch),
    )
    if text.wanted_fields(schema):
        text.create(tx, table)


def alter(tx: Transaction, handle: TableHandle, change: SchemaChange, check_free: Check) -> None:
    if isinstance(change, (DropField, RenameField)):
        tx.expect(_EVERY_ROW)
    table, name = current_table(tx.db, handle), change.name
    before, schema = table.schema, change.apply(table.schema)
    if schema == before:
        return
    check_free(tx)
    match change:
        case AddField():
            text.check_can_index(schema)
            # In the file, the new column comes after the payload; the order of fields comes from
            # the schema.
            definition = column_definition(name, change.field)
            tx.db.execute(f"ALTER TABLE {table.rows} ADD COLUMN {definition}")
            _index(tx, table, name, schema)
        case IndexField():
            text.check_can_index(schema)
            if not table.index_statements(name, before):
                _index(tx, table, name, schema)
        case UnindexField():
            if not table.index_statements(name, schema):
                tx.db.execute(f"DROP INDEX IF EXISTS {table.index_of(name)}")
            if not text.wanted_fields(schema):
                text.drop_all(tx, table.name)
        case DropField():
            text.drop_with(tx, table.name, name)
            tx.db.execute(f"DROP INDEX IF EXISTS {table.index_of(name)}")
            tx.db.execute(f"ALTER TABLE {table.rows} DROP COLUMN {quoted(name)}")
        case RenameField(_, new):
            tx.db.execute(f"DROP INDEX IF EXISTS {table.index_of(name)}")
            renaming = f"RENAME COLUMN {quoted(name)} TO {quoted(new)}"
            tx.db.execute(f"ALTER TABLE {table.rows} {renaming}")
            text.rename_field(tx, table.name, name, new)
            # The index is named after the field, because a later field may have the old name.
            _index(tx, table, new, schema)
    _alter(tx, table, schema)


def _index(tx: Transaction, table: TableLayout, name: str, schema: Schema) -> None:
    for statement in table.index_statements(name, schema):
        tx.db.execute(statement)


def rename_table(tx: Transaction, old: str, new: str, check_free: Check) -> None:
    """Rename a table in all entries and notes; its names in the file's schema stay the same."""
    table = _existing(tx.db, old)
    if read_table(tx.db, new) is not None:
        raise TableExistsError(new)
    check_free(tx)
    entry, number = replace(table, name=new).entry(table.schema), tx.take()
    # Numbers up to the floor may belong to another table of this name.
    tx.db.execute(
        "UPDATE aiovec_tables SET name = ?, schema = ?, epoch = ?, floor = ? WHERE name = ?",
        (new, entry, number, number, old),
    )
    tx.db.execute("DELETE FROM aiovec_deleted WHERE name = ?", (old,))
    forget_tokens(tx.db, old)
    for key, note in notes_of(tx.db, old).items():
        put_note(tx.db, old, key, None)
        put_note(tx.db, new, key, note)
    text.rename_table(tx, old, new)


def _alter(tx: Transaction, table: TableLayout, schema: Schema) -> None:
    """Store the table's new schema, which makes handles with the old schema stale."""
    tx.db.execute(
        "UPDATE aiovec_tables SET schema = ?, epoch = ? WHERE name = ?",
        (table.entry(schema), tx.take(), table.name),
    )


def drop_table(tx: Transaction, name: str, check_free: Check) -> None:
    table = _existing(tx.db, name)
    check_free(tx)
    text.drop_all(tx, name)
    tx.db.execute(f"DROP TABLE {table.vec}")
    tx.db.execute(f"DROP TABLE {table.rows}")
    tx.db.execute("DELETE FROM aiovec_tables WHERE name = ?", (name,))
    tx.db.execute("DELETE FROM aiovec_deleted WHERE name = ?", (name,))
    forget_tokens(tx.db, name)
    for key in notes_of(tx.db, name):
        put_note(tx.db, name, key, None)
