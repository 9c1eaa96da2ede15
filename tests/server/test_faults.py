"""A server that is killed and answers that are lost: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.harness.proxy import Proxy
from tests.server.process import Served, serving
from tests.server.writers import SCHEMA, Writing, check, with_writers

import aiovec

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__RECONNECT_TIMEOUT", "90")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__BUSY_TIMEOUT", "90")


async def a_store(path: Path, place: str) -> str:
    """Return the target of a store with the table that the clients write to."""
    target = str(path / "a.db") if place == "sqlite" else f"lancedb://{path}/a"
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMA)
    return target


class Restarted:
    """A server that is killed and started again at the same port."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._stack = ExitStack()
        self.served: Served

    async def start(self, port: int = 0) -> None:
        def start() -> Served:
            return self._stack.enter_context(serving("-s", self._target, "--port", str(port)))

        self.served = await asyncio.to_thread(start)

    async def kill(self) -> None:
        process = self.served.process
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)

    async def end(self) -> None:
        await asyncio.to_thread(self._stack.close)


@asynccontextmanager
async def restarted(target: str) -> AsyncIterator[Restarted]:
    server = Restarted(target)
    try:
        await server.start()
        yield server
    finally:
        await server.end()


async def killed(path: Path, place: str, *, clients: int, kills: int) -> None:
    target = await a_store(path, place)
    async with restarted(target) as server:
        port = server.served.port

        async def kill(writing: Writing) -> None:
            for number in range(kills):
                chance = random.Random(number)
                await writing.go_on(clients + chance.randrange(10 * clients))
                await asyncio.sleep(chance.uniform(0, 0.02))  # so that it comes amid a call
                await server.kill()
                await server.start(port)
            await writing.go_on(2 * clients)

        writers = await with_writers(server.served.url, clients, kill, exact=place == "sqlite")
        await server.kill()
    assert all(writer.calls for writer in writers)
    await check(target, writers)


async def test_a_server_that_is_killed_under_load(tmp_path: Path) -> None:
    await killed(tmp_path, "sqlite", clients=4, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", ["sqlite", "lancedb"])
async def test_a_server_that_is_killed_often(tmp_path: Path, place: str) -> None:
    await killed(tmp_path, place, clients=24, kills=60)


async def test_answers_that_are_cut_off(tmp_path: Path) -> None:
    """The write was done, and nobody heard of it."""
    target, chance = await a_store(tmp_path, "sqlite"), random.Random(3)
    async with restarted(target) as server, Proxy(server.served.url) as proxy:

        async def cut(writing: Writing) -> None:
            for _ in range(24):
                proxy.cut(chance.randrange(300))
                await writing.go_on(8)

        writers = await with_writers(proxy.url, 8, cut)
        assert proxy.meddled == 24
    await check(target, writers)
