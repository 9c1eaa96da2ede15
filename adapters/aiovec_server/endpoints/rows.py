"""Endpoints that write, read, search, change, delete, summarize and export rows."""

from __future__ import annotations

import sys
from typing import Any

from starlette.responses import Response

from aiovec import REMOVE
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import hop

from .. import models
from ..bodies import STREAMS, exported_response, found_response, rows_response
from ..call import Call
from ..limits import bounded, check_answered, cut
from ..problems import RequestError
from .declaring import endpoint, reads

_RECENT = {"where": "year >= 2024"}
_VECTOR = [0.6, 0.8, 0.0]


@endpoint(
    "POST", "records", models.Counts, models.NewRecords, query=models.Write,
    example=[{"id": "note-1", "embedding": [0.6, 0.8, 0.0], "year": 2024, "body": "A walk."}],
)  # fmt: skip
async def add_records(call: Call, options: dict[str, Any]) -> Any:
    """Insert or upsert records.

    All records are written, or none. If the table has an embedder, a record without a vector gets
    the vector of its text.
    """
    mode = options.pop("mode", "insert")
    if mode == "upsert" and "on_conflict" in options:
        raise RequestError(422, "mode=upsert always replaces rows; leave out onConflict")
    write = call.store.insert if mode == "insert" else call.store.upsert
    return {"count": await write(call.table, **options)}


@endpoint(
    "PATCH", "records", models.Updated, query=models.UpdateRows,
    body=models.NewRecords, example=[{"id": "note-1", "year": 2025, "payload.seen": True}],
)  # fmt: skip
async def change_records(call: Call, options: dict[str, Any]) -> Any:
    """Change records, each with its own values.

    Each record has an id and the fields, payload keys (also `payload.<key>`) and vector to set;
    `_remove` lists payload keys to remove. All records are changed, or none; absent ids are not
    counted.
    """
    rows = options.pop("rows")
    if isinstance(rows, list):
        rows = await hop(cost_of(rows), list, map(_with_removed, rows))
    elif "_remove" in rows.column_names:
        raise RequestError(422, "'_remove' cannot be a column of Arrow; send JSON or JSON Lines")
    return {"updated": await call.store.update(call.table, rows, **options)}


def _with_removed(row: Any) -> Any:
    """Return a record in which the keys that ``_remove`` lists have the value ``REMOVE``."""
    if not isinstance(row, dict) or "_remove" not in row:
        return row
    names = row.pop("_remove")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(422, "'_remove' must be a list of payload keys")
    if twice := row.keys() & set(names):
        raise RequestError(422, f"{min(twice)!r} is both set and in '_remove'; choose one")
    return row | dict.fromkeys(names, REMOVE)


@endpoint("GET", "records", kinds=STREAMS, query=models.Export)
@reads("export", None, models.Export, _RECENT, kinds=STREAMS)
async def export_records(call: Call, options: dict[str, Any]) -> Response:
    """Stream all records, or the records that a filter selects.

    The response is one snapshot of the table; the server streams it in constant memory. In Arrow,
    the custom metadata of each batch has its cursor as bytes under `aiovec.cursor`; pass it to
    `after` in URL-safe Base64. Use POST for a filter that is too long for a URL.
    """
    return await exported_response(call, options)


@endpoint("DELETE", "records/{id:path}", models.Deleted)
async def delete_record(call: Call, options: dict[str, Any]) -> Any:
    """Delete one record.

    Encode a slash in the id as %2F. For the ids `.` and `..`, which clients resolve like folders,
    and for ids that contain a line break, use `DELETE /tables/{table}/records`, which takes ids in
    its body. An absent id is not an error.
    """
    return {"deleted": await call.store.delete(call.table, [call.last_segment("id")])}


@endpoint("GET", "count", models.Counts, query=models.Filtered)
@reads("count", models.Counts, models.Filtered, _RECENT)
async def count_records(call: Call, options: dict[str, Any]) -> Any:
    """Count the records, or the records that a filter selects."""
    return {"count": await call.store.count(call.table, **options)}


@reads("get", models.Records, models.Get, {"ids": ["note-1"]})
async def get_records(call: Call, options: dict[str, Any]) -> Response:
    """Read records by their ids.

    The response is in the order of the ids. Absent ids are left out.
    """
    records = await call.store.get(call.table, _listed(options.pop("ids")), **options)
    return await rows_response(call, "records", [records])


@reads("find", models.Records, models.Find, {**_RECENT, "orderBy": ["-year", "id"], "limit": 20})
async def find_records(call: Call, options: dict[str, Any]) -> Response:
    """Find records by a filter.

    Records are sorted by one or more keys, or by id. Vectors are left out unless `includeVector` is
    true.
    """
    return await found_response(call, {"limit": 100, **options}, "find", "records")


@endpoint(
    "POST", "update", models.Updated, models.Update,
    {"set": {"year": 2025, "payload.seen": True}, "where": "year = 2024"},
)  # fmt: skip
async def update_records(call: Call, options: dict[str, Any]) -> Any:
    """Set fields of records.

    Pass `ids` or `where`. If you pass both, a record must match both. `"where": "TRUE"` selects
    every record.
    """
    fields: dict[str, Any] = options.pop("fields", {})
    removed = dict.fromkeys(options.pop("remove", ()), REMOVE)
    for name in fields.keys() & removed.keys():
        raise RequestError(422, f"{name!r} is both in 'set' and in 'remove'; choose one")
    return {"updated": await call.store.update(call.table, fields | removed, **options)}


