"""One app, not changed by a letter, on both backends: its own tests, and what its page shows."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import BACKENDS, EXAMPLE, Copy, TestClient

VARIABLE = "AIOVEC_RETRIEVAL__BACKEND"


def run_its_own_tests(example: Copy, stores: Path, **variables: str) -> int:
    """Run pytest in the app's folder, as its README says; how many tests passed."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--basetemp", str(stores)],
        cwd=example.folder,
        env={
            **{name: value for name, value in os.environ.items() if name != VARIABLE},
            **variables,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # it needs none
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    passed = re.fullmatch(r"(\d+) passed.*", finished.stdout.splitlines()[-1])
    assert passed, finished.stdout
    return int(passed[1])


def kinds_of_stores(folder: Path) -> set[str]:
    """Which backends' stores lie somewhere below."""
    ours = {"notes.db": "sqlite", "notes.lance": "lancedb"}
    return {ours[path.name] for path in folder.rglob("notes.*") if path.name in ours}


def own_tests() -> int:
    """How many there are at least, each counted once."""
    source = (EXAMPLE / "test_app.py").read_text(encoding="utf-8")
    return len(re.findall(r"^def test_", source, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.soak), "lancedb"])
def test_its_own_tests_hold_by_the_line_in_the_toml(
    example: Copy, tmp_path: Path, backend: str
) -> None:
    example.flip(backend)
    assert run_its_own_tests(example, tmp_path / "stores") >= own_tests()
    assert kinds_of_stores(tmp_path / "stores") == {backend}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", pytest.param("lancedb", marks=pytest.mark.soak)])
def test_its_own_tests_hold_by_the_variable_alone(
    example: Copy, tmp_path: Path, backend: str
) -> None:
    """Of the four pairs of a way and a backend, two show each way and each backend once."""
    (other,) = set(BACKENDS) - {backend}
    example.flip(other)
    passed = run_its_own_tests(example, tmp_path / "stores", **{VARIABLE: backend})
    assert passed >= own_tests()
    assert kinds_of_stores(tmp_path / "stores") == {backend}


def test_it_knows_no_backend() -> None:
    """It imports what is public, and its code names neither backend."""
    sources = [path for path in EXAMPLE.glob("*.py") if not path.name.startswith("test_")]
    assert sources
    for path in sources:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            ours = {name for name in names if name.split(".")[0].startswith("aiovec")}
            assert ours <= {"aiovec", "aiovec.asgi"}, path.name
            if isinstance(node, ast.Constant) and node.value in BACKENDS:
                pytest.fail(f"{path.name} names the backend {node.value}")


def commands(page: str) -> list[tuple[list[str], str]]:
    """Each curl of the page, as arguments, and the answer that stands below it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE):
            if part.startswith("curl "):
                command, answer = part.rstrip("\n").rsplit("\n", 1)
                found.append((shlex.split(command)[1:], answer))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_page_shows_what_it_answers(example: Copy, app: Any, backend: str) -> None:
    example.flip(backend)
    page = (example.folder / "README.md").read_text(encoding="utf-8")
    shown = commands(page.replace('"backend":"sqlite"', f'"backend":"{backend}"'))
    assert len(shown) == 5
    with TestClient(app) as client:
        for (silent, *arguments), answer in shown:
            assert silent == "-s"
            method, body = "GET", None
            if arguments[0] == "-X":
                method = arguments[1]
                del arguments[:2]
            url = arguments.pop(0)
            if arguments:
                option, text = arguments
                assert option == "--json"
                method, body = "POST", json.loads(text)
            path = url.removeprefix("localhost:8000")
            assert client.request(method, path, json=body).json() == json.loads(answer), url
