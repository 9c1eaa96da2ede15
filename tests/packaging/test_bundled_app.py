"""An app that PyInstaller bundles works, since the wheel has a hook for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aiovec
from aiovec import BackendNotInstalledError

APP = """
import asyncio, sys
import aiovec
from aiovec import Embed, Field, Schema

async def main(path):
    async with aiovec.connect(path, embedder="local") as store:
        schema = Schema(fields={"body": Field(str, text=True)}, embed=Embed("body"))
        await store.create_table("notes", schema)
        bodies = "Files block the event loop.", "A red fox ran north."
        await store.insert("notes", [{"id": body[0], "body": body} for body in bodies])
        (hit,) = await store.search_hybrid("notes", "what blocks a loop?", limit=1)
        print(aiovec.__version__, hit.id)

asyncio.run(main(sys.argv[1]))
"""
# Packages of this environment that others than aiovec bring, and that take minutes.
OTHERS = (
    "huggingface_hub", "hypothesis", "IPython", "lancedb", "matplotlib", "mypy", "pandas",
    "pyarrow", "sqlalchemy",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_app_that_pyinstaller_bundles_searches_by_meaning_and_words(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    pytest.importorskip("wordllama")
    (tmp_path / "notes_app.py").write_text(APP, encoding="utf-8")
    left_out = [f"--exclude-module={name}" for name in OTHERS]
    build = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", *left_out, "notes_app.py"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert built.returncode == 0, built.stderr
    # Without the packages of this Python.
    run = [tmp_path / "dist" / "notes_app" / "notes_app", tmp_path / "notes.db"]
    done = subprocess.run(run, env={}, capture_output=True, encoding="utf-8")
    assert done.stdout.split() == [aiovec.__version__, "F"], done.stderr


def test_a_missing_backend_of_a_bundled_app_is_to_be_bundled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "pip install" in str(BackendNotInstalledError("sqlite", "aiovec"))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    words = str(BackendNotInstalledError("sqlite", "aiovec"))
    assert words.startswith("this app was built without the backend 'sqlite'")
    assert "aiovec_sqlite" in words
