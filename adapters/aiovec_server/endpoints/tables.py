"""Tables, and the server's health."""

from __future__ import annotations

from starlette.responses import Response

from aiovec import Schema, TableNotFoundError, __version__

from ..bodies import body_json, json_response
from ..call import Call
from ..kinds import FLAG, OBJECT, TEXT, Key, Keys
from ..problems import RequestError
from .declaring import Endpoints

ENDPOINTS = Endpoints()

CREATE = Keys(
    (
        Key("name", "table", TEXT, "The table's name.", required=True),
        Key("schema", "schema", OBJECT, "The schema; by default that of the configuration."),
        Key("existOk", "exist_ok", FLAG, "Accept a table of the same schema.", default=False),
    )
)
CONFIRM = Keys((Key("confirm", "confirm", TEXT, "The table's name once more."),))


@ENDPOINTS.add("GET", "/health")
async def health(call: Call) -> Response:
    """Reach the store."""
    await call.store.ping()
    return json_response(
        {"status": "ok", "backend": call.store.backend_name, "version": __version__}
    )


@ENDPOINTS.add("GET", "/tables")
async def list_tables(call: Call) -> Response:
    """List the tables with their numbers of rows."""
    found = []
    for name in await call.store.tables():
        try:
            found.append({"name": name, "rows": await call.store.count(name)})
        except TableNotFoundError:  # dropped meanwhile
            continue
    return json_response({"tables": found})


@ENDPOINTS.add("POST", "/tables", body=CREATE, status=201)
async def create_table(call: Call) -> Response:
    """Create a table."""
    options = CREATE.of_body(await body_json(call))
    if "schema" in options:
        options["schema"] = Schema.from_json(options["schema"])
    await call.store.create_table(**options)
    table = options["table"]
    schema = await call.store.schema(table)
    return json_response({"name": table, "schema": schema.to_dict()}, 201)


@ENDPOINTS.add("DELETE", "/tables/{table}", query=CONFIRM, status=204)
async def drop_table(call: Call) -> Response:
    """Drop a table with all its rows."""
    check_confirmed(call, call.table, "the table")
    await call.store.drop_table(call.table)
    return Response(status_code=204)


def check_confirmed(call: Call, name: str, what: str) -> None:
    """Refuse to drop anything whose name the request does not repeat."""
    if call.query(CONFIRM).get("confirm") != name:
        raise RequestError(
            400, f"to drop {what} {name!r} with all its data, repeat its name: ?confirm={name}"
        )
