"""aiovec optimize and aiovec backup."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run


def test_optimize_does_all_tables_and_is_remembered(run: Run, store: Path) -> None:
    finished = run("optimize", store)
    assert finished.code == 0
    assert finished.out.startswith("optimized notes in ")
    assert finished.err == ""
    (table,) = json.loads(run("info", store, "--json").out)["tables"]
    assert table["last_optimize"] is not None


def test_optimize_does_the_named_tables(run: Run, store: Path) -> None:
    found = json.loads(run("optimize", store, "notes", "--json").out)["tables"]
    assert [table["name"] for table in found] == ["notes"]
    assert found[0]["bytes"] > 0
    missing = run("optimize", store, "absent")
    assert missing.code == 1
    assert "absent" in missing.err


def test_a_backup_holds_what_the_store_holds(run: Run, store: Path, folder: Path) -> None:
    finished = run("backup", store, "copy.db")
    assert finished.code == 0
    assert finished.out.startswith(f"copied {store} to copy.db in ")
    assert run("tables", "copy.db").lines == run("tables", store).lines
    assert run("doctor", "copy.db").code == 0


def test_a_backup_of_the_store_of_the_toml_file(run: Run, store: Path, config: Path) -> None:
    found = json.loads(run("backup", "copy.db", "--config", config, "--json").out)
    assert found["store"] == str(store)
    assert run("tables", "copy.db").code == 0


def test_a_backup_does_not_overwrite(run: Run, store: Path, folder: Path) -> None:
    (folder / "there.db").write_bytes(b"something else")
    finished = run("backup", store, "there.db")
    assert finished.code == 1
    assert finished.err.count("\n") == 1
    assert (folder / "there.db").read_bytes() == b"something else"


def test_a_backup_without_a_path_is_wrong_usage(run: Run) -> None:
    assert run("backup").code == 2
