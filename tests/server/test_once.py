"""Requests with ``Idempotency-Key``: repeated, they are done once and get the same answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import aiovec
from aiovec import Schema, VectorStore
from aiovec.backend import moves_of
from aiovec_server import create_app

SCHEMA = Schema(2, fields={"n": int})
PLACES = ("sqlite", "lancedb")


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": id, "embedding": [1.0, n + 1.0], "n": n} for n, id in enumerate(ids)]


@pytest.fixture(params=PLACES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    target = str(tmp_path / "a.db") if request.param == "sqlite" else f"lancedb://{tmp_path}/b"
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMA)
        yield store


@pytest.fixture
async def client(store: VectorStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(store=store))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def insert(
    client: httpx.AsyncClient, *ids: str, key: str | None = None, query: str = "", **headers: str
) -> httpx.Response:
    if key is not None:
        headers["Idempotency-Key"] = key
    headers["Content-Type"] = "application/json"
    body = json.dumps(rows(*ids))
    return await client.post(f"/tables/notes/records{query}", content=body, headers=headers)


async def test_a_repeated_insert_is_done_once(
    client: httpx.AsyncClient, store: VectorStore
) -> None:
    for _ in range(3):
        answer = await insert(client, "a", "b", key="k")
        assert (answer.status_code, answer.json()) == (200, {"count": 2})
    await store.delete("notes", ["a"])
    assert (await insert(client, "a", "b", key="k")).json() == {"count": 2}
    assert await store.count("notes") == 1
    assert (await insert(client, "b")).status_code == 409
    assert (await insert(client, "b", key="new")).status_code == 409


async def test_the_same_key_with_another_request_is_refused(client: httpx.AsyncClient) -> None:
    assert (await insert(client, "a", key="k")).status_code == 200
    for answer in (
        await insert(client, "b", key="k"),
        await insert(client, "a", key="k", query="?mode=upsert"),
        await client.delete("/tables/notes/records/a", headers={"Idempotency-Key": "k"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["error"] == "InvalidArgumentError"
        assert "another write" in answer.json()["detail"]


async def test_a_repeated_delete_tells_what_the_first_deleted(
    client: httpx.AsyncClient, store: VectorStore
) -> None:
    await insert(client, "a")
    for _ in range(2):
        answer = await client.delete("/tables/notes/records/a", headers={"Idempotency-Key": "d"})
        assert answer.json() == {"deleted": 1}
        await store.upsert("notes", rows("a"))
    assert await store.count("notes") == 1


async def test_many_at_once_with_one_key(client: httpx.AsyncClient, store: VectorStore) -> None:
    answers = await asyncio.gather(*(insert(client, "a", "b", key="k") for _ in range(20)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"count":2}')}
    assert await store.count("notes") == 2


async def test_tables_are_made_and_dropped_once(
    client: httpx.AsyncClient, store: VectorStore
) -> None:
    body = {"name": "more", "schema": SCHEMA.to_dict()}
    for _ in range(2):
        answer = await client.post("/tables", json=body, headers={"Idempotency-Key": "c"})
        assert answer.status_code == 201, answer.text
    for _ in range(2):
        answer = await client.delete("/tables/more?confirm=more", headers={"Idempotency-Key": "d"})
        assert answer.status_code == 204, answer.text
        await store.create_table("more", SCHEMA, exist_ok=True)
    assert await store.tables() == ["more", "notes"]


@pytest.mark.parametrize("key", ["", "k" * 201, "a b", "ä", "a\tb"])
async def test_keys_that_are_none(client: httpx.AsyncClient, store: VectorStore, key: str) -> None:
    headers: Any = [("Idempotency-Key", key.encode()), ("Content-Type", "application/json")]
    answer = await client.post("/tables/notes/records", content="[]", headers=headers)
    assert answer.status_code == 422
    assert "visible ASCII" in answer.json()["detail"]
    assert await store.count("notes") == 0


async def test_two_keys_are_none(client: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await client.delete("/tables/notes/records/a", headers=headers)
    assert answer.status_code == 422


async def test_a_retry_is_0_or_1(client: httpx.AsyncClient) -> None:
    for value, status in (("yes", 422), ("", 422), ("0", 200), ("1", 200)):
        answer = await insert(client, "a", key="k", **{"Idempotency-Retry": value})
        assert answer.status_code == status, value


async def test_the_longest_key(client: httpx.AsyncClient) -> None:
    assert (await insert(client, "a", key="~" * 200)).json() == {"count": 1}
    assert (await insert(client, "a", key="~" * 200)).json() == {"count": 1}


async def test_a_retry_that_the_store_does_not_know(
    client: httpx.AsyncClient, store: VectorStore
) -> None:
    """As after a cut-over: the rows came along, their key did not."""
    moves = moves_of(store._follower.engine.backend)
    assert moves is not None
    await moves.arrive("run", 1)
    await store.insert("notes", rows("a", "b"))
    retry = {"Idempotency-Retry": "1"}
    assert (await insert(client, "a", "b", key="k", **retry)).json() == {"count": 2}
    assert (await insert(client, "b", "a", key="k2", **retry)).status_code == 409  # other rows
    assert (await insert(client, "a", "b", key="k3")).status_code == 409
    assert await store.count("notes") == 2


async def test_reading_under_a_key_reads(client: httpx.AsyncClient) -> None:
    await insert(client, "a", key="k")
    answer = await client.get("/tables/notes/count", headers={"Idempotency-Key": "k"})
    assert answer.json() == {"count": 1}
