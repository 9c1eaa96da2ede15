"""A search of a table in memory is answered while the process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AT_EXIT = """
import atexit, sys, time
import numpy as np
import aiovec, aiovec.sync

store = aiovec.sync.connect(sys.argv[1])
store.create_table("notes", aiovec.Schema(384))
vectors = np.random.default_rng(0).standard_normal((8_000, 384), dtype=np.float32)
store.insert("notes", {"id": [str(n) for n in range(8_000)], "embedding": vectors})
until = time.monotonic() + 60
while store.stats("notes").details["searched"] != "in memory":
    assert time.monotonic() < until
    store.search("notes", vectors[0], limit=1)
    time.sleep(0.01)

def search():
    print([hit["id"] for hit in store.search("notes", vectors[5_000], limit=1)])
    store.close()

atexit.register(search)
"""


@pytest.mark.slow
def test_a_table_in_memory_is_searched_from_atexit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path / "notes.db")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("['5000']\n", "")
