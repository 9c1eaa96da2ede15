"""Tables and their fields, and the server's health."""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from starlette.responses import Response

from aiovec import Field, Schema, TableNotFoundError, VectorStore, __version__

from ..bodies import json_response
from ..call import Call
from ..decode import body_json
from ..kinds import FIELD, FLAG, OBJECT, TEXT, Key, Keys, one_of
from ..problems import RequestError
from .declaring import Endpoints
from .document import (
    COUNT,
    EXAMPLE_SCHEMA,
    NOTHING,
    TABLE,
    Answer,
    an_object,
    listed,
)
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()

CREATE = Keys(
    (
        Key("name", "table", TEXT, "The table's name.", required=True),
        Key("schema", "schema", OBJECT, "Its schema; by default rows of text of the configured "
            "length."),
        Key("existOk", "exist_ok", FLAG, "Accept a table that has the same schema.",
            default=False),
    )
)  # fmt: skip
RENAME = Keys((Key("name", "name", TEXT, "The new name.", required=True),))
CONFIRM = Keys((Key("confirm", "confirm", TEXT, "The name once more.", required=True),))
ADD_FIELD = Keys(
    (
        Key("name", "name", TEXT, "The field's name.", required=True),
        Key("field", "field", FIELD, "Its type, or an object with the type and its options.",
            required=True),
    )
)  # fmt: skip
_KIND = one_of("btree", "bitmap", "text")
INDEX = Keys((Key("kind", "kind", _KIND, "`text` is for keyword search.", required=True),))
DROP_INDEX = Keys((Key("kind", "kind", _KIND, "By default all indexes over the field."),))


@ENDPOINTS.add(
    "GET", "/health",
    Answer(
        an_object({"status": WORDS, "backend": WORDS, "version": WORDS}),
        {"status": "ok", "backend": "sqlite", "version": __version__},
    ),
)  # fmt: skip
async def health(call: Call) -> Response:
    """Tell whether the store can be reached."""
    await _reach(call.store)
    return json_response(
        {"status": "ok", "backend": call.store.backend_name, "version": __version__}
    )


_REMEMBERED = 1.0
"""Seconds for which a ping counts: anybody may ask for the health, and on object storage each ping
costs several requests."""


class _Ping:
    """A ping that all who ask meanwhile wait for."""

    def __init__(self, store: VectorStore) -> None:
        self.task = asyncio.ensure_future(store.ping())
        self._ends = time.monotonic() + _REMEMBERED

    def counts(self) -> bool:
        if not self.task.done():
            return True
        failed = self.task.cancelled() or self.task.exception() is not None
        return not failed and time.monotonic() < self._ends


_PINGS: WeakKeyDictionary[VectorStore, _Ping] = WeakKeyDictionary()
"""The last ping of each store."""


async def _reach(store: VectorStore) -> None:
    """Ping the store, at most once a second."""
    ping = _PINGS.get(store)
    if ping is None or not ping.counts():
        ping = _PINGS[store] = _Ping(store)
    await asyncio.shield(ping.task)  # one who leaves does not end it for the others


@ENDPOINTS.add(
    "GET", "/tables",
    Answer(
        an_object({"tables": listed(an_object({"name": WORDS, "rows": COUNT}))}),
        {"tables": [{"name": "notes", "rows": 1200}]},
    ),
)  # fmt: skip
async def list_tables(call: Call) -> Response:
    """List the tables with their numbers of rows."""
    found = []
    for name in await call.store.tables():
        try:
            found.append({"name": name, "rows": await call.store.count(name)})
        except TableNotFoundError:  # dropped meanwhile
            continue
    return json_response({"tables": found})


@ENDPOINTS.add(
    "POST", "/tables", TABLE, body=CREATE, status=201, writes=True,
    example={"name": "notes", "schema": EXAMPLE_SCHEMA},
)  # fmt: skip
async def create_table(call: Call) -> Response:
    """Create a table."""
    options = CREATE.of_body(await body_json(call))
    if "schema" in options:
        options["schema"] = Schema.from_json(options["schema"])
    await call.store.create_table(**options)
    return await _described(call, options["table"], 201)


@ENDPOINTS.add("GET", "/tables/{table}", TABLE)
async def describe_table(call: Call) -> Response:
    """Read a table's schema and its number of rows."""
    return await _described(call, call.table)


@ENDPOINTS.add("DELETE", "/tables/{table}", NOTHING, query=CONFIRM, status=204, writes=True)
async def drop_table(call: Call) -> Response:
    """Drop a table with all its rows."""
    _check_confirmed(call, call.table, "table")
    await call.store.drop_table(call.table)
    return Response(status_code=204)


@ENDPOINTS.add(
    "POST", "/tables/{table}/rename", TABLE, body=RENAME, example={"name": "memos"}, writes=True
)
async def rename_table(call: Call) -> Response:
    """Give a table another name."""
    name = RENAME.of_body(await body_json(call))["name"]
    await call.store.rename_table(call.table, name)
    return await _described(call, name)


@ENDPOINTS.add(
    "POST", "/tables/{table}/fields", TABLE, body=ADD_FIELD, status=201, writes=True,
    example={"name": "lang", "field": {"type": "text", "index": "bitmap"}},
)  # fmt: skip
async def add_field(call: Call) -> Response:
    """Add a field, which is null in existing rows."""
    options = ADD_FIELD.of_body(await body_json(call))
    field = Field.from_dict(options["field"])
    await call.store.add_field(call.table, options["name"], field)
    return await _described(call, call.table, 201)


@ENDPOINTS.add("DELETE", "/tables/{table}/fields/{field}", TABLE, query=CONFIRM, writes=True)
async def drop_field(call: Call) -> Response:
    """Drop a field with all its values."""
    field = call.last_segment("field")
    _check_confirmed(call, field, "field")
    await call.store.drop_field(call.table, field)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "POST", "/tables/{table}/fields/{field}/rename", TABLE, body=RENAME,
    example={"name": "published"}, writes=True,
)  # fmt: skip
async def rename_field(call: Call) -> Response:
    """Give a field another name."""
    name = RENAME.of_body(await body_json(call))["name"]
    await call.store.rename_field(call.table, call.segment("field"), name)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "PUT", "/tables/{table}/fields/{field}/index", TABLE, body=INDEX, example={"kind": "btree"},
    writes=True,
)  # fmt: skip
async def create_field_index(call: Call) -> Response:
    """Build an index over a field, for filters or for keyword search."""
    options = INDEX.of_body(await body_json(call))
    await call.store.create_field_index(call.table, call.segment("field"), **options)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "DELETE", "/tables/{table}/fields/{field}/index", TABLE, query=DROP_INDEX, writes=True
)
async def drop_field_index(call: Call) -> Response:
    """Drop the indexes over a field. Its values stay."""
    await call.store.drop_field_index(call.table, call.segment("field"), **call.query)
    return await _described(call, call.table)


async def _described(call: Call, table: str, status: int = 200) -> Response:
    schema = await call.store.schema(table)
    rows = await call.store.count(table)
    return json_response({"name": table, "rows": rows, "schema": schema.to_dict()}, status)


def _check_confirmed(call: Call, name: str, what: str) -> None:
    """Refuse to drop anything whose name the request does not repeat.

    A client that cleans up its paths may come here when it meant a record.
    """
    if call.query.get("confirm") != name:
        raise RequestError(
            400, f"to drop the {what} {name!r} with all its data, repeat its name: ?confirm={name}"
        )
