"""JSON Lines: each row the flat mapping that ``insert`` takes, datetimes in RFC 3339."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from .._model.arrays import Float32Array
from .._model.arrow import payload_texts, python_values, to_matrix
from .._model.ids import id_text
from .._model.json_text import LossyJsonError, read_json
from .._model.schema import Schema
from ..backend.foreign import (
    USUAL_VECTORS,
    Chunk,
    Hints,
    Reject,
    UnclearVectorError,
    guessed_vector,
    nothing_there,
)
from ..errors import AiovecError, ConfigError
from .foreign import BYTES_AT_ONCE, LARGEST_SCHEMA, LONGEST_LINE, reading
from .formats import sidecar_of
from .streams import InputStream
from .text_files import TextWriter

_FEW = 100  # lines that are looked at where no schema is given
# Numbers of vectors held at once: as Python's own they take eight times their room.
_NUMBERS_AT_ONCE = 1_000_000


def rows_of(batch: pa.RecordBatch, vector: str | None) -> Iterator[dict[str, Any]]:
    """A batch's rows as flat mappings of JSON values, without the vector."""
    columns = {
        name: json_values(batch.column(name))
        for name in batch.schema.names
        if name not in ("payload", vector)
    }
    payloads: list[str | None] = [None] * batch.num_rows
    if "payload" in batch.schema.names:
        payloads = payload_texts(batch.column("payload"))
    names = tuple(columns)
    for values, payload in zip(zip(*columns.values(), strict=True), payloads, strict=True):
        row = dict(zip(names, values, strict=True))
        # A declared field wins over a key of its name, as everywhere.
        yield {**row, **json.loads(payload), **row} if payload else row


def vector_texts(column: pa.Array) -> list[str]:
    if not column.null_count:
        return vectors_as_json(to_matrix(column))
    there = iter(vectors_as_json(to_matrix(column.drop_null())))
    return [next(there) if valid else "null" for valid in column.is_valid().to_pylist()]


def vectors_as_json(matrix: Float32Array) -> list[str]:
    """Each vector as a JSON array that reads back to the same bits, as short as may be."""
    flat = pa.array(matrix.reshape(-1), type=pa.float32())
    texts = flat.cast(pa.utf8())
    # JSON's -0 is a whole number, and a shortest text may fall on the wrong side when it is read
    # by way of float64. Both are rare, and then every digit is written.
    back = texts.cast(pa.float64()).to_numpy().astype(np.float32)
    negative_zero = bool(((matrix == 0) & np.signbit(matrix)).any())
    if negative_zero or not np.array_equal(back, matrix.reshape(-1)):
        return [json.dumps(row) for row in matrix.tolist()]
    words = texts.to_pylist()
    dim = matrix.shape[1]
    return [f"[{', '.join(words[i : i + dim])}]" for i in range(0, len(words), dim)]


def json_values(column: pa.Array) -> list[Any]:
    values = python_values(column)
    if pa.types.is_timestamp(column.type):
        return [None if v is None else _rfc3339(v) for v in values]
    return values


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


class JsonLinesWriter(TextWriter):
    """Writes rows, and beside them the schema, which JSON Lines cannot carry."""

    def text_of(self, batch: pa.RecordBatch) -> str:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(batch, self._vector)]
        if self._vector is not None:
            name = json.dumps(self._vector)
            vectors = vector_texts(batch.column(self._vector))
            # Every line is an object with an id, so there is a brace to put the vector before.
            lines = [
                f"{line[:-1]}, {name}: {vector}}}"
                for line, vector in zip(lines, vectors, strict=True)
            ]
        return "".join(f"{line}\n" for line in lines)


