"""CSV by RFC 4180: names in the first row, lists, objects and vectors as JSON.

An empty cell without quotes is null, and ``""`` is an empty text. Python's csv module tells both
alike, and pyarrow's neither says where a bad row stands nor goes on behind it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa

from .._model.arrow import payload_texts
from .._model.json_text import LossyJsonError, read_json
from .._model.schema import Schema
from ..backend.foreign import Hints, Reject
from ..errors import ConfigError
from .foreign import LONGEST_LINE, reading
from .jsonlines import JsonLines, Line, json_values, vector_texts
from .streams import InputStream
from .text_files import TextWriter

_READ_BYTES = 2**20
_END = rb"\r\n|\n|\r"
_QUOTED = rb'"([^"]*+(?:""[^"]*+)*+)"'
# A cell and what ends it. In a cell that does not begin with a quote, quotes are text.
_CELL = re.compile(rb'(?:%s|((?!")[^,\r\n]*+))(,|%s|\Z)' % (_QUOTED, _END))
_QUOTED_CELL = re.compile(_QUOTED)
_LINE_END = re.compile(_END)
# Behind cells that are not quoted: a quoted one, or the end of the line.
_NOT_PLAIN = re.compile(rb',"|[\r\n]')
_CELL_END = re.compile(rb"," + b"|" + _END)
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")  # pandas writes whole numbers with gaps as 1.0
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


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


class CsvFile(JsonLines):
    """The rows of a CSV file. Columns that the schema does not name are texts in the payload."""

    def _begin(self, hints: Hints, told: Schema | None) -> None:
        with reading(self._path, "its header"):
            self._names = self._header()
        for option, name in (
            ("--id-column", hints.id_column),
            ("--vector-column", hints.vector_column),
        ):
            if name is not None and name not in self._names:
                raise ConfigError(
                    f"{self._path} has no column {name!r}; its columns: {', '.join(self._names)}",
                    file=str(self._path), key=option, accepted=", ".join(self._names),
                )  # fmt: skip

    def _header(self) -> list[str]:
        self._records = iter(Records(self._file))
        first = next(self._records, None)
        if first is None:
            raise ConfigError(
                f"{self._path} is empty; a CSV file begins with the names of its columns",
                file=str(self._path),
            )
        if isinstance(first.cells, str):
            raise self._no_csv(first.cells)
        if b"\0" in b"".join(cell or b"" for cell in first.cells):
            raise self._no_csv("there are NUL bytes in its first line")
        try:
            names = [(cell or b"").decode() for cell in first.cells]
        except UnicodeDecodeError as exc:
            raise self._no_csv("its first line is no UTF-8") from exc
        if len(names) == 1:
            for separator, plural in _SEPARATORS.items():
                if separator in names[0]:
                    raise ConfigError(
                        f"{self._path} has the one column {names[0]!r:.80}; its cells seem to be "
                        f"separated by {plural}. Write the file with commas",
                        file=str(self._path),
                    )
        if "" in names:
            raise ConfigError(
                f"column {names.index('') + 1} of {self._path} has no name in the first line; "
                "give it one, or write the file without the column",
                file=str(self._path),
            )
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            listed = ", ".join(map(repr, twice))
            raise ConfigError(
                f"{self._path} has several columns of one name ({listed:.200}), "
                "which cannot be told apart; write it again with names of their own",
                file=str(self._path),
            )
        return names

    def _no_csv(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path} is no CSV file in UTF-8: {reason}. Write it again as CSV with commas, "
            "in UTF-8",
            file=str(self._path),
        )

    def _lines(self, schema: Schema | None) -> Iterator[Line]:
        if schema is not None:
            # From the beginning, where ``chunks`` went.
            self._records = iter(Records(self._file))
            next(self._records, None)
            more = [name for name in self._names if self._reader(name, schema) is _as_text_of_key]
            if more:
                columns = ", ".join(more)
                note = f"kept in the payload, as text: {columns}; fields of a --schema have types"
                self.notes = (note,)
        readers = [self._reader(name, schema) for name in self._names]
        fields = frozenset(() if schema is None else schema.fields)
        for record in self._records:
            yield Line(record.number, self._row_of(record, readers, fields), record.nbytes)

    def _reader(self, name: str, schema: Schema | None) -> Callable[[str], Any]:
        """Return what makes a value of a cell in the column."""
        if schema is None:
            return _as_list_or_text
        if name == self._id:
            return _as_text
        if name == self._vector:
            return _as_vector
        if name == "payload":
            return _as_object
        # Under another column's new name it is set aside into the payload.
        field = None if name in ("id", schema.vector) else schema.fields.get(name)
        if field is None:
            return _as_text_of_key
        return _as_list if field.is_list else _READERS.get(field.kind, _as_text)

    def _row_of(
        self, record: Record, readers: Sequence[Callable[[str], Any]], fields: frozenset[str]
    ) -> dict[str, Any] | Reject:
        cells, number = record.cells, record.number
        if isinstance(cells, str):
            return Reject(number, None, cells)
        if len(cells) != len(self._names):
            return Reject(
                number, None,
                f"it has {len(cells)} cells, and the first line names {len(self._names)} columns",
            )  # fmt: skip
        row: dict[str, Any] = {}
        payload: dict[str, Any] = {}
        faults = []
        for name, read, cell in zip(self._names, readers, cells, strict=True):
            if cell is None:
                if read is not _as_text_of_key and read is not _as_object:
                    row[name] = None
                continue
            try:
                value = read(cell.decode())
            except UnicodeDecodeError:
                faults.append(f"column {name!r}: is no UTF-8")
            except RecursionError:
                faults.append(f"column {name!r}: is nested too deeply")
            except ValueError as exc:
                faults.append(f"column {name!r}: {exc}")
            else:
                if read is _as_object:
                    payload = value
                else:
                    row[name] = value
        twice = [key for key in payload if key in row and key not in fields]
        if twice:
            faults.append(f"column 'payload': has the key {twice[0]!r:.60}, which is a column too")
        if faults:
            id = row.get(self._id)
            return Reject(number, id if isinstance(id, str) else None, faults[0])
        # A declared field wins over a key of its name, as everywhere.
        return {**payload, **row} if payload else row


def _as_text(cell: str) -> str:
    return cell


def _as_text_of_key(cell: str) -> str:
    return cell


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


def _as_list_or_text(cell: str) -> Any:
    """A cell of a row that is looked at for its vector."""
    try:
        return _as_list(cell) if cell.startswith("[") else cell
    except ValueError:
        return cell


_READERS: dict[str, Callable[[str], Any]] = {"int": _as_int, "float": _as_float, "bool": _as_bool}


class Record:
    """A row: the line that it begins in, its cells or why it has none, and its bytes."""

    __slots__ = ("cells", "nbytes", "number")

    def __init__(self, number: int, cells: list[bytes | None] | str, nbytes: int) -> None:
        self.number = number
        self.cells = cells
        self.nbytes = nbytes


class Records:
    """The rows of a CSV file in bytes, a piece at a time. Empty lines are passed over."""

    def __init__(self, file: IO[bytes] | InputStream) -> None:
        self._file = file
        self._buffer = b""
        self._at = 0  # what stands before it in the buffer is done
        self._ended = False
        self._line = 1
        self._behind_cr = False

    def __iter__(self) -> Iterator[Record]:
        self._more()
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._at = 3
        while self._at < len(self._buffer) or self._more():
            end = self._line_end(_LINE_END.match(self._buffer, self._at))
            if end is not None:
                self._pass(end)
            else:
                yield self._record()

    def _more(self) -> bool:
        """Read on, more the longer the row is that is not done."""
        self._buffer = self._buffer[self._at :]
        self._at = 0
        part = self._file.read(max(_READ_BYTES, len(self._buffer)))
        self._ended = not part
        self._buffer += part
        return bool(part)

    def _pass(self, end: int) -> None:
        """Go on behind a place in the buffer."""
        found, start = self._buffer, self._at
        if end == start:
            return
        if self._behind_cr and found.startswith(b"\n", start):
            self._line -= 1  # the CR before it was counted
        self._line += found.count(b"\n", start, end) + found.count(b"\r", start, end)
        self._line -= found.count(b"\r\n", start, end)
        self._behind_cr = found.endswith(b"\r", start, end)
        self._at = end

    def _line_end(self, match: re.Match[bytes] | None) -> int | None:
        """Return where the line of the match ends, with the LF that may come behind a CR."""
        if match is None:
            return None
        end = match.end()
        if end == len(self._buffer) and match[0] == b"\r":
            end -= self._at
            self._more()
            if self._buffer.startswith(b"\n", end):
                end += 1
        return end

    def _record(self) -> Record:
        number = self._line
        cells: list[bytes | None] = []
        offset = 0  # of the cell, from the beginning of the row
        while True:
            if offset > LONGEST_LINE:
                return self._dropped(number, offset, _TOO_LONG)
            if len(cells) >= _MOST_CELLS:
                return self._dropped(number, offset, _TOO_MANY)
            cell = _CELL.match(self._buffer, self._at + offset)
            if cell is None:
                quoted = _QUOTED_CELL.match(self._buffer, self._at + offset)
                if quoted is not None and quoted.end() < len(self._buffer):
                    self._pass(quoted.end())
                    self._skip_to(_LINE_END)
                    return Record(number, "there is text behind the quote that ends a cell", 0)
            elif self._ended or cell.end() < len(self._buffer) or cell[3] not in (b"", b"\r"):
                if cell[1] is not None:
                    cells.append(cell[1].replace(b'""', b'"'))
                else:
                    cells.append(cell[2] or None)
                offset = cell.end() - self._at
                if cell[3] == b",":
                    continue
                self._pass(cell.end())
                return Record(number, cells if offset <= LONGEST_LINE else _TOO_LONG, offset)
            if len(self._buffer) - self._at - offset > LONGEST_LINE:
                return self._dropped(number, offset, _TOO_LONG)
            if not self._more() and cell is None:
                self._pass(len(self._buffer))
                return Record(number, "a quote is opened and never closed, to the file's end", 0)

    def _dropped(self, number: int, offset: int, reason: str) -> Record:
        """Pass over the rest of a row without holding it, from the beginning of a cell."""
        self._pass(self._at + offset)
        while self._at < len(self._buffer) or self._more():
            if not self._buffer.startswith(b'"', self._at):
                plain = _NOT_PLAIN.search(self._buffer, self._at)
                until = len(self._buffer) if plain is None else plain.start() + 1
                self._pass(max(self._at, self._buffer.rfind(b",", self._at, until) + 1))
                if self._at == len(self._buffer):
                    continue  # a quote may come next
            if self._buffer.startswith(b'"', self._at):
                self._skip_quoted()
            if self._skip_to(_CELL_END) != b",":
                break
        return Record(number, reason, 0)

    def _skip_quoted(self) -> None:
        self._pass(self._at + 1)
        while True:
            quote = self._buffer.find(b'"', self._at)
            if quote < 0:
                if not self._skip_all():
                    return
                continue
            self._pass(quote + 1)
            if self._at == len(self._buffer) and not self._more():
                return
            if not self._buffer.startswith(b'"', self._at):
                return
            self._pass(self._at + 1)

    def _skip_to(self, ending: re.Pattern[bytes]) -> bytes:
        """Go on behind the next match; return it, or nothing at the file's end."""
        while True:
            found = ending.search(self._buffer, self._at)
            if found is not None:
                matched = found[0]
                end = self._line_end(found)
                self._pass(len(self._buffer) if end is None else end)
                return matched
            if not self._skip_all():
                return b""

    def _skip_all(self) -> bool:
        """Drop the buffer and read on; False at the file's end."""
        self._pass(len(self._buffer))
        return self._more()


_MOST_CELLS = 2**16
_TOO_LONG = f"the row is longer than {LONGEST_LINE:,} bytes"
_TOO_MANY = f"the row has more than {_MOST_CELLS:,} cells"
