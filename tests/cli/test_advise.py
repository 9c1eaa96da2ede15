"""aiovec advise: measurements, verdicts by thresholds, and no changes to the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiovec import Schema, sync

from .conftest import Run

PATIENT = ["--p95-ms", "1e9"]


def advised(run: Run, *arguments: object) -> dict[str, Any]:
    finished = run("advise", *arguments, "--json")
    assert (finished.code, finished.err) == (0, "")
    advice: dict[str, Any] = finished.json
    return advice


def test_a_small_table_should_stay_and_is_not_changed(run: Run, store: Path) -> None:
    before = store.read_bytes()
    advice = advised(run, "-s", store)
    assert advice["store"] == str(store)
    assert advice["thresholds"] == {"rows": 100_000, "p95_ms": 200, "rows_a_day": 500}
    (table,) = advised(run, "-s", store, *PATIENT)["tables"]
    assert (table["table"], table["rows"], table["dim"]) == ("notes", 4, 3)
    assert table["p95_ms"] > 0
    assert (table["verdict"], table["passed"], table["rows_a_day"]) == ("stay", [], None)
    shown = run("advise", "-s", store, "notes", *PATIENT).out
    assert "4 of 3 dimensions" in shown
    assert shown.endswith("advise: no table needs to move\n")
    assert store.read_bytes() == before


def test_thresholds_decide_the_verdict(run: Run, store: Path) -> None:
    slow, many, other = ["--p95-ms", "0"], ["--rows", "3"], ["--lancedb-ms", "0"]
    for thresholds, passed, verdict in (
        ([*many, *PATIENT], ["rows"], "stay"),
        ([*slow, *other], ["p95_ms"], "watch"),
        ([*slow, *many, "--lancedb-ms", "1e9"], ["rows", "p95_ms"], "stay"),
        ([*slow, *many, *other], ["rows", "p95_ms"], "move"),
    ):
        (table,) = advised(run, "-s", store, *thresholds)["tables"]
        assert (table["passed"], table["verdict"]) == (passed, verdict)
    shown = run("advise", "-s", store, *thresholds).out
    assert "move: 5 % of the searches take longer than 0 ms, and it has more than 3 rows" in shown
    assert "about 0 ms, 95 % of the nearest rows" in shown
    assert "advise: move notes; start with: aiovec migrate plan" in shown


def test_filters_on_payload_keys_without_an_index_are_measured(run: Run, folder: Path) -> None:
    path = folder / "keys.db"
    with sync.connect(path) as store:
        store.create_table("t", Schema(1))
        store.insert(
            "t",
            [
                {"embedding": [1], "user": n % 3, "a.b": True, "text": str(n), "of": {"x": 1}}
                for n in range(9)
            ],
        )
        (table,) = advised(run, "-s", path)["tables"]
        assert set(table["filters_ms"]) == {"payload.user", 'payload."a.b"'}
        store.create_field_index("t", "payload.user", "btree")
        (table,) = advised(run, "-s", path)["tables"]
        assert set(table["filters_ms"]) == {'payload."a.b"'}


def test_growth_is_computed_from_a_field_of_times(run: Run, folder: Path) -> None:
    path = folder / "growing.db"
    now = datetime.now(UTC)
    ages = [timedelta(hours=1), timedelta(days=1), timedelta(days=9), timedelta(days=10)]
    with sync.connect(path) as store:
        for table, age in (("young", ages), ("old", [*ages, timedelta(days=300)])):
            schema = Schema(2, fields={"seen": datetime, "text": str})
            store.create_table(table, schema)
            store.insert(
                table,
                [
                    {"id": str(n), "embedding": [1, n], "seen": now - ago,
                     "text": (now - ago).isoformat()}
                    for n, ago in enumerate(age)
                ],
            )  # fmt: skip
        store.create_table("empty", schema)
    for field in ("seen", "text"):
        by = ("--created-field", field, "--rows-a-day", "0.1")
        tables = advised(run, "-s", path, *by)["tables"]
        advice = {table["table"]: table for table in tables}
        assert 0.39 < advice["young"]["rows_a_day"] < 0.41
        assert (advice["young"]["passed"], advice["young"]["verdict"]) == (["rows_a_day"], "stay")
        assert 0.13 < advice["old"]["rows_a_day"] < 0.14
        assert advice["empty"]["rows_a_day"] is advice["empty"]["p95_ms"] is None
        # The verdict is a prediction, unless this machine is so busy that the table is slow now.
        soon = (*by, "--rows", "1", "--p95-ms", "10", "--lancedb-ms", "0")
        (young,) = advised(run, "-s", path, "young", *soon)["tables"]
        days = young["rows"] * (10 / young["p95_ms"] - 1) / young["rows_a_day"]
        assert young["verdict"] == ("move" if days < 0 else "watch" if days < 365 else "stay")
    shown = run("advise", "-s", path, "old", "--created-field", "seen").out
    assert "growth   0 rows a day" in shown
    assert run("advise", "-s", path, "--created-field", "absent").code == 1


def test_text_without_a_zone_is_utc_and_other_text_is_refused(run: Run, folder: Path) -> None:
    path = folder / "texts.db"
    now = datetime.now(UTC).replace(tzinfo=None)
    ages = [timedelta(hours=1), timedelta(days=9, hours=12)]
    with sync.connect(path) as store:
        store.create_table("notes", Schema(2, fields={"seen": str, "said": str, "year": int}))
        for ago in ages:
            row = {"seen": (now - ago).isoformat(" "), "said": "last week", "year": 2024}
            store.insert("notes", [{"embedding": [1, 0], **row}])
    (table,) = advised(run, "-s", path, "--created-field", "seen")["tables"]
    assert 0.2 < table["rows_a_day"] < 0.22
    for field, value in (("said", "'last week'"), ("year", "2024")):
        finished = run("advise", "-s", path, "--created-field", field)
        assert (finished.code, finished.err.count("\n")) == (1, 1)
        assert f"{field} must hold times such as 2024-05-01T12:00:00Z, not {value}" in finished.err
