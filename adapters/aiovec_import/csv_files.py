"""Read and write CSV as in RFC 4180, with column names in the first row.

Lists, objects and vectors are JSON. An empty cell is null or, if quoted, an empty string.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from aiovec._input.infer import vector_length
from aiovec.backend import Field, Schema, payload_texts, read_json

from .files import FIRST_ROWS, LONGEST_LINE, MOMENT, FileReader, field_of_texts
from .jsonlines import json_values, vector_texts
from .sources import Chunk, ForeignTable, Reject

# The beginning of the row that is appended to the file. If the parser does not reach that row, a
# cell with an unclosed quote has swallowed it.
_END = uuid.uuid4().hex
# How files of other formats begin, and what to do with them.
_NO_TEXTS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PAR1": "Parquet; pass --format parquet",
}
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class CsvFile(FileReader):
    """Reads a CSV file. Row 1 is the first line, which names the columns.

    Without a schema, the type of a column depends on all its cells, whereas pyarrow would look at
    one block only; a column of mixed types is text. Columns that the schema does not name become
    text in the payload.
    """

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._names = self._header()
        # One pass over the file finds the types. Its first batch shows the lengths of the vectors.
        self._pass = self._batches()
        self._first, _, rejects = next(self._pass)
        if not (self._first or rejects or self._given or self._existing):
            raise self.wrong("has no rows to make a table from")
        self.settle(self._names)
        del self._pass, self._first
        kinds = self._kinds(self.new_names(self._names, self.schema), self.schema)
        if more := [name for name, kind in zip(self._names, kinds, strict=True) if kind is None]:
            self.notes: tuple[str, ...] = (
                f"kept in the payload, as text: {', '.join(more)}; fields of a --schema have types",
            )

    def _dim(self, name: str) -> int | None:
        column = self._first.column(self._names.index(name)).drop_null().slice(0, FIRST_ROWS)
        lengths = (vector_length(_value(cell, "vector")) for cell in column.to_pylist())
        return next(filter(None, lengths), None)

    def _types(self, vector: str) -> dict[str, Field | None]:
        kinds: dict[str, set[str]] = {name: set() for name in self._names if name != vector}
        for cells in chain([self._first], (cells for cells, _, _ in self._pass)):
            for name, kind in kinds.items():
                kind |= _kinds_of_cells(cells.column(name).drop_null())
        return {
            name: field_of_texts(kind) or (Field("text") if kind else None)
            for name, kind in kinds.items()
        }

    def _header(self) -> list[str]:
        """Return the column names in the first line."""
        try:
            start = self._file.readline(LONGEST_LINE)
            for magic, what in _NO_TEXTS.items():
                if start.startswith(magic):
                    raise self.wrong(f"is not CSV but {what}")
            line = start.decode("utf-8-sig")
            names = next(csv.reader([line], strict=True), [])
        except UnicodeDecodeError as exc:
            raise self.wrong("is not in UTF-8; write it again in UTF-8") from exc
        except csv.Error as exc:
            raise self.wrong(f"is not a CSV file, because its first line is wrong: {exc}") from exc
        if not names:
            raise self.wrong("is empty; a CSV file begins with the names of its columns")
        if len(names) == 1 and (mark := next((each for each in ";\t|" if each in line), "")):
            raise self.wrong(f"looks separated by {mark!r}; write it with commas", "SOURCE")
        if "" in names:
            raise self.wrong(f"has no name in the first line for column {names.index('') + 1}")
        self.check_names(names)
        return names

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        names = self.new_names(self._names, schema)
        kinds = self._kinds(names, schema)
        for cells, numbers, rejects in self._batches():
            yield Chunk([], [], rejects)
            for start in range(0, len(numbers), size):
                rows: list[dict[str, Any]] = []
                places: list[int | str] = []
                rejects = []
                columns = [
                    [_value(cell, kind) for cell in column.to_pylist()]
                    for column, kind in zip(cells.slice(start, size).columns, kinds, strict=True)
                ]
                for number, *values in zip(numbers[start : start + size], *columns, strict=True):
                    row = {
                        new: v
                        for new, v in zip(names.values(), values, strict=True)
                        if v is not None
                    }
                    payload = row.pop("payload", {})
                    fault = _fault(payload, row, schema)
                    if fault is None:
                        # A declared field wins over a payload key of the same name, as everywhere.
                        rows.append({**payload, **row})
                        places.append(number)
                    else:
                        rejects.append(Reject(number, row.get("id"), f"column 'payload': {fault}"))
                yield Chunk(rows, places, rejects)

    def _batches(self) -> Iterator[tuple[pa.RecordBatch, list[int], list[Reject]]]:
        """Yield cells as text, their row numbers, and rejects for rows of the wrong width."""
        width, number = len(self._names), 2
        bad: dict[int, Reject] = {}
        file = CheckedFile(self._file, self._lock, f"\n{_END}{',' * width}")

        def wrong(row: Any) -> str:
            if row.text.startswith(_END):
                file.is_whole = True
                return "skip"
            why = f"it has {row.actual_columns} cells, and the first line names {width} columns"
            bad[row.number] = Reject(row.number, None, why)
            return "skip"

        columns = dict.fromkeys(self._names, pa.utf8())
        for cells in self._cells(file, columns, wrong):
            numbers: list[int] = []
            while len(numbers) < len(cells):
                if number not in bad:
                    numbers.append(number)
                number += 1
            yield cells, numbers, [bad.pop(n) for n in sorted(bad) if n < number]
        yield pa.RecordBatch.from_pylist([], pa.schema(columns)), [], list(bad.values())

    def _cells(
        self, file: CheckedFile, columns: dict[str, pa.DataType], wrong: Any
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches of cells, the last one only after a check that no quote is left open."""
        last = None
        try:
            for cells in pa.csv.open_csv(
                file,
                # pyarrow reports the number of a skipped row only if it uses no threads.
                pa.csv.ReadOptions(use_threads=False, block_size=LONGEST_LINE),
                pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=wrong),
                pa.csv.ConvertOptions(
                    column_types=columns, null_values=[""],
                    strings_can_be_null=True, quoted_strings_can_be_null=False,
                ),
            ):  # fmt: skip
                if last is not None:
                    yield last
                last = cells
        except pa.ArrowInvalid as exc:
            if "straddl" not in str(exc):
                raise
            most = LONGEST_LINE // 2**20
            why = f"a row is longer than {most} MiB, or a quote is opened and never closed"
            raise ValueError(why) from exc
        if not file.is_whole:
            raise ValueError("a quote is opened and never closed")
        if last is not None:
            yield last

    def _kinds(self, names: Mapping[str, str], schema: Schema) -> list[str | None]:
        """Return the type of each column's cells; None for text in the payload."""
        kinds: dict[str, str] = {name: field.kind for name, field in schema.fields.items()}
        kinds |= {"id": "text", schema.vector: "vector", "payload": "payload"}
        return [kinds.get(new) for new in names.values()]


