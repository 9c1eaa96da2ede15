"""The command on a LanceDB store: facts, findings, indexes and maintenance."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import lancedb
import numpy as np
import pytest
from tests.harness.cases import case
from tests.harness.command import COMMAND
from tests.transfer.support import error_of

from aiovec import Schema, sync

from .conftest import ROWS, SCHEMA, Run, contents
from .test_doctor import findings, wrong

MANY = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LanceDB folder with the table ``notes``; tests must not change it."""
    path = tmp_path_factory.mktemp("lance") / "notes.lance"
    with sync.connect(f"lancedb://{path}") as store:
        store.create_table("notes", SCHEMA)
        store.insert("notes", ROWS)
    return path


@pytest.fixture
def lance(made: Path, folder: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(made, folder / "notes.lance"))


def test_a_lancedb_store_is_described_and_searched(run: Run, made: Path, folder: Path) -> None:
    target = f"lancedb://{made}"
    before = contents(made)
    about = run("info", "-s", target, "--json").json
    assert (about["target"], about["backend"]) == (str(made), "lancedb")
    assert {"snapshots", "backup"} <= set(about["abilities"])
    (table,) = about["tables"]
    assert (table["schema"], table["rows"]) == (SCHEMA.to_dict(), len(ROWS))
    found_rows = run("search", "-s", target, "notes", "--like", "a", "--where", "year > 2020")
    assert [line[1] for line in found_rows.lines] == ["id", "b", "c"]
    assert "advise works on SQLite stores only" in run("advise", "-s", target).err
    assert contents(made) == before
    assert run("backup", "-s", target, "copy.lance").code == 0
    assert run("tables", "-s", "lancedb://copy.lance").lines[1][:2] == ["notes", "4"]
    assert run("optimize", "-s", "lancedb://copy.lance").out.startswith("optimized notes in ")


def test_doctor_checks_lancedb_and_writes_nothing(run: Run, made: Path, folder: Path) -> None:
    before = contents(made)
    finished = run("doctor", "-s", f"lancedb://{made}", "--json")
    assert finished.code == 0
    facts = findings(finished)
    assert facts["lancedb"]["value"] == lancedb.__version__
    assert facts["lancedb import"]["value"] == "succeeds"
    assert facts["table notes"]["value"] == "4 rows"
    assert contents(made) == before
    bucket = run("doctor", "-s", "s3://user:secret@bucket/notes")
    assert "not checked here" in bucket.out
    assert bucket.out.endswith("doctor: nothing is wrong; the store was not checked\n")
    assert "secret" not in bucket.out


def test_doctor_names_the_faults_of_a_lancedb_folder(run: Run, lance: Path, folder: Path) -> None:
    target = f"lancedb://{lance}"
    db = lancedb.connect(lance)
    table = db.open_table("notes")
    table.add(table.to_arrow().slice(0, 1))
    db.create_table("theirs", [{"x": 1}])
    findings = wrong(run("doctor", "-s", target, "--json"))
    assert findings["table notes"]["value"] == "5 rows; 1 of them repeat the id of another row"
    assert "no aiovec schema" in findings["table theirs"]["value"]
    shutil.rmtree(lance / "notes.lance" / "data")
    finding = wrong(run("doctor", "-s", target, "--json"))["table notes"]
    assert finding["fix"].endswith("or restore the folder from a backup")
    (folder / "file").write_text("no folder")
    assert "is a file" in wrong(run("doctor", "-s", "lancedb://file", "--json"))["store"]["value"]


@pytest.mark.slow
def test_an_index_is_built_replaced_and_dropped(run: Run, folder: Path) -> None:
    target = f"lancedb://{folder / 'many.lance'}"
    vectors = np.random.default_rng(0).standard_normal((MANY, 16)).astype(np.float32)
    with sync.connect(target) as store:
        store.create_table("notes", Schema(16))
        store.insert("notes", {"id": [f"r{n}" for n in range(MANY)], "embedding": vectors})
    small = run("index", "-s", target, "notes")
    assert (small.code, "every search scans every row" in small.out) == (0, True)
    built = run(
        "index", "-s", target, "notes", "--kind", "ivf_flat", "--recall", "0.9",
        "--option", "num_partitions=8",
    )  # fmt: skip
    assert built.code == 0
    assert built.out.startswith("indexed notes in ")
    assert f"ivf_flat on embedding ({MANY} rows, recall " in run("info", "-s", target).out
    (table,) = run("info", "-s", target, "--json").json["tables"]
    assert table["indexes"][0]["recall"] >= 0.9
    again = run("index", "-s", target, "notes", "--kind", "hnsw_sq", "--json").json
    (index,) = again["indexes"]
    assert (index["kind"], index["rows_indexed"]) == ("hnsw_sq", MANY)
    for arguments, words in (
        (["absent"], "absent"),
        (["notes", "--kind", "tree"], "ivf_pq"),
        (["notes", "--kind", "ivf_flat", "--option", "m=4"], "num_partitions"),
    ):
        with case(arguments):
            assert words in error_of("index", "-s", target, *arguments)
    dropped = run("index", "-s", target, "notes", "--drop", index["name"])
    assert dropped.out.startswith(f"dropped the index {index['name']} of notes in ")
    assert run("info", "-s", target, "--json").json["tables"][0]["indexes"] == []


@pytest.mark.slow
def test_optimize_runs_in_rounds_past_a_failing_table(run: Run, lance: Path, folder: Path) -> None:
    """The command runs once without ``--every``, and then in rounds."""
    target = f"lancedb://{lance}"
    with sync.connect(target) as store:
        for n in range(8):
            store.insert("notes", [{**ROWS[0], "id": f"n{n}"}])
    once = run("optimize", "notes", "-s", target)
    assert (once.code, once.out.startswith("optimized notes in ")) == (0, True)
    with sync.connect(target) as store:
        assert store.stats("notes").details["fragments"] == 1
    assert run("optimize", "absent", "-s", target).code == 1
    rounds = subprocess.Popen(
        [*COMMAND, "optimize", "absent", "notes", "-s", target, "--every", "0.1s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert rounds.stdout is not None
    for _ in range(2):
        assert rounds.stdout.readline().startswith("optimized notes in ")
    rounds.send_signal(signal.SIGINT)
    _, said = rounds.communicate(timeout=60)
    assert rounds.returncode == 130
    assert "there is no table 'absent'" in said
