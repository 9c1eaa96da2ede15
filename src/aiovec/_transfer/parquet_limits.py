"""Check a Parquet file's own statements against its size before anything of it is read.

Runs and compression let a few bytes stand for any number of values, so a small file can ask for all
memory or for years. An honest file has an id and a vector for each row.

pyarrow ends the process where the metadata of a column chunk is damaged, so they are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._model.schema import MAX_DIM
from ..errors import ConfigError
from .foreign import BYTES_AT_ONCE

# A row takes more than a bit: ids are not alike. What vectors and texts take comes on top.
_ROWS_A_BYTE = 8
# Values of a column for each row: the largest vector, with room for lists of texts.
_VALUES_A_ROW = 2 * MAX_DIM
# A column chunk of more than this that unpacks to so many times its size is no data.
_LARGE_CHUNK = 64 * 2**20
_RATIO = 2_000
_WIDE = 2**20

# Numbers of fields in the format's Thrift definition.
_ROWS, _GROUPS = 3, 4
_COLUMNS, _GROUP_ROWS = 1, 3
_META = 3
_TYPE, _PATH, _VALUES, _UNPACKED, _PACKED, _DICTIONARY = 1, 3, 5, 6, 7, 11
_BYTE_ARRAY = 6


def check_limits(path: Path) -> int:
    """Return how many rows may be read at once, or raise ConfigError for a file that claims more
    than its size can hold."""
    size = path.stat().st_size
    metadata = _footer(path, size)
    rows = _number(metadata, _ROWS)
    if not 0 <= rows <= size * _ROWS_A_BYTE:
        raise _claims(path, f"{rows:,} rows", size)
    at_once = 2**31 - 1
    for i, group in enumerate(metadata.get(_GROUPS) or []):
        group_rows = _number(group, _GROUP_ROWS)
        for chunk in group.get(_COLUMNS) or []:
            column = chunk.get(_META) or {}
            where = [part.decode("utf-8", "replace") for part in column.get(_PATH) or []]
            name = f"the column {'.'.join(where)} of row group {i}"
            values, wide, packed = (_number(column, n) for n in (_VALUES, _UNPACKED, _PACKED))
            if not 0 <= values <= max(1, group_rows) * _VALUES_A_ROW:
                raise _claims(path, f"{values:,} values in {name}", size)
            if not 0 <= packed <= size:
                raise _claims(path, f"{packed:,} bytes in {name}", size)
            if wide > max(_LARGE_CHUNK, _RATIO * packed):
                raise _claims(path, f"{wide:,} bytes, unpacked, in {name}", size)
            # Texts in lists, of which a dictionary lets each repeat the largest.
            nested = column.get(_TYPE) == _BYTE_ARRAY and len(where) > 1
            if nested and _DICTIONARY in column and wide > max(_WIDE, 100 * packed):
                at_once = min(at_once, max(1, BYTES_AT_ONCE // wide))
    return at_once


def _claims(path: Path, what: str, size: int) -> ConfigError:
    return ConfigError(
        f"{path} claims {what}, but has {size:,} bytes; it is damaged or made to fill the memory. "
        "Write the file again",
        file=str(path),
    )


def _number(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise TypeError("its metadata are damaged")
    return value


def _footer(path: Path, size: int) -> dict[int, Any]:
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > size - 8:
            raise ValueError("its end is missing or damaged")
        file.seek(size - 8 - length)
        return _Compact(file.read(length)).struct(0)


class _Compact:
    """Reads a struct of Thrift's compact protocol: fields by their numbers."""

    _DEEPEST = 16

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)
        self._left = len(data)

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > self._DEEPEST:
            raise ValueError("its metadata are nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind, delta = head & 0x0F, head >> 4
            number = number + delta if delta else self._signed()
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            return list(self._items(depth))
        if kind == 11:
            return self._map(depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("its metadata are damaged")

    def _items(self, depth: int) -> Iterator[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 0x0F
        for _ in range(self._bounded(self._varint() if count == 15 else count)):
            yield self._value(kind, depth + 1)

    def _map(self, depth: int) -> None:
        count = self._bounded(self._varint())
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 0x0F, depth + 1)

    def _bounded(self, count: int) -> int:
        if count > self._left:  # each item takes a byte
            raise ValueError("its metadata are damaged")
        return count

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("its metadata are damaged")

    def _take(self, count: int) -> bytes:
        return bytes(self._byte() for _ in range(self._bounded(count)))

    def _byte(self) -> int:
        self._left -= 1
        try:
            return next(self._bytes)
        except StopIteration:
            raise ValueError("its metadata are cut") from None
