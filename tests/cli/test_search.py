"""aiovec search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        (["--like", "absent"], "--like must be the id of a row in table 'notes', not 'absent'"),
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
