"""Read and write JSON Lines: flat objects like the rows of ``insert``, with RFC 3339 datetimes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec._input.infer import kinds_in, vector_length
from aiovec.backend import (
    Field,
    LossyJsonError,
    Schema,
    payload_texts,
    python_values,
    read_json,
    to_matrix,
)

from .files import FIRST_ROWS, LONGEST_LINE, MOMENT, FileReader, field_of_texts
from .sources import Chunk, ForeignTable, Reject, in_parts

# Number of lines to examine together when the types of fields are inferred.
_SOME = 1000
# Vector components in memory at a time: Python floats take eight times the memory of float32.
_NUMBERS_AT_ONCE = 1_000_000


class JsonLines(FileReader):
    """Reads a JSON Lines file."""

    place = "line"

    def _begin(self) -> None:
        self._lengths: dict[str, int | None] = {}
        remark = ""
        for (number, value), _ in islice(self._lines(), FIRST_ROWS):
            if isinstance(value, Reject):
                remark = remark or f"; line {number}: {value.reason}"
                continue
            for name, item in value.items():
                self._lengths[name] = self._lengths.get(name) or vector_length(item)
        self.settle(self._lengths, remark=remark)

    def _dim(self, name: str) -> int | None:
        return self._lengths[name]

    def _types(self, vector: str) -> dict[str, Field | None]:
        kinds: dict[str, set[str]] = {}
        lines = self._texts()
        while batch := list(islice(lines, _SOME)):
            columns: dict[str, list[Any]] = {}
            for _, line in batch:
                row = None
                # An invalid line is rejected later, when the rows are read.
                with suppress(ValueError, RecursionError):
                    row = json.loads(line)
                for name, value in row.items() if isinstance(row, dict) else ():
                    if name != vector:
                        columns.setdefault(name, []).append(value)
            for name, values in columns.items():
                kinds.setdefault(name, set()).update(_kinds_of(values))
        # If a column to embed or to search has other values than texts, their rows are rejected.
        texts = {name for name in self._wanted.texts if kinds.get(name, set()) & {"text", "moment"}}
        return {
            name: Field("text") if name in texts else field_of_texts(kind)
            for name, kind in kinds.items()
        }

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        size = min(size, max(1, _NUMBERS_AT_ONCE // schema.dim))
        for part in in_parts(self._lines(), size):
            rejects = [value for _, value in part if isinstance(value, Reject)]
            lines = [(number, value) for number, value in part if isinstance(value, dict)]
            rows = [self._row(value, schema) for _, value in lines]
            yield Chunk(rows, [number for number, _ in lines], rejects)

    def _row(self, value: dict[str, Any], schema: Schema) -> dict[str, Any]:
        names = self.new_names(value.keys(), schema)
        return {names[key]: item for key, item in value.items()}

    def _lines(self) -> Iterator[tuple[tuple[int, dict[str, Any] | Reject], int]]:
        """For each non-empty line, yield (number, object or reject) and the line's length."""
        for number, text in self._texts():
            yield (number, _object(number, text)), len(text)

    def _texts(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the text of each non-empty line."""
        self._file.seek(0)
        number = 0
        while text := self._file.readline(LONGEST_LINE):
            number += 1
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if len(text) == LONGEST_LINE:
                raise ValueError(f"line {number} is longer than {LONGEST_LINE:,} bytes")
            if text and not text.isspace():
                yield number, text


def _kinds_of(values: list[Any]) -> set[str]:
    """Return ``kinds_in(values)``, with "moment" instead of "text" if all strings are datetimes."""
    kinds = kinds_in(values)
    texts = (value for value in values if isinstance(value, str))
    if "text" in kinds and all(re.fullmatch(MOMENT, text) for text in texts):
        return kinds - {"text"} | {"moment"}
    return kinds


def _object(number: int, line: bytes) -> dict[str, Any] | Reject:
    """Return the object in a line, or a reject if the line is not an object."""
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


def lines_of(batch: pa.RecordBatch, vector: str | None) -> Iterator[str]:
    """Yield each row as a line."""
    names = [name for name in batch.schema.names if name not in ("payload", vector)]
    columns = [json_values(batch.column(name)) for name in names]
    payloads: list[str | None] = [None] * batch.num_rows
    if "payload" in batch.schema.names:
        payloads = payload_texts(batch.column("payload"))
    vectors = None if vector is None else iter(vector_texts(batch.column(vector)))
    for values, payload in zip(zip(*columns, strict=True), payloads, strict=True):
        row = dict(zip(names, values, strict=True))
        if payload:  # a declared field wins over a payload key of the same name, as everywhere
            row = {**row, **json.loads(payload), **row}
        line = json.dumps(row, ensure_ascii=False)
        # Each line is an object with at least an id, so another member can follow.
        if vectors is not None:
            line = f"{line[:-1]}, {json.dumps(vector)}: {next(vectors)}}}"
        yield f"{line}\n"


def vector_texts(column: pa.Array) -> list[str]:
    """Return each vector as a JSON array that reads back to the same bits, or ``null``."""
    matrix = to_matrix(column.drop_null())
    flat = pa.array(matrix.reshape(-1), type=pa.float32())
    texts = flat.cast(pa.utf8())
    # JSON's -0 is an integer, and the shortest text of a float32 may round to another float32 when
    # it is parsed as float64. In these rare cases, all digits are written.
    back = texts.cast(pa.float64()).to_numpy().astype(np.float32)
    negative_zero = bool(((matrix == 0) & np.signbit(matrix)).any())
    if negative_zero or not np.array_equal(back, matrix.reshape(-1)):
        vectors = [json.dumps(row) for row in matrix.tolist()]
    else:
        offsets = pa.array(np.arange(0, len(flat) + 1, matrix.shape[1], dtype=np.int32))
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ", ")
        vectors = [f"[{text}]" for text in joined.to_pylist()]
    following = iter(vectors)
    return [next(following) if valid else "null" for valid in column.is_valid().to_pylist()]


def json_values(column: pa.Array) -> list[Any]:
    """Return the values of a column as JSON types."""
    values = python_values(column)
    if pa.types.is_timestamp(column.type):  # in RFC 3339
        return [None if v is None else v.isoformat().replace("+00:00", "Z") for v in values]
    return values
