"""aiovec import and aiovec export."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiovec import StoreFullError, VectorStore
from aiovec_sqlite.driver import connect

from .conftest import Run
from .test_command import aiovec_command, on_a_terminal, posix_only

FILES = {
    "notes.parquet": ["notes.parquet"],
    "notes.arrow": ["notes.arrow"],
    "notes.arrows": ["notes.arrows"],
    "notes.jsonl": ["notes.jsonl", "notes.schema.json"],
    "notes.csv": ["notes.csv", "notes.schema.json"],
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


@pytest.mark.slow
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
    assert finished.code == 1  # B20: a row was not taken
    assert finished.err == (
        f"{old} is opened read-only and is not changed; aiovec backup {old} COPY copies it first\n"
        "docs: not taken: 1 row, such as 2: the vector has 1 bytes, no multiple of 4\n"
    )
    assert "imported 2 rows from items (vec0 table) into the new table items-big" in finished.out
    rejects = folder / "old.db.rejects.jsonl"
    assert finished.out.endswith(f"not imported: 1 row; {rejects} has the reason for each\n")
    (line,) = rejects.read_text().splitlines()
    assert json.loads(line) == {
        "table": "docs", "rowid": 2, "id": "2",
        "reason": "the vector has 1 bytes, no multiple of 4",
    }  # fmt: skip
    assert hashlib.sha256(old.read_bytes()).hexdigest() == before
    assert [line[:2] for line in run("tables", "new.db").lines[1:]] == [
        ["docs", "3"], ["items-big", "2"], ["items-small", "2"],
    ]  # fmt: skip


def test_what_is_not_taken_makes_the_exit_code_1(run: Run, old: Path, folder: Path) -> None:
    """B20: rows, columns and whole tables were left out with exit code 0."""
    db = connect(str(old))
    db.execute("DELETE FROM docs WHERE id = 2")
    whole = run("import", old, "whole.db", "--json")
    assert whole.code == 0
    assert json.loads(whole.out)["complete"] is True
    db.execute("ALTER TABLE docs ADD COLUMN thumb BLOB")
    db.execute("UPDATE docs SET thumb = x'00ff' WHERE id < 4")
    finished = run("import", old, "columns.db", "--json")
    assert finished.code == 1
    said = json.loads(finished.out)
    assert (said["complete"], said["rejects"]) == (False, None)
    assert said["tables"][-1]["omitted"] == ["the column thumb (2 BLOBs)"]
    assert "docs: not taken: the column thumb (2 BLOBs)" in run("import", old, "c.db").err
    assert run("import", old, "allowed.db", "--allow-rejects").code == 0
    db.execute("CREATE VIRTUAL TABLE bits USING vec0(e bit[8])")
    db.execute("INSERT INTO bits (rowid, e) VALUES (1, vec_bit(x'01'))")
    db.close()
    finished = run("import", old, "bits.db")
    assert finished.code == 1
    assert "bits (1 row): not taken: the vec0 table 'bits'" in finished.err
    (skipped,) = json.loads(run("import", old, "--list", "--json").out)["skipped"]
    assert (skipped["origin"], skipped["rows"]) == ("bits", 1)
    assert [line[0] for line in run("tables", "bits.db").lines[1:]] == [
        "docs", "items-big", "items-small",
    ]  # fmt: skip


def test_a_failure_amid_an_import_tells_what_was_kept(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a full disk says that nothing of its own call was kept, of some 8,000 rows."""
    rows = [{"id": f"r{n}", "embedding": [1, n]} for n in range(30_000)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain, room = VectorStore._write, [2]

    async def write(self: VectorStore, *args: Any, **options: Any) -> int:
        if not room[0]:
            raise StoreFullError(self.target, "No space left on device")
        room[0] -= 1
        return await plain(self, *args, **options)

    monkeypatch.setattr(VectorStore, "_write", write)
    done = run("import", "rows.jsonl", "new.db", "--table", "notes")
    assert done.code == 1
    assert "no room to write" in done.err
    (kept,) = re.findall(r"kept before that: ([0-9,]+) rows of 'notes'", done.err)
    count = int(kept.replace(",", ""))
    assert 0 < count < 30_000
    monkeypatch.setattr(VectorStore, "_write", plain)
    assert json.loads(run("tables", "new.db", "--json").out)["tables"][0]["rows"] == count
    assert run("import", "rows.jsonl", "new.db", "--table", "notes", "--upsert").code == 0
    assert json.loads(run("tables", "new.db", "--json").out)["tables"][0]["rows"] == 30_000


def test_replaced_rows_and_reasons_are_counted(run: Run, folder: Path) -> None:
    """B20: the report tells what was taken, replaced and rejected, and why."""
    rows = [{"id": str(i % 8), "embedding": [1, i]} for i in range(10)]
    bad = [{"id": f"b{i}", "embedding": [1] * (3 + i % 2)} for i in range(5)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + bad), "utf-8")
    run("import", path, "new.db", "--upsert")
    finished = run("import", path, "new.db", "--upsert", "--json")
    assert finished.code == 1
    (table,) = json.loads(finished.out)["tables"]
    assert (table["rows"], table["replaced"], table["rejected"]) == (10, 10, 5)
    assert table["reasons"] == [
        {
            "reason": "the vector has 3 dimensions, not 2", "rows": 3,
            "examples": [{"line": 11 + i, "id": f"b{i}"} for i in (0, 2, 4)],
        },
        {
            "reason": "the vector has 4 dimensions, not 2", "rows": 2,
            "examples": [{"line": 11 + i, "id": f"b{i}"} for i in (1, 3)],
        },
    ]  # fmt: skip
    told = run("import", path, "other.db", "--upsert")
    assert "imported 10 rows" in told.out
    assert "2 of which replaced another" in told.out
    assert "rows: not taken: 3 rows, such as b0: the vector has 3 dimensions, not 2" in told.err


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
            "created": True, "rows": 3, "replaced": 0, "rejected": 1, "missing": 0,
            "reasons": [
                {
                    "reason": "the vector has 1 bytes, no multiple of 4", "rows": 1,
                    "examples": [{"rowid": 2, "id": "t2"}],
                }
            ],
            "omitted": [], "dim": 2, "metric": "dot", "model": "m", "notes": [],
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
    assert "the id already exists" in finished.err
    assert run(*arguments, "--upsert").code == 0
    (table,) = json.loads(run("info", "new.db", "--json").out)["tables"]
    assert (table["name"], table["schema"]["fields"]) == ("notes", {"year": "int"})


