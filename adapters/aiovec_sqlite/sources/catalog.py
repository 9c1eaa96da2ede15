"""What a database holds, and how its columns are declared."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aiovec.backend import Field, check_field_name
from aiovec.errors import AiovecError

from ..layout import quoted
from .declared import Vec0, module_of, vec0_of

Kind = Literal["text", "int", "float", "bool", "blob", "other"]

# The ordinary tables in which virtual tables keep their data.
_SHADOW = re.compile(
    r"_(chunks|rowids|info|auxiliary|vector_chunks\d+|metadatachunks\d+|metadatatext\d+"
    r"|data|idx|content|docsize|config|index|node|parent|rowid|segments|segdir|stat)\Z"
)
_WRITTEN = re.compile(r"\bINTO\s+(?:[\"'`\[]([^\"'`\]]+)[\"'`\]]|(\w+))", re.IGNORECASE)
_MODEL = re.compile(r"embed(ding)?s?_?model(_name|_id)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    in_key: int = 0

    @property
    def kind(self) -> Kind:
        """What SQLite's rules make of the declared type, and bool beside them."""
        declared = self.type.lower()
        for words, kind in _KINDS:
            if any(word in declared for word in words):
                return kind
        return "other"


_KINDS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (("bool",), "bool"),
    (("int",), "int"),
    (("char", "clob", "text"), "text"),
    (("blob",), "blob"),
    (("real", "floa", "doub"), "float"),
)


class Catalog:
    """The tables and views of a database, without those that others keep their data in."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        found = db.execute(
            "SELECT name, sql, type FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY rowid"
        ).fetchall()
        self.modules = {
            name: module for name, sql, _ in found if (module := module_of(sql)) is not None
        }
        self._sql = {name: sql for name, sql, _ in found}
        self.ordinary = [
            name for name, _, kind in found
            if kind == "table" and name not in self.modules and not self._is_shadow(name)
        ]  # fmt: skip
        self.views = [name for name, _, kind in found if kind == "view"]
        self._written: dict[str, set[str]] = {}
        for table, sql in db.execute(
            "SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"
        ):
            into = {quoted_name or name for quoted_name, name in _WRITTEN.findall(sql or "")}
            self._written.setdefault(table, set()).update(into)

    def _is_shadow(self, name: str) -> bool:
        ending = _SHADOW.search(name)
        return ending is not None and name[: ending.start()] in self.modules

    def __contains__(self, name: str) -> bool:
        return name in self._sql

    @property
    def names(self) -> list[str]:
        """Every name that --table may give."""
        return [*self.modules, *self.ordinary, *self.views]

    def vec0(self, name: str) -> Vec0 | None:
        """What a vec0 table declares; None for any other."""
        return vec0_of(self._sql[name]) if self.modules.get(name) == "vec0" else None

    def indexes_of(self, table: str) -> list[tuple[str, Vec0]]:
        """The vec0 tables that a trigger of an ordinary table, or their name, makes its indexes."""
        written = self._written.get(table, set())
        return [
            (name, declared)
            for name in self.modules
            if name in written or name in (f"{table}_vec", f"vec_{table}")
            if (declared := self.vec0(name)) is not None
        ]

    def columns(self, name: str) -> list[Column]:
        rows = self._db.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
        return [Column(row[1], row[2] or "", row[5]) for row in rows]

    def has_rowid(self, name: str) -> bool:
        if name in self.views:
            return False
        columns = {column.name.lower() for column in self.columns(name)}
        listed = self._db.execute("SELECT name, wr FROM pragma_table_list").fetchall()
        without = {table for table, without_rowid in listed if without_rowid}
        return "rowid" not in columns and name not in without

    def count(self, name: str) -> int:
        """How many rows; of a vec0 table by what it keeps, which is much faster."""
        rowids = f"{name}_rowids"
        counted = rowids if self.modules.get(name) == "vec0" and rowids in self else name
        (count,) = self._db.execute(f"SELECT count(*) FROM {quoted(counted)}").fetchone()
        return int(count)


def model_column(columns: Sequence[Column], told: str | None) -> str | None:
    """The column that names the embedding model of each row."""
    for column in columns:
        if told is not None and column.name == told:
            return column.name
        if told is None and column.kind in ("text", "other") and _MODEL.match(column.name):
            return column.name
    return None


def field_of(column: Column, *, is_partition: bool = False) -> Field | None:
    """The field that a column becomes; None where it goes to the payload."""
    if column.kind == "blob" or column.kind == "other":
        return None
    try:
        if check_field_name(column.name).lower() in ("id", "payload"):
            return None
    except AiovecError:
        return None
    return Field(column.kind, partition=is_partition and column.kind in ("text", "int"))
