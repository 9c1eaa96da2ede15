"""Arrow IPC streams from outside. Only this module reads them, and it validates them fully.

A stream in which a few bytes could become gigabytes is refused. A compressed buffer declares its
own size, which Arrow allocates; a dictionary can repeat a value any number of times. Request bodies
need neither compression nor dictionaries.
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from .._model.arrow import check_table
from ..backend.threads import INLINE_LIMIT

ARROW = "application/vnd.apache.arrow.stream"
"""The media type of an Arrow IPC stream."""
BODY = b"aiovec.body"
"""The key of a request's JSON body in a schema's metadata."""
CURSOR = b"aiovec.cursor"
"""The key of a batch's cursor, in the metadata of the batch or of its schema."""

_DENSE = {
    kind.id
    for kind in (
        pa.dictionary(pa.int8(), pa.null()), pa.run_end_encoded(pa.int16(), pa.null()),
        pa.string_view(), pa.binary_view(), pa.list_view(pa.null()), pa.large_list_view(pa.null()),
        pa.sparse_union([]), pa.dense_union([]),
    )
}  # fmt: skip
# Positions of fields in Arrow's flatbuffers: Message.header and .bodyLength, and
# RecordBatch.compression.
_HEADER, _BODY_LENGTH, _COMPRESSION = 2, 3, 3


# Bytes per value in a body of short rows. Reading a list takes as long as reading two values.
_BYTES, _LIST = 32, 2


def cost_of_body(data: bytes | bytearray | memoryview) -> int:
    """Return the estimated number of values in a JSON or Arrow body, as the cost for ``hop``.

    Reading a malicious body with a low estimate takes up to 10 ms.
    """
    if (cost := len(data) // _BYTES) > INLINE_LIMIT:
        return cost
    text = bytes(data)
    return cost + _LIST * (text.count(b"[") + text.count(b"{"))


class DamagedStreamError(Exception):
    """The data is not an Arrow IPC stream, or the stream is refused. Users never get this error."""


def read_rows(data: bytes | bytearray | memoryview) -> pa.Table:
    """Return the rows of an uncompressed Arrow IPC stream, fully validated. Copies nothing.

    Raises InvalidRowError if the values of a column are damaged.
    """
    try:
        stream = pa.BufferReader(pa.py_buffer(data))
        messages = iter(pa.ipc.MessageReader.open_stream(stream))
        schema = pa.ipc.read_schema(_checked(next(messages, None), "schema"))
        for field in schema:
            _check_field(field)
        batches = [
            pa.ipc.read_record_batch(_checked(message, "record batch"), schema)
            for message in messages
        ]
        if stream.tell() != len(data):
            raise DamagedStreamError("there is data after the end of the Arrow stream")
        table = pa.Table.from_batches(batches, schema)
    except (pa.ArrowException, OSError, ValueError, IndexError, struct.error) as exc:
        raise DamagedStreamError(f"the Arrow stream cannot be read: {exc}"[:200]) from exc
    check_table(table)
    return table


def _check_field(field: pa.Field) -> None:
    """Raise UnicodeDecodeError if a name or a time zone is not UTF-8, which Arrow does not check.

    Raises DamagedStreamError for types in which a few bytes can become gigabytes.
    """
    kind, _ = field.type, (field.name, getattr(field.type, "tz", None))
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if kind.id in _DENSE:
        words = f"the column {field.name!r} has the Arrow type {kind}, which can be far larger"
        raise DamagedStreamError(f"{words} than its bytes; cast it to a plain type")
    for n in range(kind.num_fields):
        _check_field(kind.field(n))


def _checked(message: Any, expected: str) -> Any:
    """Return the message if it is uncompressed and of the expected type, or raise
    DamagedStreamError."""
    if message is None:
        raise DamagedStreamError("the Arrow stream is empty")
    if message.type == "dictionary":
        raise DamagedStreamError("the Arrow stream has dictionaries; write plain columns")
    if message.type != expected:
        raise DamagedStreamError(f"the Arrow stream lacks a {expected}")
    if expected == "record batch":
        metadata = bytes(message.metadata)
        (table,) = struct.unpack_from("<I", metadata, 0)
        place = _field(metadata, table, _HEADER)
        (offset,) = struct.unpack_from("<I", metadata, place)
        if _field(metadata, place + offset, _COMPRESSION):
            raise DamagedStreamError("the Arrow stream is compressed; write it without compression")
    return message


def _field(data: bytes, table: int, number: int) -> int:
    """Return the position of a field in a flatbuffer's table; 0 if it is absent."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    slot = 4 + 2 * number
    if slot + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + slot)
    return table + offset if offset else 0


def body_length(metadata: bytes) -> int:
    """Return the length of a message's body from the metadata before it."""
    (table,) = struct.unpack_from("<I", metadata, 0)
    place = _field(metadata, table, _BODY_LENGTH)
    return int(struct.unpack_from("<q", metadata, place)[0]) if place else 0
