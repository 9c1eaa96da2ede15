"""CSV by RFC 4180: names in the first row, lists, objects and vectors as JSON.

An empty cell without quotes is null, and ``""`` is an empty text.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from .._model.arrow import payload_texts
from .._model.json_text import read_json
from .._model.schema import Schema
from ..backend.foreign import Chunk, ForeignTable, Reject
from .files import LONGEST_LINE, Given, TextReader, vector_length
from .jsonlines import json_values, vector_texts
from .writing import TextWriter

# Rows that are looked at if no schema is given.
_FEW = 100
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
# A list of JSON's numbers, which is what pyarrow's own parser takes too.
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_NUMBERS = rf"^\[{_NUMBER}(, ?{_NUMBER})*\]$"
# A row after the file's own, which comes out whole unless a quote is open before it.
_END = "\x01the end of the file"


class CsvFile(TextReader):
    """Reads a CSV file. Row 1 is the first line, which names the columns.

    Columns that the schema does not name are text in the payload.
    """

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self._names = self._header()
        columns: dict[str, int | None] = dict.fromkeys(self._names)
        if given.schema is None:
            first, _, _ = next(self._batches(), (None, [], []))
            if first is not None:
                for name, cells in zip(self._names, first.slice(0, _FEW).columns, strict=True):
                    lengths = (vector_length(_value(cell, "vector")) for cell in cells.to_pylist())
                    columns[name] = next(filter(None, lengths), None)
        self.settle(columns)
        known = self.schema if given.schema is not None else given.existing or self.schema
        more = [name for name in self._names if self._kind(name, known) is None]
        if more:
            self.notes = (
                f"kept in the payload, as text: {', '.join(more)}; fields of a --schema have types",
            )

    def _header(self) -> list[str]:
        """Return the names in the first line."""
        try:
            line = self._file.readline(LONGEST_LINE).decode("utf-8-sig")
            names = next(csv.reader([line], strict=True), [])
        except UnicodeDecodeError as exc:
            raise self.wrong("is not in UTF-8; write it again in UTF-8") from exc
        except csv.Error as exc:
            raise self.wrong(f"is no CSV file, its first line is wrong: {exc}") from exc
        if not names:
            raise self.wrong("is empty; a CSV file begins with the names of its columns")
        for separator, plural in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
            if len(names) == 1 and separator in line:
                raise self.wrong(f"has cells separated by {plural}; write it with commas")
        if "" in names:
            raise self.wrong(f"has no name in the first line for column {names.index('') + 1}")
        self.check_names(names)
        return names

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        kinds = [self._kind(name, schema) for name in self._names]
        for cells, numbers, rejects in self._batches():
            yield Chunk([], [], rejects)
            for start in range(0, len(numbers), size):
                part = cells.slice(start, size)
                yield self._chunk(part, numbers[start : start + size], kinds, schema)

    def _batches(self) -> Iterator[tuple[pa.RecordBatch, list[int], list[Reject]]]:
        """Yield cells as text, the numbers of their rows, and rows of another width before them."""
        width = len(self._names)
        bad: dict[int, Reject] = {}

        def wrong(row: Any) -> str:
            why = f"it has {row.actual_columns} cells, and the first line names {width} columns"
            bad[row.number] = Reject(row.number, None, why)
            return "skip"

        self._file.seek(0)
        number, ended = 2, False
        for cells in self._cells(wrong):
            numbers: list[int] = []
            while len(numbers) < len(cells):
                if number not in bad:
                    numbers.append(number)
                number += 1
            last = [column[-1].as_py() or "" for column in cells.columns] if numbers else []
            if any(_END in cell for cell in last):
                ended = all(cell == _END for cell in last)
                if not ended:
                    break
                cells = cells.slice(0, len(cells) - 1)
            yield cells, numbers[: len(cells)], [bad.pop(n) for n in sorted(bad) if n < number]
        if not ended:
            raise ValueError(f"row {max(number - 1, *bad, 1)}: a quote is opened and never closed")

    def _cells(self, wrong: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from pa.csv.open_csv(
                _Ended(self._file, len(self._names)),
                # Without threads a row that is skipped has its number.
                pa.csv.ReadOptions(use_threads=False, block_size=LONGEST_LINE),
                pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=wrong),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self._names, pa.utf8()),
                    null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                ),
            )  # fmt: skip
        except pa.ArrowInvalid as exc:
            if "straddl" not in str(exc):
                raise
            most = LONGEST_LINE // 2**20
            why = f"a row is longer than {most} MiB, or a quote is opened and never closed"
            raise ValueError(why) from exc

    def _kind(self, name: str, schema: Schema) -> str | None:
        """Return the type of a column's cells; None for text in the payload."""
        if name == self._given.id_column:
            return "text"
        if name in (self._vector, "payload"):
            return "vector" if name == self._vector else "payload"
        # Under another column's new name it is set aside into the payload.
        field = None if name in ("id", schema.vector) else schema.fields.get(name)
        return field.kind if field is not None else None

    def _chunk(
        self,
        cells: pa.RecordBatch,
        numbers: Sequence[int],
        kinds: Sequence[str | None],
        schema: Schema,
    ) -> Chunk:
        columns = [_values(*each) for each in zip(cells.columns, kinds, strict=True)]
        rows: list[dict[str, Any]] = []
        places: list[int | str] = []
        rejects = []
        for number, values in zip(numbers, zip(*columns, strict=True), strict=True):
            row = {
                n: value for n, value in zip(self._names, values, strict=True) if value is not None
            }
            payload = row.pop("payload", {})
            fault = _fault(payload, row, schema)
            if fault is None:
                # A declared field wins over a key of its name, as everywhere.
                rows.append(self.named({**payload, **row}, schema))
                places.append(number)
            else:
                id = row.get(self._given.id_column)
                rejects.append(Reject(number, id, f"column 'payload': {fault}"))
        return Chunk(rows, places, rejects)


