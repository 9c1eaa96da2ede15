"""A server that the remote backend starts, shares between processes, restarts and leaves to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.process import START, environment

import aiovec
import aiovec.sync
from aiovec import AiovecError, ConfigError, Schema
from aiovec._http.sidecar import Lock, SharedServer, SidecarFolder
from aiovec.backend import Origin, plugin_of
from aiovec_remote import sidecar
from aiovec_remote.connections import Connections
from aiovec_remote.refusals import LostError
from aiovec_remote.settings import RemoteSettings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and modes of POSIX")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AIOVEC_"):
            monkeypatch.delenv(name)


class Place:
    """A folder with a TOML file, and what its server leaves there."""

    def __init__(self, path: Path) -> None:
        self.config = path / "aiovec.toml"
        self.folder = SidecarFolder.of(self.config)
        self.write()

    def write(self, **server: Any) -> None:
        keys = {"autostart": True, "idle_timeout": 1.0, "port": 0, **server}
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        head = '[retrieval]\nbackend = "remote"\nsqlite_path = "notes.db"\n[retrieval.server]\n'
        self.config.write_text(head + "\n".join(lines))

    @property
    def server(self) -> SharedServer:
        found = self.folder.state()
        assert found is not None
        return found

    def ended(self) -> bool:
        """Return whether the server ends within the time of its settings and some."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if not self.folder.is_served():
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    server = made.folder.state()
    if server is not None and made.folder.is_served():
        with contextlib.suppress(ProcessLookupError):  # it ends by itself, too
            os.kill(server.pid, signal.SIGKILL)


_APP = """
import asyncio, json, sys, time
import aiovec
import aiovec.sync

async def main(config, name, stay):
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", aiovec.Schema(dim=2), exist_ok=True)
        for n in range(20):
            await store.insert("notes", [{"id": f"{name}-{n}", "embedding": [1.0, n]}])
        print("done", flush=True)
        await asyncio.sleep(float(stay))

asyncio.run(main(*sys.argv[1:]))
"""


