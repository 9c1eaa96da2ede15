"""States of tables (ETag, If-Match), Arrow columns and cancelled writes, for careful clients."""

from __future__ import annotations

import pyarrow as pa
from tests.server.apps import ARROW, VECTOR, ipc, notes

import aiovec

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


async def test_a_write_is_cancelled_by_its_key_before_it_comes() -> None:
    async with notes() as client:
        await client.ok("DELETE", "/writes/k", 204)
        row, key = [{"id": "a", "embedding": VECTOR}], {"idempotency-key": "k"}
        await client.problem("POST", f"{T}/records", 409, json=row, headers=key)
        assert await client.ok("GET", f"{T}/count") == {"count": 5}
        await client.problem("DELETE", "/writes/%01", 422)


async def test_the_store_says_its_backend_version_and_abilities() -> None:
    async with notes() as client:
        store = await client.ok("GET", "/store")
        assert (store["backend"], store["version"]) == ("sqlite", aiovec.__version__)
        abilities = set(store["abilities"])
        always = {"text", "quantized", "payload-indexes"}
        assert always <= abilities <= always | {"power-loss"}