def _fault(payload: Any, row: dict[str, Any], schema: Schema) -> str | None:
    """Return what is wrong with the payload of a row, if anything is."""
    if not isinstance(payload, dict):
        return "must be an object in JSON"
    clash = sorted(payload.keys() & row.keys() - schema.fields.keys())
    return f"has the key {clash[0]!r:.60}, which is a column too" if clash else None


class _Ended(io.RawIOBase):
    """A file followed by a row of ``_END``. UnicodeDecodeError if it is not in UTF-8."""

    def __init__(self, file: Any, width: int) -> None:
        self._file = file
        # pyarrow prints a traceback for a bad row that it cannot decode.
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._end = io.BytesIO(b"\n" + ",".join([_END] * width).encode())

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part: bytes = self._file.read(size)
        self._decoder.decode(part, final=len(part) < size)
        return part if len(part) == size else part + self._end.read(size - len(part))


def _values(cells: pa.Array, kind: str | None) -> Sequence[Any]:
    """Return the values of a column's cells."""
    vectors = _vectors_in(cells) if kind == "vector" else None
    return [_value(cell, kind) for cell in cells.to_pylist()] if vectors is None else vectors


def _vectors_in(cells: pa.Array) -> list[Any] | None:
    """Return the vectors, parsed all at once; None unless they are plain and of one length."""
    given = cells.drop_null()
    if not len(given) or not pc.all(pc.match_substring_regex(given, _NUMBERS)).as_py():
        return None
    numbers = pc.split_pattern(pc.replace_substring(given, " ", ""), ",")
    if pc.count_distinct(pc.list_value_length(numbers)).as_py() > 1:
        return None
    flat = pc.utf8_trim(numbers.flatten(), "[]").cast(pa.float64()).to_numpy()
    following = iter(flat.reshape(len(given), -1))
    return [next(following) if valid else None for valid in cells.is_valid().to_pylist()]


def _value(cell: str | None, kind: str | None) -> Any:
    """Return the value of a cell. One that does not fit stays text, which the store refuses."""
    if cell is None or kind in (None, "text", "datetime"):
        return cell
    if kind == "bool":
        return _BOOLS.get(cell.lower(), cell)
    try:
        value = read_json(cell)
    except (ValueError, RecursionError):
        return cell
    # pandas writes whole numbers as 1.0 if there are gaps among them.
    return int(value) if kind == "int" and type(value) is float and value.is_integer() else value


class CsvWriter(TextWriter):
    """Writes a header and rows. Text, JSON and datetimes are in quotes, null is empty."""

    def beginning(self, schema: pa.Schema) -> str:
        return ",".join(map(_quoted, schema.names)) + "\n"

    def text_of(self, batch: pa.RecordBatch) -> str:
        columns = [self._cells(name, batch.column(name)) for name in batch.schema.names]
        return "".join(f"{','.join(cells)}\n" for cells in zip(*columns, strict=True))

    def _cells(self, name: str, column: pa.Array) -> Sequence[str]:
        if self._schema is not None and name == self._schema.vector:
            return ["" if text == "null" else f'"{text}"' for text in vector_texts(column)]
        return list(map(_cell, payload_texts(column) if name == "payload" else json_values(column)))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _quoted(value)
    text = json.dumps(value, ensure_ascii=False)
    return _quoted(text) if isinstance(value, list) else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
