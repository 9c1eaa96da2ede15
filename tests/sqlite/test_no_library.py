"""Without the native library, every search reads the file, and doctor reports it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.harness.command import run_process
from tests.harness.processes import run_python

WITHOUT = """
import sys
import numpy as np
import aiovec, aiovec.sync

vectors = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
with aiovec.sync.connect(sys.argv[1]) as store:
    store.create_table("notes", aiovec.Schema(8))
    store.insert("notes", {"id": [str(n) for n in range(300)], "embedding": vectors})
    for number in (5, 6):
        print([hit["id"] for hit in store.search("notes", vectors[number], limit=1)])
    print(store.stats("notes").scan_memory)
"""


@pytest.mark.slow
def test_searches_without_the_library(tmp_path: Path) -> None:
    off = {"AIOVEC_SCAN": "off"}
    done = run_python("-c", WITHOUT, tmp_path / "notes.db", env=off)
    assert done.stdout.splitlines() == ["['5']", "['6']", "0"], done.stderr
    assert done.stderr.count("searches are answered from the file") == 1
    checked = run_process("doctor", **off)
    assert "in the file, which takes longer" in checked.out
    assert (checked.code, checked.out.splitlines()[-1]) == (
        0, "doctor: nothing is wrong; see the fix for searches",
    )  # fmt: skip
