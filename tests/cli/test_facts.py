"""aiovec info and aiovec tables."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from aiovec import Embed, Field, Schema, VectorStore, sync
from aiovec._cli.facts import shown_for_people

from .conftest import ROWS, SCHEMA, Run


def test_tables_lists_the_tables(run: Run, store: Path) -> None:
    finished = run("tables", store)
    assert finished.code == 0
    assert finished.err == ""
    assert finished.lines == [
        ["table", "rows", "dim", "metric", "model"],
        ["notes", "4", "3", "cosine", "test-model"],
    ]


def test_tables_as_json(run: Run, store: Path) -> None:
    finished = run("tables", store, "--json")
    assert finished.code == 0
    assert json.loads(finished.out) == {
        "tables": [
            {"name": "notes", "rows": 4, "dim": 3, "metric": "cosine", "model": "test-model"}
        ]
    }


def test_info_tells_the_store_and_its_tables(run: Run, store: Path) -> None:
    finished = run("info", store)
    assert finished.code == 0
    facts = dict(line.split(None, 1) for line in finished.out.splitlines() if line)
    assert facts["store"] == str(store)
    assert facts["backend"] == "sqlite"
    assert facts["table"] == "notes"
    assert facts["rows"] == "4"
    assert facts["vectors"] == "embedding, 3 dimensions, cosine"
    assert facts["fields"] == "lang: text (index=bitmap), year: int, body: text"
    assert facts["keywords"] == "none: no field has text=True"
    assert facts["embedder"] == "none"
    assert facts["searched"] == "from the file"
    assert facts["searches"] == "none"


def test_info_tells_the_text_fields_and_the_embedder(run: Run, folder: Path) -> None:
    schema = Schema(
        256,
        fields={"title": Field(str, text=True), "body": Field(str, text=True), "year": int},
        analyzer="english",
        embed=Embed("body"),
    )
    with sync.connect("texts.db", embedders={"default": {"kind": "demo"}}) as store:
        store.create_table("docs", schema)
    finished = run("info", "texts.db")
    facts = dict(line.split(None, 1) for line in finished.out.splitlines() if line)
    assert facts["keywords"] == "title, body (analyzer english)"
    assert facts["embedder"] == "default, of the field body"
    assert facts["model"] == "aiovec-demo-hash-256"


def test_figures_are_shown_for_people() -> None:
    measured = {"searches": 15000, "queue_ms": 0.0557686, "largest_batch": 32, "batch": 8.125}
    shown = "searches 15,000, queue 0.0558 ms, largest batch 32, batch 8.12"
    assert shown_for_people(measured) == shown
    assert shown_for_people({}) == "none"
    assert shown_for_people(2**63 - 1) == "9,223,372,036,854,775,807"
    assert shown_for_people(123456.7) == "123,457"
    assert shown_for_people("in memory") == "in memory"
    assert shown_for_people(True) is True


def test_info_as_json_holds_the_schema_as_its_json_form(run: Run, store: Path) -> None:
    found = json.loads(run("info", store, "--json").out)
    assert found["target"] == str(store)
    assert "backup" in found["abilities"]
    (table,) = found["tables"]
    assert table["schema"] == SCHEMA.to_dict()
    assert table["rows"] == len(ROWS)
    assert table["bytes"] > 0
    assert table["last_optimize"] is None
    assert table["details"]["searches"] == {}


def test_info_of_one_table(run: Run, store: Path) -> None:
    found = json.loads(run("info", store, "notes", "--json").out)
    assert [table["name"] for table in found["tables"]] == ["notes"]
    missing = run("info", store, "absent")
    assert missing.code == 1
    assert "there is no table 'absent'; the tables are: 'notes'" in missing.err


@pytest.mark.parametrize("command", ["tables", "info", "optimize"])
def test_a_store_that_is_not_there_is_not_made(run: Run, folder: Path, command: str) -> None:
    for target in ("missing.db", "missing/deep.db", "missing"):
        finished = run(command, target)
        assert finished.code == 1
        assert finished.err.startswith("error: there is no store at ")
        assert finished.out == ""
    assert list(folder.iterdir()) == []


# Which store


def test_the_toml_file_names_the_store(
    run: Run, store: Path, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(run("info", "--config", config, "--json").out)["target"] == str(store)

    monkeypatch.setenv("AIOVEC_CONFIG", str(config))
    assert json.loads(run("info", "--json").out)["target"] == str(store)

    monkeypatch.delenv("AIOVEC_CONFIG")
    (folder / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "notes.db"\n', "utf-8")
    assert json.loads(run("info", "--json").out)["target"] == str(store)


@pytest.mark.parametrize("command", ["tables", "info", "optimize", "advise"])
def test_a_table_that_is_dropped_meanwhile_is_left_out(
    run: Run, store: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = VectorStore.tables

    async def tables(self: VectorStore) -> list[str]:
        await self.create_table("brief", SCHEMA)
        names = await known(self)
        await self.drop_table("brief")
        return names

    monkeypatch.setattr(VectorStore, "tables", tables)
    finished = run(command, store, "--json")
    assert finished.code == 0, finished.err
    found = json.loads(finished.out)["tables"]
    assert len(found) == 1
    assert "brief" not in finished.out


def test_with_config_a_store_may_be_a_backends_name(run: Run, store: Path, config: Path) -> None:
    text = config.read_text("utf-8").replace(
        'backend = "sqlite"', 'backend = "remote"\nremote_url = "http://127.0.0.1:1"'
    )
    config.write_text(text, "utf-8")
    named = run("info", "sqlite", "--config", config, "--json")
    assert json.loads(named.out)["target"] == str(store)

    without = run("info", "--config", config)
    assert without.code == 1
    assert "no server answers at http://127.0.0.1:1" in without.err


def test_without_config_a_backends_name_is_a_path(run: Run, folder: Path) -> None:
    finished = run("tables", "sqlite")
    assert finished.code == 1
    assert f"there is no store at {folder / 'sqlite' / 'vectors.sqlite'}" in finished.err


def test_with_config_a_target_is_still_a_target(run: Run, store: Path, config: Path) -> None:
    assert run("tables", store, "--config", config).lines[1][0] == "notes"


def test_nothing_that_names_a_store_is_an_error_that_says_what_can(run: Run) -> None:
    finished = run("tables")
    assert finished.code == 1
    assert "aiovec.toml" in finished.err
    assert "AIOVEC_CONFIG" in finished.err
    assert finished.err.count("\n") == 1


def test_a_file_of_another_application_is_an_error_in_one_line(run: Run, folder: Path) -> None:
    with sqlite3.connect(folder / "other.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = (folder / "other.db").read_bytes()
    finished = run("tables", "other.db")
    assert finished.code == 1
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert (folder / "other.db").read_bytes() == before
