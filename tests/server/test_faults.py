"""A server that is killed under load: nothing that it acknowledged is lost, and nothing doubled."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.harness.waiting import until
from tests.server.process import serving

import aiovec
from aiovec import Schema

pytestmark = pytest.mark.slow

SCHEMA = Schema(2, fields={"n": int, "owner": str})


class Writer:
    """A client with rows of its own, so that it knows what the table must hold of them."""

    def __init__(self, name: str, store: aiovec.VectorStore) -> None:
        self.name = name
        self.rows: dict[str, int] = {}
        self.calls = 0
        self._store = store
        self._random = random.Random(name)

    async def write(self) -> None:
        """Make one call, and note what it has done."""
        self.calls += 1
        chosen = self._random.random()
        old = self._random.choice(sorted(self.rows)) if self.rows else ""
        ids = [f"{self.name}.{self.calls}.{n}" for n in range(self._random.randint(1, 4))]
        if chosen < 0.5 or not old:
            assert await self._store.insert("notes", self._rows(ids)) == len(ids)
        elif chosen < 0.75:
            ids.append(old)
            assert await self._store.upsert("notes", self._rows(ids)) == len(ids)
        else:
            assert await self._store.delete("notes", old) == 1
            del self.rows[old]
            return
        self.rows.update(dict.fromkeys(ids, self.calls))

    def _rows(self, ids: list[str]) -> list[dict[str, Any]]:
        n = self.calls
        return [{"id": id, "embedding": [1.0, n], "n": n, "owner": self.name} for id in ids]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("clients", "kills"), [(4, 2), pytest.param(24, 60, marks=pytest.mark.soak)]
)
async def test_a_server_that_is_killed_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int, kills: int
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__RECONNECT_TIMEOUT", "90")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__BUSY_TIMEOUT", "90")
    target = str(tmp_path / "a.db")
    async with aiovec.connect(target) as store:
        await store.create_table("notes", SCHEMA)
    writers: list[Writer] = []
    stop = False

    def calls() -> int:
        return sum(writer.calls for writer in writers)

    async def go_on(writer: Writer) -> None:
        while not stop:
            await writer.write()

    async with AsyncExitStack() as stack:
        servers = ExitStack()
        stack.push_async_callback(asyncio.to_thread, servers.close)

        def start(port: int = 0) -> Any:
            return servers.enter_context(serving("-s", target, "--port", str(port)))

        served = await asyncio.to_thread(start)
        for n in range(clients):
            store = await stack.enter_async_context(aiovec.connect(served.url))
            writers.append(Writer(f"w{n}", store))
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(go_on(writer))
            for number in range(kills):
                chance = random.Random(number)
                least = calls() + clients + chance.randrange(10 * clients)
                await until(lambda least=least: calls() >= least)
                await asyncio.sleep(chance.uniform(0, 0.02))  # so that it comes amid a call
                served.process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(served.process.wait)
                served = await asyncio.to_thread(start, served.port)
            stop = True
    found: dict[str, dict[str, int]] = {writer.name: {} for writer in writers}
    async with aiovec.connect(target) as store:
        async for batch in store.export("notes"):
            columns = (batch.column(name).to_pylist() for name in ("id", "n", "owner"))
            for id, n, owner in zip(*columns, strict=True):
                assert id not in found[owner], f"{id} is there twice"
                found[owner][id] = n
    assert found == {writer.name: writer.rows for writer in writers}