def test_a_list_of_rejects_replaces_nothing_else(run: Run, old: Path, store: Path) -> None:
    """It destroyed a store that was named by mistake."""
    shutil.copy(store, "other.db")
    Path("mine.txt").write_text("precious")
    Path("link.txt").symlink_to("absent")
    for name, said in (
        (store, "belongs to the store itself"),
        (f"{store}-wal", "belongs to the store itself"),
        ("other.db", "other.db is a database"),
        ("other.db-wal", "belongs to the database other.db"),
        ("mine.txt", "not a list of rejects"),
        ("link.txt", "not a list of rejects"),
    ):
        finished = run("import", old, store, "--rejects", name)
        assert finished.code == 1, name
        assert said in finished.err.splitlines()[-1]
    assert Path("mine.txt").read_text() == "precious"
    assert run("info", store).code == run("info", "other.db").code == 0
    for _ in range(2):  # an earlier list is replaced
        assert run("import", old, "new.db", "--upsert", "--rejects", "list.jsonl").code == 1
        assert len(Path("list.jsonl").read_text().splitlines()) == 1


def test_wrong_usage_and_failures_of_import(run: Run, old: Path, store: Path) -> None:
    assert run("import").code == 2
    assert run("import", old, "new.db", "--metric", "l3").code == 2
    assert run("import", old, "new.db", "--rejects", old).code == 2
    for arguments, said in (
        (["absent.parquet", "new.db"], "there is no file"),
        ([old, old], "database of another application"),
        ([store, "new.db"], "is already an aiovec store"),
        ([old, "new.db", "--table", "absent"], "there is no table 'absent'"),
        ([old, "new.db", "--dtype", "int4"], "there is no dtype"),
        ([old, "new.db", "--schema", "absent.json"], "absent.json"),
        ([old, "new.db", "--format", "xlsx"], "there is no format 'xlsx'"),
        ([old, "new.db", "--table", "items-big", "--model", "other"], "the model 'big'"),
    ):
        finished = run("import", *arguments)
        assert finished.code == 1, arguments
        assert said in finished.err
        assert "Traceback" not in finished.err


