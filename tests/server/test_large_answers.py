"""Responses are bounded while they are built: a small request cannot fill the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.apps import Client, Connection, serving

import aiovec
from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

SCHEMA = {"dim": 2, "fields": {"body": "text", "n": "int"}}
KINDS = ("application/json", "application/vnd.apache.arrow.stream")
VECTOR = [1, 0]


def rows(count: int, size: int) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n:03}", "embedding": [1, n], "n": n, "body": str(n) + "x" * size, "k": [n]}
        for n in range(count)
    ]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """Yield a client of a server with a 1 MiB limit and a hundred rows of 200 bytes."""
    async with serving(create_app(":memory:", settings=ServerSettings(max_body_mb=1))) as made:
        await made.ok("POST", "/tables", 201, json={"name": "t", "schema": SCHEMA})
        await made.ok("POST", "/tables/t/records", json=rows(100, 200))
        yield made


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_of_too_many_bytes_gets_413(client: Client, kind: str) -> None:
    await client.ok("DELETE", "/tables/t/records", json={"where": "TRUE"})
    for start in range(0, 60, 20):
        await client.ok("POST", "/tables/t/records", json=rows(60, 30_000)[start : start + 20])
    headers = {"accept": kind}
    for path, body in (
        ("find", {}),
        ("get", {"ids": [f"r{n:03}" for n in range(60)]}),
        ("search", {"vector": VECTOR, "limit": 60}),
        ("search", {"vector": VECTOR, "limit": 2, "offset": 58}),
        ("search", {"vector": VECTOR, "limit": 2, "diversity": 0.5, "fetchK": 60}),
        ("search_many", {"vectors": [VECTOR] * 2, "limit": 30}),
        ("distinct", {"field": "body"}),
    ):
        refused = await client.problem("POST", f"/tables/t/{path}", 413, json=body, headers=headers)
        assert refused["detail"] == (
            "the rows or values read for the answer take more than 1 MiB, the most on this server; "
            "ask for fewer rows at once, fewer of their fields, or a smaller offset or fetchK"
        )
        smaller = {"field": "n"} if path == "distinct" else {**body, "select": ["n"]}
        answer = await client.post(f"/tables/t/{path}", json=smaller, headers=headers)
        assert answer.status_code == 200


async def test_a_request_or_an_answer_of_too_many_rows_gets_422() -> None:
    settings = ServerSettings(max_rows=50)
    async with serving(create_app(":memory:", settings=settings)) as client:
        await client.ok("POST", "/tables", 201, json={"name": "t", "schema": SCHEMA})
        for part in (rows(51, 10)[:30], rows(51, 10)[30:]):
            await client.ok("POST", "/tables/t/records", json=part)
        sixty: list[Any] = [{"id": str(n), "embedding": VECTOR} for n in range(60)]
        grouped = {"vector": VECTOR, "limit": 26, "groupBy": "n", "perGroup": 2}
        decay = {"field": "payload.at", "halfLife": "7d"}
        newer = {"vector": VECTOR, "limit": 13, "rerank": decay, "fetchK": 52}
        for path, body in (
            ("records", sixty), ("get", {"ids": [row["id"] for row in sixty]}),
            ("search", grouped), ("search", newer),
        ):  # fmt: skip
            await client.problem("POST", f"/tables/t/{path}", 422, json=body)
        refused = await client.problem("POST", "/tables/t/distinct", 422, json={"field": "n"})
        assert refused["detail"] == (
            "The answer has more than 50 values, the limit of this server. Ask for fewer."
        )
        refused = await client.problem("POST", "/tables/t/find", 422, json={"limit": 100})
        assert refused["detail"] == (
            "The answer has more than 50 rows, the limit of this server. Ask for fewer, or export "
            "them."
        )
        body = {"field": "n", "limit": 50}
        assert len((await client.ok("POST", "/tables/t/distinct", json=body))["values"]) == 50
        await client.ok("DELETE", "/tables/t/records", json={"ids": ["r000"]})
        assert (
            len((await client.ok("POST", "/tables/t/distinct", json={"field": "n"}))["values"])
            == 50
        )


async def test_unread_answers_together_are_bounded() -> None:
    """Slow clients hold their responses until a new one gets 503."""
    app = create_app(":memory:", settings=ServerSettings(max_body_mb=1))
    async with serving(app) as client:
        await client.ok("POST", "/tables", 201, json={"name": "t", "schema": SCHEMA})
        await client.ok("POST", "/tables/t/records", json=rows(30, 30_000))
        waiting = []
        for _ in range(4):
            waiting.append(Connection(app, "POST", "/tables/t/find", [b"{}"], slow=True))
            await waiting[-1].begun.wait()
        refused = await client.post("/tables/t/find", json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "other requests" in refused.json()["detail"]
        for connection in waiting:
            for _ in range(100):  # parts of a response
                connection.reads.release()
            assert await connection.status() == 200
        assert len((await client.ok("POST", "/tables/t/find", json={}))["records"]) == 30


# Lance returns rows in its own groups.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count", "most"), [("{}/a.db", 40, 34), ("lancedb://{}", 80, 60)]
)
async def test_a_batch_of_an_export_is_bounded_in_bytes(
    tmp_path: Path, place: str, count: int, most: int
) -> None:
    async with aiovec.connect(place.format(tmp_path)) as store:
        await store.create_table("t", aiovec.Schema(2))
        for start in range(0, count, 20):
            await store.insert("t", rows(count, 2**20)[start : start + 20])
        ids, sizes = [], []
        async for batch in store.export("t", batch_size=1000):
            ids += batch.column("id").to_pylist()
            sizes.append(batch.nbytes)
        assert ids == [f"r{n:03}" for n in range(count)]
        assert max(sizes) < most * 2**20
