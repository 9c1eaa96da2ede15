"""aiovec import and aiovec export."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from aiovec_sqlite.driver import connect

from .conftest import Run
from .test_command import aiovec_command, on_a_terminal, posix_only

FILES = {
    "notes.parquet": ["notes.parquet"],
    "notes.arrow": ["notes.arrow"],
    "notes.arrows": ["notes.arrows"],
    "notes.jsonl": ["notes.jsonl", "notes.schema.json"],
    "notes.npy": ["notes.npy", "notes.jsonl", "notes.schema.json"],
}


@pytest.fixture
def old(folder: Path) -> Path:
    """A database of another program: a vec0 table of two models, and BLOBs of which one is bad."""
    path = folder / "old.db"
    db = connect(str(path))
    db.execute(
        "CREATE VIRTUAL TABLE items USING vec0(id INTEGER PRIMARY KEY, embedding FLOAT[2] "
        "distance_metric=cosine, embedding_model TEXT, +body TEXT)"
    )
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, vec BLOB)")
    for i in range(1, 5):
        vector = struct.pack("<2f", 1, i)
        model = "big" if i % 2 else "small"
        db.execute("INSERT INTO items VALUES (?, ?, ?, ?)", (i, vector, model, f"b{i}"))
        db.execute("INSERT INTO docs VALUES (?, ?, ?)", (i, f"t{i}", vector))
    db.execute("UPDATE docs SET vec = x'00' WHERE id = 2")
    db.close()
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_table_goes_out_and_comes_in(name: str, run: Run, store: Path, folder: Path) -> None:
    finished = run("export", store, "notes", folder / name)
    assert (finished.code, finished.err) == (0, "")
    files = ", ".join(str(folder / file) for file in FILES[name])
    assert finished.out.startswith(f"exported 4 rows of notes to {files} in ")
    finished = run("import", folder / name, "new.db")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("imported 4 rows")
    assert run("tables", "new.db").lines == run("tables", store).lines
    before, after = (
        json.loads(run("search", s, "notes", "--like", "a", "--json").out)["hits"]
        for s in (store, "new.db")
    )
    assert before == after
    schemas = [json.loads(run("info", s, "--json").out)["tables"] for s in (store, "new.db")]
    assert schemas[0][0]["schema"] == schemas[1][0]["schema"]


def test_a_part_of_a_table_as_json(run: Run, store: Path, config: Path, folder: Path) -> None:
    arguments = ["--where", "year >= 2021", "--select", "year,lang", "--json", "--config", config]
    finished = run("export", "notes", folder / "out.jsonl", *arguments)
    said = json.loads(finished.out)
    assert (said["rows"], said["format"], said["store"]) == (2, "jsonl", str(store))
    assert said["files"] == [str(folder / "out.jsonl")]
    found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert found == [
        {"id": "b", "year": 2021, "lang": "de"},
        {"id": "c", "year": 2022, "lang": "en"},
    ]


def test_wrong_usage_and_failures_of_export(run: Run, store: Path, folder: Path) -> None:
    assert run("export", store).code == 2
    (folder / "there.parquet").write_text("mine")
    for arguments, said in (
        (["there.parquet"], "--overwrite"),
        (["x.what"], "--format"),
        (["x.npy", "--select", "year"], "select the vector too"),
        (["x.parquet", "--where", "yea > 1"], "yea"),
        (["absent/x.parquet"], "no folder"),
    ):
        finished = run("export", store, "notes", *arguments)
        assert (finished.code, finished.err.count("\n")) == (1, 1)
        assert said in finished.err
    assert (folder / "there.parquet").read_text() == "mine"
    assert run("export", store, "notes", "there.parquet", "--overwrite").code == 0
    assert run("export", store, "notes", "x.what", "--format", "jsonl").code == 0


def test_what_an_old_database_holds(run: Run, old: Path) -> None:
    finished = run("import", old, "--list")
    assert finished.lines == [
        ["table", "from", "layout", "rows", "dim", "metric", "model"],
        ["items-big", "items", "vec0 table", "2", "2", "cosine", "big"],
        ["items-small", "items", "vec0 table", "2", "2", "cosine", "small"],
        ["docs", "docs", "column of float32 BLOBs", "4", "2", "cosine", "-"],
    ]
    tables = json.loads(run("import", old, "--list", "--json").out)["tables"]
    assert tables[0]["schema"]["fields"] == {"body": "text"}


def test_an_old_database_is_imported_and_stays_as_it_was(run: Run, old: Path, folder: Path) -> None:
    before = hashlib.sha256(old.read_bytes()).hexdigest()
    finished = run("import", old, "new.db")
    assert finished.code == 0
    assert finished.err == (
        f"{old} is opened read-only and stays as it is; aiovec backup {old} COPY copies it first\n"
    )
    assert "imported 2 rows from items (vec0 table) into the new table items-big" in finished.out
    rejects = folder / "old.db.rejects.jsonl"
    assert finished.out.endswith(f"not taken: 1 row; {rejects} tells why for each\n")
    (line,) = rejects.read_text().splitlines()
    assert json.loads(line) == {
        "table": "docs", "rowid": 2, "id": "2",
        "reason": "the vector has 1 bytes, no multiple of 4",
    }  # fmt: skip
    assert hashlib.sha256(old.read_bytes()).hexdigest() == before
    assert [line[:2] for line in run("tables", "new.db").lines[1:]] == [
        ["docs", "3"], ["items-big", "2"], ["items-small", "2"],
    ]  # fmt: skip


def test_one_table_by_its_name_under_another(run: Run, old: Path, folder: Path) -> None:
    finished = run(
        "import", old, "new.db", "--table", "docs", "--as", "papers", "--vector-column", "vec",
        "--id-column", "title", "--dtype", "float32", "--model", "m", "--metric", "dot",
        "--rejects", "no.jsonl", "--json",
    )  # fmt: skip
    said = json.loads(finished.out)
    assert (said["format"], said["rejects"]) == ("database", "no.jsonl")
    assert said["tables"] == [
        {
            "name": "papers", "origin": "docs", "layout": "column of float32 BLOBs",
            "created": True, "rows": 3, "rejected": 1, "dim": 2, "metric": "dot", "model": "m",
            "notes": [],
        }
    ]  # fmt: skip
    assert (folder / "no.jsonl").exists()
    (hit, *_) = json.loads(run("search", "new.db", "papers", "--like", "t1", "--json").out)["hits"]
    assert hit["id"] == "t4"
    assert run("import", old, "new.db", "--as", "x").code == 1


def test_strict_upsert_and_a_given_schema(run: Run, old: Path, folder: Path) -> None:
    finished = run("import", old, "new.db", "--strict")
    assert finished.code == 1
    assert "nothing was kept" in finished.err
    assert run("tables", "new.db").out == ""
    (folder / "rows.jsonl").write_text('{"id": "a", "embedding": [1, 2], "year": 3}\n')
    (folder / "schema.json").write_text('{"dim": 2, "fields": {"year": "int"}}')
    arguments = ["import", "rows.jsonl", "new.db", "--schema", "schema.json", "--table", "notes"]
    assert run(*arguments).code == 0
    finished = run(*arguments)
    assert finished.code == 1
    assert "the id is there already" in finished.err
    assert run(*arguments, "--upsert").code == 0
    (table,) = json.loads(run("info", "new.db", "--json").out)["tables"]
    assert (table["name"], table["schema"]["fields"]) == ("notes", {"year": "int"})


def test_wrong_usage_and_failures_of_import(run: Run, old: Path, store: Path) -> None:
    assert run("import").code == 2
    assert run("import", old, "new.db", "--metric", "l3").code == 2
    assert run("import", old, "new.db", "--rejects", old).code == 2
    for arguments, said in (
        (["absent.parquet", "new.db"], "there is no file"),
        ([old, old], "database of another application"),
        ([store, "new.db"], "is a store of aiovec already"),
        ([old, "new.db", "--table", "absent"], "there is no table 'absent'"),
        ([old, "new.db", "--dtype", "int4"], "there is no dtype"),
        ([old, "new.db", "--schema", "absent.json"], "absent.json"),
        ([old, "new.db", "--format", "csv"], "there is no format 'csv'"),
        ([old, "new.db", "--table", "items-big", "--model", "other"], "the model 'big'"),
    ):
        finished = run("import", *arguments)
        assert finished.code == 1, arguments
        assert said in finished.err
        assert "Traceback" not in finished.err


def test_an_old_database_is_backed_up(run: Run, old: Path, store: Path) -> None:
    finished = run("backup", old, "copy.db")
    assert finished.code == 0
    assert finished.out.startswith(f"copied {old} to copy.db in ")
    assert run("import", "copy.db", "--list").lines == run("import", old, "--list").lines
    assert run("backup", old, "copy.db").code == 1


@posix_only
def test_progress_on_a_terminal_and_none_in_a_pipe(old: Path, store: Path, folder: Path) -> None:
    code, written = on_a_terminal("import", str(old), str(folder / "terminal.db"))
    assert code == 0
    assert re.search(r"rows", written)
    assert "\x1b[?25l" in written  # the bar hides the cursor
    finished = subprocess.run(
        aiovec_command("import", str(old), str(folder / "pipe.db")),
        capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    assert "\x1b" not in finished.stdout + finished.stderr
    assert finished.stderr.count("\n") == 1
