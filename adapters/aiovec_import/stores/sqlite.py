"""Import from SQLite databases that other programs wrote, for ``aiovec import``.

Three layouts are read: vec0 tables of sqlite-vec; tables with a column of BLOBs that the user
names; and collections (``_collection_meta``, ``vec_{name}``, ``payload_{name}``).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aiovec.backend import MAX_DIM, Field, Metric, Schema, check_field_name, read_json
from aiovec.errors import AiovecError, ConfigError
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.errors import ERROR, code_of, failures, translate
from aiovec_sqlite.layout import APPLICATION_ID, is_database, quoted, read_header
from aiovec_sqlite.opening import connect_read_only

from ..sources import (
    Chunk,
    ForeignTable,
    Hints,
    Reject,
    Source,
    legal_table_name,
    legal_vector,
)

_DTYPES: dict[str, str] = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "int8": "i1"}
_TYPES = f"choose one of {', '.join(_DTYPES)}"
_METRICS: dict[str, Metric] = {"cosine": "cosine", "l2": "l2"}
_BUSY_SECONDS = 10.0
_PAGES_AT_ONCE = 4096  # of a backup
# A chunk ends at this many bytes, and rows are fetched so many at a time to notice.
_BYTES_AT_ONCE, _ROWS_AT_ONCE = 32 * 2**20, 64

# What a vec0 table declares, such as "embedding float[4] distance_metric=cosine" and
# "tenant text partition key"; options such as "chunk_size=8" match neither.
_VEC0 = re.compile(r"\bUSING\s+[\"'`\[]?vec0[\"'`\]]?\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_VECTOR = re.compile(
    r"(\w+)\s+(float|f32|int8|i8|bit)\s*\[\s*(\d+)\s*\](?:.*distance_metric\s*=\s*(\w+))?",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(
    r"\+?\s*(\w+)\s+(\w+)(?:\s+(partition|primary)\s+key)?", re.IGNORECASE | re.DOTALL
)
# Tables of a vec0 table's own, which sqlite-vec does not mark as such.
_CHUNKS = re.compile(r"_(vector_chunks|metadatachunks|metadatatext)\d\d\Z")
_ELEMENTS = {"float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit"}

# By SQLite's rules for declared types, and bool beside them.
_KINDS: tuple[tuple[Literal["bool", "int", "text", "float"] | None, tuple[str, ...]], ...] = (
    ("bool", ("bool",)),
    ("int", ("int",)),
    ("text", ("char", "clob", "text")),
    (None, ("blob",)),
    ("float", ("real", "floa", "doub")),
)

_META = "_collection_meta"
# As aiovec.compat.VectorStore names its vectors, so that it reads them.
_COLLECTION_VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column beside the vector, with its declared type."""

    name: str
    type: str
    is_partition: bool = False
    is_key: bool = False

    @property
    def field(self) -> Field | None:
        """The field that the column becomes; None if its values go to the payload."""
        declared = self.type.lower()
        kind = next((k for k, words in _KINDS if any(w in declared for w in words)), None)
        try:
            if kind is None or check_field_name(self.name).lower() in ("id", "payload"):
                return None
        except AiovecError:
            return None
        return Field(kind, partition=self.is_partition and kind in ("text", "int"))


@dataclass(frozen=True, slots=True)
class _Vector:
    name: str
    dtype: str
    dim: int
    metric: str


@dataclass(frozen=True, slots=True)
class _Part:
    """How a table is read. ``place`` is the column that tells where a row is.

    ``table`` is what stands after FROM.
    """

    table: str
    id: str
    place: str
    vector: str
    dtype: str
    columns: list[_Column]


@dataclass(frozen=True, slots=True)
class _Points:
    """How a collection is read.

    ``query`` selects the rowid, the id, the vector and the JSON. ``vec`` is its vec0 table.
    """

    query: str
    dtype: str
    vec: str


