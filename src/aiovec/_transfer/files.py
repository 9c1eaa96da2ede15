"""Files with one table: their formats and schemas, and which of their columns is the vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .._model.schema import Schema, check_field_name, may_lack_vectors
from ..backend.foreign import ForeignTable, Hints, Reader, legal_table_name
from ..errors import AiovecError, ConfigError

FORMATS = ("parquet", "arrow", "arrow-stream", "jsonl", "csv")
TEXTS = ("jsonl", "csv")
USUAL_VECTORS = ("embedding", "vector")
# Rows of large texts are read in smaller chunks.
BYTES_AT_ONCE = 32 * 2**20
# A vector of 8,192 numbers takes 200 KB as text.
LONGEST_LINE = 16 * 2**20

_SUFFIXES = {
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
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow-stream"}
_MESSAGE_LENGTH = 300


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any exception of a reader into a ConfigError that names the file."""
    try:
        yield
    except AiovecError:
        raise
    except Exception as exc:
        text = " ".join(str(exc).split())[:_MESSAGE_LENGTH].rstrip(".")
        if isinstance(exc, RecursionError):
            text = "a value in it is nested too deeply"
        elif isinstance(exc, OSError) and exc.strerror:
            text = exc.strerror
        raise ConfigError(
            f"{path} cannot be read: {text or type(exc).__name__}. Write the file again, or in "
            "another format",
            file=str(path),
        ) from exc


def format_of(path: Path, given: str | None) -> str:
    """Return the format that the user gave, or that the suffix of the file stands for."""
    accepted = ", ".join(FORMATS)
    found = given or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"the name {path.name} does not show its format; pass --format {accepted}, or use one "
            f"of the suffixes {', '.join(_SUFFIXES)}",
            key="--format", accepted=accepted,
        )  # fmt: skip
    if found not in FORMATS:
        raise ConfigError(
            f"there is no format {found!r}; the formats are: {accepted}",
            key="--format", accepted=accepted,
        )  # fmt: skip
    return found


def format_of_content(path: Path, file: IO[bytes], given: str | None) -> str:
    """Return the format of an open file, by its first bytes if the user gave none."""
    head = file.read(8)
    file.seek(0)
    by_content = [form for magic, form in _MAGIC.items() if head.startswith(magic)]
    found = by_content[0] if by_content and given is None else format_of(path, given)
    # An Arrow file without its magic bytes is a stream.
    return "arrow-stream" if found == "arrow" and by_content != ["arrow"] else found


def schema_file(path: Path) -> Path:
    """Return the file that holds the schema of a file whose format cannot carry one."""
    return path.with_name(f"{path.name}.schema.json")


