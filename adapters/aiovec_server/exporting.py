"""All rows of a table, in constant memory, as they are asked for."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pydantic_core

from aiovec import Schema
from aiovec._http.ipc import CURSOR
from aiovec.backend import payload_texts, python_values, to_matrix, without_vector
from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidArgumentError

from .bodies import dump

# Numbers of vectors that are written at once: a few milliseconds, of the client's first wait too.
_NUMBERS_AT_ONCE = 50_000
_ROWS_AT_ONCE = 500

Batches = AsyncIterator[pa.RecordBatch]


def cursor_of(text: str) -> bytes:
    """Return the cursor that a client got as text."""
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError(
            "after", text, "a cursor that an export gave, as it gave it"
        ) from None


def cursor_text(batch: pa.RecordBatch) -> str:
    return base64.urlsafe_b64encode(batch.schema.metadata[CURSOR]).decode()


class Writer(Protocol):
    """Turns an export into the parts of an answer."""

    def parts(self, batches: Batches) -> AsyncGenerator[bytes, None]: ...


async def begun(
    parts: AsyncGenerator[bytes, None],
) -> tuple[bytes, AsyncGenerator[bytes, None]]:
    """Return the first part and the others. Raises what is wrong with the call."""
    try:
        async for part in parts:
            return part, parts
    except BaseException:
        await parts.aclose()
        raise
    return b"", parts


class LinesWriter:
    """Writes a line of JSON for each row, and with ``cursors`` one behind each batch."""

    def __init__(self, cursors: bool) -> None:
        self._cursors = cursors

    async def parts(self, batches: Batches) -> AsyncGenerator[bytes, None]:
        async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
            async for batch in all_of_it:
                step = _rows_at_once(batch.schema)
                for start in range(0, batch.num_rows, step):
                    yield await in_thread(_lines, batch.slice(start, step))
                if self._cursors:
                    yield dump({"cursor": cursor_text(batch)}) + b"\n"


def _rows_at_once(schema: pa.Schema) -> int:
    sizes = [int(field.type.list_size) for field in schema if _is_vector(field.type)]
    return max(1, min([_ROWS_AT_ONCE, *(_NUMBERS_AT_ONCE // size for size in sizes)]))


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))  # no other field is one


def _lines(batch: pa.RecordBatch) -> bytes:
    return b"".join([dump(row) + b"\n" for row in _rows(batch)])


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = {
        name: _values(batch.column(name)) for name in batch.schema.names if name != "payload"
    }
    payloads: list[str | None] = [None] * batch.num_rows
    if "payload" in batch.schema.names:
        payloads = payload_texts(batch.column("payload"))
    for n, payload in enumerate(payloads):
        row = {name: values[n] for name, values in columns.items()}
        # A declared field wins over a key of its name, as everywhere.
        yield {**row, **pydantic_core.from_json(payload), **row} if payload else row


def _values(column: pa.Array) -> list[Any]:
    if not _is_vector(column.type):
        return python_values(column)
    matrix = to_matrix(column)
    found: list[Any] = matrix.tolist()
    if column.null_count:
        for row in np.flatnonzero(without_vector(matrix)).tolist():
            found[row] = None
    return found


class ArrowWriter:
    """Writes an Arrow IPC stream. Each batch carries its cursor as custom metadata."""

    def __init__(self, schema: Schema, select: list[str] | None) -> None:
        self._empty = _columns_of(schema, select)

    async def parts(self, batches: Batches) -> AsyncGenerator[bytes, None]:
        written = _Written()
        writer: Any = None
        async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
            async for batch in all_of_it:
                cursor = batch.schema.metadata[CURSOR]
                batch = _without_cursor(batch)
                if writer is None:
                    writer = pa.ipc.new_stream(pa.PythonFile(written, "w"), batch.schema)
                yield await in_thread(_write, writer, written, batch, cursor)
            if writer is None:
                writer = pa.ipc.new_stream(pa.PythonFile(written, "w"), self._empty)
            writer.close()
            yield written.taken()


def _write(writer: Any, written: _Written, batch: pa.RecordBatch, cursor: bytes) -> bytes:
    writer.write_batch(batch, custom_metadata={CURSOR: cursor})
    return written.taken()


def _without_cursor(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with the schema that every batch of the answer has."""
    metadata = {name: text for name, text in batch.schema.metadata.items() if name != CURSOR}
    return batch.replace_schema_metadata(metadata or None)


def _columns_of(schema: Schema, select: list[str] | None) -> pa.Schema:
    whole = schema.to_arrow()
    if select is None:
        return whole
    chosen = {name.partition(".")[0] for name in select} | {"id"}
    return pa.schema([field for field in whole if field.name in chosen], whole.metadata)


class _Written:
    """A file that keeps what was written since it was asked last."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None: ...

    def close(self) -> None: ...
