"""The command as a process: streams, terminals, pipes, signals and imports."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.harness.command import COMMAND, command_without, run_process

import aiovec
from aiovec import sync

from .conftest import Run

pytestmark = pytest.mark.slow

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has neither a pty nor SIGINT")
ROW = b'{"id": "a", "embedding": [1, 0]}\n'


def on_a_terminal(*arguments: str, command: Sequence[str] = COMMAND) -> tuple[int, str]:
    """Run the command on a new terminal; return its exit code and its output."""
    import pty

    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*command, *arguments], stdin=other, stdout=other, stderr=other, env=environment
    )
    os.close(other)
    written = b""
    try:
        while True:
            try:
                part = os.read(main, 65_536)
            except OSError:  # Linux raises it when the other side is closed
                break
            if not part:
                break
            written += part
        return process.wait(), written.decode()
    finally:
        process.kill()
        process.wait()
        os.close(main)


def in_a_shell(line: str) -> tuple[int, str, str]:
    """Run a shell line in which ``aiovec`` is the command."""
    line = re.sub(r"\baiovec\b", shlex.join(COMMAND), line)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


# Programs, and modules that they must not import.
LIGHT = {
    "import aiovec": {
        "aiovec._cli", "aiovec._store.store", "asyncio", "numpy", "pyarrow", "pydantic", "rich",
        "typer",
    },
    """import asyncio, aiovec
async def main():
    async with aiovec.connect("notes.db", read_only=True) as store:
        assert await store.search("notes", [1, 0, 0])
asyncio.run(main())""": {
        "aiovec._cli", "aiovec._embed.batcher", "aiovec._embed.openai", "aiovec._embed.static",
        "aiovec.backend.doctor", "aiovec_lancedb", "aiovec_remote", "anyio", "html",
        "importlib.metadata", "lancedb", "opentelemetry", "pyarrow", "pydantic", "rich", "typer",
    },
    """import runpy; sys.argv = ['aiovec', '--help']
try: runpy.run_module('aiovec', run_name='__main__')
except SystemExit: pass""": {
        "aiovec._store.store", "aiovec.backend", "asyncio", "importlib.metadata", "lancedb",
        "numpy", "pandas", "pyarrow", "pydantic", "rich", "sqlite_vec", "starlette",
    },
    """import runpy; sys.argv = ['aiovec', 'count', '-s', 'notes.db']
try: runpy.run_module('aiovec', run_name='__main__')
except SystemExit: pass""": {
        # From 0.29 on, typer imports pydantic for each command.
        "aiovec._cli.tables", "aiovec._cli.upkeep", "aiovec_import", "aiovec_migrate",
        "aiovec_server", "lancedb", "opentelemetry", "pyarrow",
    },
}  # fmt: skip


def test_a_process_imports_only_what_it_needs(store: Path) -> None:
    assert run_process("--version").out == f"aiovec {aiovec.__version__}\n"
    for program, modules in LIGHT.items():
        with case(program):
            check = f"import sys\n{program}\nsys.exit(str({modules!r} & set(sys.modules)))"
            done = subprocess.run(
                [sys.executable, "-c", check], cwd=store.parent,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.stderr == "set()\n"


# Missing packages, each with a command that needs it, and the fix.
MISSING = [
    ("lancedb", "create t --dim 2 -s lancedb://t.lance", 'pip install "aiovec[lancedb]"'),
    ("lancedb", "doctor", 'pip install "aiovec[lancedb]"'),
    ("ray", "import parts/* --table t -s lancedb://n --engine ray", 'pip install "aiovec[ray]"'),
    ("sqlite_vec", "doctor", "pip install sqlite-vec"),
    ("uvicorn", "serve -s new.db", 'pip install "aiovec[server]"'),
]


def test_a_missing_package_is_named_with_its_fix(parts: Path, folder: Path) -> None:
    for package, line, fix in MISSING:
        with case((package, line)):
            finished = run_process(*line.split(), command=command_without(package))
            assert finished.code == 1
            assert fix in finished.out + finished.err
            assert "Traceback" not in finished.err
    assert list(folder.iterdir()) == [parts]


def test_an_ascii_stream_gets_a_replacement_character(store: Path) -> None:
    shown = run_process(
        "search", "-s", store, "notes", "--like", "a", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert (shown.code, shown.err) == (0, "")
    assert "third ?[31mred" in shown.out


@posix_only
def test_a_terminal_gets_colours_and_progress(store: Path, folder: Path) -> None:
    code, written = on_a_terminal("search", "-s", str(store), "notes", "--like", "a")
    assert code == 0
    assert "\t" not in written
    assert re.search(r"\x1b\[1m *score", written)
    assert "\x1b[31mred" not in written  # escape codes in a row's text do not reach the terminal
    assert "3 hits in " in written
    (folder / "rows.jsonl").write_bytes(ROW)
    code, written = on_a_terminal("import", "rows.jsonl", "-s", "new.db")
    assert code == 0
    assert "\x1b[?25l" in written  # the progress bar hides the cursor


def beside_progress(error: str) -> list[str]:
    """Return the lines of an error output without a slow export's progress."""
    return [line for line in error.splitlines() if not line.startswith("exporting")]


