"""Rows in, rows out, by ids or all of them."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from aiovec._http.ipc import ARROW

from ..bounds import BOUNDS
from ..call import Call
from ..decode import body_rows
from ..exporting import Streamed, arrow_stream, cursor_of, lines_stream
from ..media import JSON_LINES, answer_type
from ..models import Counts, Deleted, Export, Filtered, Write
from ..problems import RequestError
from .declaring import endpoint

_STREAM = (JSON_LINES, ARROW)


@endpoint(
    "POST", "/tables/{table}/records", Counts, query=Write, takes_rows=True, writes=True,
    example=[{"id": "note-1", "embedding": [0.6, 0.8, 0.0], "year": 2024, "body": "A walk."}],
)  # fmt: skip
async def add_records(call: Call, options: dict[str, Any]) -> Any:
    """Insert or upsert records.

    All of them are written or none. A record without a vector gets one of its text, if the table
    has an embedder.
    """
    mode = options.pop("mode", "insert")
    if mode == "upsert" and "on_conflict" in options:
        raise RequestError(422, "mode=upsert replaces rows always: leave onConflict out")
    rows = await body_rows(call)
    write = call.store.insert if mode == "insert" else call.store.upsert
    return {"count": await write(call.table, rows, **options)}


@endpoint("GET", "/tables/{table}/records", kinds=_STREAM, query=Export)
@endpoint(
    "POST", "/tables/{table}/export", kinds=_STREAM, body=Export,
    example={"where": "year >= 2024"},
)  # fmt: skip
async def export_records(call: Call, options: dict[str, Any]) -> Response:
    """Stream all records, or those that a filter selects.

    The answer is one snapshot of the table, in constant memory on the server. In Arrow, each batch
    has its cursor in its custom metadata, under `aiovec.cursor`, in bytes: `after` takes it in
    URL-safe Base64. By POST, a filter may be too long for a path.
    """
    kind = answer_type(call.request, _STREAM)
    cursors = options.pop("cursors", False)
    if "after" in options:
        options["after"] = cursor_of(options["after"])
    if (bounds := BOUNDS.get()) is not None and "batch_size" in options:
        options["batch_size"] = min(options["batch_size"], bounds.rows)
    batches = call.store.export(call.table, **options)
    if kind == ARROW:
        schema = await call.store.schema(call.table)
        return await Streamed.begun(arrow_stream(batches, schema, options.get("select")), kind)
    return await Streamed.begun(lines_stream(batches, cursors=cursors), kind)


@endpoint("DELETE", "/tables/{table}/records/{id:path}", Deleted, writes=True)
async def delete_record(call: Call, options: dict[str, Any]) -> Any:
    """Delete one record.

    A slash in the id is encoded as %2F. Ids with a line break go in the body of
    `DELETE /tables/{table}/records`, and so do `.` and `..`, since clients take them for folders.
    An id that is absent is no error.
    """
    return {"deleted": await call.store.delete(call.table, [call.last_segment("id")])}


@endpoint("GET", "/tables/{table}/count", Counts, query=Filtered)
@endpoint("POST", "/tables/{table}/count", Counts, body=Filtered, example={"where": "year >= 2024"})
async def count_records(call: Call, options: dict[str, Any]) -> Any:
    """Count the records, or those that a filter selects."""
    return {"count": await call.store.count(call.table, **options)}
