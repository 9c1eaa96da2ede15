"""The command itself: help, version, a terminal and a pipe, an interrupt."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import aiovec

from .conftest import Run

COMMANDS = (
    "demo doctor info tables search rows distinct import export index optimize backup restore "
    "advise migrate serve"
).split()

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has neither a pty nor SIGINT")


def aiovec_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aiovec", *arguments]


def on_a_terminal(*arguments: str, program: Sequence[str] = ()) -> tuple[int, str]:
    """Run the command, or another program, on a terminal of its own; its exit code and all that it
    wrote there."""
    import pty

    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    command = [*program, *arguments] if program else aiovec_command(*arguments)
    start = subprocess.Popen  # a program may be about imports
    process = start(command, stdin=other, stdout=other, stderr=other, env=environment)
    os.close(other)
    written = b""
    try:
        while True:
            try:
                part = os.read(main, 65_536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            written += part
        return process.wait(), written.decode()
    finally:
        process.kill()
        process.wait()
        os.close(main)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    finished = run(*command, "--help")
    assert finished.code == 0
    assert "Usage: aiovec" in finished.out
    assert finished.err == ""


def test_the_help_names_every_command(run: Run) -> None:
    listed = re.findall(r"^[│|] (\w+)  ", run("--help").out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_the_version(run: Run) -> None:
    finished = run("--version")
    assert (finished.code, finished.out) == (0, f"aiovec {aiovec.__version__}\n")


def test_no_command_and_an_unknown_command_are_wrong_usage(run: Run) -> None:
    assert run().code == 2
    assert run("unknown").code == 2
    assert run("tables", "--unknown").code == 2


def test_python_m_aiovec_is_the_same_command() -> None:
    finished = subprocess.run(
        aiovec_command("--version"), capture_output=True, text=True, check=True
    )
    assert finished.stdout == f"aiovec {aiovec.__version__}\n"


def test_importing_aiovec_does_not_import_what_only_the_command_needs() -> None:
    script = (
        "import sys, aiovec\n"
        "heavy = {'typer', 'rich', 'pyarrow', 'pydantic', 'aiovec._cli', 'aiovec._demo'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")


def test_output_that_a_stream_cannot_write_does_not_end_the_command(store: Path) -> None:
    # "zweite…" holds no such character, but the shortened and replaced ones do.
    finished = subprocess.run(
        aiovec_command("search", str(store), "notes", "--like", "a"),
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "third ?[31mred" in finished.stdout


def test_json_is_ascii_where_the_stream_is_not_unicode(store: Path) -> None:
    finished = subprocess.run(
        aiovec_command("search", str(store), "notes", "--like", "a", "--json"),
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    assert finished.stdout.isascii()


@posix_only
def test_a_reader_that_leaves_early_gets_no_traceback(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        finished = subprocess.run(
            aiovec_command("info", str(store)),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr


@posix_only
def test_on_a_terminal_a_table_is_laid_out_and_an_error_is_red(store: Path) -> None:
    code, written = on_a_terminal("search", str(store), "notes", "--like", "a")
    assert code == 0
    assert "\t" not in written
    assert re.search(r"\x1b\[1m *score", written)
    assert "\x1b[31mred" not in written  # what a row holds does not colour the terminal
    assert "3 hits in " in written

    code, written = on_a_terminal("tables", "missing.db")
    assert code == 1
    assert "\x1b[1;31merror: \x1b[0m\x1b[31mthere is no store at" in written


@posix_only
def test_an_interrupt_ends_with_130_and_one_line(folder: Path) -> None:
    process = subprocess.Popen(
        aiovec_command("demo", "--path", str(folder / "demo.db")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Text: "):
            pass  # until it is at work
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors == "error: interrupted\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["tables", "notes.db"], ["info", "notes.db", "--json"], ["--help"]]
)
def test_output_that_cannot_be_written_is_told(arguments: list[str], store: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            aiovec_command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: the output cannot be written: No space left")


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("tables notes.db >&-", 0, ""),
        ("info notes.db --json >&-", 0, ""),
        ("tables notes.db <&- >&- 2>&-", 0, ""),
        ("export notes.db notes - --format jsonl >&-", 1, "error: standard output is closed\n"),
        ("import - n.db --format jsonl --table t <&-", 1, "error: standard input is closed\n"),
    ],
)
def test_closed_streams(arguments: str, code: int, told: str, store: Path) -> None:
    done = subprocess.run(
        f"{shlex.join(aiovec_command())} {arguments}", shell=True, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)
    assert not Path("n.db").exists()