class SqliteSource(Source):
    """Collections, vec0 tables, and columns of BLOBs that the user names."""

    place = "rowid"

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return is_database(path)

    def __init__(self, place: str, hints: Hints) -> None:
        path = Path(place)
        if hints.dtype not in (None, *_DTYPES):
            raise ConfigError(f"there is no dtype {hints.dtype!r}; {_TYPES}", key="--dtype")
        header = read_header(path)
        if header is not None and header.application_id == APPLICATION_ID:
            raise ConfigError(
                f"{path} is already an aiovec store; copy tables with aiovec migrate, or aiovec "
                "export and then aiovec import"
            )
        self._path = path
        self._hints = hints
        self.remark = (
            f"{path} is opened read-only and is not changed; --backup COPY copies it first"
        )
        with _reading(path):
            self._db = connect_read_only(path, _BUSY_SECONDS)
            # Text that is not UTF-8 rejects its own row only.
            self._db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            # One snapshot of the file, whatever others write meanwhile.
            self._db.execute("BEGIN")

    def tables(self) -> list[ForeignTable]:
        with _reading(self._path):
            return _Catalog(self._db, self._path, self._hints).tables()

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        read = _read_points if isinstance(table.part, _Points) else _read_table
        with _reading(self._path):
            yield from read(self._db, table.part, schema, size)

    def backup(self, path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path} already exists; name a path that does not exist yet")
        try:
            with (
                closing(load_driver().connect(str(path))) as copy,
                closing(connect_read_only(self._path, _BUSY_SECONDS)) as db,
            ):
                db.backup(copy, pages=_PAGES_AT_ONCE)
        except failures() as exc:
            path.unlink(missing_ok=True)
            raise translate(exc, str(path)) from exc

    def close(self) -> None:
        self._db.close()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Translate errors of SQLite. A statement that fails is no damage of another's file."""
    try:
        yield
    except failures() as exc:
        if code_of(exc) != ERROR:
            raise translate(exc, str(path)) from exc
        raise ConfigError(
            f"{path} cannot be read: {exc}; choose another table or other columns",
            file=str(path), key="SOURCE",
        ) from exc  # fmt: skip


