"""A server for the contract suite, in a process of its own: a fresh store for each test.

The first part of a request's path names the store: its kind and its place, in hexadecimal. The
process ends when its standard input does, so it never outlives the tests.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def name_of(kind: str, path: Path) -> str:
    """Return the first part of the paths of a store's requests."""
    return f"{kind}-{str(path).encode().hex()}"


class Server:
    """A server that runs; ``url`` is that of a store."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._used: set[str] = set()

    def url(self, kind: str, path: Path) -> str:
        name = name_of(kind, path)
        self._used.add(name)
        return f"http://127.0.0.1:{self._port}/{name}"

    def forget(self) -> None:
        """Close the stores that were used."""
        while self._used:
            name = self._used.pop()
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._port}/{name}/close", method="POST"
            )
            with urllib.request.urlopen(request, timeout=60):
                pass


@contextmanager
def running_server() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.remote_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


class _Stores:
    """The ASGI app: each store has a whole server of its own behind its name."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._apps: dict[str, Any] = {}
        self._stores: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        name = scope["path"].split("/")[1]
        if scope["path"] == f"/{name}/close":
            await self._close(name)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        async with self._opening:
            if name not in self._apps:
                self._apps[name] = await self._open(name)
        await self._apps[name]({**scope, "root_path": f"/{name}"}, receive, send)

    async def _open(self, name: str) -> Any:
        import aiovec
        from aiovec.backend import ServerSettings
        from aiovec_server import create_app

        kind, _, place = name.partition("-")
        path = Path(bytes.fromhex(place).decode())
        target = {"sqlite": f"{path}/store.db", "lancedb": f"lancedb://{path}/store"}[kind]
        self._stores[name] = await aiovec.connect(target)
        return create_app(store=self._stores[name], settings=ServerSettings(access_log=False))

    async def _close(self, name: str) -> None:
        self._apps.pop(name, None)
        store = self._stores.pop(name, None)
        if store is not None:
            store._hurried = True  # the upkeep that a close does is of no use here
            await store.close()


def main() -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_Stores(), log_level="warning", lifespan="off", timeout_keep_alive=75)
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=watch, daemon=True).start()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
