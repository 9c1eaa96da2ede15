"""Commands that other packages bring: found, listed with their help, and harmless when broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Finished, Run

GOOD = """
import sys, typer
app = typer.Typer(help="Says hello in the other package's words.")

@app.command()
def hello(name: str = "world") -> None:
    print("hello", name)

@app.command()
def other() -> None: ...
"""
BROKEN = [
    (
        "import no_such_module_at_all",
        "No module named 'no_such_module_at_all'",
    ),
    ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ("app = 3", "TypeError: it is int, not a typer.Typer"),
    ("other = 3", "AttributeError"),
    ("def (", "SyntaxError"),
]


def _process(folder: Path, *arguments: str) -> Finished:
    places = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "aiovec", *arguments],
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def site(folder: Path) -> Path:
    return folder / "site"


@pytest.fixture
def beside(site: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, where what is in ``site`` can be imported."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def beside(*arguments: object) -> Finished:
        for module in ("greeting", "not_working", "impostor"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return run(*arguments)

    return beside


def _install(site: Path, name: str, module: str, source: str) -> None:
    """What an installer leaves behind."""
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[aiovec.commands]\n{name} = {module}:app\n")
    (site / f"{module}.py").write_text(source)


def test_a_command_of_another_package(site: Path, beside: Run) -> None:
    _install(site, "greet", "greeting", GOOD)
    listed = beside("--help")
    assert (listed.code, listed.err) == (0, "")
    assert "Says hello in the other package's words." in listed.out
    done = _process(site, "greet", "hello", "--name", "you")
    assert (done.code, done.out, done.err) == (0, "hello you\n", "")
    shown = beside("greet", "--help")
    assert "Usage: aiovec greet" in shown.out
    assert beside("greet", "unknown").code == 2


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_a_broken_command_says_so_in_one_line(
    site: Path, beside: Run, source: str, reason: str
) -> None:
    _install(site, "broken", "not_working", source)
    listed = beside("--help")
    assert listed.code == 0
    assert "Unusable" in listed.out
    assert "backup" in listed.out
    assert "Traceback" not in listed.err
    for arguments in (["broken"], ["broken", "run", "--to", "x"], ["broken", "--help"]):
        done = beside(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("error: the command 'broken' (not_working:app) ")
        assert reason in done.err
        assert done.err.count("\n") == 1


def test_a_broken_command_in_a_process(site: Path) -> None:
    source, reason = BROKEN[0]
    _install(site, "broken", "not_working", source)
    done = _process(site, "broken")
    assert (done.code, done.out) == (1, "")
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_our_own_commands_cannot_be_replaced_and_load_no_other(site: Path) -> None:
    _install(site, "tables", "impostor", "raise SystemExit('it was imported')")
    done = _process(site, "tables", "absent.db")
    assert done.code == 1
    assert "there is no store at" in done.err


def test_a_command_that_nobody_brings_is_wrong_usage(beside: Run) -> None:
    assert beside("unknown").code == 2


def test_the_list_of_commands_loads_no_driver_and_no_arrow() -> None:
    script = (
        "import sys\n"
        "from aiovec._cli.app import app\n"
        "sys.argv = ['aiovec', '--help']\n"
        "try:\n"
        "    app()\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'fastapi', 'uvicorn', 'lancedb', 'pandas', 'pyarrow', 'sqlite_vec'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "migrate" in done.stdout
