"""aiovec advise: what it measures, what it says, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiovec
from aiovec import Field, Schema

from .conftest import Run

ROWS = 6_000  # enough to measure how searches grow


@pytest.fixture
def large(folder: Path) -> Path:
    """A store whose table's rows came over 60 days, 100 a day."""
    path = folder / "large.db"
    now = datetime.now(UTC)

    async def fill() -> None:
        vectors = np.random.default_rng(3).normal(size=(ROWS, 16)).astype(np.float32)
        came = [now - timedelta(days=60 * (ROWS - n) / ROWS) for n in range(ROWS)]
        async with aiovec.connect(path) as store:
            schema = Schema(16, fields={"created_at": str, "seen": Field(datetime)})
            await store.create_table("docs", schema)
            columns = {"created_at": [moment.isoformat() for moment in came], "seen": came}
            ids = [f"row-{n}" for n in range(ROWS)]
            await store.insert("docs", {"id": ids, "embedding": vectors, **columns})

    asyncio.run(fill())
    return path


def advised(run: Run, *arguments: object) -> dict[str, Any]:
    finished = run("advise", *arguments, "--json")
    assert (finished.code, finished.err) == (0, "")
    found: dict[str, Any] = json.loads(finished.out)
    return found


def test_what_is_measured(run: Run, large: Path) -> None:
    before = large.read_bytes()
    found = advised(run, large)
    assert large.read_bytes() == before
    assert (found["store"], found["backend"], found["advised"]) == (str(large), "sqlite", True)
    assert found["thresholds"] == {
        "rows": 100_000,
        "p95_ms": 200.0,
        "rows_a_day": 500.0,
        "days": 30.0,
    }
    (advice,) = found["tables"]
    facts = advice["facts"]
    assert (facts["table"], facts["rows"], facts["dim"]) == ("docs", ROWS, 16)
    assert facts["scan"]["bytes"] >= ROWS * (16 + 20)
    assert facts["scan"]["budget"] > facts["scan"]["bytes"]
    searches = facts["searches"]
    assert searches["searches"] >= 5
    assert 0 < searches["p50_ms"] <= searches["p95_ms"]
    assert 0 < searches["growing"] <= 1
    assert advice["verdict"] == "later"
    assert advice["at_rows"] > 100_000
    assert (facts["backend"], facts["successor"]) == ("sqlite", "lancedb")


@pytest.mark.parametrize("field", ["created_at", "seen"])
def test_growth_is_told_by_the_field_that_says_when_a_row_came(
    run: Run, large: Path, field: str
) -> None:
    (advice,) = advised(run, large, "--created-field", field)["tables"]
    growth = advice["facts"]["growth"]
    assert growth["rows_a_day"] == pytest.approx(100, abs=2)
    assert growth["known_by"] == f"by {field}, over the last 30 days"


def test_growth_of_a_young_table_without_such_a_field_is_not_known(run: Run, large: Path) -> None:
    (advice,) = advised(run, large, "--created-field", "absent")["tables"]
    assert advice["facts"]["growth"] is None
    assert advice["in_days"] is None


def test_the_thresholds_of_the_toml_file_hold(run: Run, large: Path, folder: Path) -> None:
    config = folder / "aiovec.toml"
    config.write_text(
        '[retrieval]\nsqlite_path = "large.db"\n[retrieval.advise]\nrows = 5000\np95_ms = 0.001\n',
        "utf-8",
    )
    for arguments in (["--config", config], ["sqlite", "--config", config], []):
        (advice,) = advised(run, *arguments)["tables"]
        assert advice["verdict"] == "now"
        assert "6,000 rows are searched in" in advice["sentence"]


def test_a_table_that_grows_towards_the_point(
    run: Run, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__ROWS", "7000")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__P95_MS", "0.001")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__ADVISE__ROWS_A_DAY", "50")
    (advice,) = advised(run, large)["tables"]
    assert advice["verdict"] == "soon"
    assert 8 < advice["in_days"] < 12
    assert "it has 6,000 rows and grows by" in advice["sentence"]


def test_a_copy_over_its_budget(run: Run, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__SCAN_MEMORY", "100 KB")
    (advice,) = advised(run, large)["tables"]
    assert advice["verdict"] == "now"
    assert advice["facts"]["scan"]["budget"] == 100_000
    assert "scan_memory is" in advice["sentence"]


def test_a_store_that_is_searched_from_the_file(
    run: Run, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__SCAN", "disk")
    (advice,) = advised(run, large)["tables"]
    assert advice["facts"]["scan"] is None
    assert advice["facts"]["searches"]["growing"] == 1
    assert "no copy is kept" in run("advise", large).out


def test_lines_for_people(run: Run, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = run("advise", large)
    assert finished.code == 0
    assert "6,000 of 16 dimensions" in finished.out
    assert "sqlite serves it well; lancedb would serve it better from some" in finished.out
    assert finished.out.endswith("No table needs to move now.\n")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__SCAN_MEMORY", "100 KB")
    out = run("advise", large).out
    assert f"For docs, start with: aiovec migrate plan --from {large} --to lancedb://PATH\n" in out
    assert "measures how long the move takes" in out


def test_one_table_and_a_small_one(run: Run, store: Path) -> None:
    (advice,) = advised(run, store, "notes")["tables"]
    assert advice["facts"]["rows"] == 4
    assert (advice["verdict"], advice["at_rows"]) == ("later", None)
    assert "too few rows to forecast (4 of at least 5,000)" in advice["sentence"]
    missing = run("advise", store, "absent")
    assert missing.code == 1
    assert "there is no table 'absent'" in missing.err


def test_an_empty_table_and_an_empty_store(run: Run, folder: Path) -> None:
    async def make() -> None:
        async with aiovec.connect("empty.db") as store:
            await store.create_table("docs", Schema(8))
        async with aiovec.connect("none.db"):
            pass

    asyncio.run(make())
    (advice,) = advised(run, "empty.db")["tables"]
    assert advice["facts"]["searches"] is None
    assert "not measured: there are no rows" in run("advise", "empty.db").out
    assert advised(run, "none.db")["tables"] == []


def test_a_store_that_is_missing_is_not_made(run: Run, folder: Path) -> None:
    finished = run("advise", "missing.db")
    assert finished.code == 1
    assert "there is no store at" in finished.err
    assert list(folder.iterdir()) == []


def test_a_store_on_lancedb_has_moved_already(run: Run, folder: Path) -> None:
    async def make() -> None:
        async with aiovec.connect("lancedb://there") as store:
            await store.create_table("docs", Schema(8))

    asyncio.run(make())
    found = advised(run, "lancedb://there")
    assert (found["backend"], found["advised"], found["tables"]) == ("lancedb", False, [])
    assert "no installed backend is a successor" in run("advise", "lancedb://there").out
