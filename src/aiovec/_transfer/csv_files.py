"""CSV by RFC 4180: names in the first row, lists, objects and vectors as JSON.

An empty cell without quotes is null, and ``""`` is an empty text.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from .._model.arrow import payload_texts
from .._model.json_text import LossyJsonError, read_json
from .._model.schema import Schema
from ..backend.foreign import Chunk, ForeignTable, Reject
from ..errors import ConfigError
from .files import Given, TextReader, check_names, vector_length
from .foreign import LONGEST_LINE, reading
from .jsonlines import json_values, vector_texts
from .parts import TextWriter

_FEW = 100  # rows that are looked at where no schema is given
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")  # pandas writes whole numbers with gaps as 1.0
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# A row behind the file's own, which comes out whole unless a quote is open before it.
_END = b"\x01the end of the file"


class CsvWriter(TextWriter):
    """Writes a header and rows. Texts, JSON and datetimes are in quotes, null is empty."""

    def beginning(self, schema: pa.Schema) -> str:
        return ",".join(map(_quoted, schema.names)) + "\n"

    def text_of(self, batch: pa.RecordBatch) -> str:
        columns = [self._cells(name, batch.column(name)) for name in batch.schema.names]
        return "".join(f"{','.join(cells)}\n" for cells in zip(*columns, strict=True))

    def _cells(self, name: str, column: pa.Array) -> Sequence[str]:
        if name == self._vector:
            return ["" if text == "null" else f'"{text}"' for text in vector_texts(column)]
        values = payload_texts(column) if name == "payload" else json_values(column)
        return [_cell(value) for value in values]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _quoted(value)
    text = json.dumps(value, ensure_ascii=False)
    return _quoted(text) if isinstance(value, list) else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


class CsvFile(TextReader):
    """The rows of a CSV file, numbered from its first one, which names the columns.

    Columns that the schema does not name are texts in the payload.
    """

    def __init__(self, given: Given) -> None:
        self._names, self._first, self._remark = _beginning(given)
        super().__init__(given)
        known = self.schema if given.told is not None else given.there() or self.schema
        if more := [name for name in self._names if self._decoder(name, known) is None]:
            self.notes = (
                f"kept in the payload, as text: {', '.join(more)}; fields of a --schema have types",
            )

    def _columns(self) -> tuple[dict[str, int | None], str]:
        columns: dict[str, int | None] = dict.fromkeys(self._names)
        for row in self._first:
            for name, cell in zip(self._names, row, strict=False):
                columns[name] = columns[name] or _length_in(cell)
        return columns, self._remark

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        self._file.seek(0)
        decoders = [self._decoder(name, schema) for name in self._names]
        with reading(self._path) as here:
            for cells, numbers, rejects in self._batches():
                yield Chunk([], [], rejects)
                for start in range(0, len(numbers), size):
                    part = cells.slice(start, size)
                    yield self._chunk(part, numbers[start : start + size], decoders, schema)
                here.at = f"a row behind {numbers[-1]}" if numbers else ""

    def _batches(self) -> Iterator[tuple[pa.RecordBatch, list[int], list[Reject]]]:
        """Cells in bytes, the numbers of their rows, and the rows before them of another width."""
        width = len(self._names)
        bad: dict[int, Reject] = {}

        def wrong(row: Any) -> str:
            why = f"it has {row.actual_columns} cells, and the first line names {width} columns"
            bad[row.number] = Reject(row.number, None, why)
            return "skip"

        number = 2
        ended = False
        for cells, following in pairwise(chain(self._cells(wrong), [None])):
            numbers: list[int] = []
            while len(numbers) < len(cells):
                if number not in bad:
                    numbers.append(number)
                number += 1
            if following is None:
                ended = bool(numbers) and all(c[-1].as_py() == _END for c in cells.columns)
                cells = cells.slice(0, len(cells) - 1)
            if following is not None or ended:
                rejects = [bad.pop(n) for n in sorted(bad) if n < number]
                yield cells, numbers[: len(cells)], rejects
        if not ended:
            raise ValueError(f"row {max(number - 1, *bad, 1)}: a quote is opened and never closed")

    def _cells(self, wrong: Callable[[Any], str]) -> Iterator[pa.RecordBatch]:
        """The cells of the rows, and of the one behind them; ``wrong`` is told of bad rows."""
        try:
            yield from pa.csv.open_csv(
                _Ended(self._file, len(self._names)),
                # Without threads a row that is skipped has its number.
                pa.csv.ReadOptions(use_threads=False, block_size=LONGEST_LINE),
                pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=wrong),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self._names, pa.binary()),
                    null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
        except pa.ArrowInvalid as exc:
            if "straddles" not in str(exc):
                raise
            most = LONGEST_LINE // 2**20
            why = f"a row is longer than {most} MiB, or a quote is opened and never closed"
            raise ValueError(why) from exc

    def _decoder(self, name: str, schema: Schema) -> Callable[[str], Any] | None:
        """Return what makes a value of a cell in the column; None for a text in the payload."""
        if name == self._given.id_column:
            return str
        if name == self._vector:
            return _as_vector
        if name == "payload":
            return _as_object
        # Under another column's new name it is set aside into the payload.
        field = None if name in ("id", schema.vector) else schema.fields.get(name)
        if field is None:
            return None
        return _as_list if field.is_list else _DECODERS.get(field.kind, str)

    def _chunk(
        self,
        cells: pa.RecordBatch,
        numbers: Sequence[int],
        decoders: Sequence[Callable[[str], Any] | None],
        schema: Schema,
    ) -> Chunk:
        columns: list[list[Any]] = []
        faults: dict[int, str] = {}
        for name, decoder, column in zip(self._names, decoders, cells.columns, strict=True):
            values, found = _decoded(column, decoder)
            columns.append(values)
            for i, fault in found.items():
                faults.setdefault(i, f"column {name!r}: {fault}")
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects = []
        for i, (number, own) in enumerate(zip(numbers, zip(*columns, strict=True), strict=True)):
            row = {n: value for n, value in zip(self._names, own, strict=True) if value is not None}
            if i not in faults and _as_object in decoders:
                payload = row.pop("payload", {})
                for key in payload.keys() & row.keys() - schema.fields.keys():
                    faults[i] = f"column 'payload': has the key {key!r:.60}, which is a column too"
                # A declared field wins over a key of its name, as everywhere.
                row = {**payload, **row}
            if i in faults:
                rejects.append(Reject(number, row.get(self._given.id_column), faults[i]))
            else:
                rows.append(self._named(row, schema))
                places.append(number)
        return Chunk(rows, places, rejects)


class _Ended(io.RawIOBase):
    """A file with a row of ``_END`` behind it. ValueError where it is not in UTF-8."""

    def __init__(self, file: Any, width: int) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._line = 1
        self._end = io.BytesIO(b"\n" + b",".join([_END] * width))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part: bytes = self._file.read(size)
        try:
            self._decoder.decode(part, final=len(part) < size)
        except UnicodeDecodeError as exc:
            line = self._line + exc.object.count(b"\n", 0, exc.start)
            raise ValueError(f"line {line} is not in UTF-8") from exc
        self._line += part.count(b"\n")
        return part if len(part) == size else part + self._end.read(size - len(part))


def _beginning(given: Given) -> tuple[list[str], list[list[str]], str]:
    """The names of the columns, a few rows as Python's own reader sees them, and what ends it."""
    lines = iter(lambda: given.file.readline(LONGEST_LINE), b"")
    texts = (line.removeprefix(codecs.BOM_UTF8).decode() for line in lines)
    found: list[list[str]] = []
    remark = ""
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        for row in filter(None, csv.reader(texts, strict=True)):
            found.append(row)
            if given.told is not None or len(found) > _FEW:
                break
    except UnicodeDecodeError as exc:
        raise _no_csv(given, f"its line {len(found) + 1} is in another encoding") from exc
    except csv.Error as exc:
        remark = "a quote is never closed" if "end of data" in str(exc) else str(exc)
        if not found:
            raise _no_csv(given, remark) from exc
        remark = f"; row {len(found) + 1}: {remark}"
    finally:
        csv.field_size_limit(limit)
    if not found:
        raise _wrong(given, "is empty; a CSV file begins with the names of its columns")
    names, *rows = found
    text = "".join(names)
    if "\0" in text:
        raise _no_csv(given, "its first line has NUL bytes")
    for separator, plural in _SEPARATORS.items():
        if len(names) == 1 and separator in text:
            what = f"has the one column {text!r:.80}; its cells seem to be separated by {plural}"
            raise _wrong(given, f"{what}. Write the file with commas")
    if "" in names:
        what = f"has no name in the first line for column {names.index('') + 1}"
        raise _wrong(given, f"{what}; give it one, or write the file without the column")
    check_names(given.path, names)
    for option, name in (
        ("--id-column", given.hints.id_column), ("--vector-column", given.hints.vector_column),
    ):  # fmt: skip
        if name is not None and name not in names:
            raise ConfigError(
                f"{given.path} has no column {name!r}; its columns: {', '.join(names)}",
                file=str(given.path), key=option, accepted=", ".join(names),
            )  # fmt: skip
    return names, rows, remark


