"""Check the types of the public calls, and run the same calls."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from tests.docs.blocks import blocks
from tests.harness.cases import case

from . import api

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def test_pyright_accepts_every_call_and_refuses_what_is_wrong() -> None:
    """mypy checks the file together with the product."""
    pytest.importorskip("basedpyright", reason="it comes with the extra dev")
    command = [sys.executable, "-m", "basedpyright", "--project", str(HERE / "pyright.json")]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with the packages of the product, as pip would install them."""
    for folder in ("src", "adapters", "migrate"):
        shutil.copytree(HERE.parents[1] / folder, tmp_path / "site", dirs_exist_ok=True)
    return tmp_path / "site"


def stated_types(package: str, site: Path) -> dict[str, bool]:
    """Return for each public name of a package whether its type is stated."""
    pytest.importorskip("basedpyright", reason="it comes with the extra dev")
    (site / "empty").mkdir()
    # Pyright only checks packages that are installed for the Python in PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "basedpyright", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(
        [*command, "--verifytypes", package], cwd=site / "empty",
        env={**os.environ, "PATH": path, "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    return {
        symbol["name"]: symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
        for symbol in json.loads(done.stdout)["typeCompleteness"]["symbols"]
        if symbol["isExported"]
    }


def test_public_types_are_stated_and_not_inferred(site: Path) -> None:
    """Type checkers infer types differently."""
    stated = stated_types("aiovec", site)
    assert len(stated) > 1_000
    assert [name for name, is_stated in stated.items() if not is_stated] == []


def test_the_types_of_the_bridges_are_stated_also_without_the_frameworks(site: Path) -> None:
    """The bridges become parts of one package, because pyright checks one package in a run. A class
    whose base is not installed does not count as stated."""
    (site / "parts").mkdir()
    (site / "parts" / "py.typed").touch()
    (site / "parts" / "__init__.py").touch()
    bridges = "crewai haystack langchain langgraph llamaindex mcp ray".split()
    for name in bridges:
        (site / f"aiovec_{name}").rename(site / "parts" / name)
    stated = stated_types("parts", site)
    for name in bridges:
        with case(name):
            known = {at: is_ for at, is_ in stated.items() if at.startswith(f"parts.{name}.")}
            assert sum(known.values()) >= 0.85 * len(known) > 0, known


def test_the_programs_of_the_readme_pass_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="it comes with the extra dev")
    app, program, own_vectors = blocks("README.md", "python")
    (tmp_path / "app.py").write_text(app, "utf-8")
    (tmp_path / "program.py").write_text(program, "utf-8")
    (tmp_path / "own.py").write_text(
        "async def f() -> None:\n" + indent(own_vectors, "    "), "utf-8"
    )
    # Use the product's options, so that mypy can use the same cache.
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, tmp_path.glob("*.py"))]
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["{}/notes.db", "lancedb://{}/notes"])
async def test_every_typed_call_runs(target: str, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    await api.every_call(target.format(tmp_path), tmp_path / "copy")
    await asyncio.to_thread(api.without_async, tmp_path / "blocking.db")