def _app(place: Place, name: str, stay: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _APP, str(place.config), name, str(stay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_four_processes_at_once_share_one_server_which_ends_behind_them(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place.write(port=port)
        apps = [_app(place, str(n), stay=3.0) for n in range(4)]
        try:
            for app in apps:
                assert app.stdout is not None
                assert app.stdout.readline() == "done\n", app.communicate()[1]
            server = place.server
            assert server.port != port
            assert all(app.communicate()[1] == "" and not app.returncode for app in apps)
        finally:
            for app in apps:
                app.kill()
                app.communicate()
    assert place.ended()
    assert not _is_alive(server.pid)
    assert place.folder.log.read_text() == ""
    with aiovec.sync.connect(place.config.parent / "notes.db") as store:
        assert store.count("notes") == 80


def _is_alive(pid: int) -> bool:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:  # its lock is given back a little before its end
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def test_an_app_that_is_killed_leaves_no_server_behind(place: Place) -> None:
    app = _app(place, "a", stay=600)
    try:
        assert app.stdout is not None
        assert app.stdout.readline() == "done\n"
        time.sleep(2.5)  # it makes no call, but uses the server
        server = place.server
        assert place.folder.is_served()
    finally:
        app.kill()
        app.communicate()
    assert place.ended()
    assert not _is_alive(server.pid)


async def test_a_server_that_is_killed_amid_calls_is_started_again(place: Place) -> None:
    async with aiovec.connect(config=place.config) as store:
        await store.create_table("notes", Schema(dim=2))
        first = await asyncio.to_thread(lambda: place.server)
        acknowledged: list[str] = []
        killed = False

        async def write(writer: int) -> None:
            for n in range(1000):
                if killed and n % 10 == 0:
                    return
                name = f"{writer}-{n}"
                await store.insert("notes", [{"id": name, "embedding": [1.0, n]}])
                acknowledged.append(name)

        async def read() -> None:
            while not killed:
                await store.search("notes", [1.0, 2.0], limit=3)
                await store.count("notes")

        async def kill() -> None:
            nonlocal killed
            await asyncio.sleep(0.5)
            os.kill(first.pid, signal.SIGKILL)
            killed = True

        await asyncio.gather(*map(write, range(4)), read(), read(), kill())
        second = await asyncio.to_thread(lambda: place.server)
        assert second.pid != first.pid
        assert second.key != first.key
        assert len(acknowledged) > 4
        assert await store.count("notes") == len(acknowledged)
        assert {row.id for row in await store.get("notes", acknowledged)} == set(acknowledged)
        # A file that says something else now: the next connect has the server of the new settings.
        await asyncio.to_thread(place.write, max_top_k=77)
        async with aiovec.connect(config=place.config) as other:
            assert await other.count("notes") == len(acknowledged)
        third = await asyncio.to_thread(lambda: place.server)
        assert third.pid != second.pid
        assert await store.count("notes") == len(acknowledged)


async def test_processes_with_another_environment_have_another_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They mean another store, and must neither read nor write that of the first."""
    row = {"id": "a", "embedding": [1.0, 0.0]}
    async with aiovec.connect(config=place.config) as first:
        await first.create_table("notes", Schema(dim=2))
        monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE_PATH", "other.db")
        async with aiovec.connect(config=place.config) as second:
            await second.create_table("notes", Schema(dim=2))
            await second.insert("notes", [row])
            assert await first.count("notes") == 0
            assert await second.count("notes") == 1
    assert (place.config.parent / "other.db").exists()


def test_only_overrides_of_the_store_ask_for_another_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_API_KEYS", "read:0123456789abcdef")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__REMOTE__BUSY_TIMEOUT", "3")
    assert SidecarFolder.of(place.config).path == place.folder.path
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SERVER__MAX_TOP_K", "7")
    changed = SidecarFolder.of(place.config)
    assert changed.path != place.folder.path
    assert changed.path.parent == place.folder.path.parent
    monkeypatch.delenv("AIOVEC_RETRIEVAL__SERVER__MAX_TOP_K")
    monkeypatch.setenv("aiovec_retrieval__server__max_top_k", "7")
    assert SidecarFolder.of(place.config).path == changed.path


async def test_a_server_that_is_killed_as_it_starts_is_started_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    real = sidecar._Child

    def start(*arguments: Any) -> Any:
        child = real(*arguments)
        started.append(child)
        if len(started) < 3:
            child._process.kill()
        return child

    monkeypatch.setattr(sidecar, "_Child", start)
    async with aiovec.connect(config=place.config) as store:
        assert await store.tables() == []
    assert len(started) == 3


async def test_a_server_that_cannot_start_says_why(place: Place) -> None:
    (place.config.parent / "notes.db").write_bytes(b"no database" * 1000)
    with pytest.raises(AiovecError, match=r"could not be started: .*notes\.db") as caught:
        await aiovec.connect(config=place.config)
    assert str(place.folder.log) in str(caught.value)
    assert not await asyncio.to_thread(place.folder.is_served)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"garbage",
        b"[" * 5000,
        b"{}",
        b"null",
        b"[1]",
        b'{"pid": 1, "port": 2, "key": "x", "digest": "", "started": 1.0}',
        b'{"pid": 10, "port": 0, "key": "x", "digest": "", "started": 1.0}',
        b'{"pid": 10, "port": "9", "key": "x", "digest": "", "started": 1.0}',
        b'{"pid": -1, "port": 9, "key": "x", "digest": "", "started": 1.0}',
        b'{"pid": 10, "port": 9, "key": "x\\r\\ny", "digest": "", "started": 1.0}',
        b'{"pid": 10, "port": 9, "key": "x", "digest": "", "started": 1.0, "more": 1}',
        b"\xff\xfe",
    ],
)
def test_garbage_in_the_file_is_no_server(place: Place, text: bytes) -> None:
    place.folder.prepare()
    file = place.folder.path / "state"
    file.write_bytes(text)
    file.chmod(0o600)
    assert place.folder.state() is None
    assert place.folder.claim()  # and it is in nobody's way
    assert not file.exists()
    place.folder.leave()


def test_what_others_may_have_written_is_not_believed(place: Place, tmp_path: Path) -> None:
    folder = place.folder
    assert folder.claim()
    folder.publish(1234, "a key")
    assert place.server.port == 1234
    assert oct(os.stat(folder.path / "state").st_mode & 0o777) == "0o600"
    (folder.path / "state").chmod(0o644)
    assert folder.state() is None
    (folder.path / "state").rename(tmp_path / "elsewhere")
    (folder.path / "state").symlink_to(tmp_path / "elsewhere")
    assert folder.state() is None
    folder.leave()


async def a_thief(port: int, heard: list[bytes]) -> asyncio.Server:
    """Another process at the port, which notes what it is told.

    That somebody connects and leaves tells nothing: it may be who looks whose port it is now.
    """

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if told := await reader.read(100):
            heard.append(told)
        writer.close()

    deadline = time.monotonic() + START
    while True:
        try:
            return await asyncio.start_server(listen, "127.0.0.1", port)
        except OSError:  # what was killed still has it
            assert time.monotonic() < deadline
            await asyncio.sleep(0)


async def test_whoever_gets_the_port_of_a_server_that_died_is_told_nothing(place: Place) -> None:
    heard: list[bytes] = []
    async with aiovec.connect(config=place.config) as store:
        await store.create_table("notes", Schema(dim=2))
        for kind in (signal.SIGKILL, signal.SIGTERM):
            server = await asyncio.to_thread(lambda: place.server)
            os.kill(server.pid, kind)
            async with await a_thief(server.port, heard):
                assert await store.count("notes") == 0
    assert heard == []


async def test_an_idle_app_tells_nothing_to_whoever_got_the_port_of_its_server(
    place: Place,
) -> None:
    """The server was killed, and another app has started the next one, at another port."""
    heard: list[bytes] = []
    async with aiovec.connect(config=place.config) as idle:
        await idle.create_table("notes", Schema(dim=2))
        first = await asyncio.to_thread(lambda: place.server)
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.to_thread(place.ended)
        thief = await a_thief(first.port, heard)
        async with thief, aiovec.connect(config=place.config) as other:
            assert await other.count("notes") == 0
            assert await idle.count("notes") == 0
    assert heard == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the files of a process")
async def test_the_files_of_a_server_are_in_the_order_in_which_it_is_told_dead(
    place: Place,
) -> None:
    """Whichever end the system begins at, a lock is free before the port is; no child keeps one."""

    def files() -> tuple[dict[str, int], dict[str, int]]:
        server = place.server
        folder = Path(f"/proc/{server.pid}")
        ports = {
            f"socket:[{line.split()[9]}]"
            for line in (folder / "net" / "tcp").read_text().splitlines()[1:]
            if line.split()[1].endswith(f":{server.port:04X}") and line.split()[3] == "0A"
        }
        found, flags = {}, {}
        for number in os.listdir(folder / "fd"):
            target = os.readlink(folder / "fd" / number)
            name = "socket" if target in ports else target.rpartition("/")[2]
            if target in ports or target.startswith(str(place.folder.path)):
                name = "port" if name == f"port.{server.port}" else name
                said = (folder / "fdinfo" / number).read_text()
                found[name] = int(number)
                flags[name] = int(said.partition("flags:\t")[2].split()[0], 8) & os.O_CLOEXEC
        return found, flags

    async with aiovec.connect(config=place.config):
        found, flags = await asyncio.to_thread(files)
    assert found["server"] < found["socket"] < found["port"]
    assert flags["server"]
    assert flags["socket"]
    assert flags["port"]


@pytest.mark.slow
@pytest.mark.parametrize("left", ["server", "port"])
def test_the_first_lock_that_a_killed_server_loses_tells_of_it(place: Place, left: str) -> None:
    """The system gives back what a killed process had one by one, its port in the midst of it."""
    place.folder.prepare()
    with socket.create_server(("127.0.0.1", 0)) as thief:
        thief.settimeout(0.3)
        assert place.folder.claim()
        port = thief.getsockname()[1]
        place.folder.publish(port, "a key")
        file = place.folder.path / "state"
        told = file.read_bytes()
        place.folder.leave()
        file.write_bytes(told)
        file.chmod(0o600)
        path = place.folder.path / "server" if left == "server" else place.folder.of_port(port)
        with Lock(path) as lock:
            assert lock.take()
            opening = threading.Thread(target=_open, args=[place])
            opening.start()
            heard = b""
            with contextlib.suppress(TimeoutError):
                for _ in range(5):
                    connected, _ = thief.accept()
                    with connected:
                        heard += connected.recv(100)
        opening.join()
    assert heard == b""


def _open(place: Place) -> None:
    with aiovec.sync.connect(config=place.config) as store:
        assert store.tables() == []


async def test_a_connection_to_another_process_is_told_nothing() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(100))
        writer.close()

    asked: list[int | None] = []
    made = Connections(RemoteSettings(), lambda port: asked.append(port) is not None)
    thief = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with thief:
        port = thief.sockets[0].getsockname()[1]
        session = await made.begin()
        with pytest.raises(LostError, match="has ended"):
            await session.post(f"http://127.0.0.1:{port}/", data=b"rows")
        await made.close()
        assert await heard.get() == b""
    assert asked == [port]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
async def test_a_folder_that_others_can_open_is_refused(place: Place, mode: int) -> None:
    place.folder.path.mkdir(parents=True)
    place.folder.path.chmod(mode)
    with pytest.raises(ConfigError, match="no other one can open"):
        await aiovec.connect(config=place.config)


async def test_a_folder_that_cannot_be_made(place: Place) -> None:
    (place.config.parent / ".aiovec").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        await aiovec.connect(config=place.config)
    assert caught.value.key == "retrieval.server.autostart"


def test_only_one_is_the_server(place: Place) -> None:
    other = SidecarFolder.of(place.config)
    assert not Path(other.path).exists()
    assert place.folder.claim()
    assert other.is_served()
    assert not other.claim()
    place.folder.leave()
    assert not other.is_served()
    assert other.claim()
    other.leave()


def test_it_retires_when_the_last_client_is_gone(place: Place) -> None:
    folder = place.folder
    assert folder.claim()
    folder.publish(1234, "a key")
    assert not folder.any()
    first, second = SidecarFolder.of(place.config).using(), SidecarFolder.of(place.config).using()
    assert folder.any()
    assert not folder.retire()
    first.close()
    assert folder.any()
    second.close()
    second.close()
    assert not folder.any()
    assert folder.retire()
    assert folder.state() is None
    folder.leave()


def test_the_doctor_looks_and_starts_nothing(place: Place) -> None:
    plugin = plugin_of("remote")
    location = Origin(None, place.config).location()
    assert plugin.findings(location)[-1].value == "the first connect starts one"
    assert not place.folder.path.exists()
    assert place.folder.claim()
    place.folder.publish(1234, "a secret key")
    found = plugin.findings(location)[-1]
    assert found.ok
    assert f"http://127.0.0.1:1234, process {os.getpid()}" in found.value
    assert "a secret key" not in found.value
    place.folder.leave()
    place.folder.path.chmod(0o777)
    assert not plugin.findings(location)[-1].ok


def test_it_notices_another_file(place: Place) -> None:
    folder = place.folder
    assert folder.claim()
    assert not folder.is_outdated()
    text = place.config.read_text()
    place.config.write_text(text + "\n# a comment")
    assert not folder.is_outdated()
    place.config.write_text(text + "\n[half")  # not all of it is written yet
    assert not folder.is_outdated()
    place.config.write_text(text + "\nmax_rows = 7")
    assert folder.is_outdated()
    place.config.unlink()
    assert not folder.is_outdated()
    folder.leave()


def test_a_server_whose_folder_was_removed_leaves_the_new_one_alone(place: Place) -> None:
    folder = place.folder
    assert folder.claim()
    folder.publish(1234, "a key")
    shutil.rmtree(folder.path)
    other = SidecarFolder.of(place.config)
    assert other.claim()
    told = {"pid": os.getppid(), "port": 9, "key": "another", "digest": "", "started": 1.0}
    (folder.path / "state").touch(mode=0o600)
    (folder.path / "state").write_text(json.dumps(told))
    folder.leave()
    assert place.server.key == "another"
    other.leave()


def test_a_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from aiovec._http.sidecar import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print(lock.take(), flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with Lock(tmp_path / "lock") as lock:
            assert not lock.take()
            process.kill()
            assert lock.take(within=START)
    finally:
        process.kill()
        process.communicate()
