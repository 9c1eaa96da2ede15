"""Rows: written, read by ids or by a filter, changed, deleted, summed up, exported."""

from __future__ import annotations

import sys
from typing import Any

from starlette.responses import Response

from aiovec import REMOVE
from aiovec._http.ipc import ARROW
from aiovec.backend.threads import hop

from .. import models
from ..bodies import dump, found_response, rows_response, values_response
from ..bounds import BOUNDS, check_answered, cut
from ..call import JSON, JSON_LINES, OF_ROWS, Call
from ..exporting import Streamed, arrow_stream, cursor_of, lines_stream
from ..problems import RequestError
from .declaring import endpoint

_STREAM = (JSON_LINES, ARROW)
_RECENT = {"where": "year >= 2024"}


@endpoint(
    "POST", "/tables/{table}/records", models.Counts, query=models.Write, body=models.NewRecords,
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
    write = call.store.insert if mode == "insert" else call.store.upsert
    return {"count": await write(call.table, **options)}


@endpoint("GET", "/tables/{table}/records", kinds=_STREAM, query=models.Export)
@endpoint(
    "POST", "/tables/{table}/export", kinds=_STREAM, body=models.Export, example=_RECENT,
    reads=True,
)  # fmt: skip
async def export_records(call: Call, options: dict[str, Any]) -> Response:
    """Stream all records, or the records that a filter selects.

    The answer is one snapshot of the table, in constant memory on the server. In Arrow, each batch
    has its cursor in its custom metadata, under `aiovec.cursor`, in bytes: `after` takes it in
    URL-safe Base64. By POST, a filter may be too long for a path.
    """
    kind = call.answer_type(_STREAM)
    cursors = options.pop("cursors", False)
    if "after" in options:
        options["after"] = cursor_of(options["after"])
    if "batch_size" in options:
        options["batch_size"] = min(options["batch_size"], BOUNDS.get().rows)
    batches = call.store.export(call.table, **options)
    if kind == ARROW:
        schema = await call.store.schema(call.table)
        return await Streamed.begun(arrow_stream(batches, schema, options.get("select")), kind)
    return await Streamed.begun(lines_stream(batches, cursors=cursors), kind)


@endpoint("DELETE", "/tables/{table}/records/{id:path}", models.Deleted)
async def delete_record(call: Call, options: dict[str, Any]) -> Any:
    """Delete one record.

    A slash in the id is encoded as %2F. Ids with a line break go in the body of
    `DELETE /tables/{table}/records`, and so do `.` and `..`, since clients take them for folders.
    An id that is absent is no error.
    """
    return {"deleted": await call.store.delete(call.table, [call.last_segment("id")])}


@endpoint("GET", "/tables/{table}/count", models.Counts, query=models.Filtered)
@endpoint(
    "POST", "/tables/{table}/count", models.Counts, body=models.Filtered, example=_RECENT,
    reads=True,
)  # fmt: skip
async def count_records(call: Call, options: dict[str, Any]) -> Any:
    """Count the records, or the records that a filter selects."""
    return {"count": await call.store.count(call.table, **options)}


@endpoint(
    "POST", "/tables/{table}/get", models.Records, kinds=OF_ROWS, body=models.Get,
    example={"ids": ["note-1"]}, reads=True,
)  # fmt: skip
async def get_records(call: Call, options: dict[str, Any]) -> Response:
    """Read records by their ids.

    They come in the order of the ids; absent ids are left out.
    """
    records = await call.store.get(call.table, _listed(options.pop("ids")), **options)
    return await rows_response(call, "records", [records])


@endpoint(
    "POST", "/tables/{table}/find", models.Records, kinds=OF_ROWS, body=models.Find,
    example={**_RECENT, "orderBy": ["-year", "id"], "limit": 20}, reads=True,
)  # fmt: skip
async def find_records(call: Call, options: dict[str, Any]) -> Response:
    """Find records by a filter.

    They are sorted by one or more keys, or by id. Vectors come only with `includeVector`.
    """
    return await found_response(call, {"limit": 100, **options}, "find", "records")


@endpoint(
    "POST", "/tables/{table}/update", models.Updated, body=models.Update,
    example={"set": {"year": 2025, "payload.seen": True}, "where": "year = 2024"},
)  # fmt: skip
async def update_records(call: Call, options: dict[str, Any]) -> Any:
    """Set fields of records.

    `ids` and `where` both narrow the rows, and one is needed; `"where": "TRUE"` is every row.
    """
    fields: dict[str, Any] = options.pop("fields", {})
    removed = dict.fromkeys(options.pop("remove", ()), REMOVE)
    for name in fields.keys() & removed.keys():
        raise RequestError(422, f"{name!r} stands in 'set' and in 'remove'; choose one")
    return {"updated": await call.store.update(call.table, fields | removed, **options)}


@endpoint(
    "DELETE", "/tables/{table}/records", models.Deleted, body=models.Delete,
    example={"ids": ["note-1", ".."]},
)  # fmt: skip
async def delete_records(call: Call, options: dict[str, Any]) -> Any:
    """Delete records by their ids, by a filter, or by both.

    Both narrow the records; one of them is needed. Absent ids are not counted. `"where": "TRUE"`
    deletes every row.
    """
    return {"deleted": await call.store.delete(call.table, **options)}


@endpoint(
    "POST", "/tables/{table}/exists", models.Existing, body=models.ById,
    example={"ids": ["note-1", "note-2"]}, reads=True,
)  # fmt: skip
async def existing_ids(call: Call, options: dict[str, Any]) -> Response:
    """Tell which ids exist.

    Returns the existing ids, in the order of the request.
    """
    ids = _listed(options["ids"])
    existing = await call.store.exists(call.table, ids)

    def body() -> bytes:
        given = ids if isinstance(ids, list) else ids.to_pylist()  # a column that was checked
        return dump({"ids": [id for id in dict.fromkeys(map(str, given)) if id in existing]})

    return Response(await hop(len(ids), body), media_type=JSON)


@endpoint(
    "POST", "/tables/{table}/distinct", models.Values, body=models.Distinct,
    example={"field": "year", "limit": 10}, reads=True,
)  # fmt: skip
async def distinct_values(call: Call, options: dict[str, Any]) -> Response:
    """Count the distinct values of a field.

    The most frequent come first. Nulls are not counted.
    """
    options["limit"] = cut(options.get("limit", sys.maxsize))
    counts = await call.store.distinct(call.table, **options)
    check_answered(len(counts), unit="values")
    values = [{"value": value, "count": number} for value, number in counts.items()]
    return await values_response({"values": values})


@endpoint(
    "POST", "/tables/{table}/bounds", models.Ends, body=models.Bounds, example={"field": "year"},
    reads=True,
)  # fmt: skip
async def bounds_of_values(call: Call, options: dict[str, Any]) -> Response:
    """Read the least and the greatest value of a field.

    Both are null where every value is.
    """
    least, greatest = await call.store.bounds(call.table, **options) or (None, None)
    return await values_response({"min": least, "max": greatest})


@endpoint(
    "POST", "/tables/{table}/fields_info", models.FieldsInfo, body=models.Filtered,
    example=_RECENT, reads=True, long=True,
)  # fmt: skip
async def types_of_fields(call: Call, options: dict[str, Any]) -> Any:
    """Count the types of the values of fields and payload keys.

    Every row is read. Nulls are not counted, and objects are not looked into.
    """
    return {"fields": await call.store.fields_info(call.table, **options)}


@endpoint(
    "POST", "/tables/{table}/set_vectors", models.Updated, body=models.SetVectors,
    example={"ids": ["note-1"], "vectors": [[0.0, 0.6, 0.8]]},
)  # fmt: skip
async def set_vectors(call: Call, options: dict[str, Any]) -> Any:
    """Give records new vectors.

    Their fields stay; absent ids are not counted.
    """
    return {"updated": await call.store.set_vectors(call.table, **options)}


def _listed(ids: Any) -> Any:
    """Return the ids of a body as a list or a column."""
    return [ids] if isinstance(ids, (str, int)) else ids
