"""A server that is killed, answers that are lost, a cut-over: nothing lost, doubled or failed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from tests.migrate.support import migrated, rolled_back, write_toml
from tests.server.process import Served, serving
from tests.server.writers import SCHEMA, Writing, check, check_store, with_writers

import aiovec
from aiovec_migrate import Options, Phase

PLACES = ("sqlite", "lancedb")


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

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._stack = ExitStack()
        self.served: Served

    async def start(self, port: int = 0) -> None:
        def start() -> Served:
            return self._stack.enter_context(serving(*self._arguments, "--port", str(port)))

        self.served = await asyncio.to_thread(start)

    async def kill(self) -> None:
        process = self.served.process
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)

    async def end(self) -> None:
        await asyncio.to_thread(self._stack.close)


@asynccontextmanager
async def restarted(*arguments: str) -> AsyncIterator[Restarted]:
    server = Restarted(*arguments)
    try:
        await server.start()
        yield server
    finally:
        await server.end()


class CuttingProxy:
    """Passes requests on wholly, and cuts off some answers at random places."""

    def __init__(self, port: int, seed: int, part: float) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._part = part
        self.cuts = 0
        self.calm = True
        """True until the clients have opened their stores: that is tried once."""

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            behind, before = await asyncio.open_connection("127.0.0.1", self._port)
            passing = asyncio.ensure_future(self._pass(reader, before))
            try:
                await self._answer(behind, writer)
            finally:
                passing.cancel()
                before.close()
                writer.close()

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.calm and self._random.random() < self._part:
                self.cuts += 1
                writer.write(data[: self._random.randrange(len(data))])
                with suppress(OSError):
                    await writer.drain()
                return
            writer.write(data)
            await writer.drain()


async def _killed(path: Path, place: str, *, clients: int, kills: int) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_a_server_that_is_killed_under_load(tmp_path: Path, place: str) -> None:
    await _killed(tmp_path, place, clients=8, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", PLACES)
async def test_a_server_that_is_killed_often(tmp_path: Path, place: str) -> None:
    await _killed(tmp_path, place, clients=24, kills=60)


async def _cut_off(path: Path, place: str, *, clients: int, cuts: int) -> None:
    target = await a_store(path, place)
    async with (
        restarted(target) as server,
        CuttingProxy(server.served.port, 3, 0.1) as proxy,
    ):

        async def cut(writing: Writing) -> None:
            proxy.calm = False
            while proxy.cuts < cuts:
                await writing.go_on(clients)

        writers = await with_writers(proxy.url, clients, cut)
    await check(target, writers)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_answers_that_are_cut_off(tmp_path: Path, place: str) -> None:
    """The write was done, and nobody heard of it."""
    await _cut_off(tmp_path, place, clients=8, cuts=24)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", PLACES)
async def test_answers_that_are_cut_off_for_long(tmp_path: Path, place: str) -> None:
    await _cut_off(tmp_path, place, clients=32, cuts=2000)


def row(id: str, **fields: object) -> dict[str, object]:
    return {"id": id, "embedding": [1, 2, 3, 4], **fields}


def problem(served: Served, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Return the problem that a request is answered with; no place is in it."""
    with pytest.raises(HTTPError) as caught:
        served.call(method, path, body)
    answer = json.loads(caught.value.read())
    assert str(served.facts["store"]).removeprefix("lancedb://") not in json.dumps(answer)
    return {**answer, "retry": caught.value.headers["Retry-After"]}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets a limit of another process")
@pytest.mark.parametrize("place", PLACES)
async def test_a_full_disk(tmp_path: Path, place: str) -> None:
    """Files that may not grow, as on a full disk: writes fail as such, and all else goes on."""
    import resource

    target = await a_store(tmp_path, place)
    rows = "/tables/notes/records"
    with serving(target) as served:

        def allow(size: int) -> None:
            limits = (size, resource.RLIM_INFINITY)
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, limits)

        assert served.call("POST", rows, [row("a")]) == {"count": 1}
        allow(200_000)
        for n in range(3):
            full = problem(served, "POST", rows, [row("b", text="x" * 3_000_000)])
            assert (full["status"], full["error"]) == (507, "StoreFullError"), n
        assert served.call("GET", "/tables/notes/count") == {"count": 1}
        assert served.call("GET", "/health")["status"] == "ok"
        allow(resource.RLIM_INFINITY)
        assert served.call("POST", rows, [row("b", text="x" * 3_000_000)]) == {"count": 1}
        assert served.call("GET", "/tables/notes/count") == {"count": 2}
        assert served.stop() == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps open files in their place")
async def test_a_file_that_is_replaced_under_the_server(tmp_path: Path) -> None:
    target = Path(await a_store(tmp_path, "sqlite"))
    with serving(target) as served:
        assert served.call("POST", "/tables/notes/records", [row("a")]) == {"count": 1}
        shutil.copy(target, tmp_path / "other.db")
        os.replace(tmp_path / "other.db", target)
        for method, path, body in (
            ("POST", "/tables/notes/records", [row("b")]),
            ("POST", "/tables/notes/get", {"ids": ["a"]}),
            ("GET", "/tables/notes/records", None),
            ("GET", "/health", None),  # so that whoever watches the server starts it again
        ):
            found = problem(served, method, path, body)
            assert (found["status"], found["error"]) == (503, "StoreReplacedError"), path
            assert int(found["retry"]) > 0
        assert served.stop() == 0
    async with aiovec.connect(target) as store:
        assert not await store.exists("notes", ["b"])


async def _moved(path: Path, *, clients: int, cut: float) -> None:
    """There and back, while clients write through the server."""
    config = write_toml(path, "sqlite")
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", SCHEMA)
    options = Options(switch=True, index=False, pause_limit=60)
    async with (
        restarted("--config", str(config)) as server,
        CuttingProxy(server.served.port, 5, cut) as proxy,
    ):

        async def move(writing: Writing) -> None:
            proxy.calm = False
            await writing.go_on(4 * clients)
            done = await migrated(None, "lancedb", config=config, options=options)
            assert done.state.phase is Phase.DONE
            await writing.go_on(2 * clients)
            await rolled_back(config=config)
            await writing.go_on(4 * clients)

        writers = await with_writers(proxy.url, clients, move, exact=not cut)
        assert server.served.call("GET", "/health")["backend"] == "sqlite"
    assert all(writer.calls for writer in writers)
    async with aiovec.connect(config=config) as store:
        assert store.backend_name == "sqlite"
        await check_store(store, writers)
    with pytest.raises(aiovec.StoreMovedError):
        async with aiovec.connect(f"lancedb://{path}/notes.lance") as left:
            await left.count("notes")


async def test_a_cut_over_there_and_back_under_load(tmp_path: Path) -> None:
    await _moved(tmp_path, clients=8, cut=0.03)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cut", [0.0, 0.03])
async def test_a_cut_over_of_many_clients(tmp_path: Path, cut: float) -> None:
    await _moved(tmp_path, clients=64, cut=cut)
