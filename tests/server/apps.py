"""The server's app in this process, and requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aiovec_server import create_app

SCHEMA = {
    "dim": 3,
    "fields": {
        "year": "int",
        "at": "datetime",
        "tags": "list[text]",
        "body": {"type": "text", "text": True},
    },
}
ROWS = [
    {
        "id": f"note-{n}",
        "embedding": [1.0, n / 10, 0.5],
        "year": 2020 + n,
        "at": f"2024-01-0{n + 1}T00:00:00Z",
        "tags": ["a", "b"][: n % 3],
        "body": f"walk number{n} by the sea",
        "kind": "x" if n % 2 else "y",
    }
    for n in range(5)
]


class Client(httpx.AsyncClient):
    """A client whose answers say what they are when a test fails."""

    async def ok(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = await self.request(method, path, **options)
        assert answer.status_code == status, (answer.status_code, answer.text[:1000])
        return answer.json() if answer.content else None

    async def problem(self, method: str, path: str, status: int, **options: Any) -> Any:
        answer = await self.request(method, path, **options)
        assert answer.status_code == status, (answer.status_code, answer.text[:1000])
        assert answer.headers["content-type"] == "application/problem+json"
        found = answer.json()
        assert found["status"] == status
        assert found["detail"]
        return found


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        Client(transport=transport, base_url="http://localhost:4002") as client,
    ):
        yield client


@asynccontextmanager
async def notes(target: str = ":memory:", **options: Any) -> AsyncIterator[Client]:
    """A client of an app whose store has the table "notes" with five rows."""
    async with serving(create_app(target, **options)) as client:
        await client.ok("POST", "/tables", 201, json={"name": "notes", "schema": SCHEMA})
        await client.ok("POST", "/tables/notes/records", json=ROWS)
        yield client
