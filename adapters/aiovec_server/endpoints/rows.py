"""Rows by ids or by a filter: read, changed, deleted, summed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from aiovec import REMOVE, Counts, Record, Results
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from ..bodies import JsonBytes, dump, dump_values, rows_response
from ..bounds import check_answer, check_found, cut
from ..call import Call
from ..media import OF_ROWS
from ..models import (
    Bounds,
    ById,
    Delete,
    Deleted,
    Distinct,
    Ends,
    Existing,
    Find,
    Get,
    Records,
    SetVectors,
    Update,
    Updated,
    Values,
)
from ..problems import RequestError
from ..steps import found_by, rows_of, values_of
from .declaring import endpoint

_FOUND = 100


@endpoint(
    "POST", "/tables/{table}/get", Records, kinds=OF_ROWS, body=Get, example={"ids": ["note-1"]}
)
async def get_records(call: Call, options: dict[str, Any]) -> Response:
    """Read records by their ids.

    They stand in the order asked; absent ones are left out.
    """
    found = await rows_of(call, _listed(options.pop("ids")), **options)
    return await rows_response(call, "records", found)


@endpoint(
    "POST", "/tables/{table}/find", Records, kinds=OF_ROWS, body=Find,
    example={"where": "year >= 2024", "orderBy": ["-year", "id"], "limit": 20},
)  # fmt: skip
async def find_records(call: Call, options: dict[str, Any]) -> Response:
    """Find records by a filter.

    They are sorted by one or more keys, or by id. Vectors come only where asked for.
    """

    async def find(chosen: Mapping[str, Any]) -> list[Results[Record]]:
        return [await call.store.find(call.table, **chosen)]

    (found,) = await found_by(call, {"limit": _FOUND, **options}, find)
    return await rows_response(call, "records", found)


@endpoint(
    "POST", "/tables/{table}/update", Updated, body=Update, writes=True,
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
    return {"updated": await call.store._update(call.table, fields | removed, **options)}


@endpoint(
    "DELETE", "/tables/{table}/records", Deleted, body=Delete, writes=True,
    example={"ids": ["note-1", ".."]},
)  # fmt: skip
async def delete_records(call: Call, options: dict[str, Any]) -> Any:
    """Delete records by their ids, by a filter, or by both.

    Both narrow the records; one of them is needed. Absent ids are not counted. `"where": "TRUE"`
    deletes every row.
    """
    return {"deleted": await call.store.delete(call.table, **options)}


@endpoint(
    "POST", "/tables/{table}/exists", Existing, body=ById, example={"ids": ["note-1", "note-2"]}
)
async def existing_ids(call: Call, options: dict[str, Any]) -> Response:
    """Tell which ids exist.

    Returns those of the ids that do, in the order asked.
    """
    ids = _listed(options["ids"])
    there = await call.store.exists(call.table, ids)

    def body() -> bytes:
        given = ids if isinstance(ids, list) else ids.to_pylist()  # a column that was checked
        return dump({"ids": [id for id in dict.fromkeys(map(str, given)) if id in there]})

    return JsonBytes(await hop(len(ids), body))


@endpoint(
    "POST", "/tables/{table}/distinct", Values, body=Distinct,
    example={"field": "year", "limit": 10},
)  # fmt: skip
async def distinct_values(call: Call, options: dict[str, Any]) -> Response:
    """Count the distinct values of a field.

    The most frequent come first. Nulls are not counted.
    """
    limit = cut(options.pop("limit", 2**62))

    async def count(most: int) -> Counts:
        return await call.store.distinct(call.table, limit=most, **options)

    found = await values_of(count, limit)
    check_found([list(found)])

    def body() -> bytes:
        values = [{"value": value, "count": number} for value, number in found.items()]
        text = dump_values({"values": values})
        check_answer(len(text))
        return text

    return JsonBytes(await hop(weight(found), body))


@endpoint("POST", "/tables/{table}/bounds", Ends, body=Bounds, example={"field": "year"})
async def bounds_of_values(call: Call, options: dict[str, Any]) -> Response:
    """Read the least and the greatest value of a field.

    Both are null where every value is.
    """
    least, greatest = await call.store.bounds(call.table, **options) or (None, None)
    ends = {"min": least, "max": greatest}
    return JsonBytes(await hop(weight(ends), dump_values, ends))


@endpoint(
    "POST", "/tables/{table}/set_vectors", Updated, body=SetVectors, writes=True,
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
