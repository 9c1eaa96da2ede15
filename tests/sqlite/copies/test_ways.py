"""Each way to compute a scan: by the library, by numkong, and by NumPy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.sqlite.copies.support import as_told, opened, ready

from aiovec import Schema, Tuning
from aiovec.backend import Metric
from aiovec_sqlite import doctor
from aiovec_sqlite.copies import products
from aiovec_sqlite.copies.kernel.library import NUMPY, OFF, VARIABLE, load

ROWS, DIM = 1200, 40


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", OFF, NUMPY])
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
async def test_searches_find_the_same(
    metric: Metric, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way:
        monkeypatch.setenv(VARIABLE, way)
    if way == OFF and products.numkong() is None:
        pytest.skip("numkong is not installed")
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    rows[:, :8] *= 9  # a prefix that tells much
    path = tmp_path / "a.db"
    async with opened(path) as store, opened(path, scan="disk") as disk:
        await store.create_table("t", Schema(DIM, metric=metric, quantized="bit"))
        await store.insert("t", {"id": [str(i) for i in range(ROWS)], "embedding": rows})
        await ready(store, "t")
        async with opened(path, scan="bit") as bits:
            await ready(bits, "t")
            shared = []
            for query in rows[:12] + 0.1 * rng.standard_normal((12, DIM), dtype=np.float32):
                truth = await disk.search("t", query)
                assert as_told(await store.search("t", query)) == as_told(truth)
                by_prefix = await store.search("t", query, tuning=Tuning(dims=8, oversample=8.0))
                by_bits = await bits.search("t", query, tuning=Tuning(oversample=30.0))
                nearest = {hit.id for hit in truth}
                shared += [sum(hit.id in nearest for hit in x) for x in (by_prefix, by_bits)]
            assert np.mean(shared) >= 9.0


def told(monkeypatch: pytest.MonkeyPatch, way: str) -> doctor.Finding:
    monkeypatch.setenv(VARIABLE, way)
    found = doctor._scan()
    assert found.subject == "scan"
    assert found.ok
    return found


def test_doctor_tells_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    if load() is not None:
        assert told(monkeypatch, "").value.startswith("native, by ")
    if products.numkong() is not None:
        found = told(monkeypatch, OFF)
        assert found.value.startswith("by numkong ")
        assert found.cure is None
    found = told(monkeypatch, NUMPY)
    assert found.value == "by NumPy alone, several times slower: AIOVEC_SCAN=numpy says so"
    assert found.cure is not None
    assert 'pip install "aiovec[kernels]"' in found.cure


@pytest.mark.parametrize("without", [False, True])
def test_numkong_is_imported_only_where_it_is_needed(without: bool) -> None:
    if not without and load() is None:
        pytest.skip("there is no library")
    program = f"""
import os, sys
sys.modules.update({{"numkong": None}} if {without} else {{}})
os.environ["{VARIABLE}"] = "{OFF if without else ""}"
import numpy as np
from aiovec_sqlite.copies.codes import encode_queries, encode_rows
from aiovec_sqlite.copies.scan import Asked, Workspace, candidates
from aiovec_sqlite.copies.segments import State, appended
rows = np.eye(9, dtype=np.float32)
state = State(1, tuple(appended([], (), np.arange(9), encode_rows(rows, "dot"), 9)))
asked = [Asked(one, 1) for one in encode_queries(rows[:3], "dot")]
found = candidates(state, asked, "dot", Workspace())
assert [one.rowids[0] for one in found] == [0, 1, 2]
assert sys.modules.get("numkong") is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)
