"""The public modules and their names, and the cost of importing the root."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import aiovec
from aiovec import errors

NAMES = {
    "connect", "VectorStore", "Table", "Schema", "Field", "F", "Record", "Hit", "Tuning", "RRF",
    "Weighted", "TableStats", "IndexInfo", "restore", "Embed", "Embedder", "REMOVE", "new_id",
    "JsonValue", "Results", "Rows", "Vector", "Vectors", "Where",
}  # fmt: skip
PUBLIC = ("aiovec", "asgi", "backend", "errors", "sync", "testing")
# A line for each name, "module.name", sorted. A change of it is a change of the public API.
RECORDED = Path(__file__).with_name("public_names.txt")
HEAVY = (
    "pyarrow", "pydantic", "pydantic_settings", "aiosqlite", "sqlite3", "pysqlite3", "typer",
    "rich", "hypothesis", "pytest", "lancedb", "httpx", "starlette",
)  # fmt: skip


def test_the_root_exports_the_contract_and_nothing_else() -> None:
    assert set(aiovec.__all__) == NAMES | set(errors.__all__)
    assert len(set(aiovec.__all__)) == len(aiovec.__all__)
    assert all(hasattr(aiovec, name) for name in aiovec.__all__)
    assert set(aiovec.__all__) <= set(dir(aiovec))


def test_what_has_no_underscore_is_public() -> None:
    found = {module.name for module in pkgutil.iter_modules(aiovec.__path__)}
    assert {name for name in found if not name.startswith("_")} == set(PUBLIC) - {"aiovec"}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_those_recorded(module: str) -> None:
    lines = RECORDED.read_text().split()
    assert lines == sorted(lines)
    recorded = {name for line in lines for place, name in [line.split(".")] if place == module}
    found = aiovec if module == "aiovec" else importlib.import_module(f"aiovec.{module}")
    assert set(found.__all__) == recorded, f"record the public names in {RECORDED.name}"
    assert len(found.__all__) == len(recorded)
    assert all(hasattr(found, name) for name in recorded)


def test_star_import_gives_every_name() -> None:
    names: dict[str, object] = {}
    exec("from aiovec import *", names)
    assert set(aiovec.__all__) <= set(names)


def test_importing_it_is_light() -> None:
    code = "import sys, json, aiovec; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(done.stdout))
    assert "aiovec" in loaded
    assert not loaded & set(HEAVY)


def test_every_public_method_tells_its_guarantees() -> None:
    for name, method in vars(aiovec.VectorStore).items():
        if not name.startswith("_") and callable(method):
            assert method.__doc__, name
