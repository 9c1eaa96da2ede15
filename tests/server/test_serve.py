"""``aiovec serve``: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.server.process import START, Served, environment, serving
from typer.main import get_command
from typer.testing import CliRunner, Result

import aiovec.sync
from aiovec.backend import ServerSettings
from aiovec_server.command import app

SCHEMA = {"dim": 3, "fields": {"n": "int"}}


def run_serve(*arguments: str | Path) -> Result:
    """Return how an ``aiovec serve`` that is refused ends. It runs in this process."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AIOVEC_"):
            monkeypatch.delenv(name)


def _rows(start: int, count: int) -> list[dict[str, object]]:
    return [{"id": str(n), "embedding": [1.0, 2.0, n], "n": n} for n in range(start, start + count)]


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0_and_keeps_what_it_acknowledged(tmp_path: Path, kind: int) -> None:
    file = tmp_path / "notes.db"
    with serving(file) as server:
        assert server.facts["store"] == str(file)
        assert server.facts["backend"] == "sqlite"
        assert server.call("GET", "/health")["status"] == "ok"
        server.call("POST", "/tables", {"name": "notes", "schema": SCHEMA})
        server.call("POST", "/tables/notes/records", _rows(0, 10))
        # A client that keeps its connection does not hold the server.
        idle = http.client.HTTPConnection("127.0.0.1", server.port)
        idle.request("GET", "/tables/notes/count")
        assert idle.getresponse().read() == b'{"count":10}'
        acknowledged: list[str] = []
        writers = [threading.Thread(target=_write, args=(server, n, acknowledged)) for n in "abc"]
        for writer in writers:
            writer.start()
        while len(acknowledged) < 20:
            time.sleep(0.01)
        before = time.monotonic()
        assert server.stop(kind) == 0
        assert time.monotonic() - before < ServerSettings().shutdown_timeout
        for writer in writers:
            writer.join()
        idle.close()
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
    assert not Path(f"{file}-wal").exists()  # it was closed, not cut off
    with aiovec.sync.connect(file) as store:
        assert store.count("notes") == 10 + len(acknowledged)
        assert len(store.get("notes", acknowledged)) == len(acknowledged)


def _write(server: Served, name: str, acknowledged: list[str]) -> None:
    """Write rows until the server is gone. Each call is answered, or was never begun."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=START)) as connection:
        for n in range(1_000_000):
            row = {"id": f"{name}{n}", "embedding": [1.0, 2.0, n]}
            try:
                connection.request("POST", "/tables/notes/records", json.dumps([row]), _JSON)
                answer = connection.getresponse()
            except OSError:
                return
            assert answer.read() == b'{"count":1}'
            acknowledged.append(f"{name}{n}")


_JSON = {"content-type": "application/json"}


def test_the_first_line_says_where_it_is(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aiovec_server", "notes.db", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"{tmp_path / 'notes.db'} at http://127.0.0.1:" in line
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_serve(tmp_path / "notes.db", "--port", str(port))
    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert f"port {port} is in use by another process" in ended.stderr
    assert "--port 0" in ended.stderr
    assert not (tmp_path / "notes.db").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_key(tmp_path: Path, host: str) -> None:
    ended = run_serve(tmp_path / "notes.db", "--port", "0", "--host", host)
    assert ended.exit_code == 2
    assert "AIOVEC_API_KEYS" in ended.stderr
    assert not (tmp_path / "notes.db").exists()


def test_with_a_key_other_machines_may_come(tmp_path: Path) -> None:
    keys = {"AIOVEC_API_KEYS": "0123456789abcdef"}
    with serving(tmp_path / "notes.db", "--host", "0.0.0.0", env=keys) as server:
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert server.stop() == 0


def test_a_host_that_is_none(tmp_path: Path) -> None:
    ended = run_serve(tmp_path / "notes.db", "--host", "no-such-host.invalid")
    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert "no-such-host.invalid" in ended.stderr


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_bytes(b"this is no database" * 100)
    ended = run_serve(file, "--port", "0")
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_nothing_says_what_to_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_serve("--port", "0")
    assert ended.exit_code == 1
    assert "nothing says what to open" in ended.stderr


@pytest.mark.parametrize("target", ["http://127.0.0.1:4002", "remote"])
def test_a_server_is_not_served_again(tmp_path: Path, target: str) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nbackend = "remote"\n[retrieval.server]\nbackend = "remote"\n')
    ended = run_serve(target, "--config", config, "--port", "0")
    assert ended.exit_code == 1
    assert "served by another server already" in ended.stderr


def test_the_toml_says_what_is_served_and_where(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(
        '[retrieval]\nbackend = "remote"\nsqlite_path = "here.db"\n'
        '[retrieval.server]\nhost = "localhost"\nread_only = false\n'
    )
    with serving("--config", config) as server:
        assert server.facts["store"] == str(tmp_path / "here.db")
        assert server.url.startswith("http://localhost:")
        assert server.call("GET", "/health")["backend"] == "sqlite"
        assert server.stop() == 0


def test_read_only(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    ended = run_serve(file, "--read-only", "--port", "0")
    assert ended.exit_code == 1
    assert not file.exists()


def test_it_stops_when_nobody_calls(tmp_path: Path) -> None:
    idle = 0.5
    asked = time.monotonic()
    with serving(tmp_path / "notes.db", "--idle-timeout", str(idle)) as server:
        began = time.monotonic()
        while time.monotonic() < began + 2 * idle:  # calls put its end off
            last, asked = asked, time.monotonic()
            try:
                server.call("GET", "/health")
            except OSError:
                assert time.monotonic() - last > idle  # this test was held up for so long
                break
            time.sleep(idle / 4)
        assert server.process.wait(START) == 0


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    ended = run_serve(tmp_path / "notes.db")
    assert ended.exit_code == 1
    assert ended.stderr.count("\n") == 1
    assert 'pip install "aiovec[server]"' in ended.stderr


def test_listing_the_commands_imports_no_framework() -> None:
    code = "import sys, aiovec_server.command; print('fastapi' in sys.modules, end='')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert found.stdout == "False"


def test_a_parent_that_closed_the_streams(tmp_path: Path) -> None:
    code = (
        "import os; from aiovec_server.command import app; os.closerange(0, 3); "
        f"app([{str(tmp_path / 'notes.db')!r}, '--port', '0', '--idle-timeout', '0.1'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=START)
    assert ended.returncode == 0
    assert (tmp_path / "notes.db").exists()


def test_few_open_files_mean_few_connections(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); "
        "from aiovec_server.running import room_for_connections as room; print(room(2048), room(8))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert found.stdout == "44 8\n"


def test_the_examples_start_it_with_options_that_exist() -> None:
    folder = Path(__file__).parents[2] / "examples" / "server"
    unit = (folder / "aiovec.service").read_text(encoding="utf-8")
    container = (folder / "Containerfile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", container, re.MULTILINE)
    for words in (line.split(), json.loads(entry)):
        assert words[0].endswith("aiovec")
        assert words[1] == "serve"
        assert get_command(app).make_context("serve", words[2:]).params
