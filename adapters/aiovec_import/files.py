"""Files with one table: their formats, their schemas, and their vector columns."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aiovec._input.infer import USUAL_VECTORS, field_of_kinds, fields_of
from aiovec.backend import Field, Schema, cleaned, may_lack_vectors, without_secrets
from aiovec.backend.paths import is_url
from aiovec.errors import AiovecError, ConfigError

from .sources import ForeignTable, Reader, Wanted, free_name, legal_table_name, legal_vector

TEXTS = ("jsonl", "csv")
# Bytes in one write: enough for every backend to be fast, and few enough to hold twice in memory.
_BYTES_OF_A_WRITE = 16 * 2**20
# Rows of a text file that are searched for vectors if there is no schema.
FIRST_ROWS = 100
# A vector of 8,192 numbers takes 200 KB as text.
LONGEST_LINE = 16 * 2**20

FORMAT_OF = {  # by suffix
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow-stream",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}

MOMENT = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)"
"""Matches a datetime with a time zone, written as text; its kind is "moment"."""


def no_file(path: Path | str) -> ConfigError:
    """Return the error for a missing file. It hides secrets, such as a ``password=`` in a path."""
    return ConfigError(f"there is no file {without_secrets(str(path))}")


@contextmanager
def reading(path: Path | str | None) -> Iterator[None]:
    """Turn exceptions other than AiovecErrors into a ConfigError that names the file.

    ``path`` is None for a store.
    """
    try:
        yield
    except AiovecError:
        raise
    except Exception as exc:
        if path is None or is_url(str(path)):
            cleaned(exc)  # the traceback shows it as the cause
        text = without_secrets(" ".join(str(exc).split()))[:300].rstrip(".") or type(exc).__name__
        if path is None:  # a client's own error explains what failed
            raise ConfigError(f"the store cannot be read: {text}") from exc
        if isinstance(exc, RecursionError):
            text = "a value in it is nested too deeply"
        elif isinstance(exc, OSError) and exc.strerror:
            text = exc.strerror
        fix = "Write the file again, or in another format"
        raise ConfigError(f"{path} cannot be read: {text}. {fix}", file=str(path)) from exc


def field_of_texts(kinds: set[str]) -> Field | None:
    """Return the field for values of these kinds in a text file; None for the payload."""
    if kinds and kinds <= {"datetime", "moment"}:
        return Field("datetime")
    return field_of_kinds({"text" if kind == "moment" else kind for kind in kinds})


def rows_at_once(schema: Schema) -> int:
    """Return the number of rows in one write, or in one batch of an export."""
    return min(max(_BYTES_OF_A_WRITE // (4 * schema.dim), 64), 10_000)


def format_of(path: Path, given: str | None) -> str:
    """Return the format that the user named, or else infer it from the suffix."""
    name = given or FORMAT_OF.get(path.suffix.lower())
    if name is None:
        formats = ", ".join(dict.fromkeys(FORMAT_OF.values()))
        raise ConfigError(
            f"the name {path.name} does not show its format; pass --format "
            f"{formats}, or use one of the suffixes {', '.join(FORMAT_OF)}",
            key="--format",
        )
    return name


def names_format(path: Path) -> bool:
    """Return whether the name of a file shows its format."""
    return path.suffix.lower() in FORMAT_OF


def path_and_table(source: str) -> tuple[Path, str]:
    """Split a source at ``#`` into a path and a table, unless the ``#`` is a part of the path."""
    path = os.path.expanduser(source)
    before, _, table = path.rpartition("#")
    if not before or is_url(source) or os.path.lexists(path):
        return Path(path), ""
    return Path(before), table


def default_table(source: str, is_query: bool) -> str:
    """Return the name of the target table for a source if the user names no table."""
    path, name = path_and_table(source)
    if is_url(source):
        name = source.partition("#")[2]
    if not name and names_format(path):
        name = path.stem
    return legal_table_name("query" if is_query else name or "documents")


def schema_file(path: Path) -> Path:
    """Return the path of the schema for a file whose format cannot contain a schema."""
    return path.with_name(f"{path.name}.schema.json")


