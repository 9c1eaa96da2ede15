"""Endpoints for the store and its health, and for tables, their fields, indexes and versions."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from aiovec import Field, Schema, TableNotFoundError, VectorStore, __version__
from aiovec._internals import StoreInternals
from aiovec.backend.context import CallContext, calling
from aiovec.backend.threads import in_thread, together

from .. import models
from ..bodies import camel_case
from ..call import Call
from ..once import key_name
from ..problems import RequestError
from .declaring import endpoint

_FIELD = "fields/{field}"
_FIELDS = {"year": "int", "body": {"type": "text", "text": True}}
# Tables that one request reads at the same time: each may open files in a bucket.
TABLES_AT_ONCE = 4


@endpoint("GET", "/health", models.Health, open=True)
async def health(call: Call, options: dict[str, Any]) -> Any:
    """Check whether the store can be reached.

    The response is at most a second old. If the server watches sources, `watching` lists the state
    of each; `refused` is the number of rows or documents that were set aside.
    """
    state, store, now = call.request.app.state, call.store, time.monotonic()
    if not hasattr(state, "aiovec_health"):
        state.aiovec_health = WeakKeyDictionary()  # an app may have routers for several stores
    made, look = state.aiovec_health.get(store, (now, None))
    if look is None or (look.done() and now - made >= _REMEMBERED):
        look = asyncio.ensure_future(_health_of(store))
        state.aiovec_health[store] = now, look
    return await asyncio.shield(look)


# Seconds for which a response is reused. Anyone may ask without a key, and each ping costs several
# requests on object storage, and one to each watched source.
_REMEMBERED = 1.0


async def _health_of(store: VectorStore) -> dict[str, Any]:
    await store.ping()
    facts = {"status": "ok", "backend": store.backend_name, "version": __version__}
    # The response omits the sources' names, because anyone may ask.
    watching = [
        {
            "ready": state.ready,
            "waiting": state.waiting,
            "seconds": state.seconds,
            "failing": bool(state.error),
            "refused": len(state.refused),
        }
        for state in await together([each.state for each in store.watching])
    ]
    return {**facts, "watching": watching} if watching else facts


@endpoint("GET", "/ready", models.Ready, open=True)
async def ready(call: Call, options: dict[str, Any]) -> Any:
    """Check whether the first copy of every watched source is complete.

    The status is 503 until every copy is complete. The response is at most a second old.
    """
    watching = (await health(call, options)).get("watching", [])
    if copying := sum(not each["ready"] for each in watching):
        refused = sum(each["refused"] for each in watching)
        aside = f", and {refused:,} rows or documents are set aside" * bool(refused)
        raise RequestError(503, f"{copying} of {len(watching)} sources are being copied{aside}")
    return {"ready": True}


# The other capabilities need the store's files or its process.
_OFFERED = ("text", "indexes", "snapshots", "quantized", "power-loss", "payload-indexes")


@endpoint("GET", "/store", models.Store)
async def describe_store(call: Call, options: dict[str, Any]) -> Any:
    """List the capabilities of the served store."""
    await call.store.ping()
    abilities = [name for name in _OFFERED if call.store.supports(name)]
    return {"backend": call.store.backend_name, "version": __version__, "abilities": abilities}


@endpoint("DELETE", "/writes/{key}")
async def cancel_write(call: Call, options: dict[str, Any]) -> Any:
    """Cancel a write by its `Idempotency-Key`.

    When the response arrives, the write has ended: it was done completely or not at all. A write
    that has not arrived yet will not begin.
    """
    await call.writes.cancel(str(key_name([call.last_segment("key")])))


@endpoint("GET", "/tables", models.Tables, query=models.Counted)
async def list_tables(call: Call, options: dict[str, Any]) -> Any:
    """List the tables, optionally with their row counts."""
    names = await call.store.tables()
    if not options.get("rows", True):
        return {"tables": [{"name": name, "rows": None} for name in names]}

    async def counted(name: str) -> dict[str, Any] | None:
        try:
            return {"name": name, "rows": await call.store.count(name)}
        except TableNotFoundError:  # dropped after the tables were listed
            return None

    tables = await together([partial(counted, name) for name in names], TABLES_AT_ONCE)
    return {"tables": [table for table in tables if table is not None]}


@endpoint(
    "POST", "/tables", models.Table, models.CreateTable, status=201,
    example={"name": "notes", "schema": {"dim": 3, "fields": _FIELDS}},
)  # fmt: skip
async def create_table(call: Call, options: dict[str, Any]) -> Any:
    """Create a table."""
    if "schema_" in options:
        options["schema"] = await in_thread(Schema.from_json, options.pop("schema_"))
    await call.store.create_table(**options)
    return await _described(call, options["table"])


@endpoint("GET", "", models.Table, query=models.Counted)
async def describe_table(call: Call, options: dict[str, Any]) -> Any:
    """Read a table's schema and its number of rows.

    The ETag identifies the version of the schema. A call that sends it as If-Match is refused once
    the schema has changed.
    """
    return await _described(call, call.table, **options)


@endpoint("DELETE", "", query=models.Confirm, long=True)
async def drop_table(call: Call, options: dict[str, Any]) -> Any:
    """Drop a table with all its rows."""
    _check_confirmed(options, call.table, "table")
    await call.store.drop_table(call.table)


@endpoint("POST", "rename", models.Table, models.Rename, {"name": "memos"}, long=True)
async def rename_table(call: Call, options: dict[str, Any]) -> Any:
    """Rename a table."""
    await call.store.rename_table(call.table, options["name"])
    return await _described(call, options["name"])


@endpoint(
    "POST", "fields", models.Table, models.AddField, status=201, long=True,
    example={"name": "lang", "field": {"type": "text", "index": "bitmap"}},
)  # fmt: skip
async def add_field(call: Call, options: dict[str, Any]) -> Any:
    """Add a field, which is null in existing rows."""
    field = await in_thread(Field.from_dict, options["field"])
    await call.store.add_field(call.table, options["name"], field)
    return await _described(call, call.table)


@endpoint("DELETE", _FIELD, models.Table, query=models.Confirm, long=True)
async def drop_field(call: Call, options: dict[str, Any]) -> Any:
    """Drop a field with all its values."""
    field = call.last_segment("field")
    _check_confirmed(options, field, "field")
    await call.store.drop_field(call.table, field)
    return await _described(call, call.table)


@endpoint("POST", f"{_FIELD}/rename", models.Table, models.Rename, {"name": "published"}, long=True)
async def rename_field(call: Call, options: dict[str, Any]) -> Any:
    """Rename a field."""
    await call.store.rename_field(call.table, call.segment("field"), options["name"])
    return await _described(call, call.table)


@endpoint("PUT", f"{_FIELD}/index", models.Table, models.FieldIndex, {"kind": "btree"}, long=True)
async def create_field_index(call: Call, options: dict[str, Any]) -> Any:
    """Build an index over a field, for filters or for keyword search."""
    await call.store.create_field_index(call.table, call.segment("field"), **options)
    return await _described(call, call.table)


@endpoint("DELETE", f"{_FIELD}/index", models.Table, query=models.DropFieldIndex, long=True)
async def drop_field_index(call: Call, options: dict[str, Any]) -> Any:
    """Drop the indexes over a field. The field keeps its values."""
    await call.store.drop_field_index(call.table, call.segment("field"), **options)
    return await _described(call, call.table)


@endpoint("GET", "stats", models.Stats, long=True)
async def table_stats(call: Call, options: dict[str, Any]) -> Any:
    """Read statistics of a table, such as its size."""
    return camel_case(await call.store.stats(call.table))


@endpoint("GET", "notes", models.Notes)
async def table_notes(call: Call, options: dict[str, Any]) -> Any:
    """Read a table's notes.

    Programs that watch a source for the table keep their progress in the notes.
    """
    return {"notes": await StoreInternals(call.store).notes(call.table)}


@endpoint("PATCH", "notes", models.Notes, models.ChangeNotes, {"notes": {"shop.db#goods": None}})
async def change_notes(call: Call, options: dict[str, Any]) -> Any:
    """Change a table's notes; a null removes a note."""
    return {"notes": await StoreInternals(call.store).notes(call.table, options["notes"])}


