"""A proxy that keeps rules for paths and this server read the same path: an encoded slash is part
of a record's id, and nowhere else anything."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from tests.server.apps import ROWS, SCHEMA, notes, serving

from aiovec.asgi import lifespan
from aiovec_server import router


@pytest.mark.parametrize("slash", ["%2F", "%2f", "%252F"])
async def test_an_encoded_slash_leads_to_no_other_route(slash: str) -> None:
    async with notes() as client:
        for method, path in (
            ("DELETE", "/tables|notes?confirm=notes"),
            ("GET", "/tables|notes"),
            ("POST", "/tables/notes|count"),
            ("DELETE", "/tables/notes|records/note-1"),
            ("DELETE", "/tables|notes/records/note-1"),
            ("DELETE", "/tables/notes/records|note-1"),
            ("DELETE", "/tables|notes/records/note-1/x"),
            ("GET", "/page|overview"),
            ("PUT", "/tables/notes/fields/year|index"),
        ):
            answer = await client.raw(method, path.replace("|", slash), json={})
            assert answer.status_code in (400, 404, 405, 422), (path, answer.text)
            if answer.status_code == 404 and slash != "%252F":
                assert "encoded slash" in answer.json()["detail"]
        assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_the_router_in_an_app_of_ones_own_refuses_them_too() -> None:
    app = FastAPI(lifespan=lifespan(":memory:"))
    app.mount("/vectors", router())
    async with serving(app) as client:
        await client.ok("POST", "/vectors/tables", 201, json={"name": "t", "schema": SCHEMA})
        answer = await client.raw("DELETE", "/vectors/tables%2Ft?confirm=t")
        assert answer.status_code == 404
        rows = [{**ROWS[0], "id": "a/b"}]
        await client.ok("POST", "/vectors/tables/t/records", json=rows)
        answer = await client.raw("DELETE", "/vectors/tables/t/records/a%2Fb")
        assert answer.json() == {"deleted": 1}
