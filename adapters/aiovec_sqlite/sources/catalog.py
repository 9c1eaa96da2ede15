"""The tables of a database: their columns, what vec0 declares, and what becomes of each column.

A column beside the vector becomes a field, a key of the payload, or part of an id.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aiovec.backend import Field, check_field_name, read_json
from aiovec.errors import AiovecError

from ..layout import quoted

ElementType = Literal["float32", "int8", "bit"]

_MADE_BY = re.compile(
    r"^\s*CREATE\s+VIRTUAL\s+TABLE\s+.*?\bUSING\s+[\"'`\[]?(\w+)[\"'`\]]?\s*\((.*)\)\s*;?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"^\s*(\w+)\s*=", re.DOTALL)
_VECTOR = re.compile(
    r"^\s*(\w+)\s+(float|f32|int8|i8|bit)\s*\[\s*(\d+)\s*\](.*)$", re.IGNORECASE | re.DOTALL
)
_METRIC = re.compile(r"distance_metric\s*=\s*(\w+)", re.IGNORECASE)
_PLAIN = re.compile(
    r"^\s*(\+?)\s*(\w+)\s+(\w+)(?:\s+(partition\s+key|primary\s+key))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_ELEMENTS: dict[str, ElementType] = {
    "float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VectorColumn:
    name: str
    element: ElementType
    dim: int
    metric: str


@dataclass(frozen=True, slots=True)
class PlainColumn:
    """A metadata, partition or auxiliary column; its type in lower case."""

    name: str
    type: str
    is_partition: bool = False


@dataclass(frozen=True, slots=True)
class Vec0:
    """A vec0 table. ``key`` is its primary key's name, rowid where it declares none."""

    vectors: tuple[VectorColumn, ...]
    columns: tuple[PlainColumn, ...]
    key: str = field(default="rowid")


def module_of(sql: str | None) -> str | None:
    """The name of the module that a virtual table uses, in lower case."""
    made = _MADE_BY.match(sql or "")
    return made[1].lower() if made else None


def vec0_of(sql: str) -> Vec0 | None:
    """The columns that a statement with vec0 declares; None where they cannot be read."""
    made = _MADE_BY.match(sql)
    if made is None:
        return None
    vectors: list[VectorColumn] = []
    columns: list[PlainColumn] = []
    key = "rowid"
    for argument in _arguments(made[2]):
        vector = _VECTOR.match(argument)
        if vector is not None:
            metric = _METRIC.search(vector[4])
            vectors.append(
                VectorColumn(
                    vector[1], _ELEMENTS[vector[2].lower()], int(vector[3]),
                    metric[1].lower() if metric else "l2",
                )
            )  # fmt: skip
            continue
        if _OPTION.match(argument):
            continue
        plain = _PLAIN.match(argument)
        if plain is None:
            return None
        role = (plain[4] or "").lower()
        if role.startswith("primary"):
            key = plain[2]
        else:
            columns.append(
                PlainColumn(plain[2], plain[3].lower(), is_partition=role.startswith("partition"))
            )
    return Vec0(tuple(vectors), tuple(columns), key)


def _arguments(text: str) -> list[str]:
    """The arguments between the parentheses. vec0 takes no quotes in them."""
    text = re.sub(r"--[^\n]*", "", text)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return [part.strip() for part in text.split(",") if part.strip()]


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
        """The type by SQLite's rules for the declared one, and bool beside them."""
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
        """Return the declaration of a vec0 table; None for any other."""
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
        rows = self._db.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
        # Generated columns are among them, those that a virtual table hides are not.
        return [Column(row[1], row[2] or "", row[5]) for row in rows if row[6] != 1]

    def has_rowid(self, name: str) -> bool:
        if name in self.views:
            return False
        columns = {column.name.lower() for column in self.columns(name)}
        listed = self._db.execute("SELECT name, wr FROM pragma_table_list").fetchall()
        without = {table for table, without_rowid in listed if without_rowid}
        return "rowid" not in columns and name not in without

    def count(self, name: str) -> int:
        """Count the rows; those of a vec0 table by its own records, which is much faster."""
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
    """Count the BLOBs of a column; None where it holds other values too."""
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
    """A text as what it says in JSON, if that loses nothing; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return read_json(value)
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
