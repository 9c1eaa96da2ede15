"""The same task in aiovec and in other libraries: each block is short and prints the same."""

from __future__ import annotations

import asyncio
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from .blocks import blocks, run_code

DATA, *PROGRAMS = blocks("docs/explanation/side-by-side.md", "python")
LIBRARIES = ("aiovec", "chromadb", "lancedb", "qdrant_client")


@pytest.mark.parametrize(("library", "program"), [*zip(LIBRARIES, PROGRAMS, strict=True)])
def test_each_program_is_short_and_prints_the_same(
    library: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"import {library}" in program or f"from {library}" in program
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    exec(DATA, names)
    with redirect_stdout(io.StringIO()) as out:
        asyncio.run(run_code(program, names))
    assert out.getvalue() == "b b 3\n"
