"""Commands that other packages bring: found, listed with their help, and harmless when broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def _aiovec(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "aiovec", *arguments],
        env={**os.environ, "PYTHONPATH": places, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def site(folder: Path) -> Path:
    return folder / "site"


def _install(site: Path, name: str, module: str, source: str) -> None:
    """What an installer leaves behind."""
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[aiovec.commands]\n{name} = {module}:app\n")
    (site / f"{module}.py").write_text(source)


def test_a_command_of_another_package(site: Path) -> None:
    _install(site, "greet", "greeting", GOOD)
    listed = _aiovec(site, "--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "Says hello in the other package's words." in listed.stdout
    done = _aiovec(site, "greet", "hello", "--name", "you")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello you\n", "")
    shown = _aiovec(site, "greet", "--help")
    assert "Usage: aiovec greet" in shown.stdout
    assert _aiovec(site, "greet", "unknown").returncode == 2


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_a_broken_command_says_so_in_one_line(site: Path, source: str, reason: str) -> None:
    _install(site, "broken", "not_working", source)
    listed = _aiovec(site, "--help")
    assert listed.returncode == 0
    assert "Cannot be used" in listed.stdout
    assert "backup" in listed.stdout
    assert "Traceback" not in listed.stderr
    ways = [["broken"], ["broken", "run", "--to", "x"], ["broken", "--help"]]
    # The first reason is told whichever way the command is called, the others by one of the ways.
    number = [one for one, _ in BROKEN].index(source)
    for arguments in ways[number % 3 :][:1] if number else ways:
        done = _aiovec(site, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: the command 'broken' (not_working:app) ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_our_own_commands_cannot_be_replaced_and_load_no_other(site: Path) -> None:
    _install(site, "tables", "impostor", "raise SystemExit('it was imported')")
    done = _aiovec(site, "tables", "absent.db")
    assert done.returncode == 1
    assert "there is no store at" in done.stderr


def test_a_command_that_nobody_brings_is_wrong_usage(site: Path) -> None:
    assert _aiovec(site, "unknown").returncode == 2


def test_the_list_of_commands_loads_no_driver_and_no_arrow() -> None:
    script = (
        "import sys\n"
        "from aiovec._cli.app import app\n"
        "before = set(sys.modules)\n"
        "sys.argv = ['aiovec', '--help']\n"
        "try:\n"
        "    app()\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'lancedb', 'pyarrow', 'pyarrow.compute', 'pydantic', 'sqlite_vec'}\n"
        "sys.exit(', '.join(sorted(heavy & (set(sys.modules) - before))) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "migrate" in done.stdout
