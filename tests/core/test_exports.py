"""The public modules and their names, and what importing the root loads."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from inspect import ismodule
from pathlib import Path

import pytest

import aiovec

PUBLIC = ("aiovec", "asgi", "backend", "bridge", "compat", "documents", "errors", "plot", "sync")
# A line for each name, "module.name", sorted. A change of it is a change of the public API.
RECORDED = Path(__file__).with_name("public_names.txt")
HEAVY = (
    "pyarrow", "pydantic", "aiosqlite", "sqlite3", "sqlcipher3", "typer",
    "rich", "pandas", "polars", "matplotlib", "lancedb", "httpx", "starlette", "importlib.metadata",
)  # fmt: skip


def test_the_public_names_are_those_recorded() -> None:
    lines = RECORDED.read_text().split()
    assert lines == sorted(lines)
    modules = {module.name for module in pkgutil.iter_modules(aiovec.__path__)}
    assert {name for name in modules if not name.startswith("_")} == set(PUBLIC) - {"aiovec"}
    exported = []
    for module in PUBLIC:
        loaded = aiovec if module == "aiovec" else importlib.import_module(f"aiovec.{module}")
        names = getattr(loaded, "__all__", None) or [
            name
            for name, value in vars(loaded).items()
            if not name.startswith("_") and name != "annotations" and not ismodule(value)
        ]
        exported += [f"{module}.{name}" for name in names]
        assert all(hasattr(loaded, name) for name in names), module
    assert sorted(exported) == lines, f"record the public names in {RECORDED.name}"
    assert set(aiovec.__all__) <= set(dir(aiovec))
    assert set(aiovec.errors.__all__) <= set(aiovec.__all__)


def test_every_public_method_has_a_docstring() -> None:
    for name, method in vars(aiovec.VectorStore).items():
        if not name.startswith("_") and callable(method):
            assert method.__doc__, name


@pytest.mark.slow
def test_importing_and_connecting_is_light() -> None:
    """Before it is awaited, a call of ``connect`` loads nothing and makes nothing."""
    code = (
        "import sys, aiovec\n"
        "aiovec.connect('x.db'), aiovec.connect('nosuch://x'), aiovec.connect()\n"
        f"sys.exit(', '.join(set({HEAVY}) & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
