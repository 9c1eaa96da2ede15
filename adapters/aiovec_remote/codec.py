"""Bodies of requests and responses: JSON, and Arrow with the JSON in its schema's metadata.

The client trusts the server's types: a wrong type is a bug in the server. Encode and decode large
bodies in a thread.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa

from aiovec._http.ipc import ARROW, BODY, CURSOR, DamagedStreamError, body_length, read_rows
from aiovec.backend import Rank, Ref, Schema, Value
from aiovec.backend.contract import Columns, Found, stored_rows
from aiovec.errors import InvalidArgumentError

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
LONGEST_ANSWER = 2**30
"""Maximum size in bytes of a response or an exported batch. By default, servers send up to 256
MiB."""
# The end of an Arrow IPC stream.
_END = b"\xff\xff\xff\xff\0\0\0\0"


class WireError(Exception):
    """The error for an unreadable body, which never reaches a user."""


def encode(
    body: Mapping[str, Any] | None, rows: pa.Table | list[Any] | None
) -> tuple[str, memoryview]:
    """Return the content type and the bytes of a request's body; both are empty without a body."""
    if rows is None and body is None:
        return "", memoryview(b"")
    try:
        if isinstance(rows, list):
            return JSON_LINES, memoryview("\n".join(map(_ENCODER.encode, rows)).encode())
        text = _ENCODER.encode(body or {})
    except ValueError as exc:
        raise InvalidArgumentError(
            "a number in the call", None,
            reason="a number in the call is infinite or NaN, which JSON does not have; upsert "
            "takes infinities",
        ) from exc  # fmt: skip
    if rows is None:
        return JSON, memoryview(text.encode())
    schema = rows.schema.with_metadata({BODY: text.encode()} if body else None)
    # This makes the same bytes as pyarrow's stream writer, at half the cost for the few rows of
    # most calls.
    parts = [schema.serialize(), *(batch.serialize() for batch in rows.to_batches()), _END]
    return ARROW, memoryview(b"".join(parts))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.item() if isinstance(value, np.generic) else str(value)


# One encoder for all calls; ``json.dumps`` would create one for each call.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
)


def _check_length(nbytes: int) -> None:
    if not 0 <= nbytes <= LONGEST_ANSWER:
        most = f"{LONGEST_ANSWER // 2**20:,} MiB"
        raise WireError(f"it has {nbytes:,} bytes, and a client reads {most}; ask for fewer rows")


async def read_body(
    response: aiohttp.ClientResponse, came: Callable[[int], object] = lambda _: None
) -> bytearray:
    """Read the body of a response; call ``came`` with the size of each part as it arrives."""
    data = bytearray()
    _check_length(response.content_length or 0)
    while part := await response.content.readany():
        data += part
        _check_length(len(data))
        came(len(part))
    return data


def decode(content_type: str, data: bytearray) -> Any:
    """Decode a response: JSON, or rows, which Arrow validates."""
    try:
        if content_type == JSON:
            return json.loads(data)
        if content_type != ARROW:
            raise WireError(f"it is of the type {content_type!r:.80}")
        return read_rows(data)
    except (DamagedStreamError, ValueError, RecursionError) as exc:
        raise WireError(str(exc)[:200]) from exc


# Rows


def found_rows(schema: Schema, columns: Columns, queries: int, rows: pa.Table) -> list[Found]:
    """Return the hits of each query; ``queries`` is the number of queries."""
    names = rows.schema.names

    def parsed(rows: pa.Table) -> Found:
        stored, snippets = stored_rows(rows, schema, columns), None
        if "_highlights" in names:
            marked = dict(zip(stored.ids, _json_of(rows["_highlights"]), strict=True))
            snippets = lambda ids, _: [marked[id] for id in ids]  # noqa: E731
        listed = _json_of(rows["_ranks"]) if "_ranks" in names else []
        ranks = [{name: Rank(r["rank"], r["score"]) for name, r in of.items()} for of in listed]
        distances, scores = rows["_distance"].to_pylist(), rows["_score"].to_pylist()
        return Found(stored, distances, scores, ranks, snippets)

    if "_query" not in names:
        return [parsed(rows)]
    numbers = rows["_query"].to_numpy()
    if numbers.max(initial=0) >= queries:
        raise WireError("a row belongs to no query")
    counts = np.bincount(numbers, minlength=queries).tolist()
    starts = accumulate(counts, initial=0)
    return [parsed(rows.slice(start, count)) for start, count in zip(starts, counts, strict=False)]


def _json_of(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    return [json.loads(text or "{}") for text in column.to_pylist()]


def values_read(values: Sequence[Any], schema: Schema, ref: Ref) -> list[Value]:
    """Return the values of a field or payload key, converted from JSON to the field's type."""
    field = None if ref.path else schema.fields.get(ref.name)
    kind = None if field is None else field.type
    if kind is datetime:
        return [datetime.fromisoformat(value) for value in values]
    if kind in (float, list[float]):
        return list(map(float, values))
    return list(values)


# An export: messages of one stream


async def read_message(body: aiohttp.StreamReader) -> bytes:
    """Return the next message, or empty bytes at the end of the stream."""
    try:
        head = await body.readexactly(8)  # a marker, and the length of the metadata
        mark, length = struct.unpack("<II", head)
        if mark != 0xFFFFFFFF:
            raise WireError("a part of the export begins with unknown bytes")
        if not length:
            return b""
        _check_length(length)
        metadata = await body.readexactly(length)
        size = body_length(metadata)
        _check_length(size)
        return b"".join((head, metadata, await body.readexactly(size)))
    except (asyncio.IncompleteReadError, struct.error, IndexError) as exc:
        raise WireError("a part of the export cannot be read") from exc


def exported_batch(head: bytes, data: bytes) -> tuple[pa.RecordBatch, bytes]:
    """Return a batch and its cursor, from the stream's first message and the batch's message."""
    try:
        stream = head + data + _END
        read_rows(stream)
        batch, metadata = pa.ipc.open_stream(stream).read_next_batch_with_custom_metadata()
        return batch, metadata[CURSOR]
    except (DamagedStreamError, pa.ArrowException, OSError, ValueError, TypeError, KeyError) as exc:
        raise WireError(f"a batch of the export cannot be read: {exc}"[:200]) from exc
