"""aiovec advise: what it measures, what it says by its thresholds, and that it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Run


def advised(run: Run, *arguments: object) -> dict[str, Any]:
    finished = run("advise", *arguments, "--json")
    assert (finished.code, finished.err) == (0, "")
    found: dict[str, Any] = finished.json
    return found


def test_a_table_that_sqlite_serves_well(run: Run, store: Path) -> None:
    before = store.read_bytes()
    found = advised(run, store)
    assert (found["store"], found["backend"], found["advised"]) == (str(store), "sqlite", True)
    assert found["thresholds"].items() >= {
        "rows": 100_000, "p95_ms": 200.0, "rows_a_day": 500.0
    }.items()  # fmt: skip
    (advice,) = found["tables"]
    facts = advice["facts"]
    assert (facts["table"], facts["rows"], facts["dim"]) == ("notes", 4, 3)
    assert 0 < facts["searches"]["p50_ms"] <= facts["searches"]["p95_ms"]
    assert advice["verdict"] == "later"
    shown = run("advise", store, "notes").out
    assert "4 of 3 dimensions" in shown
    assert shown.endswith("No table needs to move now.\n")
    assert store.read_bytes() == before


def test_a_table_beyond_the_thresholds(
    run: Run, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder / "aiovec.toml"
    config.write_text(
        '[retrieval]\nsqlite_path = "notes.db"\n'
        "[retrieval.advise]\nrows = 3\np95_ms = 0.000001\nrows_a_day = 1\n"
    )
    for arguments in (["--config", config], ["sqlite", "--config", config], []):
        (advice,) = advised(run, *arguments)["tables"]
        assert advice["verdict"] == "now", advice
    for name, value in {"ROWS": 3, "P95_MS": 0.000001, "ROWS_A_DAY": 1}.items():
        monkeypatch.setenv(f"AIOVEC_RETRIEVAL__ADVISE__{name}", str(value))
    shown = run("advise", store).out
    assert f"aiovec migrate plan --from {store} --to lancedb://PATH\n" in shown
