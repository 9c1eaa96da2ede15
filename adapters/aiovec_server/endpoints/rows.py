"""Rows by ids or by a filter: read, changed, deleted, summed up."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from aiovec import REMOVE
from aiovec.backend.threads import hop
from aiovec.backend.weight import weight
from aiovec.errors import InvalidArgumentError

from ..bodies import (
    JsonBytes,
    dump,
    json_response,
    record_json,
    rows_response,
)
from ..bounds import BOUNDS as BOUNDS_OF_REQUEST
from ..bounds import check_answer
from ..call import Call
from ..decode import arrow_body, body_json
from ..kinds import (
    COUNT,
    FLAG,
    IDS,
    OBJECT,
    ORDER,
    TEXT,
    TEXTS,
    VECTORS,
    WHOLE,
    Key,
    Keys,
)
from ..media import ARROW, JSON, body_type
from ..problems import RequestError
from ..steps import is_small, rows_with_ids
from .declaring import Endpoints
from .document import ANYTHING, BYTES, RECORDS, Answer, an_object, counted, listed
from .document import COUNT as NUMBER
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()

_FOUND = 100
_FILTER = Key("filter", "where", TEXT, "A condition on the rows.", also=("where",))
_SELECT = Key("select", "select", TEXTS, "Fields of the records; all by default.")
_FIELD = Key("field", "field", TEXT, "A field, id, or payload.<key>.", required=True)
_IDS = Key("ids", "ids", IDS, "The ids of the rows.", required=True)
_SOME_IDS = Key("ids", "ids", IDS, "The ids of the rows.")

GET = Keys(
    (
        _IDS,
        _SELECT,
        Key("includeVector", "include_vector", FLAG, "Give the vectors too.", default=True),
    )
)
FIND = Keys(
    (
        _FILTER,
        Key("orderBy", "order_by", ORDER, "Fields, id or payload.<key>; a minus sorts falling."),
        Key("descending", "descending", FLAG, "Turn every direction around.", default=False),
        Key("limit", "limit", COUNT, "Records, at most.", default=_FOUND),
        Key("offset", "offset", WHOLE, "Records that are passed over first.", default=0),
        _SELECT,
        Key("includeVector", "include_vector", FLAG, "Give the vectors too.", default=False),
    )
)
UPDATE = Keys(
    (
        Key("set", "fields", OBJECT, "New values of fields, payload keys or payload.<key>."),
        Key("remove", "remove", TEXTS, "Payload keys to remove, as payload.<key>."),
        _SOME_IDS,
        _FILTER,
    )
)
DELETE = Keys((_SOME_IDS, _FILTER))
EXISTS = Keys((_IDS,))
DISTINCT = Keys((_FIELD, _FILTER, Key("limit", "limit", COUNT, "Values, at most.")))
BOUNDS = Keys((_FIELD, _FILTER))
SET_VECTORS = Keys(
    (
        _IDS,
        Key("vectors", "vectors", VECTORS, "A vector for each id.", required=True),
        Key("model", "model", TEXT, "The model that made them."),
    )
)
MODEL = Keys((Key("model", "model", TEXT, "The model that made the vectors."),))


@ENDPOINTS.add("POST", "/tables/{table}/get", RECORDS, body=GET, example={"ids": ["note-1"]})
async def get_records(call: Call) -> Response:
    """Read records by their ids.

    They stand in the order asked; absent ones are left out.
    """
    options = GET.of_body(await body_json(call))
    ids = options["ids"] if isinstance(options["ids"], list) else [options["ids"]]
    found = await rows_with_ids(
        call, ids, options.get("select"), include_vector=options.get("include_vector", True)
    )
    return await rows_response(call, "records", found, record_json)


@ENDPOINTS.add(
    "POST", "/tables/{table}/find", RECORDS, body=FIND,
    example={"filter": "year >= 2024", "orderBy": ["-year", "id"], "limit": 20},
)  # fmt: skip
async def find_records(call: Call) -> Response:
    """Find records by a filter.

    They are sorted by one or more keys, or by id. Vectors come only where asked for.
    """
    options = FIND.of_body(await body_json(call, needed=False))
    if is_small(options.get("limit", _FOUND)):
        found = await call.store.find(call.table, **options)
    else:
        named = {**options, "select": [], "include_vector": False}
        ids = [record.id for record in await call.store.find(call.table, **named)]
        found = await rows_with_ids(
            call, ids, options.get("select"), include_vector=options.get("include_vector", False)
        )
    return await rows_response(call, "records", found, record_json)


@ENDPOINTS.add(
    "POST", "/tables/{table}/update", counted("updated"), body=UPDATE, writes=True,
    body_needed=True,
    example={"set": {"year": 2025, "payload.seen": True}, "filter": "year = 2024"},
)  # fmt: skip
async def update_records(call: Call) -> Response:
    """Set fields of records.

    `ids` and `filter` both narrow the rows, and one is needed; `"filter": "TRUE"` is every row.
    """
    options = UPDATE.of_body(await body_json(call))
    fields: dict[str, Any] = options.pop("fields", {})
    for name in options.pop("remove", ()):
        if name in fields:
            raise RequestError(422, f"{name!r} stands in 'set' and in 'remove'; choose one")
        fields[name] = REMOVE
    return json_response({"updated": await call.store.update(call.table, fields, **options)})


@ENDPOINTS.add(
    "POST", "/tables/{table}/delete", counted("deleted"), body=DELETE, writes=True,
    body_needed=True,
    example={"ids": ["note-1", ".."]},
)  # fmt: skip
async def delete_records(call: Call) -> Response:
    """Delete records by their ids, or by a filter.

    Absent ids are not counted. `"filter": "TRUE"` deletes every row.
    """
    options = DELETE.of_body(await body_json(call))
    if len(options) != 1:
        raise RequestError(422, "the body needs 'ids' or 'filter', and not both")
    if "ids" in options:
        return json_response({"deleted": await call.store.delete(call.table, **options)})
    return json_response({"deleted": await call.store.delete_where(call.table, **options)})


@ENDPOINTS.add(
    "POST", "/tables/{table}/exists",
    Answer(an_object({"ids": listed(WORDS)}), {"ids": ["note-1"]}),
    body=EXISTS, example={"ids": ["note-1", "note-2"]},
)  # fmt: skip
async def existing_ids(call: Call) -> Response:
    """Tell which ids exist.

    Returns those of the ids that do, in the order asked.
    """
    options = EXISTS.of_body(await body_json(call))
    ids = options["ids"] if isinstance(options["ids"], list) else [options["ids"]]
    there = await call.store.exists(call.table, ids)

    def body() -> bytes:
        return dump({"ids": [id for id in dict.fromkeys(map(str, ids)) if id in there]})

    return JsonBytes(await hop(len(ids), body))


@ENDPOINTS.add(
    "POST", "/tables/{table}/distinct",
    Answer(
        an_object({"values": listed(an_object({"value": ANYTHING, "count": NUMBER}))}),
        {"values": [{"value": 2024, "count": 17}]},
    ),
    body=DISTINCT, example={"field": "year", "limit": 10},
)  # fmt: skip
async def distinct_values(call: Call) -> Response:
    """Count the distinct values of a field.

    The most frequent come first. Nulls are not counted.
    """
    options = DISTINCT.of_body(await body_json(call))
    bounds = BOUNDS_OF_REQUEST.get()
    if bounds is not None:
        options.setdefault("limit", bounds.hits + 1)
    found = await call.store.distinct(call.table, **options)
    if bounds is not None and len(found) > bounds.hits:
        raise RequestError(
            413,
            f"the field has more than {bounds.hits:,} values, the most on this server; ask for the "
            "most frequent with 'limit'",
        )

    def body() -> bytes:
        text = dump({"values": [{"value": v, "count": count} for v, count in found.items()]})
        check_answer(len(text))
        return text

    return JsonBytes(await hop(weight(found), body))


@ENDPOINTS.add(
    "POST", "/tables/{table}/bounds",
    Answer(an_object({"min": ANYTHING, "max": ANYTHING}), {"min": 1999, "max": 2024}),
    body=BOUNDS, example={"field": "year"},
)  # fmt: skip
async def bounds_of_values(call: Call) -> Response:
    """Read the least and the greatest value of a field.

    Both are null where every value is.
    """
    found = await call.store.bounds(call.table, **BOUNDS.of_body(await body_json(call)))
    least, greatest = (None, None) if found is None else found
    ends = {"min": least, "max": greatest}
    return JsonBytes(await hop(weight(ends), dump, ends))


@ENDPOINTS.add(
    "POST", "/tables/{table}/set_vectors", counted("updated"), query=MODEL, writes=True,
    body={
        JSON: {
            "schema": SET_VECTORS.json_schema(),
            "example": {"ids": ["note-1"], "vectors": [[0.0, 0.6, 0.8]]},
        },
        ARROW: {"schema": BYTES},
    },
)  # fmt: skip
async def set_vectors(call: Call) -> Response:
    """Give records new vectors.

    Their fields stay; absent ids are not counted. An Arrow stream has a column `id` and one other,
    with the vectors.
    """
    options = dict(call.query)
    if body_type(call, (JSON, ARROW)) == JSON:
        given = SET_VECTORS.of_body(await body_json(call))
        if options and "model" in given:
            raise RequestError(422, "'model' stands in the query and in the body; pass it once")
        options |= given
    else:
        table = await arrow_body(call)
        names = table.schema.names
        if len(names) != 2 or "id" not in names:
            raise InvalidArgumentError("the columns", names, "'id', and one with the vectors")
        options["ids"] = table.column("id")
        options["vectors"] = table.column(1 - names.index("id"))
    return json_response({"updated": await call.store.set_vectors(call.table, **options)})