def schema_in(path: Path) -> Schema:
    """Read a schema from a JSON file."""
    try:
        return Schema.from_json(path.read_text("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(
            f"the schema {path} cannot be read: {exc.strerror or exc}", file=str(path)
        ) from exc
    except (AiovecError, ValueError, TypeError, RecursionError) as exc:
        raise ConfigError(f"{path} holds no schema: {exc}", file=str(path)) from exc


@dataclass(frozen=True, slots=True)
class Given:
    """An open file to read.

    ``schema`` is the one that the user gave, or that is stored next to the file. ``existing`` is
    the schema of the table that the rows go to.
    """

    path: Path
    form: str
    file: IO[bytes]
    hints: Hints
    schema: Schema | None
    existing: Schema | None

    @property
    def id_column(self) -> str:
        return self.hints.id_column or "id"


class FileReader(Reader):
    """A reader of one file, which holds the rows of one table."""

    schema: Schema
    rows: int | None = None
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()

    def __init__(self, given: Given) -> None:
        self._given = given
        self._file = given.file

    def tables(self) -> list[ForeignTable]:
        path = self._given.path
        name = legal_table_name(path.stem)
        return [
            ForeignTable(
                name, path.name, self._given.form, self.rows, self.schema, self.notes, self.omitted
            )
        ]

    def close(self) -> None:
        self._file.close()

    def wrong(self, what: str, key: str | None = None, accepted: str = "") -> ConfigError:
        """Return an error about the file."""
        path = str(self._given.path)
        return ConfigError(f"{path} {what}", file=path, key=key, accepted=accepted)

    def check_names(self, names: list[str]) -> None:
        """Refuse columns that cannot be told apart, and columns that the user names in vain."""
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise self.wrong(
                f"has several columns of one name ({', '.join(map(repr, twice)):.200})"
            )
        hints = self._given.hints
        for option, name in (
            ("--id-column", self._given.id_column), ("--vector-column", hints.vector_column),
        ):  # fmt: skip
            if name is not None and name not in names:
                accepted = ", ".join(names)
                what = f"has no column {name!r}; pass {option} with one of: {accepted:.200}"
                raise self.wrong(what, option, accepted)

    def find_vector(self, columns: Mapping[str, int | None], remark: str = "") -> str | None:
        """Return the column of the vectors; None if the rows come without vectors.

        ``columns`` are all columns, with the length of the vectors in those that may hold some.
        """
        able = [name for name, length in columns.items() if length is not None]
        wanted = self._given.hints.vector_column
        found = self._guess(columns, able) if wanted is None else wanted
        if found is None or found in able:
            return found
        which = f"of {', '.join(map(repr, able))}" if able else "no list of numbers is there"
        raise ConfigError(
            f"no vector was found in {self._given.path} ({which:.200}){remark}; say by "
            "--vector-column where the vectors are, or give a --schema",
            file=str(self._given.path), key="--vector-column", accepted=", ".join(able),
        )  # fmt: skip

    def _guess(self, columns: Mapping[str, int | None], able: list[str]) -> str | None:
        """Return a column, None for rows without vectors, or "" if something contradicts both."""
        table = self._given.schema or self._given.existing
        for name in USUAL_VECTORS if table is None else (table.vector, *USUAL_VECTORS):
            if name in columns:
                return name if name in able else ""
        others = [name for name in able if table is None or name not in table.fields]
        if table is not None and may_lack_vectors(table):
            return "" if any(columns[name] == table.dim for name in others) else None
        return others[0] if len(others) == 1 else ""


class TextReader(FileReader):
    """A reader of text, which carries no schema."""

    def settle(self, columns: Mapping[str, int | None], remark: str = "") -> None:
        """Set the schema and the column of the vectors by the first rows."""
        given = self._given
        vector = given.hints.vector_column
        if given.schema is not None:
            self.schema = given.schema
        else:
            vector = self.find_vector(columns, remark)
            if vector is not None:
                self.schema = Schema(columns[vector] or 1, vector=legal_vector(vector))
            elif given.existing is not None:
                self.schema = given.existing
        self._vector = vector or self.schema.vector

    def named(self, row: dict[str, Any], schema: Schema) -> dict[str, Any]:
        """Return the row by the table's names of the id and the vector.

        A value that already has one of these names gets an underscore before its own.
        """
        for old, new in ((self._given.id_column, "id"), (self._vector, schema.vector)):
            if old == new:
                continue
            if new in row:
                free = f"_{new}"
                while free in row:
                    free = f"_{free}"
                row[free] = row.pop(new)
            if old in row:
                row[new] = row.pop(old)
        if type(row.get("id")) is int:
            row["id"] = str(row["id"])
        return row


def legal_vector(name: str) -> str:
    """Return the name itself if a vector may have it."""
    try:
        return name if check_field_name(name).lower() not in ("id", "payload") else USUAL_VECTORS[0]
    except AiovecError:
        return USUAL_VECTORS[0]


def vector_length(value: Any) -> int | None:
    """Return the length of a vector; None for any other value."""
    kinds = set(map(type, value)) if isinstance(value, list) else set()
    return len(value) if kinds and kinds <= {int, float} else None
