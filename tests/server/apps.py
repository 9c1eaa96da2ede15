"""The server's app in this process, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pyarrow as pa

import aiovec
from aiovec.backend.server import ServerSettings
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
ROWS: list[dict[str, Any]] = [
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
VECTOR = [1.0, 0.0, 0.5]
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def ipc(table: pa.Table, **options: Any) -> bytes:
    """Return an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=chosen) as writer:
        writer.write_table(table, max_chunksize=100)
    return bytes(sink.getvalue().to_pybytes())


class Client(httpx.AsyncClient):
    """A client whose failures show the request and the response."""

    async def ok(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = await self.request(method, path, **options)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text[:1000])
        return answer.json() if answer.content else None

    async def problem(self, method: str, path: str, status: int, **options: Any) -> Any:
        answer = await self.request(method, path, **options)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text[:1000])
        assert answer.headers["content-type"] == "application/problem+json"
        document = answer.json()
        assert document["status"] == status
        assert document["detail"]
        return document

    async def raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request with this very path, which httpx would normalise."""
        url = httpx.URL(scheme="http", host="localhost", port=4002, raw_path=path.encode())
        return await self.request(method, url, **options)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        Client(transport=transport, base_url="http://localhost:4002") as client,
    ):
        yield client


@asynccontextmanager
async def notes(target: str = ":memory:", **settings: Any) -> AsyncIterator[Client]:
    """Yield a client of an app whose store has the table ``notes`` with five rows."""
    chosen = ServerSettings(**{"access_log": False, **settings})
    async with serving(create_app(target, settings=chosen)) as client:
        await client.ok("POST", "/tables", 201, json={"name": "notes", "schema": SCHEMA})
        await client.ok("POST", "/tables/notes/records", json=ROWS)
        yield client


BASE = "http://127.0.0.1:4002"


def client_of(store: Any, **settings: Any) -> httpx.AsyncClient:
    """Return a client of an app with an open store."""
    chosen = ServerSettings(**{"access_log": False, **settings})
    transport = httpx.ASGITransport(create_app(store=store, settings=chosen))
    return httpx.AsyncClient(transport=transport, base_url=BASE)


class Wrapped:
    """A store with some calls replaced by the test."""

    def __init__(self, store: aiovec.VectorStore, **calls: Any) -> None:
        self._store = store
        vars(self).update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Connection:
    """One request as an ASGI server passes it to the app, from a client as slow as a test wants.

    The client reads the head of its response at once, and a part of its body each time that
    ``reads`` is released; from the start as many as it likes, unless it is ``slow``.
    """

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        parts: Iterable[bytes] = (),
        *,
        ends: bool = True,
        slow: bool = False,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        named = [("host", "localhost:4002"), ("content-type", "application/json"), *headers]
        self._parts = list(parts)
        self._ends = ends
        if self._parts and "content-length" not in dict(named):
            named.append(("transfer-encoding", "chunked"))
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 4002), "asgi": {"version": "3.0"},
            "headers": [(name.encode(), value.encode()) for name, value in named], "state": {},
        }  # fmt: skip
        self.sent: list[dict[str, Any]] = []
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()
        self.reads = asyncio.Semaphore(0 if slow else 10**6)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._parts or self._ends:
            part = self._parts.pop(0) if self._parts else b""
            more = bool(self._parts) or not self._ends
            self._ends = self._ends and more
            return {"type": "http.request", "body": part, "more_body": more}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.reads.acquire()
        self.sent.append(message)
        self.begun.set()

    async def status(self) -> int:
        """Wait for the app to end the request; return its status, or 0 without a response."""
        await self.task
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]

    @property
    def whole(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", False)
