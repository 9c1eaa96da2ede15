"""aiovec rows, aiovec distinct, and aiovec search with words."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest

import aiovec
from aiovec import Embed, Field, Schema

from .conftest import Run
from .test_command import on_a_terminal, posix_only

HOSTILE = ['red "wool", x', "", "=cmd\nnew\x1b[31m;\t", None, "é日😀"]


@pytest.fixture
def texts(folder: Path) -> Path:
    """A store with texts in the table ``docs``."""
    path = folder / "texts.db"

    async def fill() -> None:
        async with aiovec.connect(path) as store:
            fields = {"body": Field(str, text=True), "year": Field(int), "tags": Field(list[str])}
            await store.create_table("docs", Schema(2, fields=fields))
            await store.create_table("bare", Schema(2))
            rows = [
                {
                    "id": str(n), "embedding": [1.0, n], "body": HOSTILE[n % 5], "year": n,
                    "tags": ["a", "b"][: n % 3], "k": {"z": n % 2},
                }
                for n in range(10)
            ]  # fmt: skip
            await store.insert("docs", rows)

    asyncio.run(fill())
    return path


def test_rows_as_a_table_json_and_csv(run: Run, texts: Path) -> None:
    shown = run("rows", texts, "docs", "--order-by=-year", "--limit", 2, "--select", "year,tags")
    assert (shown.code, shown.lines) == (
        0, [["id", "year", "tags"], ["9", "9", "[]"], ["8", "8", '["a", "b"]']],
    )  # fmt: skip
    found = json.loads(run("rows", texts, "docs", "--where", "year >= 7", "--json").out)["rows"]
    assert [row["id"] for row in found] == ["7", "8", "9"]
    assert found[1]["k"] == {"z": 0}
    printed = run("rows", texts, "docs", "--csv", "--limit", 100)
    lines = list(csv.DictReader(io.StringIO(printed.out)))
    assert [line["body"] for line in lines[:5]] == [text or "" for text in HOSTILE]
    assert [json.loads(line["tags"]) for line in lines[:3]] == [[], ["a"], ["a", "b"]]
    assert '"1","",1,' in printed.out  # empty text, and here null
    assert '"3",,3,' in printed.out


def test_rows_of_an_empty_table(run: Run, texts: Path) -> None:
    assert run("rows", texts, "bare").lines == [["id"]]
    assert run("rows", texts, "bare", "--csv").out.strip() == '"id"'
    assert json.loads(run("rows", texts, "bare", "--json").out) == {"rows": []}


def test_what_rows_cannot_read(run: Run, texts: Path) -> None:
    assert run("rows").code == 2
    assert run("rows", texts, "docs", "--csv", "--json").code == 2
    assert run("rows", texts, "docs", "--limit", 0).code == 2
    for options in (("--order-by", "none"), ("--where", "none = 1"), ("--select", "none")):
        assert run("rows", texts, "docs", *options).code == 1
    assert run("rows", texts, "none").code == 1


def test_distinct(run: Run, texts: Path) -> None:
    assert run("distinct", texts, "docs", "payload.k.z").lines == [
        ["rows", "payload.k.z"], ["5", "0"], ["5", "1"],
    ]  # fmt: skip
    found = json.loads(
        run("distinct", texts, "docs", "tags", "--where", "year < 9", "--limit", 1, "--json").out
    )
    assert found == {"values": [{"value": "a", "rows": 6}]}
    assert "\x1b" not in run("distinct", texts, "docs", "body").out
    assert run("distinct", texts).code == 2
    assert run("distinct", texts, "docs", "none").code == 1


def test_search_for_words(run: Run, texts: Path) -> None:
    found = json.loads(run("search", texts, "docs", "wool", "--json").out)["hits"]
    assert {hit["id"] for hit in found} == {"0", "5"}
    found = json.loads(run("search", texts, "docs", "wool", "--text", "--where", "year > 1",
                           "--json").out)["hits"]  # fmt: skip
    assert [hit["id"] for hit in found] == ["5"]
    bare = run("search", texts, "bare", "wool")
    assert bare.code == 1
    assert "--vector or --like" in bare.err
    for options in (("--text", "--hybrid"), ("--like", "0"), ("--vector", "[1, 0]")):
        assert run("search", texts, "docs", "wool", *options).code == 2
    assert run("search", texts, "docs", "wool", "--hybrid").code == 1  # there is no embedder


async def length_of(texts: list[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


@pytest.fixture
def embedded(folder: Path) -> Path:
    """A TOML file whose store has an embedder and the table ``docs``."""
    config = folder / "e.toml"
    config.write_text(
        '[retrieval]\nsqlite_path = "e.db"\n[retrieval.embedders.default]\n'
        f'kind = "{__name__}:length_of"\nmodel = "m"\ndim = 2\n'
    )

    async def fill() -> None:
        async with aiovec.connect(config=config) as store:
            fields = {"body": Field(str, text=True)}
            await store.create_table("docs", Schema(2, fields=fields, embed=Embed("body")))
            await store.insert(
                "docs", [{"id": n * "i", "body": n * "x" + " wool"} for n in range(1, 9)]
            )

    asyncio.run(fill())
    return config


def test_the_three_ways_to_search_for_words(run: Run, embedded: Path, texts: Path) -> None:
    def ids(*arguments: object) -> list[str]:
        finished = run("search", *arguments, "--limit", 1, "--json", "--config", embedded)
        assert finished.code == 0, finished.err
        return [hit["id"] for hit in json.loads(finished.out)["hits"]]

    assert ids("docs", "xxxx", "--text") == ["iiii"]
    for arguments in (
        ["docs", "abcdefghi", "--vector"], ["--vector", "docs", "abcdefghi"],
        ["docs", "--vector", "abcdefghi"], ["docs", "[1, 9.0]", "--vector"],
        ["docs", "--vector", "[1, 9]"], ["docs", "--vector=[1, 9]"],
    ):  # fmt: skip
        assert ids(*arguments) == ["iiii"], arguments
    assert ids("docs", "xx wool", "--hybrid") == ["ii"]
    for options in (
        ["--vector", "--text"], ["--vector", "--hybrid"], ["--vector", "--like", "0"],
        ["--vector", "[1, 0]"], ["--vector="], ["--vector", "[1"],
    ):  # fmt: skip
        expected = 1 if options == ["--vector="] else 2
        assert run("search", texts, "docs", "wool", *options).code == expected
    assert run("search", texts, "docs", "[1, x]", "--vector").code == 2


@posix_only
def test_stored_text_is_shown_and_does_not_drive_a_terminal(texts: Path) -> None:
    for arguments in (
        ["rows", str(texts), "docs"], ["rows", str(texts), "docs", "--csv"],
        ["distinct", str(texts), "docs", "body"],
        ["export", str(texts), "docs", "-", "--format", "csv"],
        ["export", str(texts), "docs", "-", "--format", "jsonl"],
    ):  # fmt: skip
        code, written = on_a_terminal(*arguments)
        assert code == 0
        assert "[31m" in written
        assert "\x1b[31m" not in written


def test_nothing_is_cut_or_coloured_in_a_pipe(run: Run, store: Path) -> None:
    finished = run("rows", store, "notes", "--select", "body")
    assert finished.lines[4] == ["d", "x" * 1000]
    assert "\x1b" not in finished.out
