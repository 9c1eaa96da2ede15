"""Rows in, rows out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from aiovec.backend import payload_texts, python_values, to_matrix

from ..bodies import JSON_LINES, body_json, dump, json_response, load
from ..call import Call
from ..kinds import TEXT, Key, Keys, one_of
from .declaring import Endpoints

ENDPOINTS = Endpoints()

WRITE = Keys(
    (
        Key("mode", "mode", one_of("insert", "upsert"), "How rows are written.", default="insert"),
        Key(
            "on_conflict", "on_conflict", one_of("fail", "skip", "replace"),
            "What an insert does with a row whose id exists.", default="fail",
        ),
        Key("model", "model", TEXT, "The model that made the vectors."),
    )
)  # fmt: skip
COUNT_ROWS = Keys((Key("filter", "where", TEXT, "A condition on the rows.", also=("where",)),))


@ENDPOINTS.add("POST", "/tables/{table}/records", query=WRITE)
async def add_records(call: Call) -> Response:
    """Insert or upsert records."""
    options = call.query(WRITE)
    mode = options.pop("mode", "insert")
    rows = await body_json(call)
    write = call.store.insert if mode == "insert" else call.store.upsert
    return json_response({"count": await write(call.table, rows, **options)})


@ENDPOINTS.add("GET", "/tables/{table}/records")
async def export_records(call: Call) -> Response:
    """Stream every record."""
    schema = await call.store.schema(call.table)

    async def lines() -> AsyncIterator[bytes]:
        async with contextlib.aclosing(call.store.export(call.table)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                names = [n for n in batch.schema.names if n not in ("payload", schema.vector)]
                columns = {name: python_values(batch.column(name)) for name in names}
                payloads = (
                    payload_texts(batch.column("payload"))
                    if "payload" in batch.schema.names
                    else [None] * batch.num_rows
                )
                vectors = to_matrix(batch.column(schema.vector)).tolist()
                parts = []
                for n in range(batch.num_rows):
                    row = {name: values[n] for name, values in columns.items()}
                    row = {"id": row["id"], schema.vector: vectors[n], **row}
                    if payloads[n]:
                        row = {**row, **load(payloads[n].encode()), **row}  # type: ignore[union-attr]
                    parts.append(dump(row) + b"\n")
                yield b"".join(parts)

    return StreamingResponse(lines(), media_type=JSON_LINES)


@ENDPOINTS.add("DELETE", "/tables/{table}/records/{id:path}")
async def delete_record(call: Call) -> Response:
    """Delete the record of an id."""
    id = call.last_segment("id")
    return json_response({"deleted": await call.store.delete(call.table, [id])})


@ENDPOINTS.add("GET", "/tables/{table}/count", query=COUNT_ROWS)
async def count_records(call: Call) -> Response:
    """Count the rows."""
    return json_response({"count": await call.store.count(call.table, **call.query(COUNT_ROWS))})
