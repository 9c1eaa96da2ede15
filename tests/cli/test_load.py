"""aiovec load, as a user types it."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from tests.harness.vec0 import connect
from tests.lancedb.buckets import BUCKET, s3_server

from aiovec import sync

from .conftest import Run


def rows(start: int, count: int, **others: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n:03}", "embedding": [1.0, n, 2.0], "year": n, **others}
        for n in range(start, start + count)
    ]


@pytest.fixture
def parts(folder: Path) -> Path:
    """Three files in three formats, with ten rows each."""
    path = folder / "parts"
    path.mkdir()
    table = pa.Table.from_pylist(rows(0, 10))
    pq.write_table(table, path / "a.parquet")
    with pa.OSFile(str(path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(pa.Table.from_pylist(rows(10, 10)))
    write(path / "c.jsonl", rows(20, 10, note="x"))
    return path


def write(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")


@pytest.mark.parametrize("target", ["new.db", "lancedb://new.lance"])
def test_files_of_several_formats_become_one_table(run: Run, parts: Path, target: str) -> None:
    command = ("load", "notes", "parts/a.*", "parts/[bc]*", "-s", target, "--json")
    said = run(*command).json
    assert (said["files"], said["rows"], said["existing"]) == (3, 30, 0)
    with sync.connect(target) as store:
        assert store.count("notes") == 30
        assert store.get("notes", ["r025"])[0].to_dict()["note"] == "x"
    again = run(*command).json
    assert (again["rows"], again["existing"]) == (0, 30)
    assert run("load", "notes", "parts/*", "-s", target).out.splitlines()[:2] == [
        "loaded 0 rows from 3 files into notes",
        "30 rows existed already and were left as they are",
    ]


def test_a_bad_row_is_named_and_the_same_command_goes_on(run: Run, parts: Path) -> None:
    bad = rows(30, 3)
    bad[1]["embedding"] = [0, 0, 0]
    write(parts / "d.jsonl", bad)
    finished = run("load", "notes", "parts/*", "-s", "new.db")
    assert finished.code == 1
    assert "d.jsonl, line 2" in finished.err
    assert "r031" in finished.err
    bad[1]["embedding"] = [1, 0, 0]
    write(parts / "d.jsonl", bad)
    said = run("load", "notes", "parts/*", "-s", "new.db", "--json").json
    assert said["rows"] == 33 - said["existing"] > 0
    with sync.connect("new.db") as store:
        assert store.count("notes") == 33


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["nothing/*.parquet"], 1, "no file matches"),
        (["parts"], 1, "no file matches"),
        (["parts/a.parquet", "--engine", "none"], 1, "there is no engine 'none'"),
        (["parts/a.parquet", "--address", "x"], 2, "--engine"),
        (["old.db"], 1, "use aiovec import"),
        (["notes.db"], 1, "already an aiovec store"),
    ],
)
def test_what_cannot_be_loaded(
    run: Run, parts: Path, store: Path, options: list[str], code: int, said: str
) -> None:
    with closing(connect(Path("old.db"))) as db:
        db.execute("CREATE VIRTUAL TABLE items USING vec0(embedding FLOAT[2])")
    finished = run("load", "new", *options, "-s", "new.db")
    assert finished.code == code
    assert said in finished.err
    assert not Path("new.db").exists()


def test_the_engine_is_not_installed(
    run: Run, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("load", "notes", "parts/*", "-s", "lancedb://new.lance", "--engine", "ray")
    finished = run(*command)
    assert finished.code == 1
    assert 'pip install "aiovec[ray]"' in finished.err
    assert not Path("new.lance").exists()


@pytest.mark.slow
def test_files_in_a_bucket(run: Run, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name.replace("AWS_ENDPOINT", "AWS_ENDPOINT_URL"), value)
        place, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}")
        for file in parts.iterdir():
            with place.open_output_stream(f"{BUCKET}/parts/{file.name}") as out:
                out.write(file.read_bytes())
        command = ("load", "notes", f"s3://{BUCKET}/parts/[ab]*", f"s3://{BUCKET}/parts/c.jsonl")
        said = run(*command, "-s", "new.db", "--json").json
        assert (said["files"], said["rows"]) == (3, 30)
        finished = run("load", "notes", f"s3://{BUCKET}/none*", "-s", "new.db")
        assert (finished.code, "no file matches" in finished.err) == (1, True)
