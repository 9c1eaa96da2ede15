"""All rows of a table, in constant memory, sent while they are read."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Self, cast

import pyarrow as pa
import pydantic_core
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from aiovec import Schema
from aiovec._http.ipc import CURSOR
from aiovec.backend import payload_texts, python_values, to_matrix, without_vector
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import arrow_ready, hop
from aiovec.errors import InvalidArgumentError

from .bodies import dump

# Numbers of vectors that are written at once: a few milliseconds, of the client's first wait too.
_NUMBERS_AT_ONCE = 50_000
_ROWS_AT_ONCE = 500

Batches = AsyncIterator[pa.RecordBatch]
Parts = AsyncGenerator[bytes, None]


class Streamed(StreamingResponse):
    """An answer that is made at the pace of its client, and no further once that has gone.

    An error later breaks the connection off, and the client sees that the answer is not whole.
    """

    @classmethod
    async def begun(cls, parts: Parts, media_type: str) -> Self:
        """Wait for the first part, so that what is wrong with the call is answered as such."""
        first = await anext(parts, b"")

        async def all_parts() -> Parts:
            yield first
            async for part in parts:
                yield part

        answer = cls(all_parts(), media_type=media_type)
        answer._parts = parts
        return answer

    _parts: Parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts):
            if scope["method"] == "HEAD":
                await StreamingResponse([], headers=self.headers)(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)


def cursor_of(text: str) -> bytes:
    """Return the cursor that a client got as text."""
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError("after", text, "the cursor of an export, unchanged") from None


def cursor_text(batch: pa.RecordBatch) -> str:
    return base64.urlsafe_b64encode(batch.schema.metadata[CURSOR]).decode()


async def lines_stream(batches: Batches, *, cursors: bool) -> Parts:
    """Yield a line of JSON for each row, and with ``cursors`` one behind each batch."""
    await arrow_ready()
    async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
        async for batch in all_of_it:
            sizes = [kind.list_size for kind in batch.schema.types if _is_vector(kind)]
            step = max(1, min([_ROWS_AT_ONCE, *(_NUMBERS_AT_ONCE // size for size in sizes)]))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                yield await hop(cost_of(part), _lines, part)
            if cursors:
                yield dump({"cursor": cursor_text(batch)}) + b"\n"


async def arrow_stream(batches: Batches, schema: Schema, select: list[str] | None) -> Parts:
    """Yield an Arrow IPC stream. Each batch carries its cursor as custom metadata."""
    sink = io.BytesIO()
    writer: Any = None

    def written(batch: pa.RecordBatch, cursor: bytes) -> bytes:
        writer.write_batch(batch, custom_metadata={CURSOR: cursor})
        return _taken(sink)

    async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
        async for batch in all_of_it:
            metadata = dict(batch.schema.metadata)
            cursor = metadata.pop(CURSOR)  # without it, all batches have one schema
            batch = batch.replace_schema_metadata(metadata or None)
            writer = writer or pa.ipc.new_stream(sink, batch.schema)
            yield await hop(cost_of(batch), written, batch, cursor)
    writer = writer or pa.ipc.new_stream(sink, _columns_of(schema, select))
    writer.close()
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    """Take out what was written since the last time."""
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _columns_of(schema: Schema, select: list[str] | None) -> pa.Schema:
    whole = schema.to_arrow()
    if select is None:
        return whole
    chosen = {name.partition(".")[0] for name in select} | {"id"}
    return pa.schema([field for field in whole if field.name in chosen], whole.metadata)


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))  # no other field is one


def _lines(batch: pa.RecordBatch) -> bytes:
    columns = {name: _values(batch[name]) for name in batch.schema.names if name != "payload"}
    payloads: list[str | None] = [None] * batch.num_rows
    if "payload" in batch.schema.names:
        payloads = payload_texts(batch["payload"])
    lines = []
    for n, payload in enumerate(payloads):
        row = {name: values[n] for name, values in columns.items()}
        # A declared field wins over a key of its name, as everywhere.
        lines.append(dump(row | pydantic_core.from_json(payload) | row if payload else row))
    return b"\n".join([*lines, b""])


def _values(column: pa.Array) -> list[Any]:
    if not _is_vector(column.type):
        return python_values(column)
    matrix = to_matrix(column)
    lost = without_vector(matrix) if column.null_count else [False] * len(matrix)
    return [None if none else row for row, none in zip(matrix.tolist(), lost, strict=True)]
