"""Import from SQLite databases that other programs wrote, for ``aiovec import``.

Four layouts are read: vec0 tables of sqlite-vec; tables with a column of BLOBs that the user
names; collections (``_collection_meta``, ``vec_{name}``, ``payload_{name}``); and those of ``llm``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aiovec.backend import MAX_DIM, Field, Schema, read_json
from aiovec.errors import ConfigError
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.errors import ERROR, code_of, failures, translate
from aiovec_sqlite.layout import APPLICATION_ID, is_database, quoted, read_header
from aiovec_sqlite.opening import connect_read_only

from ..sources import Chunk, ForeignTable, Reject, legal_table_name
from ..tables import QUERY, Column, SqliteTable, as_text, batches, columns_of
from .common import Collection, CollectionSource, Point, Vectors
from .queue import PREFIX

_DTYPES: dict[str, str] = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "int8": "i1"}
_TYPES = f"choose one of {', '.join(_DTYPES)}"
_BUSY_SECONDS = 10.0
_PAGES_AT_ONCE = 4096  # of a backup

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

# The columns of llm's tables that are read.
_LLM = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}

_META = "_collection_meta"
# As aiovec.compat.VectorStore names its vectors, so that it reads them. It keeps keys of these
# names with one more "_".
_COLLECTION_VECTOR = "vector"
_RESERVED = re.compile(rf"_*(id|{_COLLECTION_VECTOR})\Z")


@dataclass(frozen=True, slots=True)
class _Part:
    """The way to read a table. ``place`` is the column with the position of a row.

    ``table`` is what stands after FROM, ``dtypes`` are those of the vectors. Without ``columns``,
    a row has JSON besides its vector, and the text ``content`` if it comes from ``llm``.
    """

    table: str
    place: str
    id: str
    dtypes: Mapping[str, str]
    columns: Sequence[Column] | None
    content: str | None = None

    @property
    def names(self) -> Sequence[str]:
        """The columns without the place, the id and the vector."""
        if self.columns is not None:
            return [column.name for column in self.columns]
        return ["payload_json", *([] if self.content is None else [self.content])]


class SqliteSource(CollectionSource):
    """Collections, vec0 tables, and columns of BLOBs that the user names."""

    layout = "SQLite database"
    place = "rowid"
    chooses_ids = takes_dtypes = takes_queries = True

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return is_database(path)

    def open(self, place: str) -> None:
        path = self._path = Path(place)
        if self._hints.dtype not in (None, *_DTYPES):
            raise ConfigError(f"there is no dtype {self._hints.dtype!r}; {_TYPES}", key="--dtype")
        header = read_header(path)
        if header is not None and header.application_id == APPLICATION_ID:
            raise ConfigError(
                f"{path} is already an aiovec store; copy tables with aiovec migrate, or aiovec "
                "export and then aiovec import"
            )
        self.remark: str = (
            f"{path} is opened read-only and is not changed; --backup COPY copies it first"
        )
        with _reading(path):
            self._db = connect_read_only(path, _BUSY_SECONDS, _read)
            # Text that is not UTF-8 rejects its own row only.
            self._db.text_factory = as_text
            if self._hints.query is not None:  # a view takes one statement, which only reads
                self._db.execute(f"CREATE TEMP VIEW {QUERY} AS {self._hints.query}")
            # One snapshot of the file, whatever others write during the import.
            self._db.execute("BEGIN")
            listed = self._db.execute(
                "SELECT name, l.type, wr, sql FROM pragma_table_list l "
                "JOIN sqlite_master USING (name) WHERE schema = 'main' AND l.type <> 'shadow' "
                "AND name NOT GLOB 'sqlite_*' ORDER BY name"
            ).fetchall()
            self._kinds = {name: kind for name, kind, *_ in listed if not _CHUNKS.search(name)}
            self._has_rowid = {name for name, kind, wr, _ in listed if kind != "view" and not wr}
            self._vec0 = {
                name: declared for name, *_, sql in listed if (declared := _declared(sql))
            }
            # The tables of the layouts that name their collections, and what reads each collection.
            self._known: set[str] = set()
            self._named = {**self._collections(), **self._collections_of_llm()}

    def tables(self) -> list[ForeignTable]:
        name = QUERY if self._hints.query is not None else self._hints.table or ""
        plain = {QUERY, *self._kinds} - self._vec0.keys() - self._named.keys()
        if name not in plain or not self._hints.of_texts:
            return super().tables()
        self.place = "key"
        with _reading(self._path):
            return [SqliteTable(self._db, name, self._hints).foreign(self._path.name)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        if not table.texts:
            yield from super().read(table, schema, size)
            return
        with _reading(self._path):
            yield from table.part.chunks(schema, size)

    def names(self) -> Iterable[str]:
        """Return the named table; without a name the collections, or the only vec0 table."""
        wanted, named = self._hints.table, self._named
        if wanted in named or wanted in self._kinds:
            return [str(wanted)]
        if wanted is not None:
            if wanted in map(legal_table_name, named):
                return named
            raise self._choose(f"there is no table {wanted!r} in {self._path}")
        with _reading(self._path):
            if any(map(self._blobs, self._kinds.keys() - self._known)):
                raise self._choose(f"{self._path} has tables with BLOBs")
        vec0 = self._vec0.keys() - self._known
        if vec0 if named else len(vec0) != 1:
            why = "several tables with vectors" if vec0 else "no vec0 table and no collections"
            raise self._choose(f"{self._path} has {why}")
        return named or vec0

    def collection(self, name: str) -> Collection:
        with _reading(self._path):
            if name in self._named:
                return self._named[name]()
            if name in self._vec0:
                vectors, dtypes, columns = self._vec0[name]
                return self._as_collection(name, "vec0 table", vectors, dtypes, columns)
            columns = self._columns(name)
            vector, dtype = self._blobs_named(name, [column.name for column in columns])
            dtypes = {vector.name: dtype}
            return self._as_collection(name, f"column of {dtype} BLOBs", [vector], dtypes, columns)

    def points(
        self, collection: Collection, vector: str, size: int
    ) -> Iterator[Iterable[Point | Reject]]:
        part: _Part = collection.handle
        # The rowid stands without quotes: "rowid" is a text where a table has none.
        chosen = ", ".join(
            name if name in ("rowid", "NULL") else quoted(name)
            for name in (part.place, part.id, vector, *part.names)
        )
        with (
            _reading(self._path),
            closing(self._db.execute(f"SELECT {chosen} FROM {part.table}")) as cursor,
        ):
            for rows in batches(cursor, size):
                yield [_point(row, part, part.dtypes[vector]) for row in rows]

    def backup(self, path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path} already exists; name a path that does not exist yet")
        try:
            with (
                closing(load_driver().connect(str(path))) as copy,
                closing(connect_read_only(self._path, _BUSY_SECONDS, _read)) as db,
            ):
                db.backup(copy, pages=_PAGES_AT_ONCE)
        except failures() as exc:
            path.unlink(missing_ok=True)
            raise translate(exc, str(path)) from exc

    def close(self) -> None:
        self._db.close()

    def _choose(self, why: str) -> ConfigError:
        """Return an error that lists the tables and the options that name one."""
        listed = [f"{name} (collection)" for name in self._named]
        listed += [f"{name} (vec0 table)" for name in self._vec0]
        plain = self._kinds.keys() - self._vec0.keys()
        for name in (name for name in plain if not name.startswith(PREFIX)):
            blobs = ", ".join(self._blobs(name))
            listed.append(f"{name} (BLOBs: {blobs})" if blobs else name)
        return ConfigError(
            f"{why}. Name the table to import as {self._path}#TABLE, and for BLOBs also "
            "--vector-column and --dtype, for a text that vectors are made of --embed. "
            f"The tables are: {', '.join(sorted(listed)) or 'none'}",
            file=str(self._path), key="SOURCE",
        )  # fmt: skip

    def _columns(self, table: str) -> list[Column]:
        return columns_of(self._db, table)

    def _blobs(self, table: str) -> list[str]:
        if self._kinds[table] != "table":
            return []
        return [column.name for column in self._columns(table) if "blob" in column.type.lower()]

    def _count(self, table: str) -> int:
        # sqlite-vec's own list of the rows is counted much faster than the rows.
        counted = f"{table}_rowids" if table in self._vec0 else table
        (count,) = self._db.execute(f"SELECT count(*) FROM {quoted(counted)}").fetchone()
        return int(count)

    def _collections(self) -> dict[str, Callable[[], Collection]]:
        """Return the collections that have both of their tables."""
        if _META not in self._kinds:
            return {}
        names = {column.name for column in self._columns(_META)}
        model = "model" if "model" in names else "NULL"
        listed = self._db.execute(f"SELECT name, {model} FROM {_META} ORDER BY 1").fetchall()
        named: dict[str, Callable[[], Collection]] = {
            name: partial(self._of_points, name, model or None) for name, model in listed
            if f"vec_{name}" in self._vec0 and f"payload_{name}" in self._kinds
        }  # fmt: skip
        self._known |= {f"vec_{name}" for name in named}
        return named

    def _of_points(self, name: str, model: str | None) -> Collection:
        vec, payload = f"vec_{name}", f"payload_{name}"
        (first, *_), dtypes, _ = self._vec0[vec]
        v, p = quoted(vec), quoted(payload)
        # The vectors in their order. A half of a point is a reject: it has no id, or no vector.
        query = (
            f"(SELECT v.rowid AS rowid, orig_id, v.{quoted(first.name)} AS {_COLLECTION_VECTOR}, "
            f"payload_json FROM {v} v LEFT JOIN {p} p ON p.rowid = v.rowid UNION ALL "
            f"SELECT rowid, orig_id, NULL, NULL FROM {p} "
            f"WHERE rowid NOT IN (SELECT rowid FROM {v}))"
        )
        part = _Part(query, "rowid", "orig_id", {_COLLECTION_VECTOR: dtypes[first.name]}, None)
        vectors = [Vectors(_COLLECTION_VECTOR, first.dim, first.metric, first.kind)]
        return Collection(name, vectors, self._count(vec), part, model=model, layout="collection")

    def _collections_of_llm(self) -> dict[str, Callable[[], Collection]]:
        for name, wanted in _LLM.items():
            if name not in self._kinds or not wanted <= {c.name for c in self._columns(name)}:
                return {}
        self._known |= _LLM.keys()
        listed = self._db.execute("SELECT name, id, model FROM collections ORDER BY name")
        return {name: partial(self._of_llm, name, id, model) for name, id, model in listed if name}

    def _of_llm(self, name: str, number: int, model: str | None) -> Collection:
        query = (
            "(SELECT rowid, *, metadata AS payload_json FROM embeddings "
            f"WHERE collection_id = {number:d})"
        )
        part = _Part(query, "rowid", "id", {"embedding": "float32"}, None, "content")
        (rows,) = self._db.execute(f"SELECT count(*) FROM {query}").fetchone()
        vectors = [Vectors("embedding", self._usual_dim(query, "embedding", "float32"))]
        # Images and the like, in a column that older databases lack.
        has_blobs = "content_blob" in (column.name for column in self._columns("embeddings"))
        blobs = self._only_blobs(query, "content_blob") if has_blobs else 0
        omitted = [f"the column content_blob ({blobs:,} BLOBs)"] if blobs else []
        fields = {"content": Field(str, text=True)}
        return Collection(
            name, vectors, rows, part, fields, model, omitted, layout="llm's collection"
        )

    def _blobs_named(self, table: str, columns: list[str]) -> tuple[Vectors, str]:
        """Return the column of vectors that the user names, and its type."""
        vector, dtype = self._hints.vector_column, self._hints.dtype
        if vector not in columns or dtype is None:
            raise ConfigError(
                f"name the column of the vectors in the table {table!r} with --vector-column "
                f"({', '.join(columns)}), and their type with --dtype; {_TYPES}; or make them of "
                "a text with --embed COLUMN and --embedder KIND",
                key="--dtype" if vector in columns else "--vector-column",
            )
        dim = self._usual_dim(quoted(table), vector, dtype)
        if dim is None:
            raise ConfigError(
                f"the column {vector!r} of the table {table!r} holds no vectors of {dtype}",
                key="--vector-column",
            )
        return Vectors(vector, dim), dtype

    def _usual_dim(self, table: str, vector: str, dtype: str) -> int | None:
        """Return the commonest length of the vectors: a few of other lengths are rejects."""
        size = np.dtype(_DTYPES[dtype]).itemsize
        usual = self._db.execute(
            f"SELECT length(v) FROM (SELECT {quoted(vector)} AS v FROM {table}) "
            "WHERE typeof(v) = 'blob' AND length(v) % ? = 0 AND length(v) BETWEEN 1 AND ? "
            "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
            (size, size * MAX_DIM),
        ).fetchone()
        return None if usual is None else int(usual[0]) // size

    def _as_collection(
        self, name: str, layout: str, vectors: Sequence[Vectors], dtypes: Mapping[str, str],
        columns: list[Column],
    ) -> Collection:  # fmt: skip
        columns = [column for column in columns if column.name not in dtypes]
        id = self._id_column(name, columns)
        kept: list[Column] = []
        omitted = []
        for column in columns:
            if column.field is None and (blobs := self._only_blobs(quoted(name), column.name)):
                omitted.append(f"the column {column.name} ({blobs:,} BLOBs)")
            elif column.name != id:
                kept.append(column)
        new_ids = id == "none"
        key = "NULL" if new_ids else id
        place = "rowid" if name in self._has_rowid else key
        part = _Part(quoted(name), place, key, dtypes, kept)
        fields = {column.name: column.field for column in kept}
        return Collection(
            name, vectors, self._count(name), part, fields, None, omitted, new_ids, layout
        )

    def _only_blobs(self, table: str, column: str) -> int:
        """Count the BLOBs of a column that holds nothing else; else 0."""
        values, blobs = self._db.execute(
            f"SELECT count(c), total(typeof(c) = 'blob') "
            f"FROM (SELECT {quoted(column)} AS c FROM {table})"
        ).fetchone()
        return int(blobs) if blobs == values else 0

    def _id_column(self, table: str, columns: list[Column]) -> str:
        """Return the named column, else the key of one column, else ``id``, else the rowid."""
        names = [column.name for column in columns]
        keys = [column.name for column in columns if column.key]
        usual = keys or (["id"] if "id" in names else ["rowid"])
        id = self._hints.id_column or (usual[0] if len(usual) == 1 else "")
        if id in ("none", *names) or (id == "rowid" and table in self._has_rowid):
            return id
        raise ConfigError(
            f"the table {table!r} has no {f'column {id!r}' if id else 'key of one column'}; choose "
            f"the column of the ids with --id-column: {', '.join(names)}",
            key="--id-column",
        )


def _read(db: Any, path: str) -> None:
    """Read the schema, which may hold SQL: it is the user's own program."""
    db.execute("SELECT 1 FROM sqlite_master").fetchone()


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


