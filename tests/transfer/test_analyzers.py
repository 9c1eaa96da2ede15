"""The analyzer that a new table gets from the texts of an import or a watch."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command import run
from tests.transfer.support import error_of, jsonl, made, schema_of

import aiovec
from aiovec import Field, Schema, sync
from aiovec.errors import ConfigError

_LINES = Path(__file__).with_name("languages.txt").read_text("utf-8").splitlines()
TEXTS = dict(line.split(": ", 1) for line in _LINES)
CODES = "A-113 B/220 C-9 DIN 912 M8x40 A2 RAL 9005 IP67 230V 50Hz XL 12/24 GTIN 4006381333931\n" * 9
UNCLEAR = "no language is clear"


def written(folder: Path, *texts: str) -> Path:
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.md").write_text(f"# {number}\n\n{text}\n", encoding="utf-8")
    return folder


def imported(*arguments: object) -> Any:
    done = run("import", *arguments, "--json")
    assert done.code == 0, done.err
    return done.json


async def test_a_folder_in_each_language_gets_its_analyzer(folder: Path) -> None:
    pytest.importorskip("watchfiles")
    pytest.importorskip("Stemmer")
    async with aiovec.connect(":memory:", embedder="demo") as store:
        for name, text in TEXTS.items():
            place = written(folder / name, text, text)
            async with aiovec.watch(store, place, table=name) as watching:
                await watching.caught_up()
            assert (await store.schema(name)).analyzer == name


@pytest.mark.parametrize("target", ["store.db", "lancedb://store.lance"])
def test_stems_of_the_language_find_other_forms(folder: Path, target: str) -> None:
    pytest.importorskip("Stemmer" if target == "store.db" else "lancedb")
    notes = written(folder / "notes", TEXTS["german"])
    done = run("import", notes, "--embedder", "demo", "-s", target)
    line = "analyzer: german (the language of the first texts); --analyzer NAME sets another for"
    assert f"{line} a new table\n" in done.out
    with sync.connect(target, embedder="demo") as store:
        assert store.search_text("documents", "alter Schlüssel")


@pytest.mark.parametrize(
    ("texts", "embedder", "analyzer"),
    [
        ([CODES], "demo", "english"),
        ([CODES], "openai", "plain"),
        ([TEXTS["german"], TEXTS["french"]], "openai", "plain"),
        (["Lampe", "Der Tisch", "La silla"], "openai", "plain"),
        (
            [TEXTS["english"], "def main(argv):\n    return for_each(x in argv)\n"],
            "openai",
            "english",
        ),
        (["Ця сторінка пояснює, що робити з ключами, і як це не забути. " * 4], "openai", "plain"),  # noqa: RUF001
    ],
)
def test_texts_without_a_clear_language_get_no_stems_of_a_wrong_one(
    folder: Path, texts: list[str], embedder: str, analyzer: str
) -> None:
    rows = [{"id": str(n), "body": text} for n, text in enumerate(texts)]
    options = ["--embed", "body", "--text", "body", "--dry-run", "-s", "store.db"]
    (folder / "aiovec.toml").write_text(
        '[retrieval.embedders.default]\nkind = "openai"\nmodel = "m"\ndim = 8\n'
        'base_url = "http://127.0.0.1:9"\n'
    )
    options += ["--embedder", "demo"] if embedder == "demo" else ["--config", "aiovec.toml"]
    (facts,) = imported(jsonl(folder / "rows.jsonl", rows), *options)["tables"]
    assert facts["analyzer"] == analyzer
    assert (UNCLEAR in facts["analyzer_because"]) == (texts[0] != TEXTS["english"])


def test_all_fields_with_keywords_of_a_csv_decide(folder: Path) -> None:
    pytest.importorskip("Stemmer")
    with (folder / "goods.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "name", "about", "more"])
        rows.writerows([n, f"SKU {n}", "-", TEXTS["spanish"]] for n in range(3))
    options = ["--embed", "about", "--embedder", "demo", "-s", "store.db"]
    options += ["--text", "name", "--text", "about"]
    (facts,) = imported("goods.csv", *options, "--dry-run")["tables"]
    assert facts["analyzer"] == "english"
    (facts,) = imported("goods.csv", *options, "--text", "more", "--dry-run")["tables"]
    assert facts["analyzer"] == "spanish"


def test_rows_with_vectors_get_the_analyzer_of_their_keywords(folder: Path, store: Path) -> None:
    pytest.importorskip("Stemmer")
    rows = [{"id": str(n), "embedding": [1.0, n], "body": TEXTS["swedish"]} for n in range(3)]
    file = jsonl(folder / "rows.jsonl", rows)
    assert imported(file, "-s", store, "--table", "a")["tables"][0]["analyzer"] == "plain"
    (facts,) = imported(file, "-s", store, "--table", "b", "--text", "body")["tables"]
    assert facts["analyzer"] == schema_of(store, "b").analyzer == "swedish"


def test_an_exported_table_keeps_its_analyzer(folder: Path, store: Path) -> None:
    row = {"id": "a", "embedding": [1.0, 0.0], "body": TEXTS["english"]}
    made(store, Schema(2, fields={"body": Field(str, text=True)}), [row])
    for name in ("notes.jsonl", "notes.parquet"):
        assert run("export", "notes", folder / name, "-s", store).code == 0
        (facts,) = imported(folder / name, "-s", store, "--table", name.replace(".", "-"))["tables"]
        assert facts["analyzer"] == "plain"


def test_the_user_chooses_the_analyzer(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", TEXTS["german"])
    facts = imported(notes, "--embedder", "demo", "--analyzer", "ngram", "-s", store)
    assert (facts["analyzer"], facts["analyzer_because"]) == ("ngram", "")
    (notes / "0.md").write_text(TEXTS["french"])
    facts = imported(notes, "-s", store)  # an existing table keeps its own
    assert (facts["analyzer"], facts["analyzer_because"]) == ("ngram", "")
    assert run("import", notes, "--analyzer", "ngram", "-s", store).code == 0
    error = error_of("import", notes, "--analyzer", "french", "-s", store)
    assert "'documents' exists with the analyzer 'ngram'; leave out --analyzer, or name a" in error
    error = error_of("import", notes, "--analyzer", "klingon", "--table", "t", "-s", store)
    assert "analyzer must be 'plain', 'english'" in error


def test_a_language_whose_package_is_missing_gets_another_analyzer(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiovec_sqlite.stems.find_spec", lambda name: None)
    notes = written(folder / "notes", TEXTS["german"])
    facts = imported(notes, "--embedder", "demo", "-s", store)
    assert facts["analyzer"] == schema_of(store, "documents").analyzer == "english"
    assert "analyzer='german' needs the package pystemmer" in facts["analyzer_because"]
    assert "aiovec[languages]" in facts["analyzer_because"]


async def test_the_first_copy_of_a_followed_table_decides(folder: Path, caplog: Any) -> None:
    pytest.importorskip("Stemmer")
    caplog.set_level("INFO", "aiovec.watch")
    with closing(sqlite3.connect("app.db", isolation_level=None)) as db:
        for name in ("full", "empty"):
            db.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, title TEXT, body TEXT)")
        db.execute("INSERT INTO full VALUES (1, 'x', ?)", (TEXTS["italian"],))
        async with aiovec.connect("store.db", embedder="demo") as store:
            for name in ("full", "empty"):
                arguments: dict[str, Any] = {"embed": "body", "text": ["title", "body"]}
                async with aiovec.watch(store, f"app.db#{name}", **arguments) as watching:
                    await watching.caught_up()
                    db.execute(f"INSERT INTO {name} VALUES (2, 'y', ?)", (TEXTS["french"],))
                    await watching.caught_up()
                    assert await store.search_text(name, "service")
            assert (await store.schema("full")).analyzer == "italian"
            assert (await store.schema("empty")).analyzer == "english"  # nothing was read
            async with aiovec.watch(
                store, "app.db#full", table="other", analyzer="french", **arguments
            ) as watching:
                await watching.caught_up()
            assert (await store.schema("other")).analyzer == "french"
            with pytest.raises(ConfigError, match="exists with the analyzer 'french'"):
                await aiovec.watch(
                    store, "app.db#full", table="other", analyzer="german", **arguments
                ).__aenter__()
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("full: analyzer: italian (the language") for line in lines)
    assert any(line.startswith("empty: analyzer: english (no text was") for line in lines)


async def test_a_second_source_of_a_new_table_takes_its_analyzer(folder: Path) -> None:
    pytest.importorskip("Stemmer")
    pytest.importorskip("watchfiles")
    one, two = written(folder / "one", TEXTS["danish"]), written(folder / "two", TEXTS["dutch"])
    async with aiovec.connect(":memory:", embedder="demo") as store:
        async with (
            aiovec.watch(store, one) as first,
            aiovec.watch(store, two, base="https://two.example.com/") as second,
        ):
            await first.caught_up()
            await second.caught_up()
            assert (await first.state()).error == (await second.state()).error == ""
        assert (await store.schema("documents")).analyzer in ("danish", "dutch")
        assert await store.count("documents") == 2
