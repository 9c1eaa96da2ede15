"""Read SQLite databases that other programs wrote, for ``aiovec import``.

The reader reads sqlite-vec's vec0 tables; tables with a BLOB column that the user names;
collections (``_collection_meta``, ``vec_{name}``, ``payload_{name}``); the collections of ``llm``;
and tables of texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from aiovec.backend import MAX_DIM, Field, read_json
from aiovec.errors import ConfigError
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.errors import ERROR, code_of, failures, translate
from aiovec_sqlite.layout import APPLICATION_ID, is_database, quoted, read_header
from aiovec_sqlite.opening import connect_read_only, roll_back

from ..sources import legal_table_name
from .common import Collection, Vectors
from .queue import PREFIX
from .sql import (
    QUERY,
    Column,
    SqliteTable,
    SqlSource,
    SqlTable,
    TextTable,
    as_text,
    batches,
    columns_of,
    sqlite_column,
)

_DTYPES: dict[str, str] = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "int8": "i1"}
_TYPES = f"choose one of {', '.join(_DTYPES)}"
_BUSY_SECONDS = 10.0
_PAGES_AT_ONCE = 4096  # SQLite pages to copy in a backup step

# Patterns of a vec0 table's vectors, such as "embedding float[4] distance_metric=cosine", and of
# its columns, such as "tenant text partition key". Options such as "chunk_size=8" match neither.
_VEC0 = re.compile(r"\bUSING\s+[\"'`\[]?vec0[\"'`\]]?\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_VECTOR = re.compile(
    r"(\w+)\s+(float|f32|int8|i8|bit)\s*\[\s*(\d+)\s*\](?:.*distance_metric\s*=\s*(\w+))?",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(
    r"\+?\s*(\w+)\s+(\w+)(?:\s+(partition|primary)\s+key)?", re.IGNORECASE | re.DOTALL
)
# Names of a vec0 table's internal tables that sqlite-vec does not mark as shadow tables.
_CHUNKS = re.compile(r"_(vector_chunks|metadatachunks|metadatatext)\d\d\Z")
_ELEMENTS = {"float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit"}

# The columns that are read from llm's tables.
_LLM = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}

_META = "_collection_meta"
# aiovec.compat.VectorStore uses this name for vectors, and can then read the imported table. Like
# aiovec.compat, the import adds a "_" before keys with reserved names.
_COLLECTION_VECTOR = "vector"
_RESERVED = re.compile(rf"_*(id|{_COLLECTION_VECTOR})\Z")


class SqliteSource(SqlSource):
    """A database with collections, vec0 tables, BLOB columns, or tables of texts."""

    layout = "SQLite database"
    place = "rowid"
    takes_dtypes = True

    @classmethod
    def recognise(cls, path: Path) -> bool:
        return is_database(path)

    def open(self, place: str) -> None:
        path = self._path = Path(place)
        if self._wanted.dtype not in (None, *_DTYPES):
            raise ConfigError(f"there is no dtype {self._wanted.dtype!r}; {_TYPES}", key="--dtype")
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
            roll_back(path, _BUSY_SECONDS)
            self._db = connect_read_only(path, _BUSY_SECONDS, _read)
            # If a text is not UTF-8, only its row is rejected.
            self._db.text_factory = as_text
            if self._wanted.query is not None:  # a view has one statement, which can only read
                self._db.execute(f"CREATE TEMP VIEW {QUERY} AS {self._wanted.query}")
            # Read one snapshot of the file, even if others write during the import.
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
            # The tables that store named collections, and for each name a function that returns the
            # collection.
            self._known: set[str] = set()
            self._named = {**self._collections(), **self._collections_of_llm()}

    def of_texts(self) -> tuple[TextTable, str] | None:
        name = QUERY if self._wanted.query is not None else self._wanted.origin or ""
        plain = {QUERY, *self._kinds} - self._vec0.keys() - self._named.keys()
        if name not in plain or not self._wanted.is_of_texts:
            return None
        table = SqliteTable(self._db, name, self._wanted)
        if self._db.in_transaction:  # computing the vectors may take hours
            self._db.execute("COMMIT")
        return table, self._path.name

    def rows(self, select: str, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        with closing(self._db.execute(select)) as cursor:
            yield from batches(cursor, size)

    def rows_of_texts(self, table: TextTable, size: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        return cast(SqliteTable, table).rows(size)

    def reading(self) -> AbstractContextManager[None]:
        return _reading(self._path)

    def names(self) -> Iterable[str]:
        """Return the named table; without a name, all collections or the only vec0 table."""
        wanted, named = self._wanted.origin, self._named
        if wanted in named or wanted in self._kinds:
            return [str(wanted)]
        if wanted is not None:
            if wanted in map(legal_table_name, named):
                return named
            raise self._choose(f"there is no table {wanted!r} in {self._path}")
        vec0 = self._vec0.keys() - self._known
        with _reading(self._path):
            blobs = [name for name in sorted(self._kinds.keys() - self._known) if self._blobs(name)]
        if self._wanted.dry_run and (blobs or len(vec0) > 1):  # ``tables`` says what each needs
            return dict.fromkeys([*named, *sorted(vec0), *blobs])
        if blobs:
            raise self._choose(f"{self._path} has tables with BLOBs")
        if vec0 if named else len(vec0) != 1:
            why = "several tables with vectors" if vec0 else "no vec0 table and no collections"
            raise self._choose(f"{self._path} has {why}")
        return named or vec0

    def collection(self, name: str) -> Collection:
        with self.reading():
            if name in self._named:
                return self._named[name]()
            if name in self._vec0:
                vectors, columns = self._vec0[name]
                return self._collected(name, "vec0 table", quoted(name), columns, vectors, name)
            vector, dtype = self._blobs_named(name)
            columns = [column for column, _ in columns_of(self._db, name)]
            blobs = [c._replace(read=_vector_of(dtype)) for c in columns if c.name == vector.name]
            columns = [*blobs, *(column for column in columns if column.name != vector.name)]
            layout = f"column of {dtype} BLOBs"
            return self._collected(name, layout, quoted(name), columns, [vector])

    def _collected(
        self, name: str, layout: str, source: str, columns: Sequence[Column],
        vectors: Sequence[Vectors], vec0: str = "", model: str | None = None,
    ) -> Collection:  # fmt: skip
        """Return a table as a collection. ``vec0`` is the vec0 table with the vectors, if any."""
        names = [vector.name for vector in vectors]
        columns = [
            column if column.field or column.spread or column.name in names
            else column._replace(left_out=self._only_blobs(source, column.sql))
            for column in columns
        ]  # fmt: skip
        hidden = ["rowid"] if name in self._has_rowid or source.startswith("(") else []
        table = SqlTable(name, layout, source, columns, self._wanted, hidden, names)
        rows = self.count(quoted(f"{vec0}_rowids") if vec0 else source)
        return table.collected(vectors, rows, hidden[0] if hidden else "NULL", model)

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
        """Return an error that lists the tables, and the options that select one."""
        listed = [f"{name} (collection)" for name in self._named]
        listed += [f"{name} (vec0 table)" for name in self._vec0]
        plain = self._kinds.keys() - self._vec0.keys()
        for name in (name for name in plain if not name.startswith(PREFIX)):
            blobs = ", ".join(self._blobs(name))
            listed.append(f"{name} (BLOBs: {blobs})" if blobs else name)
        return ConfigError(
            f"{why}. Name the table to import as {self._path}#TABLE, and for BLOBs also "
            "--vector-column and --dtype, or --embed for a text to compute vectors from. "
            f"The tables are: {', '.join(sorted(listed)) or 'none'}",
            file=str(self._path), key="SOURCE",
        )  # fmt: skip

    def _blobs(self, table: str) -> list[str]:
        if self._kinds[table] != "table":
            return []
        return [c.name for c, type in columns_of(self._db, table) if "blob" in type.lower()]

    def _collections(self) -> dict[str, Callable[[], Collection]]:
        """Map each collection's name to a function that describes it, if its two tables exist."""
        if _META not in self._kinds:
            return {}
        names = {column.name for column, _ in columns_of(self._db, _META)}
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
        (first, *_), columns = self._vec0[vec]
        v, p = quoted(vec), quoted(payload)
        # Select the vectors in order. A point without an id or without a vector becomes a reject.
        query = (
            f"(SELECT v.rowid AS rowid, orig_id, v.{quoted(first.name)} AS {_COLLECTION_VECTOR}, "
            f"payload_json FROM {v} v LEFT JOIN {p} p ON p.rowid = v.rowid UNION ALL "
            f"SELECT rowid, orig_id, NULL, NULL FROM {p} "
            f"WHERE rowid NOT IN (SELECT rowid FROM {v}))"
        )
        read = next(column.read for column in columns if column.name == first.name)
        vector = replace(first, name=_COLLECTION_VECTOR)
        listed = [
            Column("orig_id", "orig_id", key=1), Column(vector.name, vector.name, read=read),
            Column("payload_json", "payload_json", read=_point_payload, spread=True),
        ]  # fmt: skip
        return self._collected(name, "collection", query, listed, [vector], vec, model)

    def _collections_of_llm(self) -> dict[str, Callable[[], Collection]]:
        for name, wanted in _LLM.items():
            if name not in self._kinds or not wanted <= {
                c.name for c, _ in columns_of(self._db, name)
            }:
                return {}
        self._known |= _LLM.keys()
        listed = self._db.execute("SELECT name, id, model FROM collections ORDER BY name")
        return {name: partial(self._of_llm, name, id, model) for name, id, model in listed if name}

    def _of_llm(self, name: str, number: int, model: str | None) -> Collection:
        query = f"(SELECT rowid, * FROM embeddings WHERE collection_id = {number:d})"
        vector = Vectors("embedding", self._usual_dim(query, "embedding", "float32"))
        listed = [
            Column("id", "id", key=1), Column(vector.name, vector.name, read=_vector_of("float32")),
            Column("content", "content", Field(str, text=True)),
        ]  # fmt: skip
        # Binary content, such as images, in a column that older databases lack.
        names = [column.name for column, _ in columns_of(self._db, "embeddings")]
        if "content_blob" in names and self._only_blobs(query, "content_blob"):
            listed.append(Column("content_blob", "content_blob"))
        listed.append(Column("metadata", "metadata", read=_payload, spread=True))
        return self._collected(name, "llm's collection", query, listed, [vector], model=model)

    def _blobs_named(self, table: str) -> tuple[Vectors, str]:
        """Return the vector column that the user names, and its type."""
        vector, dtype = self._wanted.vector_column, self._wanted.dtype
        columns = [column.name for column, _ in columns_of(self._db, table)]
        if vector not in columns or dtype is None:
            raise ConfigError(
                f"name the column of the vectors in the table {table!r} with --vector-column "
                f"({', '.join(columns)}), and their type with --dtype; {_TYPES}; or compute them "
                "from a text with --embed COLUMN and --embedder KIND",
                key="--dtype" if vector in columns else "--vector-column",
            )
        dim = self._usual_dim(quoted(table), vector, dtype)
        if dim is None:
            raise ConfigError(
                f"the column {vector!r} of the table {table!r} holds no vectors of {dtype}",
                key="--vector-column",
            )
        # LangChain's SQLiteVec has a copy of the vectors in a vec0 table, which it searches.
        copies, _ = self._vec0.get(f"{table}_vec", ((), ()))
        metric = next((each.metric for each in copies if each.name == vector), None)
        return Vectors(vector, dim, metric, usual="cosine"), dtype

    def _usual_dim(self, table: str, vector: str, dtype: str) -> int | None:
        """Return the most common length of the vectors; vectors of other lengths are rejected."""
        size = np.dtype(_DTYPES[dtype]).itemsize
        usual = self._db.execute(
            f"SELECT length(v) FROM (SELECT {quoted(vector)} AS v FROM {table}) "
            "WHERE typeof(v) = 'blob' AND length(v) % ? = 0 AND length(v) BETWEEN 1 AND ? "
            "GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1",
            (size, size * MAX_DIM),
        ).fetchone()
        return None if usual is None else int(usual[0]) // size

    def _only_blobs(self, source: str, column: str) -> str:
        """Return the number of BLOBs as text if a column has no other values; else return ""."""
        values, blobs = self._db.execute(
            f"SELECT count(c), total(typeof(c) = 'blob') FROM (SELECT {column} AS c FROM {source})"
        ).fetchone()
        return f"{blobs:,.0f} BLOBs" if blobs and blobs == values else ""


