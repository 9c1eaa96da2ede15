"""A server for the contract suite, in a thread, with a new store for each test.

The first part of a request's path names the store: its kind and its place, in hexadecimal.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - else the loops of two threads import it at once
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import aiovec
from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

PATIENCE = 120


class Server:
    """A running server. ``url`` returns the URL of a store."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._used: set[str] = set()

    def url(self, kind: str, path: Path) -> str:
        name = f"{kind}-{str(path).encode().hex()}"
        self._used.add(name)
        return f"http://127.0.0.1:{self._port}/{name}"

    def forget(self) -> None:
        """Close the stores that the test used."""
        while self._used:
            url = f"http://127.0.0.1:{self._port}/{self._used.pop()}/close"
            with urllib.request.urlopen(urllib.request.Request(url, method="POST"), None, PATIENCE):
                pass


@contextmanager
def running_server() -> Iterator[Server]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_Stores(), log_level="warning", lifespan="off", timeout_keep_alive=75)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Server(listening.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)


class _Stores:
    """An ASGI app that passes each request to the server app of the store in its path."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._apps: dict[str, Any] = {}
        self._stores: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        name = scope["path"].split("/")[1]
        if scope["path"] == f"/{name}/close":
            self._apps.pop(name, None)
            if (store := self._stores.pop(name, None)) is not None:
                await store.close()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        async with self._opening:
            if name not in self._apps:
                self._apps[name] = await self._open(name)
        await self._apps[name]({**scope, "root_path": f"/{name}"}, receive, send)

    async def _open(self, name: str) -> Any:
        kind, _, place = name.partition("-")
        path = bytes.fromhex(place).decode()
        target = {"sqlite": f"{path}/store.db", "lancedb": f"lancedb://{path}/store"}[kind]
        self._stores[name] = await aiovec.connect(target)
        return create_app(store=self._stores[name], settings=ServerSettings(access_log=False))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def url(server: Server, tmp_path: Path) -> Iterator[str]:
    yield server.url("sqlite", tmp_path)
    server.forget()
