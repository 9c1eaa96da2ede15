"""aiovec index, and what aiovec info tells of indexes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

import aiovec

from .conftest import Run

pytest.importorskip("lancedb", reason="the lancedb backend is not installed")

ROWS = 400


@pytest.fixture
def target(folder: Path) -> str:
    """A LanceDB store with the table ``notes``."""
    found = f"lancedb://{folder / 'notes.lance'}"
    vectors = np.random.default_rng(0).standard_normal((ROWS, 16)).astype(np.float32)

    async def fill() -> None:
        async with aiovec.connect(found) as store:
            await store.create_table("notes", aiovec.Schema(16))
            columns = {"id": [f"r{n}" for n in range(ROWS)], "embedding": vectors}
            await store.insert("notes", columns)

    asyncio.run(fill())
    return found


def test_an_index_is_built_and_shown(run: Run, target: str) -> None:
    finished = run(
        "index", target, "notes", "--kind", "ivf_flat", "--recall", "0.9",
        "--option", "num_partitions=8",
    )  # fmt: skip
    assert finished.code == 0
    assert finished.out.startswith("indexed notes in ")
    assert "ivf_flat" in finished.out
    assert "num_partitions 8" in finished.out
    assert finished.err == ""
    info = run("info", target)
    assert f"ivf_flat on embedding ({ROWS} rows, recall " in info.out
    (table,) = json.loads(run("info", target, "--json").out)["tables"]
    assert table["indexes"][0]["recall"] == table["details"]["recall"] >= 0.9
    assert table["details"]["recall_target"] == 0.9
    assert run("optimize", target).code == 0


def test_an_index_as_json_and_its_end(run: Run, target: str) -> None:
    found = json.loads(run("index", target, "notes", "--kind", "hnsw_sq", "--json").out)
    assert found["table"] == "notes"
    (index,) = found["indexes"]
    assert (index["kind"], index["rows_indexed"]) == ("hnsw_sq", ROWS)
    dropped = run("index", target, "notes", "--drop", index["name"])
    assert dropped.out.startswith(f"dropped the index {index['name']} of notes in ")
    assert json.loads(run("info", target, "--json").out)["tables"][0]["indexes"] == []


def test_a_small_table_gets_none_by_itself(run: Run, target: str) -> None:
    finished = run("index", target, "notes")
    assert finished.code == 0
    assert "every search scans every row" in finished.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["absent"], 1, "absent"),
        (["notes", "--kind", "tree"], 1, "ivf_pq"),
        (["notes", "--kind", "ivf_flat", "--option", "m=4"], 1, "num_partitions"),
        (["notes", "--option", "m"], 2, "NAME=NUMBER"),
        (["notes", "--option", "recall=1"], 2, "--recall"),
        (["notes", "--option", "kind=3"], 2, "--kind"),
        (["notes", "--option", "wait=3"], 2, "not an option of an index"),
        (["notes", "--option", "table=3"], 2, "not an option of an index"),
        (["notes", "--option", "self=3"], 1, "self"),
        (["notes", "--option", "=3"], 2, "NAME=NUMBER"),
        (["notes", "--option", f"m={'9' * 5000}"], 2, "NAME=NUMBER"),
        (["notes", "--drop", "a", "--recall", "0.5"], 2, "--drop"),
    ],
)
def test_faults_are_told(run: Run, target: str, arguments: list[str], code: int, told: str) -> None:
    finished = run("index", target, *arguments)
    assert finished.code == code
    assert told in finished.err


def test_a_backend_without_indexes_says_so(run: Run, store: Path) -> None:
    finished = run("index", store, "notes")
    assert finished.code == 1
    assert "indexes" in finished.err
    assert "indexes" not in json.loads(run("info", store, "--json").out)["tables"][0]


def test_without_a_table_it_is_wrong_usage(run: Run) -> None:
    assert run("index").code == 2
