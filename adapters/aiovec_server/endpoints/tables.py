"""Tables and their fields, and the server's health."""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from starlette.responses import Response

from aiovec import Field, Schema, TableNotFoundError, VectorStore, __version__
from aiovec.backend.context import CallContext, calling

from ..bodies import json_response
from ..call import Call
from ..decode import arguments_in
from ..models import (
    AddField,
    Confirm,
    Counted,
    CreateTable,
    DropFieldIndex,
    FieldIndex,
    Rename,
)
from ..once import key_name
from ..problems import RequestError
from .declaring import Endpoints
from .document import (
    EXAMPLE_SCHEMA,
    MAYBE_COUNT,
    NOTHING,
    TABLE,
    Answer,
    an_object,
    listed,
)
from .document import TEXT as WORDS

ENDPOINTS = Endpoints()


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


# The others need the store's files, or its process.
_OFFERED = ("text", "indexes", "snapshots", "quantized", "power-loss")


@ENDPOINTS.add(
    "GET", "/store",
    Answer(
        an_object({"backend": WORDS, "version": WORDS, "abilities": listed(WORDS)}),
        {"backend": "sqlite", "version": __version__, "abilities": ["text", "power-loss"]},
    ),
)  # fmt: skip
async def describe_store(call: Call) -> Response:
    """Read what the served store is able to do."""
    await call.store.ping()
    abilities = [name for name in _OFFERED if call.store.supports(name)]
    found = {"backend": call.store.backend_name, "version": __version__, "abilities": abilities}
    return json_response(found)


@ENDPOINTS.add("DELETE", "/writes/{key}", NOTHING, status=204, writes=True)
async def cancel_write(call: Call) -> Response:
    """Cancel a write by its `Idempotency-Key`.

    When this is answered, the write has ended, wholly done or not at all; one that has not come yet
    will not begin.
    """
    name = key_name([call.last_segment("key")])
    await call.writes.cancel(str(name))
    return Response(status_code=204)


@ENDPOINTS.add(
    "GET", "/tables",
    Answer(
        an_object({"tables": listed(an_object({"name": WORDS, "rows": MAYBE_COUNT}))}),
        {"tables": [{"name": "notes", "rows": 1200}]},
    ),
    query=Counted,
)  # fmt: skip
async def list_tables(call: Call) -> Response:
    """List the tables with their numbers of rows."""
    found = []
    counts = call.query.get("rows", True)
    for name in await call.store.tables():
        try:
            rows = await call.store.count(name) if counts else None
            found.append({"name": name, "rows": rows})
        except TableNotFoundError:  # dropped meanwhile
            continue
    return json_response({"tables": found})


@ENDPOINTS.add(
    "POST", "/tables", TABLE, body=CreateTable, status=201, writes=True,
    example={"name": "notes", "schema": EXAMPLE_SCHEMA},
)  # fmt: skip
async def create_table(call: Call) -> Response:
    """Create a table."""
    options = await arguments_in(call, CreateTable)
    if "schema_" in options:
        options["schema"] = Schema.from_json(options.pop("schema_"))
    await call.store.create_table(**options)
    return await _described(call, options["table"], 201)


@ENDPOINTS.add("GET", "/tables/{table}", TABLE, query=Counted)
async def describe_table(call: Call) -> Response:
    """Read a table's schema and its number of rows.

    The ETag names the state of its schema: calls with that as If-Match are refused once the schema
    has changed.
    """
    return await _described(call, call.table)


@ENDPOINTS.add("DELETE", "/tables/{table}", NOTHING, query=Confirm, status=204, writes=True)
async def drop_table(call: Call) -> Response:
    """Drop a table with all its rows."""
    _check_confirmed(call, call.table, "table")
    await call.store.drop_table(call.table)
    return Response(status_code=204)


@ENDPOINTS.add(
    "POST", "/tables/{table}/rename", TABLE, body=Rename, example={"name": "memos"}, writes=True
)
async def rename_table(call: Call) -> Response:
    """Give a table another name."""
    name = (await arguments_in(call, Rename))["name"]
    await call.store.rename_table(call.table, name)
    return await _described(call, name)


@ENDPOINTS.add(
    "POST", "/tables/{table}/fields", TABLE, body=AddField, status=201, writes=True,
    example={"name": "lang", "field": {"type": "text", "index": "bitmap"}},
)  # fmt: skip
async def add_field(call: Call) -> Response:
    """Add a field, which is null in existing rows."""
    options = await arguments_in(call, AddField)
    field = Field.from_dict(options["field"])
    await call.store.add_field(call.table, options["name"], field)
    return await _described(call, call.table, 201)


@ENDPOINTS.add("DELETE", "/tables/{table}/fields/{field}", TABLE, query=Confirm, writes=True)
async def drop_field(call: Call) -> Response:
    """Drop a field with all its values."""
    field = call.last_segment("field")
    _check_confirmed(call, field, "field")
    await call.store.drop_field(call.table, field)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "POST", "/tables/{table}/fields/{field}/rename", TABLE, body=Rename,
    example={"name": "published"}, writes=True,
)  # fmt: skip
async def rename_field(call: Call) -> Response:
    """Give a field another name."""
    name = (await arguments_in(call, Rename))["name"]
    await call.store.rename_field(call.table, call.segment("field"), name)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "PUT", "/tables/{table}/fields/{field}/index", TABLE, body=FieldIndex,
    example={"kind": "btree"}, writes=True,
)  # fmt: skip
async def create_field_index(call: Call) -> Response:
    """Build an index over a field, for filters or for keyword search."""
    options = await arguments_in(call, FieldIndex)
    await call.store.create_field_index(call.table, call.segment("field"), **options)
    return await _described(call, call.table)


@ENDPOINTS.add(
    "DELETE", "/tables/{table}/fields/{field}/index", TABLE, query=DropFieldIndex, writes=True
)
async def drop_field_index(call: Call) -> Response:
    """Drop the indexes over a field. Its values stay."""
    await call.store.drop_field_index(call.table, call.segment("field"), **call.query)
    return await _described(call, call.table)


async def _described(call: Call, table: str, status: int = 200) -> Response:
    with calling(CallContext()):  # the call itself may have changed the state that it named
        schema, state = await call.store._schema_and_state(table)
        rows = await call.store.count(table) if call.query.get("rows", True) else None
    found = {"name": table, "rows": rows, "schema": schema.to_dict()}
    return json_response(found, status, {"etag": f'"{state}"'})


def _check_confirmed(call: Call, name: str, what: str) -> None:
    """Refuse to drop anything whose name the request does not repeat.

    A client that cleans up its paths may come here when it meant a record.
    """
    if call.query.get("confirm") != name:
        raise RequestError(
            400, f"to drop the {what} {name!r} with all its data, repeat its name: ?confirm={name}"
        )
