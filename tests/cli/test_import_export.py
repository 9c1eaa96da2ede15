"""aiovec import and export as a user types them; tests/transfer tests formats and rows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from tests.lancedb.buckets import BUCKET, s3_server
from tests.transfer.support import error_of

from aiovec import sync

from .conftest import Run, numbered, written

# Export


def test_an_export_says_what_it_wrote(run: Run, store: Path, config: Path, folder: Path) -> None:
    finished = run("export", "-s", store, "notes", "notes.csv")
    assert finished.code == 0, finished.err
    assert finished.out.startswith(
        "exported 4 rows of notes to notes.csv, notes.csv.schema.json in "
    )
    part = ("--where", "year >= 2021", "--select", "year,lang", "--config", config, "--json")
    said = run("export", "notes", folder / "out.jsonl", *part).json
    assert (said["rows"], said["format"], said["store"]) == (2, "jsonl", str(store))
    assert said["files"] == [str(folder / "out.jsonl")]
    assert [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()] == [
        {"id": "b", "year": 2021, "lang": "de"},
        {"id": "c", "year": 2022, "lang": "en"},
    ]


# Import


def test_a_rejected_row_makes_the_exit_code_1(run: Run, folder: Path) -> None:
    good = [{"id": str(i % 8), "embedding": [1, i]} for i in range(10)]
    bad = [{"id": f"b{i}", "embedding": [1] * (3 + i % 2)} for i in range(5)]
    path = written(folder / "rows.jsonl", *good, *bad)
    assert run("import", path, "-s", "new.db", "--upsert", "--allow-rejects").code == 0
    finished = run("import", path, "-s", "new.db", "--upsert", "--json")
    assert finished.code == 1
    assert finished.json["complete"] is False
    (table,) = finished.json["tables"]
    assert (table["rows"], table["rejected"]) == (10, 5)
    assert table["reasons"] == {
        "the vector has 3 dimensions, not 2": 3, "the vector has 4 dimensions, not 2": 2,
    }  # fmt: skip
    plain = run("import", path, "-s", "other.db", "--upsert")
    assert "imported 10 rows" in plain.out
    assert "rows: rejected 3 rows: the vector has 3 dimensions, not 2" in plain.err
    assert len((folder / "rows.jsonl.rejects.jsonl").read_text().splitlines()) == 5
    assert run("import", written(path, *good), "-s", "x.db", "--upsert", "--json").json["complete"]
    assert not (folder / "rows.jsonl.rejects.jsonl").exists()  # its rows are imported now


def test_the_database_of_another_program_is_copied_on_request_and_never_changed(
    run: Run, old: Path, folder: Path
) -> None:
    """Another test runs the commands of docs/how-to/from-other-stores.md, which cover the rest."""
    before = old.read_bytes()
    finished = run("import", f"{old}#items", "-s", "new.db")
    advice = "--backup COPY copies it first"
    assert (finished.code, finished.err) == (
        0, f"{old} is opened read-only and is not changed; {advice}\n",
    )  # fmt: skip
    copied = run("import", f"{old}#items", "-s", "third.db", "--backup", "copy.db")
    assert copied.out.startswith(f"copied {old} to copy.db\n")
    assert run("import", "copy.db#items", "--dry-run").lines[1][3] == "4"
    assert "copy.db already exists" in error_of(
        "import", f"{old}#items", "-s", "fourth.db", "--backup", "copy.db"
    )
    assert not (folder / "fourth.db").exists()
    assert old.read_bytes() == before


def test_every_path_may_begin_with_the_home_folder(
    run: Run, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert run("export", "-s", store, "notes", "~/notes.jsonl").code == 0
    assert (
        run("import", "~/notes.jsonl", "-s", "n.db", "--schema", "~/notes.jsonl.schema.json").code
        == 0
    )
    assert run("backup", "-s", store, "~/copy.db").code == 0
    assert run("tables", "-s", "~/copy.db").code == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names of files")
def test_a_foreign_file_cannot_control_the_terminal(run: Run, store: Path, folder: Path) -> None:
    hostile = "\x1b[31mRED\x1b]0;pwn\x07\x9b2J\nimported 9 rows"
    path = folder / f"{hostile}.parquet"
    columns = {"id": ["a"], "embedding": pa.array([[1.0, 2.0]]), hostile: pa.array([b"x"])}
    pq.write_table(pa.table(columns), path)
    for finished in (
        run("import", path, "-s", "new.db", "--table", "notes"),
        run("import", path, "--dry-run"),
        run("import", path, "--dry-run", "--json"),
        run("export", "-s", store, "notes", folder / f"{hostile}.jsonl"),
    ):
        said = finished.out + finished.err
        assert "RED" in said
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
        assert not any(line.startswith("imported 9") for line in said.splitlines())


@pytest.mark.parametrize("target", ["new.db", "lancedb://new.lance"])
def test_files_of_several_formats_become_one_table(run: Run, parts: Path, target: str) -> None:
    command = ("import", "parts/a.*", "parts/[bc]*", "--table", "notes", "-s", target, "--json")
    said = run(*command).json
    (table,) = said["tables"]
    assert (said["file"], said["complete"], table["rows"]) == ("3 files", True, 30)
    assert table["fields"] == {"year": "int"}
    with sync.connect(target) as store:
        assert store.count("notes") == 30
        assert store.get("notes", ["r025"])[0].to_dict()["note"] == "x"
    bad = numbered(30, 3)
    bad[1]["embedding"] = [0, 0, 0]
    written(parts / "d.jsonl", *bad)
    assert "cannot be imported, so none was" in run(*command, "parts/d.jsonl", "--strict").err
    finished = run(*command, "parts/d.jsonl", "--upsert")
    assert (finished.code, finished.json["tables"][0]["rows"]) == (1, 32)
    assert json.loads(Path("notes.rejects.jsonl").read_text()) == {
        "table": "notes", "place": "parts/d.jsonl, line 2", "id": "r031",
        "reason": "the vector is zero, so it has no cosine",
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist(numbered(40, 1, raw=b"x")), parts / "e.parquet")
    assert "e.parquet: the column raw (binary)" in error_of(*command, "parts/e.parquet", "--upsert")


@pytest.mark.slow
def test_a_bucket_can_be_imported(run: Run, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name.replace("AWS_ENDPOINT", "AWS_ENDPOINT_URL"), value)
        place, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}")
        for file in parts.iterdir():
            with place.open_output_stream(f"{BUCKET}/parts/{file.name}") as out:
                out.write(file.read_bytes())
        into = ("--table", "notes", "-s", "new.db")
        url = f"s3://{BUCKET}/parts"
        said = run("import", f"{url}/[ab]*", f"{url}/c.jsonl", *into, "--json").json
        assert (said["file"], said["tables"][0]["rows"]) == ("3 files", 30)
        assert "no file matches" in error_of("import", f"{url}/none*", *into)
        assert run("import", f"{url}/c.jsonl", "-s", "one.db").code == 0


@pytest.mark.slow
def test_the_credentials_in_a_url_are_neither_shown_nor_stored(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name.replace("AWS_ENDPOINT", "AWS_ENDPOINT_URL"), value)
        place, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}")
        for name in ("a.jsonl", "b.jsonl"):
            with place.open_output_stream(f"{BUCKET}/{name}") as out:
                out.write(f'{{"id": "{name}", "body": "one text"}}\n'.encode())
        with place.open_output_stream(f"{BUCKET}/c.parquet") as out:
            pq.write_table(pa.table({"id": ["c"], "body": ["x"], "raw": [b"x"]}), out)
        url = f"s3://AKIDINURL:S3cr3tInUrl@{BUCKET}"
        into = ("--table", "notes", "--embed", "body", "--embedder", "demo", "-s", "new.db")
        one = run("import", f"{url}/a*", *into)
        assert (one.code, one.out.split(";")[0]) == (0, "notes: 1 new"), one.err
        more = run("import", f"{url}/*.jsonl", *into, "--upsert", "--json")
        assert more.json["file"] == "2 files", more.err
        wrong = run("import", f"{url}/a.jsonl", f"{url}/c.parquet", *into, "--upsert")
        assert f"s3://***@{BUCKET}/c.parquet: the column raw" in wrong.err
        with sync.connect(folder / "new.db") as store:
            (row,) = store.get("notes", ["b.jsonl"])
        assert row["base"] == f"s3://***@{BUCKET}/*.jsonl"
        for said in (one, more, wrong):
            assert "InUrl" not in said.out + said.err
