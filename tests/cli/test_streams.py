"""aiovec import - and aiovec export -: standard input and output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from aiovec import ConfigError
from aiovec._transfer import open_input, streams
from aiovec._transfer.streams import InputStream

from .conftest import Run
from .test_command import aiovec_command, on_a_terminal, posix_only

ROW = b'{"id": "a", "embedding": [1, 0]}\n'


def ended(command: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    process = subprocess.Popen(
        aiovec_command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, errors = process.communicate(given, timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


@pytest.mark.parametrize("form", ["csv", pytest.param("jsonl", marks=pytest.mark.soak), "arrow"])
def test_out_of_one_store_and_into_another(form: str, run: Run, store: Path, folder: Path) -> None:
    out = ended(["export", str(store), "notes", "-", "--format", form, "--json"])
    assert out.returncode == 0
    facts = json.loads(out.stderr)
    assert (facts["rows"], facts["files"]) == (4, [])
    assert run("export", store, "notes", "notes.jsonl").code == 0
    back = ended(
        ["import", "-", "new.db", "--format", form, "--table", "notes", "--json", "--schema",
         "notes.schema.json"],
        out.stdout,
    )  # fmt: skip
    assert (back.returncode, back.stderr) == (0, b"")
    (facts,) = json.loads(back.stdout)["tables"]
    assert (facts["name"], facts["rows"], facts["rejected"]) == ("notes", 4, 0)
    assert run("rows", "new.db", "notes").lines == run("rows", store, "notes").lines
    assert sorted(path.name for path in folder.iterdir() if "stdin" in path.name) == []


def test_bad_rows_of_a_stream_are_listed_beside_the_command(folder: Path) -> None:
    done = ended(["import", "-", "n.db", "--format", "jsonl", "--table", "t"], ROW + b"broken\n")
    assert done.returncode == 1
    (line,) = (folder / "stdin.rejects.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["line"] == 2


@posix_only
def test_bad_rows_of_what_is_no_file_are_listed_beside_the_command(folder: Path) -> None:
    """For root, the list went into /dev."""
    command = ["import", "/dev/stdin", "n.db", "--format", "jsonl", "--table", "t"]
    assert ended(command, ROW + b"broken\n").returncode == 1
    assert (folder / "stdin.rejects.jsonl").exists()
    assert not Path("/dev/stdin.rejects.jsonl").exists()
    # What came before may have been of another store.
    assert ended(["import", "-", "m.db", *command[3:]], ROW).returncode == 0
    assert (folder / "stdin.rejects.jsonl").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_stream_in_which_no_row_comes_does_not_fill_the_memory(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_MOST_KEPT", 2**20)
    reader, writer = os.pipe()

    def send() -> None:
        with open(writer, "wb") as file, suppress(BrokenPipeError):
            for _ in range(2_000):
                file.write(b"a" * 2**20)

    sender = threading.Thread(target=send)
    sender.start()
    stream = InputStream(reader)
    os.close(reader)
    with pytest.raises(ConfigError, match="no vector was found in the first 1 MiB that came"):
        open_input(Path("a pipe"), form=form, stream=stream)
    sender.join()


CANNOT = (
    (["import", "-", "n.db", "--format", "csv"], 2, b"--table"),
    (["import", "-", "n.db", "--table", "t"], 1, b"say --format jsonl, csv, arrow"),
    (["import", "-", "n.db", "--table", "t", "--format", "parquet"], 1, b"needs a file"),
    (["import", "-", "n.db", "--table", "t", "--format", "numpy"], 1, b"needs a file"),
    (["import", "-", "n.db", "--table", "t", "--format", "what"], 1, b"no format 'what'"),
    (["import", "-", "n.db", "--table", "t", "--format", "csv"], 1, b"is empty"),
    (["import", "-", "n.db", "--table", "t", "--format", "jsonl"], 1, b"no vector was found"),
    (["import", "-", "n.db", "--table", "t", "--format", "arrow"], 1, b"cannot be read"),
    (["export", "notes.db", "notes", "-"], 1, b"say --format jsonl, csv, arrow"),
    (["export", "notes.db", "notes", "-", "--format", "parquet"], 1, b"needs a file"),
    (["export", "notes.db", "notes", "/dev/null", "--format", "csv", "--overwrite"], 1,
     b"no file that can be replaced"),
)  # fmt: skip

# Each command in a copy of one process, which has imported what they need: that takes the most.
EACH = """
import json, os, sys
from aiovec import _cli
from aiovec._cli import app, exporting, importing
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if not (child := os.fork()):
        sys.argv = ["aiovec", *arguments]
        for descriptor in (1, 2):
            os.dup2(os.open(f"{number}.{descriptor}", os.O_WRONLY | os.O_CREAT), descriptor)
        _cli.main()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@posix_only