def _declared(sql: str) -> tuple[list[Vectors], dict[str, str], list[Column]] | None:
    """Read the vectors, their types and the columns that a vec0 table declares; None otherwise."""
    made = _VEC0.search(sql)
    if made is None:
        return None
    vectors: list[Vectors] = []
    dtypes: dict[str, str] = {}
    columns: list[Column] = []
    for argument in _COMMENT.sub("", made[1]).split(","):
        if vector := _VECTOR.fullmatch(argument.strip()):
            name, element, dim, metric = vector.groups()
            dtypes[name] = _ELEMENTS[element.lower()]
            able = int(dim) if dtypes[name] in _DTYPES else None
            vectors.append(Vectors(name, able, metric or "l2", f"{dtypes[name]}[{dim}]"))
        elif plain := _PLAIN.fullmatch(argument.strip()):
            name, kind, key = plain[1], plain[2], (plain[3] or "").lower()
            columns.append(Column(name, kind, key == "partition", key == "primary"))
    return vectors, dtypes, columns


def _point(row: tuple[Any, ...], part: _Part, dtype: str) -> Point | Reject:
    place, id, vector, *values = row
    if not isinstance(place, (int, str, type(None))):
        place = str(place)
    if isinstance(vector, bytes) and not len(vector) % np.dtype(_DTYPES[dtype]).itemsize:
        vector = np.frombuffer(vector, _DTYPES[dtype])
    elif vector is not None:
        given = f"{len(vector)} bytes" if isinstance(vector, bytes) else type(vector).__name__
        return Reject(place, str(id), f"the vector is no BLOB of {dtype} but {given}")
    if part.columns is None:
        try:
            payload = read_json(values[0] or "{}")
            if not isinstance(payload, dict):
                raise TypeError("it is not an object")
        except (ValueError, TypeError, RecursionError) as exc:
            return Reject(place, str(id), f"its JSON cannot be taken: {exc}")
        if part.content is not None:
            return Point(id, vector, payload, {part.content: values[1]}, place)
        keys = {f"_{key}" if _RESERVED.match(key) else key: v for key, v in payload.items()}
    else:
        named = zip(part.columns, values, strict=True)
        keys = {column.name: column.value(v) for column, v in named}
    return Point(id, vector, keys, place=place)
