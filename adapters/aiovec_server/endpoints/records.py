"""Rows in, rows out, by ids or all of them."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from aiovec._http.ipc import ARROW

from ..bodies import json_response
from ..bounds import BOUNDS
from ..call import Call
from ..decode import arguments_in, body_rows
from ..exporting import ArrowWriter, LinesWriter, Writer, begun, cursor_of
from ..media import JSON_LINES, answer_type
from ..models import Export, Filtered, Write
from ..problems import RequestError
from ..streaming import Streamed
from .declaring import Endpoints
from .document import ROWS_BODY, STREAM, counted

ENDPOINTS = Endpoints()


@ENDPOINTS.add(
    "POST", "/tables/{table}/records", counted("count"), query=Write, body=ROWS_BODY, writes=True
)
async def add_records(call: Call) -> Response:
    """Insert or upsert records.

    All of them are written or none. A record without a vector gets one of its text, if the table
    has an embedder.
    """
    options = dict(call.query)
    mode = options.pop("mode", "insert")
    if mode == "upsert" and "on_conflict" in options:
        raise RequestError(422, "mode=upsert replaces rows always: leave onConflict out")
    rows = await body_rows(call)
    write = call.store.insert if mode == "insert" else call.store.upsert
    return json_response({"count": await write(call.table, rows, **options)})


@ENDPOINTS.add("GET", "/tables/{table}/records", STREAM, query=Export)
async def export_records(call: Call) -> Response:
    """Stream all records.

    The answer is one snapshot of the table, in constant memory on the server. In Arrow, each batch
    has its cursor in its custom metadata, under `aiovec.cursor`, in bytes: `after` takes it in
    URL-safe Base64.
    """
    return await _exported(call, call.query)


@ENDPOINTS.add(
    "POST", "/tables/{table}/export", STREAM, body=Export, example={"filter": "year >= 2024"}
)
async def export_by_filter(call: Call) -> Response:
    """Stream all records that a filter selects.

    As `GET /tables/{table}/records`, for filters that are too long for a path.
    """
    return await _exported(call, await arguments_in(call, Export, needed=False))


async def _exported(call: Call, options: dict[str, Any]) -> Response:
    kind = answer_type(call, (JSON_LINES, ARROW))
    cursors = options.pop("cursors", False)
    if "after" in options:
        options["after"] = cursor_of(options["after"])
    if (bounds := BOUNDS.get()) is not None and "batch_size" in options:
        options["batch_size"] = min(options["batch_size"], bounds.rows)
    writer: Writer
    if kind == ARROW:
        writer = ArrowWriter(await call.store.schema(call.table), options.get("select"))
    else:
        writer = LinesWriter(cursors)
    first, rest = await begun(writer.parts(call.store.export(call.table, **options)))
    return Streamed(first, rest, kind)


@ENDPOINTS.add("DELETE", "/tables/{table}/records/{id:path}", counted("deleted"), writes=True)
async def delete_record(call: Call) -> Response:
    """Delete one record.

    A slash in the id is encoded as %2F. Ids with a line break go by `POST /tables/{table}/delete`,
    and so do `.` and `..`, since clients take them for folders. An id that is absent is no error.
    """
    id = call.last_segment("id")
    return json_response({"deleted": await call.store.delete(call.table, [id])})


@ENDPOINTS.add("GET", "/tables/{table}/count", counted("count"), query=Filtered)
async def count_records(call: Call) -> Response:
    """Count the records."""
    return json_response({"count": await call.store.count(call.table, **call.query)})


@ENDPOINTS.add(
    "POST", "/tables/{table}/count", counted("count"), body=Filtered,
    example={"filter": "year >= 2024"},
)  # fmt: skip
async def count_by_filter(call: Call) -> Response:
    """Count the records that a filter selects which is too long for a path."""
    options = await arguments_in(call, Filtered, needed=False)
    return json_response({"count": await call.store.count(call.table, **options)})