@endpoint("DELETE", "records", models.Deleted, models.Delete, {"ids": ["note-1", ".."]})
async def delete_records(call: Call, options: dict[str, Any]) -> Any:
    """Delete records by their ids, by a filter, or by both.

    Pass `ids` or `where`. If you pass both, a record must match both. Absent ids are not counted.
    `"where": "TRUE"` deletes every record.
    """
    return {"deleted": await call.store.delete(call.table, **options)}


@reads("exists", models.Existing, models.ById, {"ids": ["note-1", "note-2"]})
async def existing_ids(call: Call, options: dict[str, Any]) -> Any:
    """List which of these ids exist.

    Returns the existing ids, in the order of the request.
    """
    ids = _listed(options["ids"])
    existing = await call.store.exists(call.table, ids)

    def in_order() -> list[str]:
        given = ids if isinstance(ids, list) else ids.to_pylist()  # a column, already checked
        return [id for id in dict.fromkeys(map(str, given)) if id in existing]

    return {"ids": await hop(len(ids), in_order)}


@reads("distinct", models.Values, models.Distinct, {"field": "year", "limit": 10})
async def distinct_values(call: Call, options: dict[str, Any]) -> Any:
    """List the distinct values of a field, and count each of them.

    The most frequent values come first. Nulls are not counted.
    """
    options["limit"] = cut(options.get("limit", sys.maxsize))
    counts = await call.store.distinct(call.table, **options)
    check_answered(len(counts), unit="values")
    return {"values": [{"value": value, "count": number} for value, number in counts.items()]}


@reads("bounds", models.Ends, models.Bounds, {"field": "year"})
async def bounds_of_values(call: Call, options: dict[str, Any]) -> Any:
    """Read the smallest and the largest value of a field.

    Both are null if every value is null.
    """
    least, greatest = await call.store.bounds(call.table, **options) or (None, None)
    return {"min": least, "max": greatest}


@reads("fields_info", models.FieldsInfo, models.Filtered, _RECENT, long=True)
async def types_of_fields(call: Call, options: dict[str, Any]) -> Any:
    """Count the values of each type in each field and payload key.

    Every row is read. Nulls are not counted, and keys within objects are not reported.
    """
    return {"fields": await call.store.fields_info(call.table, **options)}


@endpoint(
    "POST", "set_vectors", models.Updated, models.SetVectors,
    {"ids": ["note-1"], "vectors": [[0.0, 0.6, 0.8]]},
)  # fmt: skip
async def set_vectors(call: Call, options: dict[str, Any]) -> Any:
    """Set the vectors of records.

    Other fields keep their values; absent ids are not counted.
    """
    return {"updated": await call.store.set_vectors(call.table, **options)}


# Searches


@reads("search", models.Hits, models.Search, {"vector": _VECTOR, "limit": 5, **_RECENT})
async def search(call: Call, options: dict[str, Any]) -> Response:
    """Search by vector.

    Returns the rows nearest to a vector, best first. In all searches, older clients may send `topK`
    for `limit` and `filter` for `where`; the hits then also have `score`, `distance` and `fields`.
    """
    _choose(options, "vector", "text")
    return await found_response(call, options, "search")


@reads(
    "search_many", models.HitsOfMany, models.SearchMany,
    {"vectors": [_VECTOR, [0.0, 0.0, 1.0]], "limit": 5},
)  # fmt: skip
async def search_many(call: Call, options: dict[str, Any]) -> Response:
    """Search by several vectors.

    All searches see the same state of the table. The results are in the order of the vectors.
    In Arrow, `_query` is the position, counted from 0, of the query that found the row.
    """
    _choose(options, "vectors", "texts")
    options = bounded(options, queries=len(options["vectors"]))
    hits = await call.store.search_many(call.table, **options)
    return await rows_response(call, "hits", hits, of_many=True)


@reads(
    "search_text", models.Hits, models.SearchText,
    {"query": "walk sea", "limit": 5, "highlight": True},
)  # fmt: skip
async def search_text(call: Call, options: dict[str, Any]) -> Response:
    """Search by keywords.

    Returns the best rows by BM25 that have at least one of the words. `match` changes this.
    """
    return await found_response(call, options, "search_text")


@reads(
    "search_hybrid", models.Hits, models.SearchHybrid,
    {"query": "walk sea", "vector": _VECTOR, "limit": 5},
)  # fmt: skip
async def search_hybrid(call: Call, options: dict[str, Any]) -> Response:
    """Search by keywords and by vector.

    The two lists of hits are fused into one. Each hit has its `ranks` in these lists. Without a
    vector, the table's embedder computes one from the query.
    """
    if "text" in options:
        _choose(options, "vector", "text")
    return await found_response(call, options, "search_hybrid")


@reads("search_like", models.Hits, models.SearchLike, {"ids": ["note-1"], "limit": 5})
async def search_like(call: Call, options: dict[str, Any]) -> Response:
    """Search by rows.

    Returns the rows nearest to a row, or to the mean of several rows, excluding these rows.
    With `notLike`, the search moves away from other rows.
    """
    return await found_response(call, options, "search_like")


def _choose(options: dict[str, Any], name: str, other: str) -> None:
    """Require exactly one of two arguments, and rename ``other`` to ``name``."""
    if (name in options) == (other in options):
        raise RequestError(422, f"the body needs {name!r} or {other!r}, and not both")
    if other in options:
        options[name] = options.pop(other)


def _listed(ids: Any) -> Any:
    """Return the ids in a body, as a list or a column."""
    return [ids] if isinstance(ids, (str, int)) else ids