class FileReader(Reader):
    """A reader of one open file with the rows of one table.

    ``given`` is the schema from the user, or the schema stored next to the file. ``existing`` is
    the schema of the target table.
    """

    schema: Schema
    rows: int | None = None
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()

    def __init__(
        self, path: Path, form: str, file: IO[bytes], wanted: Wanted, given: Schema | None,
        existing: Schema | None,
    ) -> None:  # fmt: skip
        self.name: str = str(path)
        self.form: str = form
        self._path, self._file, self._wanted = path, file, wanted
        self._given, self._existing = given, existing
        # The name of the id column; None if the rows get new ids.
        self._id_column = None if wanted.wants_new_ids else wanted.id_column or "id"
        self._vector = ""
        self._begin()

    def _begin(self) -> None:
        """Read the beginning of the file, and ``settle`` the schema of its rows."""
        raise NotImplementedError

    def tables(self) -> list[ForeignTable]:
        name, new_ids = legal_table_name(self._path.stem), self._wanted.wants_new_ids
        table = ForeignTable(
            name, self._path.name, self.form, self.rows, self.schema, self.notes, self.omitted,
            new_ids=new_ids, texts=self._of_texts and not new_ids, base=self._path.name,
            has_schema=self._has_schema,
        )  # fmt: skip
        return [table]

    def close(self) -> None:
        self._file.close()

    def wrong(self, fault: str, key: str | None = None) -> ConfigError:
        """Return an error about the file."""
        return ConfigError(f"{self.name} {fault}", file=self.name, key=key)

    def check_names(self, names: list[str]) -> None:
        """Raise ConfigError if columns have the same name, or if the id column is missing."""
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise self.wrong(
                f"has several columns with one name ({', '.join(map(repr, twice)):.200})"
            )
        if self._id_column not in (None, *names):
            raise self.wrong(
                f"has no column {self._id_column!r}; pass --id-column none for new ids, or "
                f"one of: {', '.join(names):.200}",
                "--id-column",
            )

    def settle(
        self, names: Collection[str], carried: Schema | None = None, remark: str = ""
    ) -> None:
        """Find the vector column, and set the schema of the rows.

        The schema is the first of these that exists: the schema from the user, the schema in the
        file, the target table's schema, and a schema inferred from the columns.
        """
        wanted = self._wanted.vector_column
        known = self._given or carried
        table = known or self._existing
        usual = USUAL_VECTORS if table is None else (table.vector, *USUAL_VECTORS)
        vector = next((name for name in usual if name in names), None) if wanted is None else wanted
        embeds = self._wanted.embed is not None if table is None else may_lack_vectors(table)
        free = wanted is None and embeds
        if vector is None and not free:
            others = names if table is None else [n for n in names if n not in table.fields]
            able = [name for name in others if self._dim(name)]
            vector = able[0] if len(able) == 1 else None
        free = free and vector is None
        dim = self._dim(vector) if vector is not None and vector in names else None
        if known is None and not names:
            raise self.wrong(f"has no rows to make a table from{remark}")
        if known is None and not dim and not free:
            raise self.wrong(
                f"cannot be imported: no vector was found in its columns "
                f"({', '.join(names):.200}){remark}; name the column with lists of numbers "
                "with --vector-column, or compute vectors from a text with --embed FIELD and "
                "--embedder KIND",
                "--vector-column",
            )
        if table is None:
            vector = vector or USUAL_VECTORS[0]
            fields = self._fields(vector)
            embed = self._wanted.embed_of(fields)
            table = Schema(
                dim or int(embed is None), vector=legal_vector(vector), fields=fields, embed=embed
            )
        self._vector, self.schema, self._has_schema = vector or table.vector, table, bool(known)
        self._of_texts = table.embed is not None and self._vector not in names

    def _dim(self, name: str) -> int | None:
        """Return the length of the first vector in a column; None if the column has no vectors."""
        raise NotImplementedError

    def _fields(self, vector: str) -> dict[str, Field]:
        """Infer fields from the columns; columns that cannot become fields stay in the payload."""
        used = (self._id_column, vector, "payload")
        types = {name: kind for name, kind in self._types(vector).items() if name not in used}
        fields, kept = fields_of(types, legal_vector(vector))
        if kept:
            why = "kept in the payload, because their names or values suit no field"
            self.notes = (f"{why}: {', '.join(kept):.500}",)
        return fields

    def _types(self, vector: str) -> Mapping[str, Field | None]:
        """Return the field of each column, or None if its values go into the payload."""
        raise NotImplementedError

    def new_names(self, names: Collection[str], schema: Schema) -> dict[str, str]:
        """Return the name that each of these columns gets in the table.

        A column named like the table's id or vector gets another name, unless it contains the ids
        or the vectors.
        """
        moved = {self._vector: schema.vector}
        if self._id_column is not None:
            moved[self._id_column] = "id"
        return {name: moved.get(name) or free_name(name, ("id", schema.vector)) for name in names}
