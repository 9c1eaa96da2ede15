"""Creating, altering and dropping tables: the work of one write transaction each."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from aiovec.backend import TableHandle
from aiovec.errors import TableExistsError, TableNotFoundError
from aiovec.schema import Field, Schema

from .layout import TableLayout, column_definition, current_table, read_table
from .moves import check_schemas_free
from .transaction import Transaction


def table_names(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT name FROM aiovec_tables ORDER BY name")]


def open_table(db: sqlite3.Connection, name: str) -> TableHandle:
    table = read_table(db, name)
    if table is None:
        raise TableNotFoundError(name, table_names(db))
    return TableHandle(name, table.schema, table.epoch)


def create_table(
    tx: Transaction, name: str, schema: Schema, chunk_size: int, run: str | None
) -> None:
    check_schemas_free(tx, run)
    if read_table(tx.db, name) is not None:
        raise TableExistsError(name)
    table = TableLayout(name, schema, tx.take())
    for statement in table.create_statements(chunk_size):
        tx.db.execute(statement)
    tx.db.execute(
        "INSERT INTO aiovec_tables (name, epoch, schema, created) VALUES (?, ?, ?, ?)",
        (name, table.epoch, schema.to_json(), datetime.now(UTC).isoformat()),
    )


def add_field(
    tx: Transaction, handle: TableHandle, name: str, field: Field, run: str | None
) -> None:
    check_schemas_free(tx, run)
    table = current_table(tx.db, handle)
    # A payload column, where there is one, stays behind it in the file; order is the schema's.
    tx.db.execute(f"ALTER TABLE {table.rows} ADD COLUMN {column_definition(name, field)}")
    for statement in table.index_statements(name, field):
        tx.db.execute(statement)
    tx.db.execute(
        "UPDATE aiovec_tables SET schema = ?, epoch = ? WHERE name = ?",
        (table.schema.with_field(name, field).to_json(), tx.take(), table.name),
    )


def drop_table(tx: Transaction, name: str, run: str | None) -> None:
    check_schemas_free(tx, run)
    table = read_table(tx.db, name)
    if table is None:
        raise TableNotFoundError(name, table_names(tx.db))
    tx.db.execute(f"DROP TABLE {table.vec}")
    tx.db.execute(f"DROP TABLE {table.rows}")
    tx.db.execute("DELETE FROM aiovec_tables WHERE name = ?", (name,))
    tx.db.execute("DELETE FROM aiovec_deleted WHERE name = ?", (name,))