def _wrong(given: Given, what: str) -> ConfigError:
    return ConfigError(f"{given.path} {what}", file=str(given.path))


def _no_csv(given: Given, reason: str) -> ConfigError:
    what = f"is no CSV file in UTF-8: {reason}. Write it again as CSV with commas, in UTF-8"
    return _wrong(given, what)


def _decoded(
    cells: pa.Array, decoder: Callable[[str], Any] | None
) -> tuple[list[Any], dict[int, str]]:
    """The values of a column's cells, and what is wrong with those that have none."""
    if decoder is _as_vector and (vectors := _vectors_in(cells)) is not None:
        return vectors, {}
    texts = cells.cast(pa.utf8()).to_pylist()
    if decoder is None or decoder is str:
        return texts, {}
    values: list[Any] = [None] * len(texts)
    faults: dict[int, str] = {}
    for i, text in enumerate(texts):
        try:
            if text is not None:
                values[i] = decoder(text)
        except RecursionError:
            faults[i] = "is nested too deeply"
        except ValueError as exc:
            faults[i] = str(exc)
    return values, faults


def _vectors_in(cells: pa.Array) -> list[Any] | None:
    """The vectors of cells, read in one go; None where one needs a closer look."""
    there = cells.drop_null()
    brackets = pc.and_(pc.starts_with(there, b"["), pc.ends_with(there, b"]"))
    if not len(there) or not pc.all(brackets).as_py():
        return None
    comma = b", " if b", " in there[0].as_py() else b","
    try:
        numbers = pc.split_pattern(pc.binary_slice(there, 1, -1), comma)
        values = numbers.flatten().cast(pa.utf8()).cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        return None
    if pc.count_distinct(pc.list_value_length(numbers)).as_py() > 1:
        return None
    vectors = iter(values.reshape(len(there), -1))
    return [next(vectors) if valid else None for valid in cells.is_valid().to_pylist()]


