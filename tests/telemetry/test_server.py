"""Spans of the server's requests: children of the caller's, and the store's calls are theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from tests.telemetry.conftest import Metrics, Spans

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


async def test_a_request_is_a_span_and_the_stores_call_its_child(
    client: httpx.AsyncClient, spans: Spans, measured: Metrics
) -> None:
    answer = await client.post(
        "/tables/notes/search",
        json={"vector": [1, 0]},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    assert answer.status_code == 200
    store, request = spans.ours()
    assert (request.name, request.kind) == ("POST /tables/{table}/search", SpanKind.SERVER)
    assert request.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/tables/{table}/search",
        "http.response.status_code": 200,
    }
    assert request.status.status_code is StatusCode.UNSET
    assert store.name == "search notes"
    assert store.parent is not None
    assert store.parent.span_id == request.context.span_id
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert f"{store.context.trace_id:032x}" == TRACE
    points = measured.points("http.server.request.duration", http__route="/tables/{table}/search")
    assert sum(point.count for point in points) == 1
    # FastAPI's own, which name paths, are off.
    assert spans.all() == spans.ours()


async def test_nothing_of_a_user_is_in_a_span(client: httpx.AsyncClient, spans: Spans) -> None:
    secret = "s3cret"
    for method, path in (
        ("GET", f"/{secret}"),
        ("DELETE", f"/tables/notes/records/{secret}"),
        ("GET", f"/tables/notes/count?filter=id='{secret}'"),
        (secret.upper(), "/tables"),
    ):
        await client.request(method, path, headers={"user-agent": secret})
    told = "".join(span.to_json() for span in spans.all())
    assert secret not in told.lower()
    names = [span.name for span in spans.ours() if span.kind is SpanKind.SERVER]
    assert names[:2] == ["GET", "DELETE /tables/{table}/records/{id:path}"]


async def test_callers_that_are_none(client: httpx.AsyncClient, spans: Spans) -> None:
    for header in ("", "x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 9000):
        headers = [(b"traceparent", header.encode("latin-1"))]
        assert (await client.get("/tables", headers=headers)).status_code == 200
        assert spans.ours()[-1].parent is None
    assert (await client.get("/tables/absent")).status_code == 404
    assert spans.ours()[-1].status.status_code is StatusCode.UNSET
