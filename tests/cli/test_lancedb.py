"""The command on a LanceDB store: what it finds, shows and calls wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import lancedb
import pytest

import aiovec

from .conftest import ROWS, SCHEMA, Run
from .test_doctor import contents, doctor_without, found, wrong


@pytest.fixture
def lance(folder: Path) -> Path:
    """A folder of LanceDB with the table ``notes``."""
    path = folder / "notes.lance"

    async def fill() -> None:
        async with aiovec.connect(f"lancedb://{path}") as vectors:
            await vectors.create_table("notes", SCHEMA)
            await vectors.insert("notes", ROWS)

    asyncio.run(fill())
    return path


@pytest.fixture
def both(folder: Path, lance: Path) -> Path:
    """A TOML file whose lancedb store is ``lance``; its backend is SQLite."""
    path = folder / "my.toml"
    path.write_text(
        '[retrieval]\nbackend = "sqlite"\nsqlite_path = "n.db"\nlancedb_url = "notes.lance"\n'
    )
    return path


def all_contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Facts, searches, upkeep


def test_info_tells_the_store_and_its_tables(run: Run, lance: Path) -> None:
    info = json.loads(run("info", f"lancedb://{lance}", "--json").out)
    assert (info["target"], info["backend"]) == (str(lance), "lancedb")
    assert {"snapshots", "backup"} <= set(info["abilities"])
    assert "power-loss" not in info["abilities"]
    (table,) = info["tables"]
    assert table["schema"] == SCHEMA.to_dict()
    assert table["rows"] == len(ROWS)
    assert table["bytes"] > 0
    assert table["details"]["versions"] > 0
    people = run("info", f"lancedb://{lance}")
    assert people.code == 0
    assert "vectors" in people.out


def test_a_store_by_the_name_of_its_backend(run: Run, both: Path) -> None:
    finished = run("tables", "lancedb", "--config", both)
    assert finished.lines[1] == ["notes", "4", "3", "cosine", "test-model"]


def test_the_environment_flips_what_a_toml_file_says(
    run: Run, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "lancedb")
    assert json.loads(run("info", "--config", both, "--json").out)["backend"] == "lancedb"


def test_search(run: Run, lance: Path) -> None:
    finished = run("search", f"lancedb://{lance}", "notes", "--like", "a", "--where", "year > 2020")
    assert [line[1] for line in finished.lines] == ["id", "b", "c"]


def test_optimize_and_backup(run: Run, lance: Path, folder: Path) -> None:
    assert run("optimize", f"lancedb://{lance}").out.startswith("optimized notes in ")
    assert run("backup", f"lancedb://{lance}", "copy.lance").code == 0
    assert run("tables", "lancedb://copy.lance").lines[1][:2] == ["notes", "4"]


@pytest.mark.parametrize("command", ["tables", "info", "optimize"])
def test_a_store_that_is_not_there_is_not_made(run: Run, folder: Path, command: str) -> None:
    finished = run(command, "lancedb://missing")
    assert finished.code == 1
    assert finished.err.startswith("error: there is no store at ")
    assert list(folder.iterdir()) == []


# doctor


def test_a_sound_installation(run: Run) -> None:
    facts = found(run("doctor", "--json"))
    assert facts["lancedb"]["value"] == lancedb.__version__
    assert facts["lancedb import"]["value"] == "works"
    assert facts["obstore"]["ok"]


def test_a_sound_store(run: Run, lance: Path) -> None:
    before = all_contents(lance)
    finished = run("doctor", f"lancedb://{lance}", "--json")
    assert finished.code == 0
    assert found(finished)["store"]["value"].endswith(" bytes")
    assert found(finished)["table notes"]["value"] == "4 rows"
    assert found(finished)["free space"]["ok"]
    assert all_contents(lance) == before


def test_a_store_that_is_not_there_yet_is_not_looked_for(run: Run, folder: Path) -> None:
    finished = run("doctor", "lancedb://missing", "--json")
    assert finished.code == 0
    assert found(finished)["store"]["value"].endswith("missing: does not exist yet")
    assert list(folder.iterdir()) == []


def test_a_file_where_a_folder_should_be(run: Run, folder: Path) -> None:
    (folder / "file").write_text("no folder")
    finding = wrong(run("doctor", "lancedb://file", "--json"))["store"]
    assert "is a file" in finding["value"]
    assert finding["cure"]


def test_a_table_whose_data_is_gone(run: Run, lance: Path) -> None:
    shutil.rmtree(lance / "notes.lance" / "data")
    finished = run("doctor", f"lancedb://{lance}", "--json")
    assert finished.code == 1
    assert wrong(finished)["table notes"]["cure"] == "restore the folder from a backup"


def test_a_table_of_another_program(run: Run, lance: Path) -> None:
    lancedb.connect(lance).create_table("theirs", [{"x": 1}])
    finding = wrong(run("doctor", f"lancedb://{lance}", "--json"))["table theirs"]
    assert "no aiovec schema" in finding["value"]
    assert "another folder" in finding["cure"]


def test_ids_that_another_program_wrote_twice(run: Run, lance: Path) -> None:
    table = lancedb.connect(lance).open_table("notes")
    table.add(table.to_arrow().slice(0, 1))
    finding = wrong(run("doctor", f"lancedb://{lance}", "--json"))["table notes"]
    assert finding["value"] == "5 rows; 1 of them repeat the id of another row"


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0,
    reason="the rights of a folder do not bind this user",
)
def test_a_folder_that_cannot_be_written(run: Run, lance: Path) -> None:
    lance.chmod(0o500)
    try:
        finished = run("doctor", f"lancedb://{lance}", "--json")
    finally:
        lance.chmod(0o700)
    assert set(wrong(finished)) == {"folder"}
    assert found(finished)["table notes"]["ok"]


def test_the_managed_service_needs_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANCEDB_API_KEY", raising=False)
    assert "LANCEDB_API_KEY" in wrong(run("doctor", "db://notes", "--json"))["key"]["cure"]
    monkeypatch.setenv("LANCEDB_API_KEY", "sk-secret")
    finished = run("doctor", "db://notes", "--json")
    assert finished.code == 0
    assert "sk-secret" not in finished.out


def test_a_bucket_is_not_looked_into(run: Run) -> None:
    finished = run("doctor", "s3://user:secret@bucket/notes", "--json")
    assert finished.code == 0
    assert "not checked here" in found(finished)["store"]["value"]
    assert "secret" not in finished.out


def test_where_lancedb_cannot_be_imported() -> None:
    finished = doctor_without("lancedb")
    assert set(wrong(finished)) == {"lancedb import"}
    assert 'pip install "aiovec[lancedb]"' in wrong(finished)["lancedb import"]["cure"]


def test_where_lancedb_is_not_installed(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is wrong only where it is needed."""
    from importlib import metadata

    version = metadata.version

    def without(name: str) -> str:
        if name in ("lancedb", "obstore"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    finished = run("doctor", "--json")
    assert finished.code == 0
    assert found(finished)["lancedb"]["value"].startswith("not installed; ")
    assert "lancedb import" not in found(finished)

    assert set(wrong(run("doctor", "lancedb://x", "--json"))) == {"lancedb"}
    finished = run("doctor", "s3://bucket/x", "--json")
    assert set(wrong(finished)) == {"lancedb", "obstore"}
    assert wrong(finished)["obstore"]["cure"] == 'pip install "aiovec[lancedb]"'
    assert contents(folder) == {}
