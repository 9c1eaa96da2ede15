"""aiovec rows, aiovec distinct, and aiovec search with words."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest

import aiovec
from aiovec import Field, Schema

from .conftest import Run

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
