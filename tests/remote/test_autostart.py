"""Tests of a server that the remote backend starts, shares and restarts; it ends when idle."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.harness.waiting import until
from tests.server.process import START, environment

import aiovec
import aiovec.sync
from aiovec import AiovecError, ConfigError, Schema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for it in /proc"),
]


class Place:
    """A folder with a TOML file, and the servers that were started for it."""

    def __init__(self, path: Path) -> None:
        self.config = path / "aiovec.toml"
        self.write()

    def write(self, **server: Any) -> None:
        keys = {"autostart": True, "idle_timeout": 1.0, "port": 0, **server}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        head = '[retrieval]\nbackend = "remote"\nsqlite_path = "notes.db"\n[retrieval.server]\n'
        self.config.write_text(head + "\n".join(lines))

    def servers(self) -> list[int]:
        """Return the ids of the servers, by the TOML file in their command lines."""
        pids = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.config).encode() in words and APP.encode() not in words:
                pids.append(int(folder.name))
        return pids

    def server(self) -> int:
        (pid,) = self.servers()
        return pid

    def kill(self) -> None:
        """Kill the servers; a server may have ended in the meantime."""
        for pid in self.servers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def until_ended(self) -> None:
        deadline = time.monotonic() + START
        while self.servers():
            assert time.monotonic() < deadline, "a server was left behind"
            time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.kill()  # do not wait until they end when idle


APP = """
import asyncio, sys, aiovec
async def main(config, name):
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", aiovec.Schema(dim=2), exist_ok=True)
        for n in range(20):
            await store.insert("notes", [{"id": f"{name}-{n}", "embedding": [1.0, n]}])
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_share_one_server_that_ends_after_them(place: Place) -> None:
    place.write(idle_timeout=10.0)
    apps = [
        subprocess.Popen(
            [sys.executable, "-c", APP, str(place.config), str(n)], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]  # fmt: skip
    try:
        for app in apps:
            assert app.stdout is not None
            assert app.stdout.readline() == "done\n", app.communicate()[1]
        deadline = time.monotonic() + START
        while len(place.servers()) > 1:  # surplus servers end immediately
            assert time.monotonic() < deadline
            time.sleep(0.05)
        place.server()
        apps[0].kill()  # this leaves no server behind, either
        assert all(app.communicate()[1] == "" and not app.returncode for app in apps[1:])
    finally:
        for app in apps:
            app.kill()
            app.communicate()
    place.until_ended()
    with aiovec.sync.connect(place.config.parent / "notes.db") as store:
        assert store.count("notes") == 60


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [1, pytest.param(60, marks=pytest.mark.soak(minutes=10))])
async def test_no_write_is_lost_or_doubled_when_the_server_is_killed_and_started_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__RECONNECT_TIMEOUT", "90")
    place.write(idle_timeout=60.0)  # only the kills end the server
    rows: dict[str, int] = {}
    calls, over = 0, False

    async def write(store: aiovec.VectorStore, writer: int) -> None:
        """Insert, replace and delete rows, and note what the table must hold."""
        nonlocal calls
        for n in itertools.count():
            if over:
                return
            new, later, old = (f"{writer}-{number}" for number in (n, n + 1, n - 2))
            made = [{"id": id, "embedding": [1.0, n], "n": n} for id in (new, later)]
            write_rows = store.upsert if n else store.insert
            assert await write_rows("notes", made) == 2
            rows.update({new: n, later: n})
            assert await store.delete("notes", old) == (rows.pop(old, None) is not None)
            calls += 1

    async def read(store: aiovec.VectorStore) -> None:
        while not over:
            await store.search("notes", [1.0, 2.0], limit=3)

    async with aiovec.connect(config=place.config) as store:
        await store.create_table("notes", Schema(dim=2, fields={"n": int}))
        async with asyncio.TaskGroup() as tasks:
            for writer in range(4):
                tasks.create_task(write(store, writer))
            tasks.create_task(read(store))
            for number in range(kills):
                least = calls + random.Random(number).randrange(20, 60)
                await until(lambda least=least: calls >= least)
                await asyncio.to_thread(place.kill)
            least = calls + 10
            await until(lambda: calls >= least)
            over = True
        assert {row.id: row["n"] for row in await store.find("notes", limit=100_000)} == rows
        # The next connect starts a server with the current settings of the file.
        await asyncio.to_thread(place.write, max_rows=5)
        async with aiovec.connect(config=place.config) as other:
            assert await other.count("notes") == len(rows)
            with pytest.raises(aiovec.InvalidArgumentError, match="more than 5 rows"):
                await other.find("notes", limit=6)
        assert await store.count("notes") == len(rows)


async def test_connect_says_why_the_server_cannot_start(place: Place) -> None:
    (place.config.parent / "notes.db").write_bytes(b"no database" * 1000)
    with pytest.raises(AiovecError, match=r"could not be started: .*notes\.db"):
        await aiovec.connect(config=place.config)
    await asyncio.to_thread(place.until_ended)


async def test_no_other_user_can_open_the_folder_of_a_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as runtime:  # the path of a socket must be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        async with aiovec.connect(config=place.config) as store:
            assert await store.tables() == []
            folders = await asyncio.to_thread(lambda: list(Path(runtime).rglob("*/")))
            assert len(folders) == 2
            assert {path.stat().st_mode & 0o077 for path in folders} == {0}
    await asyncio.to_thread(place.until_ended)


def test_a_folder_that_another_user_may_change_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as runtime:
        folder = Path(runtime, f"aiovec-{os.geteuid()}")
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        folder.mkdir(mode=0o755)
        with pytest.raises(ConfigError, match="another user"):
            aiovec.sync.connect(config=place.config)
        folder.rmdir()
        elsewhere = Path(runtime, "elsewhere")
        elsewhere.mkdir(mode=0o700)
        folder.symlink_to(elsewhere)
        with pytest.raises(ConfigError, match="another user"):
            aiovec.sync.connect(config=place.config)
        assert list(elsewhere.iterdir()) == []