class _Catalog:
    """The tables and views of a database, and which of them are imported."""

    def __init__(self, db: sqlite3.Connection, path: Path, hints: Hints) -> None:
        self._db = db
        self._path = path
        self._hints = hints
        listed = db.execute(
            "SELECT name, l.type, wr, sql FROM pragma_table_list l JOIN sqlite_master USING (name) "
            "WHERE schema = 'main' AND l.type <> 'shadow' AND name NOT GLOB 'sqlite_*' "
            "ORDER BY name"
        ).fetchall()
        self._kinds = {name: kind for name, kind, *_ in listed if not _CHUNKS.search(name)}
        self._has_rowid = {name for name, kind, wr, _ in listed if kind != "view" and not wr}
        self._vec0 = {name: found for name, *_, sql in listed if (found := _declared(sql))}

    def tables(self) -> list[ForeignTable]:
        """Return the named table; without a name the collections, or the only vec0 table."""
        wanted = self._hints.table
        collections = self._collections()
        if wanted is not None:
            named = [table for table in collections if wanted in (table.name, table.origin)]
            if not named and wanted in self._vec0:
                named = [self._vec0_table(wanted)]
            elif not named and wanted in self._kinds:
                named = [self._table_of_blobs(wanted)]
            if not named:
                raise self._choose(f"there is no table {wanted!r} in {self._path}", collections)
            return named
        own = {table.part.vec for table in collections}
        vec0 = [name for name in self._vec0 if name not in own]
        if any(map(self._blobs, self._kinds)):
            raise self._choose(f"{self._path} has tables with BLOBs", collections)
        if collections and not vec0:
            return collections
        if len(vec0) == 1 and not collections:
            return [self._vec0_table(vec0[0])]
        why = "several tables with vectors" if vec0 else "no vec0 table and no collections"
        raise self._choose(f"{self._path} has {why}", collections)

    def _choose(self, why: str, collections: list[ForeignTable]) -> ConfigError:
        """Return an error that lists the tables and the options that name one."""
        listed = [f"{table.origin} (collection)" for table in collections]
        listed += [f"{name} (vec0 table)" for name in self._vec0]
        for name in self._kinds.keys() - self._vec0.keys():
            blobs = ", ".join(self._blobs(name))
            listed.append(f"{name} (BLOBs: {blobs})" if blobs else name)
        return ConfigError(
            f"{why}. Name the table to import as {self._path}#TABLE, and for BLOBs also "
            f"--vector-column and --dtype. The tables are: {', '.join(sorted(listed)) or 'none'}",
            file=str(self._path), key="SOURCE",
        )  # fmt: skip

    def _columns(self, table: str) -> list[_Column]:
        rows = self._db.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
        # Generated columns are among them, those that a virtual table hides are not.
        return [_Column(row[1], row[2] or "", is_key=row[5] > 0) for row in rows if row[6] != 1]

    def _blobs(self, table: str) -> list[str]:
        if self._kinds[table] != "table":
            return []
        return [column.name for column in self._columns(table) if "blob" in column.type.lower()]

    def _count(self, table: str) -> int:
        # sqlite-vec's own list of the rows is counted much faster than the rows.
        counted = f"{table}_rowids" if table in self._vec0 else table
        (count,) = self._db.execute(f"SELECT count(*) FROM {quoted(counted)}").fetchone()
        return int(count)

    def _collections(self) -> list[ForeignTable]:
        """Return the collections of which both tables exist."""
        if _META not in self._kinds:
            return []
        names = {column.name for column in self._columns(_META)}
        model = "model" if "model" in names else "NULL"
        listed = self._db.execute(f"SELECT name, {model} FROM {_META} ORDER BY 1").fetchall()
        found: list[ForeignTable] = []
        for name, made_by in listed:
            vec, payload = f"vec_{name}", f"payload_{name}"
            if vec not in self._vec0 or payload not in self._kinds:
                continue
            vector = self._vec0[vec][0][0]
            if vector.dtype == "bit":
                continue
            metric, notes = _metric(vector)
            table = legal_table_name(name, [one.name for one in found])
            schema = Schema(
                vector.dim, metric=metric, model=made_by or None, vector=_COLLECTION_VECTOR
            )
            v, p = quoted(vec), quoted(payload)
            # The vectors in their order. A half of a point is a reject: it has no id, or no vector.
            query = (
                f"SELECT v.rowid, p.orig_id, v.{quoted(vector.name)}, p.payload_json "
                f"FROM {v} v LEFT JOIN {p} p ON p.rowid = v.rowid UNION ALL "
                f"SELECT rowid, orig_id, NULL, NULL FROM {p} "
                f"WHERE rowid NOT IN (SELECT rowid FROM {v})"
            )
            part = _Points(query, vector.dtype, vec)
            count = self._count(vec)
            found.append(ForeignTable(table, name, "collection", count, schema, notes, part=part))
        return found

    def _vec0_table(self, name: str) -> ForeignTable:
        vectors, columns = self._vec0[name]
        able = [v for v in vectors if v.dtype != "bit"]
        chosen = [v for v in able if self._hints.vector_column in (None, v.name)]
        if len(chosen) != 1:
            shown = ", ".join(f"{v.name} {v.dtype}[{v.dim}]" for v in vectors)
            raise ConfigError(
                f"the vec0 table {name!r} has the vectors {shown}; choose one with "
                "--vector-column. Bits cannot be imported",
                key="--vector-column",
            )
        others = [f"the vectors {v.name} ({v.dtype}[{v.dim}])" for v in able if v != chosen[0]]
        bits = [f"left out: the bits {v.name}" for v in vectors if v.dtype == "bit"]
        return self._table(name, "vec0 table", chosen[0], columns, bits, others)

    def _table_of_blobs(self, name: str) -> ForeignTable:
        columns = self._columns(name)
        names = [column.name for column in columns]
        vector, dtype = self._hints.vector_column, self._hints.dtype
        if vector not in names or dtype is None:
            raise ConfigError(
                f"name the column of the vectors in the table {name!r} with --vector-column "
                f"({', '.join(names)}), and their type with --dtype; {_TYPES}",
                key="--dtype" if vector in names else "--vector-column",
            )
        size = np.dtype(_DTYPES[dtype]).itemsize
        dim = self._usual_dim(f"SELECT {quoted(vector)} AS v FROM {quoted(name)}", size)
        if dim is None:
            raise ConfigError(
                f"the column {vector!r} of the table {name!r} holds no vectors of {dtype}",
                key="--vector-column",
            )
        found = _Vector(vector, dtype, dim, "cosine")
        return self._table(name, f"column of {dtype} BLOBs", found, columns, [], [])

    def _usual_dim(self, blobs: str, size: int) -> int | None:
        """Return the usual length of vectors: a few of other lengths are rejects."""
        found = self._db.execute(
            f"SELECT length(v) FROM ({blobs}) "
            "WHERE typeof(v) = 'blob' AND length(v) % ? = 0 AND length(v) BETWEEN 1 AND ? "
            "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
            (size, size * MAX_DIM),
        ).fetchone()
        return None if found is None else int(found[0]) // size

    def _table(
        self,
        name: str,
        layout: str,
        vector: _Vector,
        columns: list[_Column],
        notes: list[str],
        omitted: list[str],
    ) -> ForeignTable:
        columns = [column for column in columns if column.name != vector.name]
        source = quoted(name)
        id = self._id_column(name, columns)
        legal = legal_vector(vector.name)
        kept: list[_Column] = []
        fields: dict[str, Field] = {}
        for column in columns:
            if column.name == id:
                continue
            if column.field is not None and column.name.lower() != legal.lower():
                fields[column.name] = column.field
            elif blobs := self._blobs_alone(source, column.name):
                omitted.append(f"the column {column.name} ({blobs:,} BLOBs)")
                continue
            kept.append(column)
        metric, unknown = _metric(vector)
        schema = Schema(vector.dim, metric=metric, vector=legal, fields=fields)
        place = "rowid" if name in self._has_rowid else id
        part = _Part(source, id, place, vector.name, vector.dtype, kept)
        return ForeignTable(
            legal_table_name(name), name, layout, self._count(name), schema, (*unknown, *notes),
            tuple(omitted), part,
        )  # fmt: skip

    def _blobs_alone(self, source: str, column: str) -> int:
        """Count the BLOBs of a column that holds nothing else; else 0."""
        values, blobs = self._db.execute(
            f"SELECT count(c), total(typeof(c) = 'blob') "
            f"FROM (SELECT {quoted(column)} AS c FROM {source})"
        ).fetchone()
        return int(blobs) if blobs == values else 0

    def _id_column(self, table: str, columns: list[_Column]) -> str:
        """Return the named column, else the key of one column, else ``id``, else the rowid."""
        names = [column.name for column in columns]
        keys = [column.name for column in columns if column.is_key]
        usual = keys or (["id"] if "id" in names else ["rowid"])
        id = self._hints.id_column or (usual[0] if len(usual) == 1 else "")
        if id in names or (id == "rowid" and table in self._has_rowid):
            return id
        raise ConfigError(
            f"the table {table!r} has no {f'column {id!r}' if id else 'key of one column'}; choose "
            f"the column of the ids with --id-column: {', '.join(names)}",
            key="--id-column",
        )