def _read(db: Any, path: str) -> None:
    """Read the schema. SQL in it is trusted, because the database is the user's."""
    db.execute("SELECT 1 FROM sqlite_master").fetchone()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Translate SQLite errors. A failing statement does not mean that the file is damaged."""
    try:
        yield
    except failures() as exc:
        if code_of(exc) != ERROR:
            raise translate(exc, str(path)) from exc
        raise ConfigError(
            f"{path} cannot be read: {exc}; choose another table or other columns",
            file=str(path), key="SOURCE",
        ) from exc  # fmt: skip


def _declared(sql: str) -> tuple[list[Vectors], list[Column]] | None:
    """Return the vectors and columns that a vec0 table declares; None for other tables."""
    made = _VEC0.search(sql)
    if made is None:
        return None
    vectors: list[Vectors] = []
    columns: list[Column] = []
    for argument in _COMMENT.sub("", made[1]).split(","):
        if vector := _VECTOR.fullmatch(argument.strip()):
            name, element, dim, metric = vector.groups()
            dtype = _ELEMENTS[element.lower()]
            able = int(dim) if dtype in _DTYPES else None
            vectors.append(Vectors(name, able, metric or "l2", f"{dtype}[{dim}]"))
            columns.append(Column(name, quoted(name), read=_vector_of(dtype)))
        elif plain := _PLAIN.fullmatch(argument.strip()):
            name, kind, key = plain[1], plain[2], (plain[3] or "").lower()
            columns.append(
                sqlite_column(name, kind, 1 if key == "primary" else None, key == "partition")
            )
    return vectors, columns


def _vector_of(dtype: str) -> Callable[[Any], Any]:
    """Return a function that reads a BLOB as a vector of this type."""

    def read(blob: Any) -> Any:
        if isinstance(blob, bytes) and not len(blob) % np.dtype(_DTYPES[dtype]).itemsize:
            return np.frombuffer(blob, _DTYPES[dtype])
        if blob is None:
            return None
        given = f"{len(blob)} bytes" if isinstance(blob, bytes) else type(blob).__name__
        raise ValueError(f"the vector is not a BLOB of {dtype} but {given}")

    return read


def _payload(text: Any) -> dict[str, Any]:
    """Parse the object in a JSON column."""
    try:
        payload = read_json(text or "{}")
        if not isinstance(payload, dict):
            raise TypeError("it is not an object")
    except (ValueError, TypeError, RecursionError) as exc:
        raise ValueError(f"its JSON cannot be read: {exc}") from exc
    return payload


def _point_payload(text: Any) -> dict[str, Any]:
    """Return the payload of a point, with keys renamed as ``aiovec.compat`` renames them."""
    return {f"_{key}" if _RESERVED.match(key) else key: v for key, v in _payload(text).items()}
