"""A server in a thread, a new store for each test, and a proxy in front of the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.remote_server import server, url
from tests.harness.proxy import Proxy
from tests.harness.values import SMALL, small_rows

import aiovec

__all__ = ["server", "url"]  # fixtures

SECRET = "k3y-that-nobody-may-see"
Opens = Callable[..., AbstractAsyncContextManager[aiovec.VectorStore]]


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of a server whose table ``notes`` has ten rows."""
    async with aiovec.connect(url) as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(10))
    async with Proxy(url) as running:
        yield running


@pytest.fixture
def opens(proxy: Proxy, tmp_path: Path) -> Opens:
    """Open the store through the proxy, with keys of ``[retrieval.remote]``."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[aiovec.VectorStore]:
        chosen = {"reconnect_timeout": 0.3, "busy_timeout": 0.3, "api_key": SECRET, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in chosen.items()]
        head = f'[retrieval]\nbackend = "remote"\nremote_url = "{proxy.url}"\n[retrieval.remote]\n'
        (tmp_path / "aiovec.toml").write_text(head + "\n".join(lines))
        async with aiovec.connect(config=tmp_path / "aiovec.toml") as store:
            await store.count("notes")  # the next request is then the test's first
            yield store

    return opened