@posix_only
def test_a_full_stream_is_an_error_and_a_closed_one_is_not(store: Path) -> None:
    if Path("/dev/full").exists():
        code, _, error = in_a_shell("aiovec info -s notes.db --json > /dev/full")
        assert (code, error.count("\n")) == (1, 1)
        assert error.startswith("error: the output cannot be written: No space left")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "export", "-s", "notes.db", "notes", "-", "--format", "arrow"],
        stdout=writer, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, beside_progress(done.stderr.decode())) == (0, [])
    with sync.connect(store) as vectors:
        vectors.insert("notes", [{"embedding": [1, 0, 0], "body": "x" * 100} for _ in range(3000)])
    for command in (
        "aiovec --help", "aiovec export - -s notes.db --format jsonl",
        "aiovec rows -s notes.db --limit 3000", "aiovec rows -s notes.db --limit 3000 --json",
    ):  # fmt: skip
        script = f"set -o pipefail; {command} | head -n 0"
        code, out, error = in_a_shell(f"bash -c {shlex.quote(script)}")
        assert (code, out, beside_progress(error)) == (0, "", []), command


@posix_only
def test_a_command_works_without_standard_streams(store: Path) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        for name, code in (("notes.db", 0), ("absent.db", 1)):
            ended, out, error = in_a_shell(f"aiovec delete notes x -s {name} {closed}")
            assert (ended, "Traceback" in out + error) == (code, False), closed
    assert in_a_shell("aiovec count -s notes.db")[:2] == (0, "4\n")


@posix_only
def test_progress_is_lines_without_a_terminal(store: Path) -> None:
    with sync.connect(store) as vectors:
        vectors.insert("notes", [{"embedding": [1, 0, 0], "body": "x" * 100} for _ in range(3000)])
    command = [*COMMAND, "export", "-", "-s", "notes.db", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as exporting:
        assert exporting.stdout is not None
        assert exporting.stderr is not None
        assert exporting.stderr.readline().startswith(b"exporting")  # while nobody reads the rows
        assert exporting.stdout.read().count(b"\n") == 3004
        assert exporting.wait() == 0


@posix_only
def test_an_export_is_piped_into_an_import(run: Run, store: Path, folder: Path) -> None:
    assert run("export", "-s", store, "notes", "notes.csv").code == 0  # and its schema file
    ended, out, error = in_a_shell(
        "aiovec export notes - -s notes.db --format jsonl --json 2> said | { cat; echo broken; } | "
        "aiovec import - -s new.db --format jsonl --table notes --json "
        "--schema notes.csv.schema.json"
    )
    assert ended == 1, error
    said = (folder / "said").read_text("utf-8")  # the export's stderr; its stdout has the rows
    assert json.loads(said[said.index("{") :])["rows"] == 4  # after its progress, if it is slow
    (table,) = json.loads(out)["tables"]
    assert (table["name"], table["rows"], table["rejected"]) == ("notes", 4, 1)
    assert run("rows", "-s", "new.db", "notes").lines == run("rows", "-s", store, "notes").lines
    (line,) = (folder / "notes.rejects.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["line"] == 5


@posix_only
def test_a_strict_import_reads_standard_input_twice(folder: Path) -> None:
    """The first pass checks the rows, and the second one imports them."""
    (folder / "rows.jsonl").write_bytes(ROW)
    command = "aiovec import - -s n.db --format jsonl --table t --strict"
    ended, _, error = in_a_shell(f"{{ cat rows.jsonl; echo broken; }} | {command}")
    assert (ended, "1 row cannot be imported, so none was" in error) == (1, True)
    assert not (folder / "n.db").exists()
    ended, out, error = in_a_shell(f"cat rows.jsonl | {command}")
    assert (ended, "imported 1 row" in out) == (0, True), error


@posix_only
def test_an_interrupted_migration_says_how_to_continue(run: Run, store: Path, folder: Path) -> None:
    (folder / "my_embedder.py").write_text(
        "import asyncio\nasync def slow(texts):\n    await asyncio.sleep(3600)\n"
    )
    config = folder / "my.toml"
    config.write_text(
        f'[retrieval]\nsqlite_path = "{store.name}"\n[retrieval.embedders.slow]\n'
        'kind = "my_embedder:slow"\nmodel = "new"\ndim = 4\n'
    )
    places = ("--config", str(config), "--to", "t.db")
    process = subprocess.Popen(
        [*COMMAND, "migrate", "run", *places, "--embedder", "slow", "--from-field", "body"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("copying"):
            assert line, "it ended before it copied"
        # Another terminal sees the migration, and the source continues to serve.
        assert "next    continue with the command" in run("migrate", "status", *places).out
        assert run("migrate", "run", *places).code == 1
        assert run("tables", "-s", store).code == 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: interrupted; nothing is lost. Run the same")
    assert run("migrate", "abort", *places).code == 0
