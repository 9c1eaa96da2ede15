"""aiovec doctor: facts, findings with their fixes, and no changes to files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness.cases import case
from tests.harness.command import Finished, run_process

import aiovec
from aiovec import sync

from .conftest import Run, contents

PAGE = 8_192


def findings(finished: Finished) -> dict[str, dict[str, Any]]:
    return {finding["subject"]: finding for finding in finished.json["findings"]}


def wrong(finished: Finished) -> dict[str, dict[str, Any]]:
    assert finished.code == 1
    return {
        subject: finding for subject, finding in findings(finished).items() if not finding["ok"]
    }


def test_doctor_reports_a_sound_store(run: Run, store: Path, config: Path, folder: Path) -> None:
    before = contents(folder)
    finished = run("doctor")
    assert finished.code == 0
    *lines, last = finished.out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert last == "doctor: nothing is wrong"
    finished = run("doctor", "-s", store, "--json")
    assert (finished.code, finished.json["ok"]) == (0, True)
    facts = findings(finished)
    assert facts["aiovec"]["value"] == aiovec.__version__
    assert {
        "python",
        "platform",
        "sqlite driver",
        "sqlite",
        "sqlite-vec",
        "searches",
    } <= set(facts)
    assert "in a separate process, each with at most 60 s" in facts["documents"]["value"]
    assert facts["integrity"]["value"] == "sound"
    assert facts["table notes"]["value"] == "4 rows"
    assert findings(run("doctor", "--config", config, "--json"))["table notes"]["ok"]
    assert contents(folder) == before


def test_a_missing_store_is_a_finding_if_it_is_named(run: Run, config: Path, folder: Path) -> None:
    config.write_text('[retrieval]\nsqlite_path = "missing.db"\n', "utf-8")
    before = contents(folder)
    by_name = ("-s", "sqlite", "--config", config)
    for named in (("-s", "missing.db"), ("-s", "lancedb://missing"), by_name):
        finding = wrong(run("doctor", *named, "--json"))["store"]
        assert finding["value"].startswith("there is no store at ")
    unchecked = run("doctor", "--config", config)  # an app may not have created it yet
    assert (unchecked.code, "missing.db: does not exist yet" in unchecked.out) == (0, True)
    assert unchecked.out.endswith("doctor: nothing is wrong; the store was not checked\n")
    assert contents(folder) == before


def test_doctor_checks_a_store_in_use(run: Run, store: Path) -> None:
    with sync.connect(store) as vectors:
        vectors.delete("notes", "a")
        facts = findings(run("doctor", "-s", store, "--json"))
        assert facts["table notes"]["value"] == "3 rows"
        assert facts["integrity"]["ok"]
        assert vectors.count("notes") == 3


def damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * PAGE)
        file.write(b"\xa5" * PAGE)


def cut_short(path: Path) -> None:
    os.truncate(path, 2 * PAGE)


def of_another_application(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")


def of_a_newer_layout(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(60)  # where SQLite keeps user_version
        file.write((99).to_bytes(4, "big"))


def with_a_row_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO \"notes.rows\" (id, _seq) VALUES ('foreign', 99)")
        db.commit()


WRONG: list[tuple[Callable[[Path], None], str, str, str]] = [
    (damaged, "store", "damaged", "restore the file from a backup"),
    (cut_short, "store", "", ""),
    (of_another_application, "store", "another application", "another path"),
    (of_a_newer_layout, "store", "layout 99", "pip install --upgrade aiovec"),
    (with_a_row_of_another_program, "table notes", "5 rows but 4 vectors; 1 rows have none", ""),
]


def test_doctor_names_the_fault_of_a_file_unchanged(run: Run, store: Path, folder: Path) -> None:
    for harm, subject, value, fix in WRONG:
        with case(harm.__name__):
            path = folder / f"{harm.__name__}.db"
            shutil.copy(store, path)
            harm(path)
            before = path.read_bytes()
            finding = wrong(run("doctor", "-s", path, "--json"))[subject]
            assert value in finding["value"]
            assert fix in (finding["fix"] or "")
            assert path.read_bytes() == before
    assert run("doctor", "-s", "damaged.db").out.endswith("doctor: found 1 problem\n")


def test_doctor_names_the_fault_of_a_toml_file(run: Run, config: Path) -> None:
    server = 'backend = "remote"\nremote_url = "http://127.0.0.1:1"'
    for lines, subject, value, fix in (
        ("backend = 7", "configuration", "backend", ""),
        (server, "server", "http://127.0.0.1:1", "aiovec serve"),
    ):
        config.write_text(f"[retrieval]\n{lines}\n", "utf-8")
        (finding,) = wrong(run("doctor", "--config", config, "--json")).values()
        assert finding["subject"] == subject
        assert value in finding["value"]
        assert fix in finding["fix"]


EMBEDDERS = {
    "default": ('kind = "demo"', True, "demo, aiovec-demo-hash-256, 256 dimensions"),
    "local": ('model = "m"\ndim = 4\nbase_url = "http://h:9/v1"', True, "openai, m, 4 dim"),
    "keyed": (
        'model = "m"\ndim = 4\nbase_url = "http://me:pw@h/v1"\napi_key_env = "SOME_KEY"', True,
        "openai, m, 4 dimensions",
    ),
    "keyless": ('model = "m"\ndim = 4', False, "set OPENAI_API_KEY"),
    "nameless": ("dim = 4", False, "retrieval.embedders.nameless.model"),
    "absent": ('kind = "no_such_module_x:y"', False, "no_such_module_x"),
    "broken": ('kind = "broken_embedder:y"', False, "at import"),
    "missing": (
        'kind = "fastembed"\nmodel = "m"\ndim = 4', False, 'pip install "aiovec[fastembed]"'
    ),
}  # fmt: skip


def test_doctor_lists_each_embedder_with_what_it_lacks(
    run: Run, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are never shown, and no text is embedded."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("SOME_KEY", "sk-secret-123456")
    monkeypatch.setitem(sys.modules, "fastembed", None)
    (folder / "broken_embedder.py").write_text("raise RuntimeError('at import')", "utf-8")
    with config.open("a", encoding="utf-8") as file:
        for name, (lines, _, _) in EMBEDDERS.items():
            file.write(f"\n[retrieval.embedders.{name}]\n{lines}\n")
    finished = run("doctor", "--config", config, "--json")
    facts = findings(finished)
    for name, (_, ok, said) in EMBEDDERS.items():
        with case(name):
            fact = facts[f"embedder {name}"]
            assert fact["ok"] == ok
            assert said in f"{fact['value']} {fact['fix']}"
    assert "sk-secret" not in finished.out
    assert "pw" not in facts["embedder keyed"]["value"]


@pytest.mark.slow
def test_a_broken_pyarrow_is_named_with_the_fix(store: Path, folder: Path) -> None:
    """For example, pyarrow 26 fails with NumPy 1."""
    (folder / "site/pyarrow").mkdir(parents=True)
    reason = "pyarrow requires NumPy 2.0 or newer"
    (folder / "site/pyarrow/__init__.py").write_text(f"raise ImportError({reason!r})", "utf-8")
    (folder / "rows.jsonl").write_text('{"id": "a", "embedding": [1, 0, 0]}\n', "utf-8")
    site, fix = str(folder / "site"), 'pip install --force-reinstall "aiovec[arrow]"'
    finding = wrong(run_process("doctor", "--json", PYTHONPATH=site))["pyarrow"]
    assert reason in finding["value"]
    assert fix in finding["fix"]
    for line in ("import rows.jsonl -s notes.db --upsert --table notes", "export notes a.csv"):
        finished = run_process(*line.split(), "-s", "notes.db", PYTHONPATH=site)
        assert (finished.code, finished.out) == (1, "")
        assert reason in finished.err
        assert fix in finished.err
        assert "Traceback" not in finished.err
