"""A file with one table: what is known of it beside its bytes, and which of its columns is the
vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._model.schema import Schema, check_field_name, may_lack_vectors
from ..backend.foreign import ForeignTable, Hints, Reader, legal_table_name
from ..errors import AiovecError, ConfigError
from .formats import sidecar_of

USUAL_VECTORS = ("embedding", "vector")
# More than any schema has.
_LARGEST_SCHEMA = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Given:
    """A file to read, open: one of Python's or pyarrow's, or a stream that ``path`` is a word for.

    ``told`` is the schema that the user gave, or that stands beside the file. ``there`` looks for
    the table that the rows go to.
    """

    path: Path
    form: str
    file: Any
    hints: Hints
    told: Schema | None
    there: Callable[[], Schema | None]

    @property
    def id_column(self) -> str:
        return self.hints.id_column or "id"

    def vector(self, columns: Mapping[str, int | None], remark: str = "") -> str | Schema:
        """The column of the vectors, as the user says or as ``guessed_vector``."""
        able = [name for name, length in columns.items() if length is not None]
        wanted = self.hints.vector_column
        found = guessed_vector(columns, self._table) if wanted is None else wanted
        if isinstance(found, Schema) or (found is not None and found in able):
            return found
        which = f"of {', '.join(map(repr, able))}" if able else "no list of numbers is there"
        raise ConfigError(
            f"no vector was found in {self.path} ({which:.200}){remark}; say by --vector-column "
            "where the vectors are, or give a --schema",
            file=str(self.path), key="--vector-column", accepted=", ".join(able),
        )  # fmt: skip

    def _table(self) -> Schema | None:
        return self.told or self.there()


class FileReader(Reader):
    """A reader of one file, whose rows are those of one table."""

    rows: int | None = None
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    schema: Schema

    @staticmethod
    def open(path: Path) -> Any:
        return path.open("rb")

    def __init__(self, given: Given) -> None:
        self._given = given
        self._path = given.path
        self._file = given.file

    def tables(self) -> list[ForeignTable]:
        name = legal_table_name(self._path.stem)
        return [
            ForeignTable(
                name, self._path.name, self._given.form, self.rows, self.schema, self.notes,
                self.omitted,
            )
        ]  # fmt: skip

    def close(self) -> None:
        self._file.close()


class TextReader(FileReader):
    """A reader of text, which carries no schema."""

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        vector = given.hints.vector_column
        schema = given.told
        if schema is None:
            columns, remark = self._columns()
            found = given.vector(columns, remark)
            if isinstance(found, Schema):
                schema = found
            else:
                vector = found
                schema = Schema(columns[found] or 1, vector=legal_vector(found))
        self.schema = schema
        self._vector = vector or schema.vector

    @abstractmethod
    def _columns(self) -> tuple[dict[str, int | None], str]:
        """Look at the first rows: their columns, with the length of the vectors that each holds.

        Beside them a remark for where there are none.
        """

    def _named(self, row: dict[str, Any], schema: Schema) -> dict[str, Any]:
        """The row by the table's names for the id and the vector.

        What else stands under these goes on behind an underscore, also where a row lacks what was
        said to be it.
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


def guessed_vector(
    columns: Mapping[str, int | None], there: Callable[[], Schema | None]
) -> str | Schema | None:
    """The column or key of the vectors, where nobody says which one.

    ``columns`` are all that the rows have, with the length of the vectors that each may hold.
    ``there`` looks for the table that they go to; where that takes rows without vectors, and these
    seem to have none, the result is its schema. None where something speaks against any guess.
    """
    able = [name for name, length in columns.items() if length is not None]
    if len(able) == 1 and able[0] in USUAL_VECTORS:
        return able[0]
    table = there()
    usual: tuple[str, ...] = USUAL_VECTORS
    if table is not None:
        usual = (table.vector, *usual)
        able = [name for name in able if name not in table.fields]
    for name in usual:
        if name in able:
            return name
    if table is not None and may_lack_vectors(table):
        return None if any(columns[name] == table.dim for name in able) else table
    unclear = len(able) != 1 or any(name in columns for name in usual)
    return None if unclear else able[0]


def legal_vector(name: str) -> str:
    """The name itself where a vector may have it."""
    try:
        return name if check_field_name(name).lower() not in ("id", "payload") else USUAL_VECTORS[0]
    except AiovecError:
        return USUAL_VECTORS[0]


def vector_length(value: Any) -> int | None:
    """Return the length of a vector; None for what is none."""
    kinds = set(map(type, value)) if isinstance(value, list) else set()
    return len(value) if kinds and kinds <= {int, float} else None


def check_names(path: Path, names: list[str]) -> None:
    """Refuse columns that cannot be told apart."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{path} has several columns of one name ({', '.join(map(repr, twice)):.200}), which "
            "cannot be told apart; write it again with different names",
            file=str(path),
        )


def sidecar_schema(path: Path) -> Schema | None:
    """The schema beside a file, if it is there."""
    sidecar = sidecar_of(path)
    return schema_in(sidecar) if sidecar.is_file() else None


def schema_in(path: Path) -> Schema:
    """The schema that a file of JSON tells."""
    try:
        if path.stat().st_size > _LARGEST_SCHEMA:
            raise ConfigError(f"{path} is too large for a schema", file=str(path))
        return Schema.from_json(path.read_text("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(
            f"the schema {path} cannot be read: {exc.strerror or exc}", file=str(path)
        ) from exc
    except (AiovecError, ValueError, TypeError) as exc:
        raise ConfigError(f"{path} holds no schema: {exc}", file=str(path)) from exc
