"""Commands of other packages are listed and run, and do no harm if they are broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.harness.cases import case
from tests.harness.command import Finished
from tests.harness.packages import install

from .conftest import Run

GOOD = """
import typer
app = typer.Typer(help="Says hello in the other package's words.")

@app.command()
def hello(name: str = "world") -> None:
    print("hello", name)

@app.command()
def leave() -> None:
    raise SystemExit(3)
"""
BROKEN = {
    "import no_such_module_at_all": "No module named 'no_such_module_at_all'",
    "app = 3": "AttributeError",
    "def (": "SyntaxError",
}


@pytest.fixture
def beside(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with the modules of ``site`` importable."""
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def beside(*arguments: object) -> Finished:
        for module in ("greeting", "not_working"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return run(*arguments)

    return beside


def test_a_command_of_another_package_runs(folder: Path, beside: Run) -> None:
    install(folder / "site", "greeting", "[aiovec.commands]\ngreet = greeting:app", greeting=GOOD)
    listed = beside("--help")
    assert (listed.code, listed.err) == (0, "")
    assert "Says hello in the other package's words." in listed.out
    done = beside("greet", "hello", "--name", "you")
    assert (done.code, done.out, done.err) == (0, "hello you\n", "")
    assert "Usage: aiovec greet" in beside("greet", "--help").out
    assert beside("greet", "unknown").code == 2
    assert beside("greet", "leave").code == 3


def test_a_package_cannot_replace_a_builtin_command(folder: Path, beside: Run) -> None:
    entry, source = "[aiovec.commands]\ntables = wrong:app", "raise SystemExit('it was imported')"
    install(folder / "site", "wrong", entry, wrong=source)
    done = beside("tables", "-s", "absent.db")
    assert done.code == 1
    assert "there is no store at" in done.err


def test_a_broken_command_fails_in_one_line(folder: Path, beside: Run) -> None:
    for number, source in enumerate(BROKEN):
        name, module = f"broken{number}", f"not_working{number}"
        entry = f"[aiovec.commands]\n{name} = {module}:app"
        install(folder / "site", module, entry, **{module: source})
    for number, (source, reason) in enumerate(BROKEN.items()):
        with case(source):
            name = f"broken{number}"
            done = beside(name, "run", "--to", "x")
            assert (done.code, done.out) == (2, "")
            assert done.err.startswith(f"error: the command '{name}' (not_working{number}:app) ")
            assert reason in done.err.splitlines()[0]
    listed = beside("--help")
    assert listed.code == 0
    assert "backup" in listed.out
    assert "Traceback" not in listed.err
