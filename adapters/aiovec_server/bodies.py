"""Bodies of requests and answers as JSON, JSON Lines and Arrow IPC streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pydantic_core
from starlette.responses import Response

from aiovec import Hit, Record, Results
from aiovec.backend import in_thread, off_loop

from .bounds import check_rows
from .call import Call
from .media import ARROW, JSON, JSON_LINES, answer_type, body_type
from .pieces import JsonArray, JsonLines, load, rows_in
from .problems import RequestError

# A JSON body up to this many bytes is parsed where it came: under half a millisecond.
SMALL_BODY = 64 * 1024
# What a row of an answer takes besides its values, for ``off_loop``.
_VALUES_A_ROW = 8
_NUMBERS_A_VALUE = 16


class JsonBytes(Response):
    """A body that is JSON already."""

    media_type = JSON


def dump(value: object) -> bytes:
    """Return a value as JSON, with null for what JSON has no number for."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def json_response(value: object, status: int = 200) -> Response:
    """Answer with a value that is small."""
    return JsonBytes(dump(value), status)


# Requests


async def body_json(call: Call) -> Any:
    """Return the value of a body that has to be JSON."""
    body_type(call, (JSON,))
    text = await call.request.body()
    return load(text) if len(text) <= SMALL_BODY else await in_thread(load, text)


async def body_rows(call: Call) -> Any:
    """Return the rows of a body, as ``insert`` takes them."""
    kind = body_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return await arrow_body(call)
    if kind == JSON_LINES:
        return await rows_in(call.request.stream(), JsonLines())
    length = call.request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 9 and int(length) <= SMALL_BODY:
        rows = load(await call.request.body())
        if type(rows) is not list:
            raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
        check_rows(len(rows))
        return rows
    return await rows_in(call.request.stream(), JsonArray())


async def arrow_body(call: Call) -> pa.Table:
    """Return the table of an Arrow IPC stream. The store validates its values."""
    table = await in_thread(_table, await call.request.body())
    check_rows(table.num_rows)
    return table


def _table(data: bytes) -> pa.Table:
    from .arrow_bodies import read_table

    return read_table(data)


# Answers

_Row = Callable[[Any], dict[str, Any]]


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as the mapping that JSON is made of."""
    found: dict[str, Any] = {
        "id": hit.id, "score": hit.score, "distance": hit.distance, "fields": dict(hit.fields),
    }  # fmt: skip
    if hit.vector is not None:
        found["vector"] = hit.vector.tolist()
    if hit.ranks:
        found["ranks"] = {name: rank.to_dict() for name, rank in hit.ranks.items()}
    if hit.highlights:
        found["highlights"] = dict(hit.highlights)
    return found


def record_json(record: Record) -> dict[str, Any]:
    """Return a record as the flat mapping that ``insert`` takes."""
    return record.to_dict()


async def rows_response(
    call: Call, name: str, rows: Results[Hit] | Results[Record], row: _Row
) -> Response:
    """Answer with rows: ``{name: [...]}``, or a line or an Arrow row for each, as Accept says."""
    kind = answer_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return Response(await in_thread(arrow_bytes, rows.to_arrow), media_type=ARROW)
    effort = effort_of(rows)
    if kind == JSON_LINES:
        return Response(await off_loop(effort, _lines, rows, row), media_type=JSON_LINES)
    return JsonBytes(await off_loop(effort, _named, name, rows, row))


def effort_of(rows: Sequence[Hit] | Sequence[Record]) -> int:
    """Return how many values it takes to write rows, for ``off_loop``."""
    if not rows:
        return 0
    first = rows[0]
    numbers = 0 if first.vector is None else len(first.vector) // _NUMBERS_A_VALUE
    # Texts and lists of any length may be among the fields, of which ten rows are not many.
    return len(rows) * (_VALUES_A_ROW + len(first.fields) + numbers)


def _named(name: str, rows: Iterable[Any], row: _Row) -> bytes:
    return b'{"' + name.encode() + b'":' + listed(rows, row) + b"}"


def listed(rows: Iterable[Any], row: _Row) -> bytes:
    """Return rows as a JSON array. Each by itself, so that other threads get a turn between."""
    return b"[" + b",".join([dump(row(one)) for one in rows]) + b"]"


def _lines(rows: Iterable[Any], row: _Row) -> bytes:
    return b"".join([dump(row(one)) + b"\n" for one in rows])


def arrow_bytes(table: Callable[[], pa.Table]) -> bytes:
    """Return a table as an Arrow IPC stream."""
    made = table()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return bytes(memoryview(sink.getvalue()))
