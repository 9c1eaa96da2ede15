"""aiovec doctor: what it finds, what it calls wrong, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec._embed.findings import findings_of_embedders
from aiovec._settings.embedders import EmbedderSettings
from aiovec.backend import Finding
from aiovec_sqlite.doctor import findings

from .conftest import Finished, Run


def found(finished: Finished) -> dict[str, dict[str, Any]]:
    return {finding["subject"]: finding for finding in json.loads(finished.out)["findings"]}


def wrong(finished: Finished) -> dict[str, dict[str, Any]]:
    return {subject: finding for subject, finding in found(finished).items() if not finding["ok"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_sound_installation(run: Run) -> None:
    finished = run("doctor", "--json")
    assert finished.code == 0
    assert json.loads(finished.out)["ok"] is True
    assert found(finished)["aiovec"]["value"] == aiovec.__version__
    assert {"python", "platform", "sqlite driver", "sqlite", "sqlite-vec", "simd", "fts5"} <= set(
        found(finished)
    )


def test_lines_for_people_end_with_the_verdict(run: Run) -> None:
    finished = run("doctor")
    assert finished.code == 0
    lines = finished.out.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1] == "doctor: nothing is wrong"


def test_a_sound_store(run: Run, store: Path, folder: Path) -> None:
    before = contents(folder)
    finished = run("doctor", store, "--json")
    assert finished.code == 0
    facts = found(finished)
    assert facts["page size"]["value"] == "16,384 bytes"
    assert facts["journal"]["value"].startswith("none")
    assert facts["integrity"]["value"] == "sound"
    assert facts["table notes"]["value"] == "4 rows"
    assert contents(folder) == before


def test_embedders_of_the_toml_file(
    run: Run, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is shown with what it lacks; a key is never shown, and nothing is embedded."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("SOME_KEY", "sk-secret-123456")
    (folder / "broken_embedder.py").write_text("raise RuntimeError('at import')", "utf-8")
    sections = {
        "default": 'kind = "demo"',
        "local": 'model = "m"\ndim = 4\nbase_url = "http://127.0.0.1:9/v1"',
        "keyed": 'model = "m"\ndim = 4\nbase_url = "http://me:pw@h/v1"\napi_key_env = "SOME_KEY"',
        "keyless": 'model = "m"\ndim = 4',
        "nameless": "dim = 4",
        "absent": 'kind = "no_such_module_x:y"',
        "broken": 'kind = "broken_embedder:y"',
    }
    with config.open("a", encoding="utf-8") as file:
        for name, keys in sections.items():
            file.write(f"\n[retrieval.embedders.{name}]\n{keys}\n")
    finished = run("doctor", "--config", config, "--json")
    assert finished.code == 1
    facts = {
        subject.removeprefix("embedder "): finding
        for subject, finding in found(finished).items()
        if subject.startswith("embedder ")
    }
    assert set(facts) == set(sections)
    assert {name for name, fact in facts.items() if fact["ok"]} == {"default", "local", "keyed"}
    assert facts["default"]["value"] == "demo, aiovec-demo-hash-256, 256 dimensions"
    assert facts["local"]["value"].endswith("at http://127.0.0.1:9/v1, without a key")
    assert facts["keyed"]["value"].endswith(", SOME_KEY is set")
    assert facts["keyless"]["cure"].startswith("set OPENAI_API_KEY")
    assert "retrieval.embedders.nameless.model" in facts["nameless"]["value"]
    assert "no_such_module_x" in facts["absent"]["value"]
    assert "at import" in facts["broken"]["value"]
    assert "sk-secret" not in finished.out
    assert "pw" not in facts["keyed"]["value"]


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        ("openai", "aiohttp", "openai"),
        ("fastembed", "fastembed", "fastembed"),
        ("sentence-transformers", "sentence_transformers", "sentence-transformers"),
    ],
)
def test_an_embedder_whose_package_is_missing(
    kind: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    section = EmbedderSettings(kind=kind, model="m", dim=4)
    (finding,) = findings_of_embedders({"default": section})
    assert not finding.ok
    assert f"the package {module} is not installed" in finding.value
    assert finding.cure == f'pip install "aiovec[{extra}]"'


async def test_rows_without_vectors_are_no_damage(folder: Path) -> None:
    """Where the schema allows them: it told to restore the file from a backup."""
    path = folder / "nullable.db"
    async with aiovec.connect(path) as store:
        await store.create_table("t", aiovec.Schema(2, vector_nullable=True))
        await store.insert(
            "t", [{"id": f"{n}", "embedding": [1, n] if n % 2 else None} for n in range(10)]
        )
    (table,) = [one for one in await asyncio.to_thread(told_of, path) if one.subject == "table t"]
    assert (table.ok, table.value) == (True, "10 rows, 5 of them without a vector")

    def harm() -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM \"t.rows\" WHERE id = '1'")
            db.commit()

    await asyncio.to_thread(harm)
    (table,) = [one for one in await asyncio.to_thread(told_of, path) if one.subject == "table t"]
    assert not table.ok


def told_of(path: Path) -> list[Finding]:
    return list(findings(path))


async def test_a_store_in_use(store: Path) -> None:
    async with aiovec.connect(str(store)) as vectors:
        await vectors.delete("notes", "a")
        facts = {finding.subject: finding for finding in await asyncio.to_thread(findings, store)}
        assert facts["table notes"] == Finding("table notes", "3 rows")
        assert facts["integrity"].ok
        assert facts["journal"].value.startswith("wal, ")
        assert await vectors.count("notes") == 3


def test_a_store_that_is_not_there_yet_is_not_made(run: Run, folder: Path) -> None:
    finished = run("doctor", "missing.db", "--json")
    assert finished.code == 0
    assert found(finished)["store"]["value"].endswith("missing.db: does not exist yet")
    assert list(folder.iterdir()) == []


def test_the_store_of_the_toml_file(run: Run, config: Path) -> None:
    assert found(run("doctor", "--config", config, "--json"))["table notes"]["ok"]


def test_a_toml_file_that_cannot_be_used(run: Run, config: Path) -> None:
    config.write_text("[retrieval]\nbackend = 7\n", "utf-8")
    finished = run("doctor", "--config", config, "--json")
    assert finished.code == 1
    (finding,) = wrong(finished).values()
    assert finding["subject"] == "configuration"
    assert "backend" in finding["value"]
    assert finding["cure"]


def test_a_server_that_does_not_answer(run: Run, config: Path) -> None:
    config.write_text(
        '[retrieval]\nbackend = "remote"\nremote_url = "http://127.0.0.1:1"\n', "utf-8"
    )
    finished = run("doctor", "--config", config, "--json")
    assert finished.code == 1
    (finding,) = wrong(finished).values()
    assert "http://127.0.0.1:1" in finding["value"]
    assert "aiovec serve" in finding["cure"]


def test_a_damaged_file(run: Run, store: Path, folder: Path) -> None:
    content = bytearray(store.read_bytes())
    content[3 * 16_384 : 4 * 16_384] = os.urandom(16_384)
    store.write_bytes(content)
    finished = run("doctor", store)
    assert finished.code == 1
    assert "cure: restore the file from a backup" in finished.out
    assert finished.out.splitlines()[-1] == "doctor: 1 thing is wrong"
    assert store.read_bytes() == content


def test_a_file_cut_short(run: Run, store: Path) -> None:
    store.write_bytes(store.read_bytes()[: 2 * 16_384])
    assert "store" in wrong(run("doctor", store, "--json"))


def test_a_file_of_another_application(run: Run, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
    before = contents(folder)
    finding = wrong(run("doctor", "other.db", "--json"))["store"]
    assert "another application" in finding["value"]
    assert "another path" in finding["cure"]
    assert contents(folder) == before


def test_a_file_of_a_newer_layout(run: Run, store: Path) -> None:
    with store.open("r+b") as file:
        file.seek(60)  # where SQLite keeps user_version
        file.write((99).to_bytes(4, "big"))
    finding = wrong(run("doctor", store, "--json"))["store"]
    assert "layout 99" in finding["value"]
    assert finding["cure"] == "pip install --upgrade aiovec"


def test_rows_that_another_program_left_without_vectors(run: Run, store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("INSERT INTO \"notes.rows\" (id, _seq) VALUES ('foreign', 99)")
        db.commit()
    finding = wrong(run("doctor", store, "--json"))["table notes"]
    assert finding["value"] == "5 rows but 4 vectors; 1 rows have none"


@pytest.mark.skipif(
    os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0,
    reason="the rights of a folder do not bind this user",
)
def test_a_folder_that_cannot_be_written(run: Run, store: Path, folder: Path) -> None:
    folder.chmod(0o500)
    try:
        finished = run("doctor", store, "--json")
    finally:
        folder.chmod(0o700)
    assert set(wrong(finished)) == {"folder"}
    assert found(finished)["integrity"]["ok"]


# Installations that lack something, each in a process of its own


def doctor_without(*modules: str) -> Finished:
    """``aiovec doctor --json`` where these modules cannot be imported."""
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        "sys.argv = ['aiovec', 'doctor', '--json']\n"
        "from aiovec._cli import main\n"
        "main()\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


@pytest.mark.slow
def test_without_pysqlite3_pythons_own_sqlite3_serves_if_it_loads_extensions() -> None:
    finished = doctor_without("pysqlite3", "pysqlite3.dbapi2")
    fact = found(finished)["sqlite driver"]
    if hasattr(sqlite3.Connection, "enable_load_extension"):
        assert fact["value"] == "sqlite3 of Python"
    else:
        assert finished.code == 1
        assert "without loadable extensions" in fact["value"]
        assert set(wrong(finished)) == {"sqlite driver"}
        assert fact["cure"]


def test_without_sqlite_vec() -> None:
    finished = doctor_without("sqlite_vec")
    assert finished.code == 1
    finding = wrong(finished)["sqlite-vec"]
    assert finding["value"] == "the package sqlite-vec is not installed"
    assert "pip install sqlite-vec" in finding["cure"]
