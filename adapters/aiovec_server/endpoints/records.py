"""Rows in, rows out, by ids or all of them."""

from __future__ import annotations

from starlette.responses import Response

from ..bodies import json_response
from ..call import Call
from ..decode import body_json, body_rows
from ..exporting import ArrowWriter, LinesWriter, Writer, begun, cursor_of
from ..kinds import COUNT, FLAG, TEXT, TEXTS, Key, Keys, one_of
from ..media import ARROW, JSON_LINES, answer_type
from ..problems import RequestError
from ..streaming import Streamed
from .declaring import Endpoints
from .document import ROWS_BODY, STREAM, counted

ENDPOINTS = Endpoints()

_FILTER = Key("filter", "where", TEXT, "A condition on the rows.", also=("where",))
WRITE = Keys(
    (
        Key("mode", "mode", one_of("insert", "upsert"), "`upsert` replaces rows of the same ids.",
            default="insert"),
        Key("on_conflict", "on_conflict", one_of("fail", "skip", "replace"),
            "What an insert does with a row whose id exists.", default="fail"),
        Key("model", "model", TEXT, "The model that made the vectors; another than the table's is "
            "refused."),
    )
)  # fmt: skip
EXPORT = Keys(
    (
        _FILTER,
        Key("select", "select", TEXTS, "Fields, the vector or payload; all by default."),
        Key("batch_size", "batch_size", COUNT, "Rows that are read at once.", default=1000),
        Key("after", "after", TEXT, "A cursor: go on behind it."),
        Key("cursors", "cursors", FLAG, "In JSON Lines, put a line with the cursor behind each "
            'batch: `{"cursor": "…"}`.', default=False),
    )
)  # fmt: skip
COUNTED = Keys((_FILTER,))


@ENDPOINTS.add(
    "POST", "/tables/{table}/records", counted("count"), query=WRITE, body=ROWS_BODY, writes=True
)
async def add_records(call: Call) -> Response:
    """Insert or upsert records.

    All of them are written or none. A record without a vector gets one of its text, if the table
    has an embedder.
    """
    options = dict(call.query)
    mode = options.pop("mode", "insert")
    if mode == "upsert" and "on_conflict" in options:
        raise RequestError(422, "mode=upsert replaces rows always: leave on_conflict out")
    rows = await body_rows(call)
    write = call.store.insert if mode == "insert" else call.store.upsert
    return json_response({"count": await write(call.table, rows, **options)})


@ENDPOINTS.add("GET", "/tables/{table}/records", STREAM, query=EXPORT)
async def export_records(call: Call) -> Response:
    """Stream all records.

    The answer is one snapshot of the table, in constant memory on the server. In Arrow, each batch
    has its cursor in its custom metadata, under `aiovec.cursor`, in bytes: `after` takes it in
    URL-safe Base64.
    """
    options = dict(call.query)
    kind = answer_type(call, (JSON_LINES, ARROW))
    cursors = options.pop("cursors", False)
    if "after" in options:
        options["after"] = cursor_of(options["after"])
    writer: Writer
    if kind == ARROW:
        schema = await call.store.schema(call.table)
        writer = ArrowWriter(schema, options.get("select"))
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


@ENDPOINTS.add(
    "POST", "/tables/{table}/count", counted("count"), body=COUNTED,
    example={"filter": "year >= 2024"},
)  # fmt: skip
@ENDPOINTS.add("GET", "/tables/{table}/count", counted("count"), query=COUNTED)
async def count_records(call: Call) -> Response:
    """Count the records.

    A filter that is too long for a path goes in the body of a POST.
    """
    if call.request.method == "POST":
        options = COUNTED.of_body(await body_json(call, needed=False))
    else:
        options = call.query
    return json_response({"count": await call.store.count(call.table, **options)})
