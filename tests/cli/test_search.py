"""aiovec search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiovec import Embed, Field, Schema, sync

from .conftest import Run


def ids(run: Run, *arguments: object) -> list[str]:
    finished = run("search", *arguments, "--json")
    assert finished.code == 0, finished.err
    return [hit["id"] for hit in json.loads(finished.out)["hits"]]


def test_by_a_vector(run: Run, store: Path) -> None:
    assert ids(run, store, "notes", "--vector", "[1, 0, 0]", "--limit", 2) == ["a", "b"]


def test_by_a_vector_in_a_file(run: Run, store: Path, folder: Path) -> None:
    (folder / "vector.json").write_text("[0, 1.0, 0]\n", "utf-8")
    assert ids(run, store, "notes", "--vector", "@vector.json", "--limit", 1) == ["c"]


def test_like_a_row_which_is_left_out_itself(run: Run, store: Path) -> None:
    assert ids(run, store, "notes", "--like", "a", "--limit", 2) == ["b", "c"]
    assert len(ids(run, store, "notes", "--like", "a", "--limit", 100)) == 3


def test_where_and_select(run: Run, store: Path) -> None:
    finished = run(
        "search", store, "notes", "--vector", "[1,0,0]", "--where", "lang = 'en' AND year > 2020",
        "--select", "year,lang",
    )  # fmt: skip
    assert finished.code == 0
    assert finished.lines == [["score", "id", "year", "lang"], ["0.0000", "c", "2022", "en"]]
    repeated = run("search", store, "notes", "--like", "a", "--select", "year", "--select", "lang")
    assert repeated.lines[0] == ["score", "id", "year", "lang"]


def test_the_store_of_the_toml_file(run: Run, config: Path) -> None:
    assert ids(run, "notes", "--config", config, "--like", "a", "--limit", 1) == ["b"]
    assert ids(run, "sqlite", "notes", "--config", config, "--like", "a", "--limit", 1) == ["b"]


def test_json_holds_hits_as_their_dicts(run: Run, store: Path) -> None:
    finished = run("search", store, "notes", "--vector", "[1,0,0]", "--limit", 1, "--json")
    found = json.loads(finished.out)
    assert found["hits"] == [
        {
            "id": "a",
            "_score": pytest.approx(1),
            "_distance": pytest.approx(0, abs=1e-6),
            "lang": "en",
            "year": 2020,
            "body": "first",
        }
    ]
    assert found["seconds"] > 0


def test_stored_text_stays_in_its_line_and_whole_in_a_pipe(run: Run, store: Path) -> None:
    finished = run("search", store, "notes", "--like", "a", "--select", "body")
    bodies = {line[1]: line[2] for line in finished.lines[1:]}
    assert bodies["b"] == "zweite Zeile"
    assert bodies["c"] == "third \N{REPLACEMENT CHARACTER}[31mred"
    assert bodies["d"] == "x" * 1000
    assert "\x1b" not in finished.out


def test_no_hits_are_no_failure(run: Run, store: Path) -> None:
    assert ids(run, store, "notes", "--vector", "[1,0,0]", "--where", "FALSE") == []
    finished = run("search", store, "notes", "--vector", "[1,0,0]", "--where", "FALSE")
    assert finished.code == 0
    assert finished.lines == [["score", "id"]]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--vector", "[1,0,0]", "--like", "a"],
        ["--vector", "[1,0"],
        ["--vector", "{}"],
        ["--vector", "[true]"],
        ["--vector", '["1"]'],
        ["--vector", "[" * 100_000],
        ["--vector", "@missing.json"],
        ["--like", "a", "--limit", "0"],
        ["--like", "a", "--limit", "many"],
        ["--like", "a", "--unknown"],
        ["one-too-many", "--like", "a"],
    ],
)
def test_wrong_usage_ends_with_2(run: Run, store: Path, options: list[str]) -> None:
    finished = run("search", store, "notes", *options)
    assert finished.code == 2
    assert finished.out == ""
    assert "Usage: aiovec search" in finished.err


def test_no_arguments_are_wrong_usage(run: Run) -> None:
    assert run("search").code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vector", "[1,0]"], "2 dimensions"),
        (["--vector", "[0,0,0]"], "zero"),
        (["--vector", "[NaN,0,0]"], "nan"),
        (["--like", "absent"], "--like must be the id of a row of the table 'notes', not 'absent'"),
        (["--like", "a", "--where", "lang ="], "position"),
        (["--like", "a", "--where", "absent = 1"], "absent"),
        (["--like", "a", "--select", "absent"], "absent"),
    ],
)
def test_a_failure_ends_with_1_and_one_line(
    run: Run, store: Path, options: list[str], message: str
) -> None:
    finished = run("search", store, "notes", *options)
    assert finished.code == 1
    assert finished.out == ""
    assert finished.err.startswith("error: ")
    assert message in finished.err
    assert finished.err.count("\n") == 1


# With the embedder of the TOML file


@pytest.fixture
def texts(folder: Path) -> Path:
    """A store whose table makes vectors of its texts, and the TOML file that names it."""
    schema = Schema(256, fields={"body": Field(str, text=True)}, embed=Embed("body"))
    with sync.connect("texts.db", embedders={"default": {"kind": "demo"}}) as store:
        store.create_table("docs", schema)
        store.insert(
            "docs",
            [
                {"id": "wool", "body": "Wash wool in cold water."},
                {"id": "snow", "body": "Snow is frozen water."},
                {"id": "door", "body": "The door is open."},
            ],
        )
    path = folder / "texts.toml"
    path.write_text(
        '[retrieval]\nsqlite_path = "texts.db"\n[retrieval.embedders.default]\nkind = "demo"\n',
        "utf-8",
    )
    return path


def test_words_are_embedded_by_the_embedder_of_the_toml_file(run: Run, texts: Path) -> None:
    by_both = ids(run, "docs", "cold water", "--config", texts)
    assert by_both == ids(run, "docs", "cold water", "--hybrid", "--config", texts)
    assert by_both[0] == "wool"
    assert len(by_both) == 3  # one matches no word
    assert set(ids(run, "docs", "water -cold", "--text", "--config", texts)) == {"snow"}
    by_vector = ids(run, "docs", "--vector", "opened doors", "--config", texts)
    assert by_vector[0] == "door"
    assert len(by_vector) == 3


def test_words_without_their_embedder_say_what_to_do(run: Run, texts: Path) -> None:
    for options in (["cold water"], ["cold water", "--hybrid"], ["--vector", "cold water"]):
        finished = run("search", "texts.db", "docs", *options)
        assert finished.code == 1
        assert "[retrieval.embedders.default] in the TOML file" in finished.err
    assert ids(run, "texts.db", "docs", "cold water", "--text") == ["wool"]
    assert "--text searches by keywords alone" in run("search", "texts.db", "docs", "cold").err


def test_a_text_for_a_table_without_an_embedder(run: Run, store: Path) -> None:
    finished = run("search", store, "notes", "--vector", "1, 0, 0")
    assert finished.code == 1
    assert "the table 'notes' has no embedder" in finished.err


@pytest.fixture
def words(folder: Path) -> Path:
    """A store with a text field and a row without a vector."""
    schema = Schema(2, fields={"body": Field(str, text=True), "doc": str}, vector_nullable=True)
    with sync.connect(folder / "words.db") as store:
        store.create_table("notes", schema)
        store.insert(
            "notes",
            [
                {"id": "a", "embedding": [1, 0], "body": "red wool", "doc": "one"},
                {"id": "b", "embedding": [1, 0.1], "body": "red hat", "doc": "one"},
                {"id": "c", "embedding": [0, 1], "body": "blue hat", "doc": "two"},
                {"id": "bare", "body": "grey scarf", "doc": "two"},
            ],
        )
    return folder / "words.db"


def test_bounds_groups_and_any_word(run: Run, words: Path) -> None:
    vector = ("--vector", "[1, 0]")
    assert ids(run, words, "notes", *vector, "--min-score", 0.9) == ["a", "b"]
    assert ids(run, words, "notes", *vector, "--max-distance", 0.001) == ["a"]
    assert ids(run, words, "notes", *vector, "--group-by", "doc") == ["a", "c"]
    two = ("--group-by", "doc", "--per-group", 2, "--limit", 1)
    assert ids(run, words, "notes", *vector, *two) == ["a", "b"]
    assert ids(run, words, "notes", "--like", "a", "--max-distance", 0.1) == ["b"]
    assert ids(run, words, "notes", "red scarf") == []
    assert sorted(ids(run, words, "notes", "red scarf", "--any")) == ["a", "b", "bare"]
    for wrong in (
        ("red", "--max-distance", 1), (*vector, "--any"), ("red", "--vector", "--any"),
        (*vector, "--per-group", 0),
    ):  # fmt: skip
        assert run("search", words, "notes", *wrong).code == 2


def test_like_a_row_without_a_vector(run: Run, words: Path) -> None:
    finished = run("search", words, "notes", "--like", "bare")
    assert finished.code == 1
    assert "the id of a row that has a vector, not 'bare'" in finished.err