def test_every_path_may_begin_with_the_home_folder(
    run: Run, store: Path, old: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert run("export", store, "notes", "~/notes.jsonl").code == 0
    with (home / "notes.jsonl").open("a") as file:
        file.write("broken\n")
    finished = run(
        "import", "~/notes.jsonl", "new.db", "--schema", "~/notes.schema.json",
        "--rejects", "~/no.jsonl", "--allow-rejects",
    )  # fmt: skip
    assert (finished.code, (home / "no.jsonl").exists()) == (0, True)
    (home / "vector.json").write_text("[1, 0, 0]")
    assert run("search", store, "notes", "--vector", "@~/vector.json").code == 0
    old.rename(home / "old.db")
    assert run("backup", "~/old.db", "~/copy.db").code == 0
    assert run("import", "~/copy.db", "--list").code == 0


@posix_only
def test_text_of_a_foreign_file_does_not_drive_the_terminal(
    run: Run, store: Path, folder: Path
) -> None:
    hostile = "\x1b[31mRED\x1b]0;pwn\x07\x9b2J\nimported 9 rows"
    columns = {
        "id": ["a"],
        "embedding": pa.array([[1.0, 2.0]]),
        hostile: pa.array([b"x"]),
        f"{hostile} day": pa.array([1], pa.date32()),
    }
    path = folder / f"{hostile}.parquet"
    pq.write_table(pa.table(columns), path)
    db = connect("old.db")
    db.execute(f'CREATE TABLE "{hostile}" (id INTEGER PRIMARY KEY, vec BLOB)')
    db.execute(f'INSERT INTO "{hostile}" VALUES (1, ?)', (struct.pack("<2f", 1, 2),))
    db.close()
    told = [
        run("import", path, "new.db", "--as", "notes"),
        run("import", path, "--list"),
        run("import", path, "--list", "--json"),
        run("import", "old.db", "new.db", "--as", "docs"),
        run("import", "old.db", "--list"),
        run("export", store, "notes", folder / f"{hostile}.jsonl"),
    ]
    for finished in told:
        said = finished.out + finished.err
        assert "RED" in said
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
        assert not any(line.startswith("imported 9") for line in said.splitlines())


@posix_only
def test_a_home_folder_that_does_not_exist_is_told(run: Run, store: Path, old: Path) -> None:
    lost = "~nosuchuser/x.parquet"
    for arguments in (
        ["export", store, "notes", lost],
        ["backup", store, lost],
        ["backup", old, lost],
        ["import", lost, "new.db"],
        ["import", old, "new.db", "--rejects", lost],
        ["import", old, "new.db", "--schema", lost],
        ["search", store, "notes", "--vector", f"@{lost}"],
    ):
        finished = run(*arguments)
        assert finished.code in (1, 2), arguments
        assert "~nosuchuser" in finished.err
    Path("~x.jsonl").write_text('{"id": "a", "embedding": [1]}\n')
    assert run("import", "./~x.jsonl", "new.db").code == 0


def test_an_old_database_is_backed_up(run: Run, old: Path, store: Path) -> None:
    finished = run("backup", old, "copy.db")
    assert finished.code == 0
    assert finished.out.startswith(f"copied {old} to copy.db in ")
    assert run("import", "copy.db", "--list").lines == run("import", old, "--list").lines
    assert run("backup", old, "copy.db").code == 1


@posix_only
def test_progress_on_a_terminal_and_none_in_a_pipe(old: Path, store: Path, folder: Path) -> None:
    code, written = on_a_terminal("import", str(old), str(folder / "terminal.db"))
    assert code == 1  # one of the rows is bad
    assert re.search(r"rows", written)
    assert "\x1b[?25l" in written  # the bar hides the cursor
    finished = subprocess.run(
        aiovec_command("import", str(old), str(folder / "pipe.db"), "--allow-rejects"),
        capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    assert "\x1b" not in finished.stdout + finished.stderr
    assert finished.stderr.count("\n") == 2
