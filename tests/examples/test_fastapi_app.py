"""One app, not changed by a letter, on both backends: its own tests, and what its page shows."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    # It announces the successor of httpx, which is not what is tested here.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app"
VARIABLE = "AIOVEC_RETRIEVAL__BACKEND"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as a reader has it: a copy of its folder, whose TOML file they edit."""
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "my_app"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__", ".*"))
    return folder


@pytest.fixture
def app(example: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The copy's app. Its modules have names that anybody's may have, so they go again."""
    monkeypatch.syspath_prepend(example)
    before = set(sys.modules)
    yield importlib.import_module("app").app
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(example):
            del sys.modules[name]


def flip(example: Path, backend: str) -> None:
    """Change the line that says the backend, and nothing else."""
    toml = example / "aiovec.toml"
    text, matches = re.subn(r'(?m)^backend = "\w+"', f'backend = "{backend}"', toml.read_text())
    assert matches == 1
    toml.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "variable", "store"),
    [("sqlite", None, "notes.db"), ("sqlite", "lancedb", "notes.lance")],
)
def test_the_tests_of_the_example_pass_on_each_backend(
    example: Path, tmp_path: Path, line: str, variable: str | None, store: str
) -> None:
    """By the line in its TOML file, or by the variable alone."""
    flip(example, line)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they need none
    if variable is not None:
        environment[VARIABLE] = variable
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--basetemp", str(tmp_path / "stores")],
        cwd=example, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = len(re.findall(r"(?m)^def test_", (example / "test_app.py").read_text()))
    passed = re.match(r"(\d+) passed", done.stdout.splitlines()[-1])
    assert passed is not None
    assert int(passed[1]) >= written > 0
    assert {path.name for path in (tmp_path / "stores").rglob("notes.*")} >= {store}


def test_the_line_of_the_toml_file_counts_at_the_next_start(example: Path, app: Any) -> None:
    for backend in ("sqlite", "lancedb"):
        flip(example, backend)
        with TestClient(app) as client:
            assert client.get("/health").json()["backend"] == backend
            assert client.get("/count").json() == {"count": 0}
            client.post("/notes", json=[{"id": "1", "text": f"a note in {backend}"}])
    flip(example, "sqlite")
    with TestClient(app) as client:
        (hit,) = client.post("/search", json={"text": "a note"}).json()
        assert hit["text"] == "a note in sqlite"


def test_the_page_of_the_example_shows_its_answers(example: Path, app: Any) -> None:
    shown = 0
    page = (example / "README.md").read_text(encoding="utf-8")
    with TestClient(app) as client:
        for command, answer in re.findall(r"(?ms)^\$ curl -s (.+?)\n([\[{][^\n]*)$", page):
            words = shlex.split(command.replace("\\\n", " "))
            method = "POST" if "--json" in words else "GET"
            if "-X" in words:
                method = words[words.index("-X") + 1]
            body = json.loads(words[words.index("--json") + 1]) if "--json" in words else None
            (url,) = [word for word in words if word.startswith("localhost:8000/")]
            done = client.request(method, url.removeprefix("localhost:8000"), json=body)
            assert done.json() == json.loads(answer), url
            shown += 1
    assert shown == 5
