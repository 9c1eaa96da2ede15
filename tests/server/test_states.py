"""States of tables (ETag, If-Match), Arrow columns and cancelled writes, for careful clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest
from tests.server.apps import ARROW, VECTOR, Connection, Wrapped, ipc, notes, serving

import aiovec
from aiovec_server import create_app

T = "/tables/notes"


async def test_a_call_for_an_older_state_of_a_table_gets_412() -> None:
    async with notes() as client:
        state = (await client.get(T)).headers["etag"]
        same = {"if-match": state}
        for given in (f'"other", {state}', f'{state},"other"', "*", " * "):
            assert await client.ok("GET", f"{T}/count", headers={"if-match": given})
        for given in ('"a", "b"', "", f"W/{state}", '"*"x'):
            await client.problem("GET", f"{T}/count", 412, headers={"if-match": given})
        assert (await client.get(f"{T}?rows=false")).json()["rows"] is None
        assert await client.ok("GET", f"{T}/count", headers=same) == {"count": 5}
        field = {"name": "lang", "field": "text"}
        made = await client.post(f"{T}/fields", json=field, headers=same)
        assert made.status_code == 201
        assert made.headers["etag"] != state
        for method, path, body in (
            ("GET", "/count", None), ("GET", "/records", None),
            ("DELETE", "/records", {"ids": ["a"]}),
            ("POST", "/search", {"vector": VECTOR}), ("POST", "/export", {}),
            ("GET", "/stats", None), ("POST", "/records", [{"id": "new", "embedding": VECTOR}]),
        ):  # fmt: skip
            await client.problem(method, T + path, 412, json=body, headers=same)
        new = {"if-match": made.headers["etag"]}
        assert await client.ok("GET", f"{T}/count", headers=new) == {"count": 5}
        await client.ok("DELETE", f"{T}?confirm=notes", 204)
        await client.problem("GET", f"{T}/count", 404, headers=new)


async def test_arrow_columns_that_do_not_fit_the_call_are_refused() -> None:
    ids = pa.array(["note-3", "none", "note-1"])
    async with notes() as client:
        for columns, body in (
            ({"ids": ids, "other": ids}, "{}"), ({"vectors": pa.array([[1.0]])}, "{}"),
            ({"ids": ids}, '{"ids": ["a"]}'), ({"ids": ids}, '{"select": [1]}'),
        ):  # fmt: skip
            table = pa.table(columns).replace_schema_metadata({"aiovec.body": body})
            await client.problem("POST", f"{T}/get", 422, content=ipc(table), headers=ARROW)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_delete_of_its_key_cancels_a_write_also_before_it_comes(begun: bool) -> None:
    came, ended = asyncio.Event(), asyncio.Event()

    async def insert(*args: Any, **options: Any) -> int:
        came.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.set()
        return 1

    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        app = create_app(store=Wrapped(store, insert=insert))  # type: ignore[arg-type]
        async with serving(app) as client:
            row = b'[{"id": "a", "embedding": [1, 0]}]'
            headers = [("idempotency-key", "k")]

            def writing() -> Connection:
                return Connection(app, "POST", f"{T}/records", [row], headers=headers)

            if begun:
                write = writing()
                await came.wait()
            await client.ok("DELETE", "/writes/k", 204)
            assert ended.is_set() is begun
            if not begun:
                write = writing()
            assert await write.status() == 409
            assert came.is_set() is begun
            await client.problem("DELETE", "/writes/%01", 422)


async def test_the_store_endpoint_lists_its_abilities() -> None:
    async with notes() as client:
        about = await client.ok("GET", "/store")
        assert (about["backend"], about["version"]) == ("sqlite", aiovec.__version__)
        assert {"text", "quantized"} <= set(about["abilities"]) <= {
            "text", "quantized", "power-loss",
        }  # fmt: skip
