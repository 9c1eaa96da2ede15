"""Bodies of responses as JSON and as Arrow IPC streams, whole or in parts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from itertools import chain
from operator import methodcaller
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pydantic_core
from pydantic.alias_generators import to_camel
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aiovec import Hit, Record, Results, Schema
from aiovec._http.ipc import ARROW, CURSOR
from aiovec.backend import from_matrix, payload_texts, python_values, to_matrix, without_vector
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import arrow_ready, hop
from aiovec.errors import InvalidArgumentError

from .call import JSON, JSON_LINES, OF_ROWS, Call
from .limits import BOUNDS, bounded, check_answered

# Vector components encoded in one step, which takes a few milliseconds and delays the first byte.
_NUMBERS_AT_ONCE = 50_000
_ROWS_AT_ONCE = 500

STREAMS = (JSON_LINES, ARROW)

Batches = AsyncIterator[pa.RecordBatch]
Parts = AsyncGenerator[bytes, None]


_MEASURES = ("_score", "_distance")
# The most bytes of a response that are passed to the connection in one piece.
_PART = 256 * 1024

Answers = Sequence[Results[Hit] | Results[Record]]


def dump(value: object) -> bytes:
    """Return a value as JSON, in which an infinity is the string "Infinity" or "-Infinity"."""
    return pydantic_core.to_json(value, inf_nan_mode="strings")


async def values_response(value: object, status: int, headers: Mapping[str, str]) -> Response:
    """Respond with values other than rows."""

    def text() -> bytes:
        body = dump(value)
        if len(body) > _PART:  # never refuse a short response: the call may have written
            BOUNDS.get().check_bytes(len(body))
        return body

    return Response(await hop(cost_of(value), text), status, headers, JSON)


def camel_case(value: Any) -> dict[str, Any]:
    """Return a dataclass as a dict, with its top-level keys in camelCase."""
    return {to_camel(name): item for name, item in asdict(value).items()}


async def rows_response(
    call: Call, name: str, answers: Answers, *, of_many: bool = False
) -> Response:
    """Respond with rows as ``{name: [...]}``, or as Arrow if Accept prefers Arrow.

    With ``of_many``, the response has the rows of each query, in order, as ``{"results": [{name:
    [...]}, ...]}``. In Arrow, the column ``_query`` has the number of each row's query, counted
    from 0.
    """
    check_answered(max(map(len, answers), default=0), len(answers), fix=", or export them")
    kind = call.answer_type(OF_ROWS)
    if kind == ARROW:
        await arrow_ready()
        make = partial(_arrow_parts, answers, of_many)
    else:
        older = call.uses_older_names and name == "hits"
        make = partial(_json_parts, name.encode(), answers, of_many, older)
    return _in_parts(await hop(cost_of(answers), make), kind)


async def found_response(
    call: Call, options: dict[str, Any], method: str, name: str = "hits"
) -> Response:
    """Respond with the rows that a method of the store returns for these options."""
    rows = await getattr(call.store, method)(call.table, **bounded(options))
    return await rows_response(call, name, [rows])


def _in_parts(parts: list[bytes], kind: str) -> Response:
    """Return a response that sends these parts as fast as the client reads them."""
    if len(parts) == 1:
        return Response(parts[0], media_type=kind)
    headers = {"content-length": str(sum(map(len, parts)))}

    async def each() -> AsyncIterator[bytes]:
        parts.reverse()
        while parts:  # free the memory of a part once it is sent
            yield parts.pop()
            # Otherwise a client that reads fast would never let other tasks run.
            await asyncio.sleep(0)

    return StreamingResponse(each(), media_type=kind, headers=headers)


def _older_form(hit: Any) -> dict[str, Any]:
    """Return a hit as a flat dict, plus the nested values that older clients read."""
    nested = {"score": hit.score, "distance": hit.distance, "fields": dict(hit.fields)}
    return {**hit.to_dict(), **nested}


def _json_parts(name: bytes, answers: Answers, of_many: bool, older: bool) -> list[bytes]:
    """Return the JSON in parts; encode row by row, so that other threads can run."""
    flat = _older_form if older else methodcaller("to_dict")
    text = bytearray(b'{"results":[' if of_many else b"")
    bounds, parts, whole = BOUNDS.get(), [], 0
    for number, rows in enumerate(answers):
        text += b'%s{"%s":[' % (b"," if number else b"", name)
        comma = b""
        for row in rows:
            text += comma + dump(flat(row))
            comma = b","
            if len(text) >= _PART:
                whole += len(text)
                bounds.check_bytes(whole)
                parts.append(bytes(text))
                text.clear()
        text += b"]}"
    return [*parts, bytes(text + b"]}" if of_many else text)]


def _arrow_parts(answers: Answers, of_many: bool) -> list[bytes]:
    """Return rows as an Arrow IPC stream.

    The columns are the requested columns of ``Schema.to_arrow()``, the requested payload keys as
    JSON text, and the results of a search, such as the score.
    """
    rows: list[Hit | Record] = list(chain.from_iterable(answers))
    selected = answers[0]._columns if answers else {}
    fields = {name: field for name, field in selected.items() if field}
    columns: dict[str, pa.Array] = {"id": pa.array([row.id for row in rows], pa.utf8())}
    if of_many:
        numbers = [number for number, hits in enumerate(answers) for _ in hits]
        columns["_query"] = pa.array(numbers, pa.uint32())
    for name in _MEASURES:
        if name in selected:
            columns[name] = pa.array([getattr(row, name[1:]) for row in rows], pa.float64())
    for name, field in fields.items():
        columns[name] = pa.array([row.fields.get(name) for row in rows], field.arrow_type())
    for name, values in (
        ("payload", [{k: v for k, v in row.fields.items() if k not in fields} for row in rows]),
        ("_ranks", [_ranks(row) for row in rows]),
        ("_highlights", [getattr(row, "highlights", None) for row in rows]),
    ):
        if any(values):
            # Like pydantic's ``to_json``, but floats are written as Python does, so ``json`` reads
            # them back unchanged.
            encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
            texts = [encode(dict(value)) if value else None for value in values]
            columns[name] = pa.array(texts, pa.utf8())
    if (shown := next((row for row in rows if row.vector is not None), None)) is not None:
        nothing = np.full(len(shown.vector), np.nan, np.float32)  # type: ignore[arg-type]
        matrix = np.stack([nothing if row.vector is None else row.vector for row in rows])
        columns[shown.vector_name] = from_matrix(matrix, without_vector(matrix))
    table = pa.Table.from_arrays(list(columns.values()), list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = memoryview(sink.getvalue())
    BOUNDS.get().check_bytes(len(whole))
    return [bytes(whole[start : start + _PART]) for start in range(0, len(whole), _PART)]


def _ranks(row: Hit | Record) -> dict[str, Any]:
    return {
        name: {"rank": rank.rank, "score": rank.score}
        for name, rank in getattr(row, "ranks", {}).items()
    }


# Exports: all rows of a table, sent while they are read, in constant memory


class Streamed(StreamingResponse):
    """A response produced as fast as its client reads, until the client disconnects.

    A late error closes the connection, so the client sees that the response is incomplete.
    """

    @classmethod
    async def begun(cls, parts: Parts, media_type: str) -> Self:
        """Return a response once its first part is ready; an earlier error sets the status."""
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


async def exported_response(call: Call, options: dict[str, Any]) -> Streamed:
    """Stream the rows that an export with these options returns."""
    kind = call.answer_type(STREAMS)
    cursors = options.pop("cursors", False)
    if "after" in options:
        options["after"] = _cursor_of(options["after"])
    if "batch_size" in options:
        options["batch_size"] = min(options["batch_size"], BOUNDS.get().rows)
    batches = call.store.export(call.table, **options)
    if kind == JSON_LINES:
        return await Streamed.begun(_lines_stream(batches, cursors=cursors), kind)
    schema = await call.store.schema(call.table)
    return await Streamed.begun(_arrow_stream(batches, schema, options.get("select")), kind)


def _cursor_of(text: str) -> bytes:
    """Decode the URL-safe Base64 text of a cursor."""
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError("after", text, "the cursor of an export, unchanged") from None


async def _lines_stream(batches: Batches, *, cursors: bool) -> Parts:
    """Yield a line of JSON for each row; with ``cursors``, also the cursor of each batch."""
    await arrow_ready()
    async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
        async for batch in all_of_it:
            sizes = [kind.list_size for kind in batch.schema.types if _is_vector(kind)]
            step = max(1, min([_ROWS_AT_ONCE, *(_NUMBERS_AT_ONCE // size for size in sizes)]))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                yield await hop(cost_of(part), _lines, part)
            if cursors:
                cursor = base64.urlsafe_b64encode(batch.schema.metadata[CURSOR]).decode()
                yield dump({"cursor": cursor}) + b"\n"


async def _arrow_stream(batches: Batches, schema: Schema, select: list[str] | None) -> Parts:
    """Yield an Arrow IPC stream. Each batch carries its cursor as custom metadata."""
    sink = io.BytesIO()
    writer: Any = None

    def written(batch: pa.RecordBatch, cursor: bytes) -> bytes:
        writer.write_batch(batch, custom_metadata={CURSOR: cursor})
        return _taken(sink)

    async with aclosing(cast("AsyncGenerator[pa.RecordBatch, None]", batches)) as all_of_it:
        async for batch in all_of_it:
            metadata = dict(batch.schema.metadata)
            cursor = metadata.pop(CURSOR)  # without it, all batches have the same schema
            batch = batch.replace_schema_metadata(metadata or None)
            writer = writer or pa.ipc.new_stream(sink, batch.schema)
            yield await hop(cost_of(batch), written, batch, cursor)
    writer = writer or pa.ipc.new_stream(sink, _columns_of(schema, select))
    writer.close()
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    """Return the bytes written since the last call, and empty the buffer."""
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
    return bool(pa.types.is_fixed_size_list(kind))  # no other field is a fixed-size list


def _lines(batch: pa.RecordBatch) -> bytes:
    columns = {name: _values(batch[name]) for name in batch.schema.names if name != "payload"}
    payloads: list[str | None] = [None] * batch.num_rows
    if "payload" in batch.schema.names:
        payloads = payload_texts(batch["payload"])
    lines = []
    for n, payload in enumerate(payloads):
        row = {name: values[n] for name, values in columns.items()}
        # A declared field wins over a payload key of the same name, as everywhere.
        lines.append(dump(row | pydantic_core.from_json(payload) | row if payload else row))
    return b"\n".join([*lines, b""])


def _values(column: pa.Array) -> list[Any]:
    if not _is_vector(column.type):
        return python_values(column)
    matrix = to_matrix(column)
    lost = without_vector(matrix) if column.null_count else [False] * len(matrix)
    return [None if none else row for row, none in zip(matrix.tolist(), lost, strict=True)]