def test_what_a_stream_cannot_be(store: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([command for command, _, _ in CANNOT])],
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    codes = [int(code) for code in done.stdout.split()]
    for number, ((command, code, said), ended_with) in enumerate(zip(CANNOT, codes, strict=True)):
        out, err = ((folder / f"{number}.{n}").read_bytes() for n in (1, 2))
        assert (ended_with, out) == (code, b""), command
        assert said in err, command
        assert b"Traceback" not in err, command


@posix_only
@pytest.mark.parametrize("form", ["csv", pytest.param("jsonl", marks=pytest.mark.soak), "arrow"])
def test_who_reads_and_leaves_early(form: str, store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            aiovec_command("export", str(store), "notes", "-", "--format", form),
            stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def _give(process: subprocess.Popen[bytes], rows: bytes, folder: Path) -> None:
    """Give an import its first rows, and wait until it has begun with them."""
    assert process.stdin is not None
    process.stdin.write(rows)
    process.stdin.flush()
    while rows and not (folder / "n.db").exists():
        time.sleep(0.1)


STOPS = {
    "interrupted": (signal.SIGINT, 130),
    "terminated": (getattr(signal, "SIGTERM", signal.SIGINT), 143),
}


@posix_only
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("given", [b"", ROW, ROW * 200])
def test_a_stop_while_it_waits_for_more_rows(given: bytes, stop: str, folder: Path) -> None:
    kind, code = STOPS[stop]
    process = subprocess.Popen(
        aiovec_command("import", "-", "n.db", "--format", "jsonl", "--table", "t", "--strict"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _give(process, given, folder)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(kind)
        # Without a sign of the command's own it may still be starting.
        codes = (code,) if given else (code, -kind)
        assert process.wait(20) in codes
        assert process.stderr is not None
        said = process.stderr.read()
        assert said == f"error: {stop}\n".encode() or (not given and not said)
    finally:
        process.kill()
        process.communicate()
    assert list(folder.glob(".*.part")) == []
    if given:
        assert ended(["tables", "n.db"]).stdout == b""


@posix_only
def test_a_command_in_the_background_of_a_script_can_be_ended(folder: Path) -> None:
    """A shell lets it ignore interrupts, which SIGTERM would be turned into."""
    command = aiovec_command("import", "-", "n.db", "--format", "jsonl", "--table", "t")
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _give(process, ROW, folder)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("form", ["csv", "arrow"])
def test_an_interrupt_while_nobody_reads(form: str, folder: Path) -> None:
    lines = "".join(f'"{n}","[1,{n}]","{"x" * 1000}"\n' for n in range(1000))
    (folder / "t.csv").write_text(f"id,embedding,text\n{lines}")
    assert ended(["import", "t.csv", "n.db"]).returncode == 0
    process = subprocess.Popen(
        aiovec_command("export", "n.db", "t", "-", "--format", form),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.read(10)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"error: interrupted\n"
    finally:
        process.kill()
        process.communicate()


@posix_only
def test_a_named_pipe(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "rows.csv")
    writer = threading.Thread(
        target=(folder / "rows.csv").write_text, args=('id,embedding\na,"[1,0]"\n',), daemon=True
    )
    writer.start()
    done = run("import", "rows.csv", "n.db", "--format", "csv")
    writer.join(10)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("imported 1 row")
    assert run("export", "n.db", "rows", "rows.csv", "--overwrite").code == 1


@posix_only
def test_a_terminal_gets_text_alone(store: Path) -> None:
    code, written = on_a_terminal("export", str(store), "notes", "-", "--format", "arrow")
    assert code == 1
    assert "is a terminal" in written