def _declared(sql: str) -> tuple[list[_Vector], list[_Column]] | None:
    """Read the vectors and columns that a vec0 table declares; None for any other statement."""
    made = _VEC0.search(sql)
    if made is None:
        return None
    vectors: list[_Vector] = []
    columns: list[_Column] = []
    for argument in _COMMENT.sub("", made[1]).split(","):
        if vector := _VECTOR.fullmatch(argument.strip()):
            name, element, dim, metric = vector.groups()
            dtype = _ELEMENTS[element.lower()]
            vectors.append(_Vector(name, dtype, int(dim), (metric or "l2").lower()))
        elif plain := _PLAIN.fullmatch(argument.strip()):
            name, kind, key = plain[1], plain[2], (plain[3] or "").lower()
            columns.append(_Column(name, kind, key == "partition", key == "primary"))
    return vectors, columns


def _metric(vector: _Vector) -> tuple[Metric, tuple[str, ...]]:
    """Return the metric of a table for these vectors, and a note if it is another one."""
    if vector.metric in _METRICS:
        return _METRICS[vector.metric], ()
    return "l2", (f"the metric {vector.metric} is unknown to aiovec; the table gets l2",)


def _batches(db: sqlite3.Connection, sql: str, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a statement, up to ``size`` at once, and fewer if they are large."""
    with closing(db.execute(sql)) as cursor:
        rows: list[tuple[Any, ...]] = []
        nbytes = 0
        while found := cursor.fetchmany(min(size, _ROWS_AT_ONCE)):
            rows += found
            nbytes += sum(len(v) for row in found for v in row if isinstance(v, (bytes, str)))
            if len(rows) >= size or nbytes >= _BYTES_AT_ONCE:
                yield rows
                rows, nbytes = [], 0
        if rows:
            yield rows


def _matrix(values: Sequence[Any], dim: int, dtype: str) -> tuple[npt.NDArray[Any], dict[int, str]]:
    """Return the vectors of the right length, and what is wrong with each of the other values."""
    kind = np.dtype(_DTYPES[dtype])
    faults: dict[int, str] = {}
    for i, value in enumerate(values):
        if value is None:
            faults[i] = "the vector is missing"
        elif not isinstance(value, bytes):
            is_text = isinstance(value, str)
            faults[i] = f"the vector is {'text' if is_text else 'a number'}, not a BLOB"
        elif len(value) % kind.itemsize:
            faults[i] = f"the vector has {len(value)} bytes, no multiple of {kind.itemsize}"
        elif len(value) != dim * kind.itemsize:
            faults[i] = f"the vector has {len(value) // kind.itemsize} dimensions, not {dim}"
    good = b"".join(value for i, value in enumerate(values) if i not in faults)
    return np.frombuffer(good, dtype=kind).reshape(-1, dim), faults


def _read_table(db: sqlite3.Connection, part: _Part, schema: Schema, size: int) -> Iterator[Chunk]:
    # The rowid stands without quotes: "rowid" is a text where a table has none.
    names = [part.place, part.id, part.vector, *(column.name for column in part.columns)]
    columns = ", ".join(name if name == "rowid" else quoted(name) for name in names)
    own = {"id", "payload", schema.vector}
    used = {column.name for column in part.columns}
    keys = [_free(c.name, used | own) if c.name in own else c.name for c in part.columns]
    for rows in _batches(db, f"SELECT {columns} FROM {part.table}", size):
        matrix, faults = _matrix([row[2] for row in rows], schema.dim, part.dtype)
        rejects = [Reject(_place(rows[i][0]), _shown(rows[i][1]), why) for i, why in faults.items()]
        rows = [row for i, row in enumerate(rows) if i not in faults]
        chunk: dict[str, Any] = {"id": [_id(row[1]) for row in rows], schema.vector: matrix}
        for i, (key, column) in enumerate(zip(keys, part.columns, strict=True), 3):
            chunk[key] = [_value(row[i], column) for row in rows]
        yield Chunk(chunk, [_place(row[0]) for row in rows], rejects)


def _read_points(
    db: sqlite3.Connection, part: _Points, schema: Schema, size: int
) -> Iterator[Chunk]:
    """Yield the rows of a collection; the keys of their JSON are columns."""
    for found in _batches(db, part.query, size):
        matrix, faults = _matrix([row[2] for row in found], schema.dim, part.dtype)
        rejects = [Reject(found[i][0], _shown(found[i][1]), why) for i, why in faults.items()]
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        whole = (row for i, row in enumerate(found) if i not in faults)
        for (rowid, id, _, text), vector in zip(whole, matrix, strict=True):
            try:
                values = read_json(text or "{}")
                if not isinstance(values, dict):
                    raise TypeError("it is not an object")
            except (ValueError, TypeError, RecursionError) as exc:
                rejects.append(Reject(rowid, _shown(id), f"its JSON cannot be taken: {exc}"))
                continue
            row = _row_of_collection(values, schema.vector)
            rows.append({**row, "id": _id(id), schema.vector: vector})
            places.append(rowid)
        yield Chunk(rows, places, rejects)


def _row_of_collection(payload: dict[str, Any], vector: str) -> dict[str, Any]:
    # Such keys get one more "_", as aiovec.compat.VectorStore stores and reads them.
    reserved = re.compile(rf"_*(id|{_COLLECTION_VECTOR}|{vector})\Z")
    return {f"_{key}" if reserved.match(key) else key: one for key, one in payload.items()}


def _value(value: Any, column: _Column) -> Any:
    """Return a value as a field or the payload takes it: flags as bool, and JSON as it reads."""
    if "bool" in column.type.lower():
        return bool(value) if value in (0, 1) else value
    if isinstance(value, str) and value[:1] in ("{", "[") and column.field is None:
        try:
            return read_json(value)
        except (ValueError, RecursionError):
            return value
    return value


def _free(name: str, used: Container[str]) -> str:
    """Return the name with as many ``_`` before it as make it unused."""
    while name in used:
        name = f"_{name}"
    return name


def _id(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


def _place(value: Any) -> int | str:
    return value if isinstance(value, (int, str)) else str(value)


def _shown(value: Any) -> str | None:
    return None if value is None or isinstance(value, bytes) else str(value)
