"""The names of the root, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import aiovec
from aiovec import errors

NAMES = {
    "connect", "VectorStore", "Table", "Schema", "Field", "F", "Record", "Hit", "Tuning", "RRF",
    "Weighted", "TableStats", "IndexInfo", "restore",
}  # fmt: skip
HEAVY = (
    "pyarrow", "pydantic", "pydantic_settings", "aiosqlite", "sqlite3", "pysqlite3", "typer",
    "rich", "hypothesis", "pytest", "lancedb", "httpx", "starlette",
)  # fmt: skip


def test_the_root_exports_the_contract_and_nothing_else() -> None:
    assert set(aiovec.__all__) == NAMES | set(errors.__all__)
    assert len(set(aiovec.__all__)) == len(aiovec.__all__)
    assert all(hasattr(aiovec, name) for name in aiovec.__all__)
    assert set(aiovec.__all__) <= set(dir(aiovec))


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