@endpoint("POST", "optimize", long=True)
async def optimize_table(call: Call, options: dict[str, Any]) -> Any:
    """Free space, update indexes and delete expired rows now."""
    await call.store.optimize(call.table)


@endpoint("GET", "indexes", models.Indexes, long=True)
async def list_indexes(call: Call, options: dict[str, Any]) -> Any:
    """List the indexes over the vectors."""
    return {"indexes": [camel_case(index) for index in await call.store.indexes(call.table)]}


@endpoint(
    "POST", "indexes", models.Indexes, models.VectorIndex, {"recall": 0.95}, status=201, long=True
)
async def create_index(call: Call, options: dict[str, Any]) -> Any:
    """Build an approximate index over the vectors."""
    await call.store.create_index(call.table, **options)
    return await list_indexes(call, {})


@endpoint("DELETE", "indexes/{index}", long=True)
async def drop_index(call: Call, options: dict[str, Any]) -> Any:
    """Drop an index over the vectors."""
    await call.store.drop_index(call.table, call.last_segment("index"))


@endpoint("GET", "versions", models.Versions)
async def list_versions(call: Call, options: dict[str, Any]) -> Any:
    """List the versions to which a table can be reverted."""
    return {"versions": [dict(version) for version in await call.store.versions(call.table)]}


@endpoint("POST", "versions/revert", None, models.Revert, {"version": 3}, long=True)
async def revert_version(call: Call, options: dict[str, Any]) -> Any:
    """Restore a table to an earlier version."""
    await call.store.revert(call.table, **options)


async def _described(call: Call, table: str, *, rows: bool = True) -> dict[str, Any]:
    with calling(CallContext()):  # the call itself may have changed the state that If-Match named
        schema, state = await StoreInternals(call.store).schema_and_state(table)
        count = await call.store.count(table) if rows else None
    call.headers["etag"] = f'"{state}"'
    return {"name": table, "rows": count, "schema": schema.to_dict()}


def _check_confirmed(options: dict[str, Any], name: str, kind: str) -> None:
    """Require a request that drops a table or a field to repeat the name.

    A client that normalizes paths may send this request when it meant to delete a record.
    """
    if options.get("confirm") != name:
        raise RequestError(
            400, f"to drop the {kind} {name!r} with all its data, repeat its name: ?confirm={name}"
        )
