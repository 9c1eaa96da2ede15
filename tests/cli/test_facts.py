"""aiovec info, tables, optimize, backup and restore."""

from __future__ import annotations

from pathlib import Path

from aiovec import Embed, Field, Schema, sync

from .conftest import ROWS, SCHEMA, Run


def facts_of(text: str) -> dict[str, str]:
    return dict(line.split(None, 1) for line in text.splitlines() if line)


def test_tables_lists_each_table(run: Run, store: Path) -> None:
    finished = run("tables", "-s", store)
    assert (finished.code, finished.err) == (0, "")
    assert finished.lines == [
        ["table", "rows", "dim", "metric", "model"],
        ["notes", "4", "3", "cosine", "test-model"],
    ]
    assert run("tables", "-s", store, "--json").json == {
        "tables": [
            {"name": "notes", "rows": 4, "dim": 3, "metric": "cosine", "model": "test-model"}
        ]
    }


def test_info_describes_the_store_and_its_tables(run: Run, store: Path, folder: Path) -> None:
    facts = facts_of(run("info", "-s", store).out)
    assert (
        facts.items()
        >= {
            "store": str(store),
            "backend": "sqlite",
            "table": "notes",
            "rows": "4",
            "vectors": "embedding, 3 dimensions, cosine",
            "fields": "lang: text (index=bitmap), year: int, body: text",
            "keywords": "no field; aiovec text-index adds one",
            "embedder": "none",
        }.items()
    )
    about = run("info", "-s", store, "notes", "--json").json
    assert about["target"] == str(store)
    assert "backup" in about["abilities"]
    (table,) = about["tables"]
    assert (table["name"], table["rows"]) == ("notes", len(ROWS))
    assert table["schema"] == SCHEMA.to_dict()
    assert table["bytes"] > 0
    fields = {"title": Field(str, text=True), "body": Field(str, text=True)}
    schema = Schema(256, fields=fields, analyzer="english", embed=Embed("body"))
    with sync.connect("texts.db", embedders={"default": {"kind": "demo"}}) as texts:
        texts.create_table("docs", schema)
    facts = facts_of(run("info", "-s", "texts.db").out)
    assert facts["keywords"] == "title, body (analyzer english)"
    assert facts["embedder"] == "default, of the field body"
    assert facts["model"] == "aiovec-demo-hash-256"


def test_optimize_reports_each_table(run: Run, store: Path) -> None:
    assert run("info", "-s", store, "--json").json["tables"][0]["last_optimize"] is None
    assert "optimized" not in facts_of(run("info", "-s", store).out)  # it is null
    finished = run("optimize", "-s", store)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("optimized notes in ")
    assert run("info", "-s", store, "--json").json["tables"][0]["last_optimize"] is not None
    assert "optimized" in facts_of(run("info", "-s", store).out)
    (table,) = run("optimize", "-s", store, "notes", "--json").json["tables"]
    assert (table["name"], table["bytes"] > 0) == ("notes", True)


def test_a_backup_is_restored_and_the_replaced_store_kept(
    run: Run, store: Path, config: Path, folder: Path
) -> None:
    finished = run("backup", "-s", store, "copy.db")
    assert finished.code == 0
    assert finished.out.startswith(f"copied {store} to copy.db in ")
    assert run("tables", "-s", "copy.db").lines == run("tables", "-s", store).lines
    assert run("backup", "again.db", "--config", config, "--json").json["store"] == str(store)
    again = run("backup", "-s", store, "copy.db")  # never over an existing file
    assert (again.code, again.err.count("\n")) == (1, 1)
    with sync.connect(store) as vectors:
        vectors.delete("notes", "a")
    finished = run("restore", "copy.db", "-s", store)
    assert finished.code == 0, finished.err
    assert "the replaced store is now " in finished.out
    assert run("tables", "-s", store).lines[1][:2] == ["notes", "4"]
    kept = finished.out.split("the replaced store is now ")[1].strip()
    assert run("tables", "-s", kept).lines[1][:2] == ["notes", "3"]
    assert run("restore", "copy.db", "-s", store, "--overwrite", "--json").json["kept"] is None
