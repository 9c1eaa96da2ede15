"""Rows by ids or by a filter: read, changed, deleted, summed up."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from aiovec import REMOVE, Record, Results
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight

from ..bodies import JsonBytes, dump, dump_values, json_response, record_json, rows_response
from ..bounds import check_answer, check_found, cut
from ..call import Call
from ..decode import arguments_in
from ..models import Bounds, Delete, Distinct, Exists, Find, Get, SetVectors, Update
from ..problems import RequestError
from ..steps import is_small, of_one_moment, rows_in_steps, rows_with_ids, values_of
from .declaring import Endpoints
from .document import ANYTHING, RECORDS, Answer, an_object, counted, listed
from .document import COUNT as NUMBER
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()

_FOUND = 100


@ENDPOINTS.add("POST", "/tables/{table}/get", RECORDS, body=Get, example={"ids": ["note-1"]})
async def get_records(call: Call) -> Response:
    """Read records by their ids.

    They stand in the order asked; absent ones are left out.
    """
    options = await arguments_in(call, Get)
    ids = _listed(options["ids"])
    found = await rows_with_ids(
        call, ids, options.get("select"), include_vector=options.get("include_vector", True)
    )
    return await rows_response(call, "records", found, record_json)


@ENDPOINTS.add(
    "POST", "/tables/{table}/find", RECORDS, body=Find,
    example={"filter": "year >= 2024", "orderBy": ["-year", "id"], "limit": 20},
)  # fmt: skip
async def find_records(call: Call) -> Response:
    """Find records by a filter.

    They are sorted by one or more keys, or by id. Vectors come only where asked for.
    """
    options = await arguments_in(call, Find, needed=False)
    options["limit"] = cut(options.get("limit", _FOUND))

    async def in_steps() -> Results[Record]:
        named = {**options, "select": [], "include_vector": False}
        ids = [record.id for record in await call.store.find(call.table, **named)]
        check_found([ids])
        return await rows_in_steps(
            call, ids, options.get("select"), include_vector=options.get("include_vector", False)
        )

    async def at_once() -> Results[Record]:
        found = await call.store.find(call.table, **options)
        check_found([found])
        return found

    small = is_small(options["limit"])
    found = await (at_once() if small else of_one_moment(call, in_steps, at_once))
    return await rows_response(call, "records", found, record_json)


@ENDPOINTS.add(
    "POST", "/tables/{table}/update", counted("updated"), body=Update, writes=True,
    example={"set": {"year": 2025, "payload.seen": True}, "filter": "year = 2024"},
)  # fmt: skip
async def update_records(call: Call) -> Response:
    """Set fields of records.

    `ids` and `filter` both narrow the rows, and one is needed; `"filter": "TRUE"` is every row.
    """
    options = await arguments_in(call, Update)
    fields: dict[str, Any] = options.pop("fields", {})
    for name in options.pop("remove", ()):
        if name in fields:
            raise RequestError(422, f"{name!r} stands in 'set' and in 'remove'; choose one")
        fields[name] = REMOVE
    return json_response({"updated": await call.store._update(call.table, fields, **options)})


@ENDPOINTS.add(
    "POST", "/tables/{table}/delete", counted("deleted"), body=Delete, writes=True,
    example={"ids": ["note-1", ".."]},
)  # fmt: skip
async def delete_records(call: Call) -> Response:
    """Delete records by their ids, or by a filter.

    Absent ids are not counted. `"filter": "TRUE"` deletes every row.
    """
    options = await arguments_in(call, Delete)
    if len(options) != 1:
        raise RequestError(422, "the body needs 'ids' or 'filter', and not both")
    if "ids" in options:
        return json_response({"deleted": await call.store.delete(call.table, **options)})
    return json_response({"deleted": await call.store.delete_where(call.table, **options)})


@ENDPOINTS.add(
    "POST", "/tables/{table}/exists",
    Answer(an_object({"ids": listed(WORDS)}), {"ids": ["note-1"]}),
    body=Exists, example={"ids": ["note-1", "note-2"]},
)  # fmt: skip
async def existing_ids(call: Call) -> Response:
    """Tell which ids exist.

    Returns those of the ids that do, in the order asked.
    """
    options = await arguments_in(call, Exists)
    ids = _listed(options["ids"])
    there = await call.store.exists(call.table, ids)

    def body() -> bytes:
        given = ids if isinstance(ids, list) else ids.to_pylist()  # a column that was checked
        return dump({"ids": [id for id in dict.fromkeys(map(str, given)) if id in there]})

    return JsonBytes(await hop(len(ids), body))


@ENDPOINTS.add(
    "POST", "/tables/{table}/distinct",
    Answer(
        an_object({"values": listed(an_object({"value": ANYTHING, "count": NUMBER}))}),
        {"values": [{"value": 2024, "count": 17}]},
    ),
    body=Distinct, example={"field": "year", "limit": 10},
)  # fmt: skip
async def distinct_values(call: Call) -> Response:
    """Count the distinct values of a field.

    The most frequent come first. Nulls are not counted.
    """
    options = await arguments_in(call, Distinct)
    store = call.store
    asked = options.pop("limit", None)
    limit = cut(2**62 if asked is None else asked)

    async def count(most: int) -> dict[Any, int]:
        return await store.distinct(call.table, limit=most, **options)

    found = await values_of(count, limit)
    check_found([list(found)])

    def body() -> bytes:
        values = [{"value": value, "count": number} for value, number in found.items()]
        text = dump_values({"values": values})
        check_answer(len(text))
        return text

    return JsonBytes(await hop(weight(found), body))


@ENDPOINTS.add(
    "POST", "/tables/{table}/bounds",
    Answer(an_object({"min": ANYTHING, "max": ANYTHING}), {"min": 1999, "max": 2024}),
    body=Bounds, example={"field": "year"},
)  # fmt: skip
async def bounds_of_values(call: Call) -> Response:
    """Read the least and the greatest value of a field.

    Both are null where every value is.
    """
    found = await call.store.bounds(call.table, **await arguments_in(call, Bounds))
    least, greatest = (None, None) if found is None else found
    ends = {"min": least, "max": greatest}
    return JsonBytes(await hop(weight(ends), dump_values, ends))


@ENDPOINTS.add(
    "POST", "/tables/{table}/set_vectors", counted("updated"), body=SetVectors, writes=True,
    example={"ids": ["note-1"], "vectors": [[0.0, 0.6, 0.8]]},
)  # fmt: skip
async def set_vectors(call: Call) -> Response:
    """Give records new vectors.

    Their fields stay; absent ids are not counted.
    """
    options = await arguments_in(call, SetVectors)
    return json_response({"updated": await call.store.set_vectors(call.table, **options)})


def _listed(ids: Any) -> Any:
    """Return the ids of a body as a list or a column."""
    return [ids] if isinstance(ids, (str, int)) else ids
