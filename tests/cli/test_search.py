"""aiovec search, rows and distinct."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.transfer.support import error_of

from aiovec import Embed, Field, Schema, sync

from .conftest import Run

HOSTILE = ['red "wool", x', "", "=cmd\nnew\x1b[31m;\t", None, "é日😀"]


def ids(run: Run, *arguments: object) -> list[str]:
    return [hit["id"] for hit in run("search", *arguments, "--json").json["hits"]]


def test_a_search_takes_a_vector_or_a_row(run: Run, store: Path, config: Path) -> None:
    notes = ("notes", "-s", store)
    assert ids(run, *notes, "--vector", "[1, 0, 0]", "--limit", 2) == ["a", "b"]
    assert ids(run, *notes, "--like", "a", "--limit", 2) == ["b", "c"]
    assert len(ids(run, *notes, "--like", "a", "--limit", 100)) == 3
    assert ids(run, "notes", "--config", config, "--like", "a", "--limit", 1) == ["b"]
    assert ids(run, "notes", "-s", "sqlite", "--config", config, "--like", "a", "--limit", 1) == [
        "b"
    ]
    result = run("search", *notes, "--vector", "[1,0,0]", "--limit", 1, "--json").json
    assert result["hits"] == [
        {
            "id": "a", "_score": pytest.approx(1), "_distance": pytest.approx(0, abs=1e-6),
            "lang": "en", "year": 2020, "body": "first",
        }
    ]  # fmt: skip
    assert result["seconds"] > 0


def test_a_search_shows_chosen_fields_in_one_line_each(run: Run, store: Path) -> None:
    by_vector = ("search", "-s", store, "notes", "--vector", "[1,0,0]")
    shown = run(*by_vector, "--where", "lang = 'en' AND year > 2020", "--select", "year,lang")
    assert shown.lines == [["score", "id", "year", "lang"], ["0.0000", "c", "2022", "en"]]
    repeated = run(*by_vector, "--select", "year", "--select", "lang")
    assert repeated.lines[0] == ["score", "id", "year", "lang"]
    none = run(*by_vector, "--where", "FALSE")
    assert (none.code, none.lines) == (0, [["score", "id"]])
    finished = run("search", "-s", store, "notes", "--like", "a", "--select", "body")
    bodies = {line[1]: line[2] for line in finished.lines[1:]}
    assert bodies["b"] == "zweite Zeile"  # stored text stays on its line,
    assert bodies["c"] == "third \N{REPLACEMENT CHARACTER}[31mred"  # does nothing to a terminal,
    assert bodies["d"] == "x" * 1000  # and is whole in a pipe


@pytest.fixture
def texts(folder: Path) -> Path:
    """Return a TOML file with an embedder, whose store has texts, and a row without a vector."""
    path = folder / "texts.toml"
    path.write_text(
        '[retrieval]\nsqlite_path = "texts.db"\n[retrieval.embedders.default]\nkind = "demo"\n'
    )
    fields = {"body": Field(str, text=True), "doc": Field(str)}
    schema = Schema(256, fields=fields, embed=Embed("body"), vector_nullable=True)
    with sync.connect(config=path) as store:
        store.create_table("docs", schema)
        bodies = {
            "wool": "Wash wool in cold water.", "snow": "Snow is frozen water.",
            "door": "The door is open.", "bare": None,
        }  # fmt: skip
        store.insert("docs", [{"id": id, "body": body, "doc": "d"} for id, body in bodies.items()])
    return path


def test_a_search_takes_words_meaning_or_both(run: Run, texts: Path) -> None:
    toml = ("--config", texts)
    by_both = ids(run, "docs", "cold water", *toml)
    assert by_both == ids(run, "docs", "cold water", "--by", "hybrid", *toml)
    assert (by_both[0], len(by_both)) == ("wool", 3)  # one matches no word
    merged = run("search", "docs", "cold water", "--where", "id != 'door'", *toml)
    assert merged.lines[0][:3] == ["score", "distance", "id"]
    near = run("search", "docs", "cold water", "--by", "vector", "--json", *toml).json["hits"]
    distances = {hit["id"]: f"{hit['_distance']:.4f}" for hit in near}
    assert [line[1] == distances[line[2]] for line in merged.lines[1:]] == [True, True]
    assert all(float(score) >= 0.1 for score, *_ in merged.lines[1:])
    assert ids(run, "docs", "water -cold", "--by", "text", *toml) == ["snow"]
    assert ids(run, "docs", "cold door", "--by", "text", "--match", "all", *toml) == []
    by_words = ("docs", "cold door", "--by", "text", *toml)
    assert sorted(ids(run, *by_words)) == ["door", "wool"]
    assert sorted(ids(run, *by_words, "--match", "any")) == ["door", "wool"]
    shown = run("search", "docs", "water", "--by", "text", *toml).lines  # in half of the rows
    assert [float(score) > 0 for score, *_ in shown[1:]] == [True, True]
    assert ids(run, "docs", "opened doors", "--by", "vector", *toml)[0] == "door"
    vector = json.dumps([1.0] + [0.0] * 255)
    assert len(ids(run, "docs", "--vector", vector, *toml)) == 3
    assert ids(run, "docs", "--like", "wool", "--min-score", 0.999, *toml) == []
    assert ids(run, "docs", "cold water", "--offset", 1, *toml) == by_both[1:]
    like = ("--like", "wool", "--like", "snow")
    assert ids(run, "docs", *like, *toml) == ["door"]
    assert ids(run, "docs", *like, "--not-like", "door", *toml) == []
    bare = run("search", "docs", "--like", "bare", *toml)
    assert "the id of a row that has a vector, not 'bare'" in bare.err


def test_a_boost_ranks_newer_rows_first(run: Run) -> None:
    with sync.connect("news.db") as store:
        store.create_table("news", Schema(2, fields={"at": Field(datetime)}))
        for id, days in (("new", 1), ("old", 100)):
            at = datetime.now(UTC) - timedelta(days)
            store.insert("news", [{"id": id, "embedding": [1, 0.2 * (days == 1)], "at": at}])
    search = ("news", "--vector", "[1, 0]", "-s", "news.db")
    assert ids(run, *search) == ["old", "new"]
    assert ids(run, *search, "--boost", "at:7d:0.9") == ["new", "old"]


def test_a_search_by_meaning_names_the_missing_embedder(run: Run, texts: Path) -> None:
    with sync.connect("other.db") as store:
        schema = Schema(2, model="m", fields={"body": Field(str, text=True)}, embed=Embed("body"))
        store.create_table("docs", schema)
        store.insert("docs", [{"id": "wool", "body": "cold water", "embedding": [1, 2]}])
    for options in (["cold water"], ["cold water", "--by", "hybrid"], ["cold", "--by", "vector"]):
        assert (
            "pass --embedder KIND, such as local, or --config FILE, or search with --by text"
            in error_of("search", "docs", *options, "-s", "other.db")
        )
    assert ids(run, "docs", "cold water", "--by", "text", "-s", "other.db") == ["wool"]


def test_rows_and_distinct_filter_sort_and_limit(run: Run, folder: Path) -> None:
    path = folder / "rows.db"
    with sync.connect(path) as store:
        fields = {"body": Field(str), "year": Field(int), "tags": Field(list[str])}
        store.create_table("docs", Schema(2, fields=fields))
        store.create_table("bare", Schema(2))
        rows = [
            {
                "id": str(n), "embedding": [1.0, n], "body": HOSTILE[n % 5], "year": n,
                "tags": ["a", "b"][: n % 3], "k": {"z": n % 2},
            }
            for n in range(10)
        ]  # fmt: skip
        store.insert("docs", rows)
    docs = ("docs", "-s", path)
    shown = run("rows", *docs, "--order-by=-year", "--limit", 2, "--select", "year,tags")
    assert shown.lines == [["id", "year", "tags"], ["9", "9", "[]"], ["8", "8", '["a", "b"]']]
    matches = run("rows", "-s", path, "docs", "--where", "year >= 7", "--json").json["rows"]
    assert [row["id"] for row in matches] == ["7", "8", "9"]
    assert matches[1]["k"] == {"z": 0}
    assert run("rows", "-s", path, "bare").lines == [["id"]]
    assert run("rows", "-s", path, "bare", "--json").json == {"rows": []}
    assert run("distinct", "-s", path, "docs", "payload.k.z").lines == [
        ["rows", "payload.k.z"], ["5", "0"], ["5", "1"],
    ]  # fmt: skip
    selected = run(
        "distinct", "-s", path, "docs", "tags", "--where", "year < 9", "--limit", 1, "--json"
    )
    assert selected.json == {"values": [{"value": "a", "rows": 6}]}
    assert "\x1b" not in run("distinct", "-s", path, "docs", "body").out
