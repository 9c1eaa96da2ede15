"""In a server, the spans of the store's calls are children of the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.telemetry.conftest import Spans

import aiovec
from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
async def client(spans: Spans) -> AsyncIterator[httpx.AsyncClient]:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", aiovec.Schema(2))
        settings = ServerSettings(access_log=False)
        transport = httpx.ASGITransport(create_app(store=store, settings=settings))
        base = "http://localhost:4002"
        async with httpx.AsyncClient(transport=transport, base_url=base) as made:
            spans.forget()
            yield made


async def test_the_stores_call_is_a_child_of_the_callers_span(
    client: httpx.AsyncClient, spans: Spans
) -> None:
    answer = await client.post(
        "/tables/notes/search",
        json={"vector": [1, 0]},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    assert answer.status_code == 200
    (store,) = spans.from_aiovec()
    assert store.name == "search notes"
    assert store.parent is not None
    assert f"{store.parent.span_id:016x}" == PARENT
    assert f"{store.context.trace_id:032x}" == TRACE
    assert spans.all() == spans.from_aiovec()  # FastAPI's own spans, which name paths, are off


async def test_an_invalid_traceparent_is_ignored(client: httpx.AsyncClient, spans: Spans) -> None:
    for header in ("", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 9000):
        headers = [(b"traceparent", header.encode("latin-1"))]
        assert (await client.get("/tables", headers=headers)).status_code == 200
        assert spans.from_aiovec()[-1].parent is None