# Patterns of JSON literals, so a code with a leading zero is text. The first pattern that matches
# all cells decides.
_CELLS = (
    ("int", r"0|-?[1-9][0-9]{0,18}"),
    ("float", r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]+)?"),
    ("bool", r"[Tt]rue|TRUE|[Ff]alse|FALSE"),
    ("moment", MOMENT),
)


def _kinds_of_cells(cells: pa.Array) -> set[str]:
    """Return a set with the one kind of these non-null cells; empty if there are no cells."""
    if not len(cells):
        return set()
    for kind, pattern in _CELLS:
        if pc.all(pc.match_substring_regex(cells, f"^({pattern})$")).as_py():
            return {kind} if kind != "int" or _fits(cells) else {"text"}
    return {"text"}


def _fits(numbers: pa.Array) -> bool:
    try:
        return numbers.cast(pa.int64()) is not None
    except pa.ArrowInvalid:  # beyond 64 bits
        return False


def _fault(payload: Any, row: dict[str, Any], schema: Schema) -> str | None:
    """Return a description of the error in a row's payload, or None."""
    if not isinstance(payload, dict):
        return "must be an object in JSON"
    clash = sorted(payload.keys() & row.keys() - schema.fields.keys())
    return f"has the key {clash[0]!r:.60}, which is a column too" if clash else None


class CheckedFile(io.RawIOBase):
    """Reads a file from its beginning, and then ``last``, a row that is appended to it.

    Raises UnicodeDecodeError if the file is not UTF-8. Each object has its own position, because
    pyarrow reads ahead in a thread, which may still run when the file is read again. ``CsvFile``
    sets ``is_whole`` when pyarrow has parsed the appended row.
    """

    def __init__(self, file: Any, lock: threading.Lock, last: str) -> None:
        self._file = file
        self._lock = lock
        self._place = 0
        self._last = last.encode()
        self.is_whole = False
        # Check the encoding first: pyarrow prints a traceback for a bad row that it cannot decode.
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            self._file.seek(self._place)
            part: bytes = self._file.read(size)
        self._place += len(part)
        room = size - len(part)
        self._decoder.decode(part, final=room > 0)
        part, self._last = part + self._last[:room], self._last[room:]
        return part


def _value(cell: str | None, kind: str | None) -> Any:
    """Return the value of a cell.

    A cell that is not of this kind stays text, which the store refuses.
    """
    if cell is None or kind in (None, "text", "datetime"):
        return cell
    if kind == "bool":
        return _BOOLS.get(cell.lower(), cell)
    try:
        value = read_json(cell)
    except (ValueError, RecursionError):
        return cell
    # pandas writes whole numbers as 1.0 if the column has nulls.
    return int(value) if kind == "int" and type(value) is float and value.is_integer() else value


def csv_header(names: Iterable[str]) -> str:
    """Return the first line, which names the columns."""
    return ",".join(map(_quoted, names)) + "\n"


def csv_lines(batch: pa.RecordBatch, vector: str | None) -> Iterator[str]:
    """Yield each row as a line. Text, JSON and datetimes are quoted; null is an empty cell."""
    columns: list[Sequence[str]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == vector:
            columns.append(["" if text == "null" else f'"{text}"' for text in vector_texts(column)])
        else:
            values = payload_texts(column) if name == "payload" else json_values(column)
            columns.append(list(map(_cell, values)))
    return (f"{','.join(cells)}\n" for cells in zip(*columns, strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _quoted(value)
    text = json.dumps(value, ensure_ascii=False)
    return _quoted(text) if isinstance(value, list) else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