class JsonLines:
    """The rows of a JSON Lines file."""

    place = "line"
    rows: int | None = None
    notes: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path,
        hints: Hints,
        told: Schema | None,
        stream: InputStream | None = None,
        there: Callable[[], Schema | None] = nothing_there,
    ) -> None:
        self._path = path
        self._is_told = hints.vector_column is not None  # where the vectors are
        self._guessed = False
        self._id = hints.id_column or "id"
        self._file: IO[bytes] | InputStream = stream or path.open("rb")
        try:
            if told is None and stream is None:
                told = sidecar_schema(path)
                self._is_told |= told is not None
            self._begin(hints, told)
            self.schema = told or self._suggested(hints, there)
            self._vector = hints.vector_column or self.schema.vector
        except BaseException:
            self.close()
            raise

    def _begin(self, hints: Hints, told: Schema | None) -> None:
        """Read what stands before the rows."""

    def _lines(self, schema: Schema | None) -> Iterator[Line]:
        """The rows, as a table of this schema takes them; None is before it is known."""
        return objects_in(self._file)

    def _suggested(self, hints: Hints, there: Callable[[], Schema | None]) -> Schema:
        """The vector's name and length; every other key goes to the payload, as it is.

        Where none has a vector, the schema of a table that is there, if that takes such rows.
        """
        wanted = [hints.vector_column] if hints.vector_column else USUAL_VECTORS
        lengths: dict[str, int] = {}
        names: set[str] = set()
        bad: Reject | None = None
        nbytes = 0
        for _, row in zip(range(_FEW), self._lines(None), strict=False):
            nbytes += row.nbytes
            if nbytes > BYTES_AT_ONCE:
                break
            if isinstance(row.value, Reject):
                bad = bad or row.value
                continue
            names |= row.value.keys()
            for name, value in row.value.items():
                if _looks_like_vector(value):
                    lengths.setdefault(name, len(value))
            if any(name in lengths for name in wanted):  # more lines need not be waited for
                break
        if hints.vector_column in lengths:
            return Schema(lengths[hints.vector_column], vector=hints.vector_column)
        if hints.vector_column is None:
            with suppress(UnclearVectorError):
                table = cache(there)
                found = guessed_vector(lengths, names, lengths.get, table)
                if isinstance(found, Schema):
                    return found
                self._guessed = found not in wanted and found != getattr(table(), "vector", None)
                return Schema(lengths[found], vector=found)
        lists = f" (lists of numbers: {', '.join(map(repr, lengths)):.200})" if lengths else ""
        why = f"; {self.place} {bad.row} {bad.reason}" if bad is not None else ""
        raise ConfigError(
            f"no vector was found in the first {self.place}s of {self._path}{lists}{why}; say by "
            "--vector-column where the vectors are, or give a --schema",
            file=str(self._path), key="--vector-column",
        )  # fmt: skip

    def chunks(self, schema: Schema, size: int) -> Iterator[Chunk]:
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects: list[Reject] = []
        self._file.seek(0)
        size = min(size, max(1, _NUMBERS_AT_ONCE // schema.dim))
        nbytes = 0
        with reading(self._path) as here:
            for line in self._lines(schema):
                here.at = f"line {line.number}"
                if isinstance(line.value, Reject):
                    rejects.append(line.value)
                elif other := self._other_vector(line.value):
                    reason = (
                        f"has a vector in {other!r}, not in {self._vector!r}; say by "
                        "--vector-column which one counts"
                    )
                    rejects.append(Reject(line.number, id_text(line.value.get(self._id)), reason))
                else:
                    rows.append(self._row(line.value, schema))
                    places.append(line.number)
                nbytes += line.nbytes
                if len(rows) + len(rejects) >= size or nbytes >= BYTES_AT_ONCE:
                    yield Chunk(rows, places, rejects)
                    rows, places, rejects, nbytes = [], [], [], 0
            if rows or rejects:
                yield Chunk(rows, places, rejects)

    def _other_vector(self, row: dict[str, Any]) -> str | None:
        """Return the usual name of a vector that would go to the payload, in the place of one."""
        if self._is_told or not (self._guessed or row.get(self._vector) is None):
            return None
        for name in USUAL_VECTORS:
            if name == self._vector or name in self.schema.fields:
                continue
            if _looks_like_vector(_list_in(row.get(name))):
                return name
        return None

    def _row(self, row: dict[str, Any], schema: Schema) -> dict[str, Any]:
        renamed(row, self._id, "id")
        renamed(row, self._vector, schema.vector)
        return with_text_id(row)

    def close(self) -> None:
        self._file.close()


def renamed(row: dict[str, Any], old: str, new: str) -> None:
    """Give a key its name here. What stood under that name goes on behind an underscore.

    So a row without ``old`` has no ``new`` either: another value is not taken in its place.
    """
    if old == new:
        return
    set_aside(row, new)
    if old in row:
        row[new] = row.pop(old)


def set_aside(row: dict[str, Any], name: str) -> None:
    """Let what stands under a name go on behind an underscore."""
    if name in row:
        free = f"_{name}"
        while free in row:
            free = f"_{free}"
        row[free] = row.pop(name)


def with_text_id(row: dict[str, Any]) -> dict[str, Any]:
    """The row, its id as text where it is a whole number."""
    id = row.get("id")
    if isinstance(id, int) and not isinstance(id, bool):
        row["id"] = str(id)
    return row


class Line:
    """A line's number, from 1 as editors count, its object or why it has none, and its bytes."""

    __slots__ = ("nbytes", "number", "value")

    def __init__(self, number: int, value: dict[str, Any] | Reject, nbytes: int = 0) -> None:
        self.number = number
        self.value = value
        self.nbytes = nbytes


def lines_in(file: IO[bytes] | InputStream) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers; None for one too long. Empty ones are passed over."""
    number = 0
    while text := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if len(text) > LONGEST_LINE:
            while text and not text.endswith(b"\n"):
                text = file.readline(LONGEST_LINE)
            yield number, None
        elif text and not text.isspace():
            yield number, text


def objects_in(file: IO[bytes] | InputStream) -> Iterator[Line]:
    """The objects of a file, a line for each. Empty lines are passed over."""
    for number, text in lines_in(file):
        if text is None:
            reason = f"the line is longer than {LONGEST_LINE:,} bytes"
            yield Line(number, Reject(number, None, reason))
            continue
        try:
            value = read_json(text.decode())
        except RecursionError:
            yield Line(number, Reject(number, None, "not JSON: it is nested too deeply"))
            continue
        except LossyJsonError as exc:
            yield Line(number, Reject(number, None, str(exc)))
            continue
        except ValueError as exc:
            yield Line(number, Reject(number, None, f"not valid JSON: {exc}"))
            continue
        if isinstance(value, dict):
            yield Line(number, value, len(text))
        else:
            yield Line(number, Reject(number, None, "not a JSON object"))


def sidecar_schema(path: Path) -> Schema | None:
    """The schema beside a file, if it is there."""
    sidecar = sidecar_of(path)
    return schema_in(sidecar) if sidecar.is_file() else None


def schema_in(path: Path) -> Schema:
    """The schema that a file of JSON tells."""
    try:
        if path.stat().st_size > LARGEST_SCHEMA:
            raise ConfigError(f"{path} is too large for a schema", file=str(path))
        return Schema.from_json(path.read_text("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(
            f"the schema {path} cannot be read: {exc.strerror or exc}", file=str(path)
        ) from exc
    except (AiovecError, ValueError, TypeError) as exc:
        raise ConfigError(f"{path} holds no schema: {exc}", file=str(path)) from exc


def _list_in(value: Any) -> Any:
    """The list that the text of a cell of CSV is, or the value itself."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return read_json(value)
        except ValueError:
            pass
    return value


def _looks_like_vector(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    )