def _length_in(cell: str) -> int | None:
    try:
        return vector_length(read_json(cell)) if cell.startswith("[") else None
    except (ValueError, RecursionError):
        return None


def _as_int(cell: str) -> int:
    if not _WHOLE.fullmatch(cell):
        raise ValueError(f"must be a whole number, not {cell!r:.60}")
    return int(cell.partition(".")[0])


def _as_float(cell: str) -> float:
    try:
        if "_" in cell:
            raise ValueError
        number = float(cell)
    except ValueError:
        raise ValueError(f"must be a number, not {cell!r:.60}") from None
    if math.isinf(number) and "inf" not in cell.lower():
        raise ValueError(f"the number {cell:.60} is beyond those of float64")
    return number


def _as_bool(cell: str) -> bool:
    value = _BOOLS.get(cell.lower())
    if value is None:
        raise ValueError(f"must be true or false, not {cell!r:.60}")
    return value


def _as_json(cell: str, kind: type, wanted: str) -> Any:
    try:
        value = read_json(cell)
    except LossyJsonError:
        raise
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"must be {wanted} in JSON, not {cell!r:.60}")
    return value


def _as_list(cell: str) -> Any:
    return _as_json(cell, list, "a list")


def _as_vector(cell: str) -> Any:
    return _as_json(cell, list, "a vector, a list of numbers")


def _as_object(cell: str) -> Any:
    return _as_json(cell, dict, "an object")


_DECODERS: dict[str, Callable[[str], Any]] = {"int": _as_int, "float": _as_float, "bool": _as_bool}
