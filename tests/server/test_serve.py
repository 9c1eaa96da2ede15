"""``aiovec serve``: start, refusals, shutdown and log."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.docs.blocks import blocks
from tests.server.process import START, Served, environment, serving

import aiovec.sync

DEPLOY = "docs/how-to/deploy.md"
SCHEMA = {"dim": 3, "fields": {"n": "int"}}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run an ``aiovec serve`` that fails, in this process; return its exit code and its error."""
    monkeypatch.chdir(tmp_path)
    for name in ("AIOVEC_CONFIG", "AIOVEC_API_KEYS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["aiovec", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("aiovec", run_name="__main__")
        captured = capsys.readouterr()
        assert captured.out == ""
        return int(ended.value.code or 0), captured.err

    root, access = logging.getLogger(), logging.getLogger("aiovec.access")
    yield run
    for handler in [*root.handlers]:
        if type(handler).__module__ == "aiovec_server.logs":
            root.removeHandler(handler)
    access.setLevel(logging.NOTSET)


def test_a_server_that_cannot_start_prints_one_line(run_serve: Run, tmp_path: Path) -> None:
    config, file = tmp_path / "other.toml", tmp_path / "damaged.db"
    config.write_text('[retrieval]\nbackend = "remote"\n[retrieval.server]\nbackend = "remote"\n')
    file.write_bytes(b"this is no database" * 100)
    open_to_all = tmp_path / "open.toml"
    open_to_all.write_text('[retrieval.server]\nport = 0\ncors_origins = ["*"]\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, words in (
            (["-s", "notes.db", "--port", port], 1, f"port {port} is in use by another process"),
            (["-s", "notes.db", "--host", "no-such-host.invalid"], 1, "no-such-host.invalid"),
            (["-s", "notes.db", "--read-only", "--port", "0"], 1, "notes.db"),
            (["-s", file, "--port", "0"], 1, "damaged.db"),
            (["--port", "0"], 1, "no store is named"),
            (["-s", "http://127.0.0.1:4002"], 1, "served by another server already"),
            (["--config", config], 1, "served by another server already"),
            (["-s", "notes.db", "--config", open_to_all], 1, "no API key protects it"),
        ):
            ended, output = run_serve(*arguments)
            assert ended == code, output
            assert words in output
            assert output.count("\n") == 1, output
    for host in ("0.0.0.0", "::"):  # other machines need a key
        ended, output = run_serve("-s", "notes.db", "--port", "0", "--host", host)
        assert ended == 2
        assert "AIOVEC_API_KEYS" in output
    ended, output = run_serve("-s", "notes.db", "--port", "0", "--follow")
    assert (ended, "--read-only" in output) == (2, True)
    assert not (tmp_path / "notes.db").exists()


def test_serve_refuses_a_uvicorn_that_lacks_a_name() -> None:
    script = (
        "from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol\n"
        "del HttpToolsProtocol.send_400_response\n"
        "from aiovec_server.command import app\n"
        "app(['-s', ':memory:', '--port', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: aiovec serve cannot use uvicorn ")
    assert "HttpToolsProtocol has no send_400_response; pip install" in done.stderr


def test_the_log_continues_after_a_record_that_cannot_be_formatted() -> None:
    script = (
        "import logging\n"
        "from aiovec_server.logs import log_to_stderr\n"
        "log_to_stderr()\n"
        "for words in ('%d %d', 'after %s'):\n"
        "    logging.getLogger('x').warning(words, 'a')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert (first["level"], first["logger"]) == ("warning", "x")
    assert first["message"] == "<string>:5 logs a record that cannot be formatted"
    assert second["message"] == "after a"


def test_the_examples_use_options_that_exist(run_serve: Run) -> None:
    folder = Path(__file__).parents[2] / "examples" / "server"
    unit = (folder / "aiovec.service").read_text(encoding="utf-8")
    container = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", container, re.MULTILINE)
    for words in (line.split(), json.loads(entry)):
        assert words[0].endswith("aiovec")
        assert words[1] == "serve"
        code, output = run_serve(*words[2:], "--host", "no-such-host.invalid")
        assert "no such option" not in output.lower()
        assert code == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the commands are those of Linux")
def test_the_commands_of_the_docs_create_all_files_of_the_unit(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    unit = (root / "examples/server/aiovec.service").read_text(encoding="utf-8")
    (script,) = [block for block in blocks(DEPLOY, "sh") if "systemctl" in block]
    (tmp_path / "aiovec.service").write_text(unit, encoding="utf-8")
    (tmp_path / "etc/systemd/system").mkdir(parents=True)  # as on each machine with systemd
    script = re.sub(r"^.*\b(venv|pip|systemctl)\b.*\n", "", script, flags=re.MULTILINE)
    script = script.replace(" /etc/", f" {tmp_path}/etc/")
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    assert (tmp_path / "etc/systemd/system/aiovec.service").read_text("utf-8") == unit
    for name in re.findall(r"(/etc/aiovec/[\w.]+)$", unit, re.MULTILINE):
        assert (tmp_path / name.lstrip("/")).is_file(), name
    keys = tmp_path / "etc/aiovec/environment"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"AIOVEC_API_KEYS=[0-9a-f]{64}\n", keys.read_text("utf-8"))
    toml = tmp_path / "etc/aiovec/aiovec.toml"
    (state,) = re.findall(r"^WorkingDirectory=(.*)$", unit, re.MULTILINE)
    path = tomllib.loads(toml.read_text("utf-8"))["retrieval"]["sqlite_path"]
    assert Path(path).parent == Path(state)
    toml.write_text(toml.read_text("utf-8").replace(path, str(tmp_path / "vectors.db")), "utf-8")
    with serving("--config", toml) as server:
        assert server.facts["store"] == str(tmp_path / "vectors.db")


def test_a_container_answers_to_the_name_in_the_docs(tmp_path: Path) -> None:
    (line,) = re.findall(r"-e (AIOVEC_RETRIEVAL__\S+)", "".join(blocks(DEPLOY, "sh")))
    name, _, value = line.partition("=")
    env = {name: value.strip("'"), "AIOVEC_API_KEYS": "read:" + "k" * 40}
    bearer = {"authorization": "Bearer " + "k" * 40}
    with serving("-s", tmp_path / "vectors.db", "--host", "0.0.0.0", env=env) as server:
        for host, status in (("vectors:4002", 200), ("10.1.2.3:4002", 200), ("other:4002", 421)):
            for path in ("/health", "/metrics"):
                with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
                    connection.request("GET", path, headers={"host": host, **bearer})
                    assert connection.getresponse().status == status, (host, path)
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 401


def _write(server: Served, name: str, acknowledged: list[str]) -> None:
    """Write rows until the server has gone; each call is answered or was never begun."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=START)) as connection:
        for n in range(1_000_000):
            body = json.dumps([{"id": f"{name}{n}", "embedding": [1.0, 2.0, n]}])
            headers = {"content-type": "application/json"}
            try:
                connection.request("POST", "/tables/notes/records", body, headers)
                answer = connection.getresponse()
            except OSError:
                return
            assert answer.read() == b'{"count":1}'
            acknowledged.append(f"{name}{n}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_and_loses_no_acknowledged_row(tmp_path: Path, kind: int) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text(
        '[retrieval]\nbackend = "remote"\nsqlite_path = "here.db"\n'
        '[retrieval.server]\nhost = "localhost"\n'
    )
    file = tmp_path / "here.db"
    with serving("--config", config) as server:
        assert (server.facts["store"], server.facts["backend"]) == (str(file), "sqlite")
        assert server.url.startswith("http://localhost:")
        server.call("POST", "/tables", {"name": "notes", "schema": SCHEMA})
        # An idle connection does not keep the server from stopping.
        idle = http.client.HTTPConnection("127.0.0.1", server.port)
        idle.request("GET", "/tables/notes/count")
        assert idle.getresponse().read() == b'{"count":0}'
        acknowledged: list[str] = []
        writers = [threading.Thread(target=_write, args=(server, n, acknowledged)) for n in "abc"]
        for writer in writers:
            writer.start()
        while len(acknowledged) < 20:
            writers[0].join(0.01)
        assert server.stop(kind) == 0
        for writer in writers:
            writer.join()
        idle.close()
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()
    assert not Path(f"{file}-wal").exists()  # the store was closed in order
    with aiovec.sync.connect(file) as store:
        assert store.count("notes") == len(acknowledged)
        assert len(store.get("notes", acknowledged)) == len(acknowledged)


@pytest.mark.slow
def test_an_idle_server_stops_after_its_timeout(tmp_path: Path) -> None:
    keys = {"AIOVEC_API_KEYS": "0123456789abcdef"}
    options = ("--host", "0.0.0.0", "--idle-timeout", "0.5")
    with serving("-s", tmp_path / "notes.db", *options, env=keys) as server:
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert server.process.wait(START) == 0


@pytest.mark.slow
def test_a_stopping_server_answers_a_call_that_does_not_end(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text("[retrieval.server]\nshutdown_timeout = 1\naccess_log = false\n")
    with serving("-s", tmp_path / "notes.db", "--config", config) as server:
        server.call("POST", "/tables", {"name": "notes", "schema": {"dim": 3}})
        call = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START)
        call.putrequest("POST", "/tables/notes/records")
        for name, value in (("Content-Type", "application/json"), ("Content-Length", "100")):
            call.putheader(name, value)
        call.endheaders(b"[")  # and sends no more
        while "in_progress 2.0" not in server.text("/metrics"):
            time.sleep(0.01)
        assert server.stop() == 0
        answer = call.getresponse()
        problem = json.loads(answer.read())
        assert (answer.status, problem["begun"]) == (503, True)
        assert "stopping" in problem["detail"]
        call.close()
        assert server.process.stderr is not None
        assert "Traceback" not in server.process.stderr.read()


@pytest.mark.slow
def test_a_second_signal_ends_running_calls(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    config.write_text("[retrieval.server]\nshutdown_timeout = 3600\n")
    with serving("-s", tmp_path / "notes.db", "--config", config) as server:
        server.call("POST", "/tables", {"name": "notes", "schema": {"dim": 3}})
        for start in range(0, 200, 20):
            rows = [
                {"id": f"{start + n}", "embedding": [1, 2, 3], "text": "x" * 100_000}
                for n in range(20)
            ]
            server.call("POST", "/tables/notes/records", rows)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(b"GET /tables/notes/records HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert slow.recv(10)  # and reads no more
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(1)
            assert server.stop() == 0


@pytest.mark.slow
def test_a_full_nonblocking_stderr_loses_no_log_line() -> None:
    """Node and some supervisors share such a pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-m", "aiovec", "serve", "-s", ":memory:", "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=writer, env=environment()
    ) as process, os.fdopen(reader) as errors:  # fmt: skip
        os.close(writer)
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=url) as client:
            for n in range(300):
                client.get("/none", headers={"x-request-id": f"r{n}" + "x" * 50})
        process.terminate()  # the pipe has long been full
        lines = errors.read().splitlines()
    requests = [json.loads(line)["request"] for line in lines]
    assert requests == [f"r{n}" + "x" * 50 for n in range(300)]
