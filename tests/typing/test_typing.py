"""The types of the public calls, and the same calls run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_public_types_are_stated_and_not_inferred(tmp_path: Path) -> None:
    """Type checkers infer differently. Pyright looks at packages that pip has installed only."""
    pytest.importorskip("basedpyright", reason="it comes with the extra dev")
    for folder in ("src", "adapters"):
        shutil.copytree(HERE.parents[1] / folder, tmp_path / "site", dirs_exist_ok=True)
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    command += ["--verifytypes", "aiovec", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(
        command, cwd=tmp_path / "empty", env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    facts = json.loads(done.stdout)["typeCompleteness"]
    assert facts["completenessScore"] >= 0.95, done.stdout


@pytest.mark.parametrize("target", ["{}/notes.db", "lancedb://{}/notes"])
async def test_every_typed_call_runs(target: str, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    await api.every_call(target.format(tmp_path), tmp_path / "copy")
    await asyncio.to_thread(api.without_async, tmp_path / "blocking.db")
