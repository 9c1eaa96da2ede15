"""JSON Lines: each row the flat mapping that ``insert`` takes, datetimes in RFC 3339."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .._model.arrays import Float32Array
from .._model.arrow import payload_texts, python_values, to_matrix
from .._model.json_text import LossyJsonError, read_json
from .._model.schema import Schema
from ..backend.foreign import Chunk, ForeignTable, Reject
from .files import USUAL_VECTORS, TextReader, vector_length
from .foreign import BYTES_AT_ONCE, LONGEST_LINE, reading
from .parts import TextWriter

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
    dim = matrix.shape[1]
    offsets = pa.array(np.arange(0, len(flat) + 1, dim, dtype=np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ", ")
    return [f"[{text}]" for text in joined.to_pylist()]


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


class JsonLines(TextReader):
    """The rows of a JSON Lines file."""

    place = "line"

    def _columns(self) -> tuple[dict[str, int | None], str]:
        wanted = self._given.hints.vector_column
        usual = USUAL_VECTORS if wanted is None else (wanted,)
        columns: dict[str, int | None] = {}
        remark = ""
        nbytes = 0
        for number, value, size in islice(self._lines(), _FEW):
            if isinstance(value, Reject):
                remark = remark or f"; line {number}: {value.reason}"
                continue
            for name, item in value.items():
                columns[name] = columns.get(name) or vector_length(item)
            nbytes += size
            # More lines need not be waited for.
            if nbytes > BYTES_AT_ONCE or any(columns.get(name) for name in usual):
                break
        return columns, remark

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        self._file.seek(0)
        size = min(size, max(1, _NUMBERS_AT_ONCE // schema.dim))
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects: list[Reject] = []
        nbytes = 0
        with reading(self._path) as here:
            for number, value, length in self._lines():
                here.at = f"line {number}"
                if isinstance(value, Reject):
                    rejects.append(value)
                else:
                    rows.append(self._named(value, schema))
                    places.append(number)
                nbytes += length
                if len(rows) + len(rejects) >= size or nbytes >= BYTES_AT_ONCE:
                    yield Chunk(rows, places, rejects)
                    rows, places, rejects, nbytes = [], [], [], 0
            yield Chunk(rows, places, rejects)

    def _lines(self) -> Iterator[tuple[int, dict[str, Any] | Reject, int]]:
        """Each line that is not empty: its number, its object or why it has none, and its bytes."""
        number = 0
        while text := self._file.readline(LONGEST_LINE + 1):
            number += 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if len(text) > LONGEST_LINE:
                while text and not text.endswith(b"\n"):
                    text = self._file.readline(LONGEST_LINE)
                reason = f"the line is longer than {LONGEST_LINE:,} bytes"
                yield number, Reject(number, None, reason), 0
            elif text and not text.isspace():
                yield number, _object(number, text), len(text)


def _object(number: int, line: bytes) -> dict[str, Any] | Reject:
    """The object that a line holds, or why it holds none."""
    try:
        value = read_json(line.decode())
    except RecursionError:
        reason = "not JSON: it is nested too deeply"
    except LossyJsonError as exc:
        reason = str(exc)
    except ValueError as exc:
        reason = f"not valid JSON: {exc}"
    else:
        if isinstance(value, dict):
            return value
        reason = "not a JSON object"
    return Reject(number, None, reason)
