"""aiovec migrate as a user types it; tests/migrate tests the migrations."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.transfer.support import error_of

from aiovec import sync

from .conftest import Run


def rows_of(target: str | Path) -> list[Any]:
    with sync.connect(target) as store:
        return store.get("notes", [row.id for row in store.find("notes", order_by="id")])


@pytest.fixture
def toml(folder: Path, store: Path) -> Path:
    """Return a TOML file whose sqlite store has a table, and whose lancedb store does not exist."""
    path = folder / "my.toml"
    path.write_text(
        '# mine\n[retrieval]\nbackend = "sqlite"  # now\n'
        'sqlite_path = "notes.db"\nlancedb_url = "new.lance"\n'
    )
    return path


def test_a_plan_reports_tables_and_problems_and_writes_nothing(
    run: Run, toml: Path, store: Path, folder: Path
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    finished = run("migrate", "plan", "--config", toml, "--to", "lancedb", "--switch")
    assert (finished.code, finished.err) == (0, "")
    assert "table   notes: 4 rows" in finished.out
    assert finished.out.endswith("ready to run\n")
    plan = run("migrate", "plan", "--config", toml, "--to", "lancedb", "--json").json
    assert (plan["ok"], plan["target"].endswith("(lancedb)")) == (True, True)
    assert [table["name"] for table in plan["tables"]] == ["notes"]
    stopped = run("migrate", "plan", "--from", store, "--to", store)
    assert stopped.code == 1
    assert "problem the source and the target are the same store" in stopped.out
    assert run("migrate", "plan", "--from", store, "--to", store, "--json").json["problems"]
    assert sorted(path.name for path in folder.iterdir()) == before


def write(toml: Path, *ids: str) -> None:
    with sync.connect(config=toml) as store:
        store.insert("notes", [{"id": id, "embedding": [1, 0, 0]} for id in ids])


def test_a_migration_switches_the_toml_file_and_back(run: Run, toml: Path, store: Path) -> None:
    here = ["--config", toml]
    original = rows_of(store)
    assert run("migrate", "status", *here).out == "no migration is open\n"
    finished = run("migrate", "run", *here, "--to", "lancedb", "--switch")
    assert finished.code == 0, finished.err
    assert "table   notes: 4 rows, equal" in finished.out
    assert "switched: apps use" in finished.out
    assert "verifying" in finished.err.splitlines()  # plain lines without a terminal
    assert "copying notes done: 4 rows" in finished.err
    assert "\x1b" not in finished.out + finished.err
    assert tomllib.loads(toml.read_text())["retrieval"]["backend"] == "lancedb"
    assert toml.read_text().startswith('# mine\n[retrieval]\nbackend = "lancedb"  # now\n')
    assert rows_of("lancedb://new.lance") == original
    assert "has moved to" in error_of("tables", "-s", store)
    migration = run("migrate", "status", *here, "--json").json["migration"]
    assert (migration["state"], migration["open"]) == ("moved", False)
    assert "other direction" in run("migrate", "status", *here).out
    write(toml, "since", "then")
    newer = run("migrate", "verify", *here)
    assert (newer.code, "2 only in the target" in newer.out) == (0, True)
    assert "new.lance (lancedb) is in use and has newer writes; this is not a fault" in newer.out
    facts = run("migrate", "verify", *here, "--json").out.splitlines()[-1]
    assert json.loads(facts).items() >= {"equal": False, "in_use": True}.items()
    late = run("migrate", "abort", *here)
    assert (late.code, "no migration is open: the last one switched" in late.err) == (1, True)
    wanted = rows_of("lancedb://new.lance")
    back = run("migrate", "run", *here, "--to", "sqlite", "--switch", "--json")  # JSON lines
    assert back.code == 0, back.err
    events = [json.loads(line) for line in back.out.splitlines()]
    assert events[0] == {"kind": "phase", "phase": "marking"}
    assert (events[-1]["kind"], events[-1]["switched"]) == ("result", True)
    assert rows_of(store) == wanted
    assert run("migrate", "verify", *here).code == 0
    assert run("migrate", "forget", "lancedb", *here).code == 0


def test_verify_names_the_differences_of_a_copy_and_repairs_them(run: Run, store: Path) -> None:
    places = ["--from", store, "--to", "t.db"]
    finished = run("migrate", "run", *places, "--json")
    assert (finished.code, finished.err) == (0, "")
    *events, result = map(json.loads, finished.out.splitlines())
    assert {event["kind"] for event in events} >= {"phase", "progress"}
    assert (result["kind"], result["equal"]) == ("result", True)
    assert rows_of("t.db") == rows_of(store)
    with sync.connect("t.db") as target:
        target.delete("notes", "a")
        target.update("notes", {"year": 1}, ids="b")
        target.insert("notes", [{"id": "extra", "embedding": [1, 0, 0]}])
    differs = run("migrate", "verify", *places)
    assert differs.code == 1
    assert "NOT EQUAL" in differs.out
    assert "1 missing, 1 only in the target, 1 different: a, " in differs.out
    repaired = run("migrate", "verify", *places, "--repair", "--json")
    assert repaired.code == 0, repaired.err
    assert json.loads(repaired.out.splitlines()[-1])["equal"] is True
    assert rows_of("t.db") == rows_of(store)


def test_a_stored_id_cannot_control_the_terminal(run: Run, store: Path) -> None:
    places = ["--from", store, "--to", "t.db"]
    assert run("migrate", "run", *places).code == 0
    with sync.connect(store) as source:
        source.insert("notes", [{"id": "\x1b[31mred", "embedding": [1, 0, 0]}])
    differs = run("migrate", "verify", *places)
    assert differs.code == 1
    assert "\ufffd[31mred" in differs.out
    assert "\x1b" not in differs.out
