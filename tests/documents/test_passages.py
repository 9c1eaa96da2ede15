"""``aiovec.documents``: the cuts of a document, and the fields of its rows."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.documents.files import pdf
from tests.harness.cases import case

from aiovec import DocumentError, InvalidArgumentError, connect, documents

pytest.importorskip("semantic_text_splitter")

GUIDE = """\
---
title: The guide
---

# Guide

What it is for.

## Install `it` on [Linux](linux.md)

### With pip

Run this:

```sh
# not a heading
pip install it
```

Old style
---------

More words.
"""


async def _cut(document: Any, **options: Any) -> list[dict[str, Any]]:
    return [row async for row in documents.passages(document, **options)]


async def test_markdown_is_cut_at_headings_whose_path_is_the_title() -> None:
    rows = await _cut(GUIDE, source="guide.md")
    assert [(row["title"], row["start"]) for row in rows] == [
        ("Guide", 5),
        ("Guide > Install it on Linux > With pip", 9),
        ("Guide > Old style", 20),
    ]
    assert rows[1]["body"].startswith("## Install `it`")
    assert "# not a heading" in rows[1]["body"]
    assert [(row["id"], row["part"], row["parts"]) for row in rows] == [
        (f"guide.md#{n}", n, 3) for n in (1, 2, 3)
    ]
    assert len({row["hash"] for row in rows}) == 1


async def test_a_title_has_no_closing_marks_and_no_links() -> None:
    for heading, title in (
        ("# a #", "a"), ("# a#", "a#"), ("##\tb ##  ", "b"), ("# a # #\t", "a #"), ("# #", ""),
        ("# [a](b(c)) [d]( e", "a [d]( e"), ("# \xa0x", "x"), ("# ", ""),
        ("a *b*\nc\n---", "a b c"),
        ("## Keys <!-- keys: written by a program -->", "Keys"), ("# a { .wide #b }", "a"),
        ("# Install { #install }", "Install"), ("# a {b}", "a {b}"), ("# `<b>` \\*", "<b> *"),
    ):  # fmt: skip
        with case(heading):
            (row,) = await _cut(f"{heading}\n\nText.", source="a.md")
            assert (row["title"] or "") == title


async def test_text_that_looks_like_a_heading_is_none() -> None:
    for text in (
        "```pip install x```\n\n# A\n\nText.",
        "- ```sh\n  # not a heading\n  ```\n\n# A\n\nText.",
        "```\n# no\n``` words\n# no\n```\n\n# A\n\nText.",
        "---\n\n# A\n\nText.",
        "---\ntitle: B\n...\n# A\n\nText.",
        "<!--\n# no\n-->\n\n# A\n\nText.",
        "<pre>\n# no\n</pre>\n\n# A\n\nText.",
        "- a\n---\n\n# A\n\nText.",
        "> a\n---\n\n# A\n\nText.",
        "| a |\n| - |\n| b |\n\n# A\n\nText.",
        f"```\n{'# no' + chr(10):*<40000}\n{'# no' + chr(10) * 2:-<30000}\n```\n\n# A\n\nText.",
    ):
        with case(text[:60]):
            titles = [row["title"] for row in await _cut(text, source="a.md")]
            assert titles[-1] == "A"
            assert {None, "A", "B"} >= set(titles)


async def test_metadata_of_markdown_become_fields() -> None:
    text = "---\ntitle: 'Keys'\ndate: 2026-01-02\ntags:\n  - a b\n  - c\nx: 1\n---\n\nText.\n"
    for tags in ("tags:\n  - a b\n  - c", "tags: [a b, 'c']"):
        with case(tags):
            text = f"---\ntitle: 'Keys'\ndate: 2026-01-02\n{tags}\nx: 1\n---\n\nText.\n"
            (row,) = await _cut(text, source="a.md")
            assert (row["title"], row["date"], row["tags"]) == ("Keys", "2026-01-02", ["a b", "c"])
            assert (row["body"], row["start"]) == ("Text.", text.count("\n"))
    (row,) = await _cut("---\n\nText.\n\n---\n\nMore.\n", source="a.md")
    assert row["body"].startswith("---")


async def test_the_anchor_of_a_heading_is_a_field() -> None:
    text = "# A { #a }\n\nText.\n\n## B\n\nText.\n\n# C {: #c .x y=1}\n\nText.\n\n# D\n\nText."
    rows = await _cut(text, source="a.md")
    assert [(row["title"], row["anchor"]) for row in rows] == [
        ("A", "a"), ("A > B", "a"), ("C", "c"), ("D", None),
    ]  # fmt: skip


async def test_a_kind_is_named_for_a_text_that_was_converted() -> None:
    text = "# Guide\n\nText.\n\n# Keys\n\nText."
    rows = await _cut(text, source="a.html", kind="markdown")
    assert [(row["title"], row["source"]) for row in rows] == [
        ("Guide", "a.html"), ("Keys", "a.html"),
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="markdown, notebook, odt, pdf"):
        await _cut(text, source="a.html", kind="html5")


async def test_a_short_piece_joins_its_neighbour() -> None:
    code = "".join(f"value_{n} = compute(value_{n})\n" for n in range(60))
    for text in (f"# A\n\nSee:\n\n```python\n{code}```\n", f"{'Some words. ' * 99}\n\nShort.\n"):
        with case(text[:30]):
            rows = await _cut(text, source="a.md")
            assert len(rows) > 1 or len(text) < 1210
            assert all(80 <= len(row["body"]) <= 1200 + len("# A\n\n") for row in rows)


# In quadratic time each takes minutes, and the first two block the event loop.
LONG = {
    "spaces": "# a" + " " * 10**6 + "x",
    "links": "# " + "](" * 10**6,
    "word": "x" * 2 * 10**6,
    "words": "word " * 10**6,
    "characters": "本文" * 2 * 10**5,
    "lines of a paragraph": "some words of it\n" * 200_000,
    "rows of a table": "| a | b |\n| - | - |\n" + "| some words | of it |\n" * 100_000,
    "items of a list": "- some words\n" * 200_000,
    "emphasis": "*a* `b` [c](d)\n\n" * 100_000,
    "empty headings": "# \n" * 500_000,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("links", "word") else pytest.mark.slow)
        for name in LONG
    ],
)
async def test_a_hostile_text_is_split_in_linear_time(name: str) -> None:
    text = LONG[name]
    rows = await _cut(f"{text}\n\nText.\n", source="a.md")
    letters = sum(len(re.findall(r"\w", row["body"])) for row in rows)
    assert letters == len(re.findall(r"\w", text)) + 4


async def test_a_long_heading_is_text_since_each_passage_would_repeat_it() -> None:
    long = "word " * 40
    sections = "## Small\n\nText.\n\n" * 3
    for name, text in (
        ("a.md", f"# Guide\n\n# {long}x\n\n{sections}"),
        ("a.rst", f"{long}x\n{'=' * 300}\n\nText.\n\nSmall\n-----\n\nText.\n"),
    ):
        with case(name):
            rows = await _cut(text, source=name)
            assert max(len(row["title"] or "") for row in rows) < 20
            assert any(long in row["body"] for row in rows)
    deep = "".join(f"T{n}\n{mark * 3}\n\nText.\n\n" for n, mark in enumerate("=-~^+*#:.'`,"))
    assert (await _cut(deep, source="a.rst"))[-1]["title"].count(" > ") <= 6


async def test_restructuredtext_is_cut_at_underlined_titles() -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro.\n\nUse\n~~~\n\nText.\n\n"
        "===  ===\na    b\n===  ===\n\nMore\n~~~~\n\nEnd.\n"
    )
    rows = await _cut(text, source="guide.rst")
    assert [(row["title"], row["start"]) for row in rows] == [
        ("Guide", 1), ("Guide > Use", 7), ("Guide > More", 16),
    ]  # fmt: skip


async def test_sources_of_sphinx_in_txt_have_their_titles() -> None:
    text = ".. _guide:\n\nGuide\n=====\n\nText.\n\n.. _use:\nUse of it\n----\n\nMore text.\n"
    rows = await _cut(text, source="guide.txt")
    assert [row["title"] for row in rows] == ["Guide", "Guide > Use of it"]
    assert (await _cut("Guide\n=====\n\nText.\n", source="a.txt"))[0]["title"] is None


async def test_a_long_section_is_cut_between_sentences_within_the_size() -> None:
    text = "# Long\n\n" + "This sentence has some words. " * 200
    for options in ({}, {"size": 200}, {"size": 200, "overlap": 60}):
        with case(options):
            rows = await _cut(text, source="a.md", **options)
            size = options.get("size", 1200)
            assert len(rows[0]["body"]) <= size + len("# Long\n\n")
            assert max(len(row["body"]) for row in rows[1:]) <= size
            assert all(row["body"].endswith(".") and row["title"] == "Long" for row in rows)
    assert sum(len(row["body"]) for row in rows) > len(text)  # they overlap


PAGES = sorted(Path(__file__).parents[2].glob("docs/*/*.md"))[:20]


async def test_each_letter_of_a_document_is_in_a_passage() -> None:
    for path in PAGES:
        with case(path):
            text = path.read_text("utf-8")
            rows = await _cut(path, size=300)
            for name in ("part", "start"):
                assert [row[name] for row in rows] == sorted(row[name] for row in rows)
            joined = "".join(row["body"] for row in rows)
            letters = [character for character in text if character.isalnum()]
            assert [character for character in joined if character.isalnum()] == letters
            lines = text.split("\n")
            for row in rows:
                assert row["body"].split("\n")[0] in lines[row["start"] - 1]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"one\r\n\r\ntwo", "one\n\ntwo"),
        (b"\xef\xbb\xbfone", "one"),
        ("Größe".encode("latin-1"), "Größe"),
        ("Größe".encode("utf-16"), "Größe"),
        ("日本語 שלום नमस्ते".encode(), "日本語 שלום नमस्ते"),
    ],
)
async def test_text_in_any_encoding_becomes_one_passage(data: bytes, body: str) -> None:
    (row,) = await _cut(data, source="a.txt")
    assert row["body"] == body


@pytest.mark.parametrize(
    ("data", "source", "reason"),
    [
        (b"", "a.md", "no text"),
        (b" \n\n---\n", "a.md", "no text"),
        (b"\x89PNG\0\0\x01", "a.txt", "is not text"),
        (b"\x81\x8d\xff", "a.txt", "is not text"),
        (b"%PDF-1.4 broken", "a.pdf", "cannot be read as pdf"),
        (pdf(["secret"], encrypted=True), "a.pdf", "encrypted"),
        (pdf([""]), "a.pdf", "text recognition"),
        (b"x" * (documents.LARGEST + 1), "a.txt", "bytes"),
    ],
)
async def test_an_unreadable_document_is_refused(data: bytes, source: str, reason: str) -> None:
    with case((data[:20], source)), pytest.raises(DocumentError, match=rf"{source}: .*{reason}"):
        await _cut(data, source=source)


async def test_a_pdf_is_known_by_its_first_bytes() -> None:
    (row,) = await _cut(pdf(["Text."]), source="upload")
    assert (row["body"], row["start"]) == ("Text.", 1)


async def test_passages_of_a_pdf_have_its_pages() -> None:
    rows = await _cut(pdf(["First page.", "Second page."], title="(Handbook)"), source="h.PDF")
    assert [(row["body"], row["start"], row["title"]) for row in rows] == [
        ("First page.", 1, "Handbook"),
        ("Second page.", 2, "Handbook"),
    ]


async def test_concurrent_tasks_read_pdfs() -> None:
    each = [_cut(pdf([f"Page of {n}."]), source=f"{n}.pdf") for n in range(20)]
    bodies = [rows[0]["body"] for rows in await asyncio.gather(*each)]
    assert bodies == [f"Page of {n}." for n in range(20)]


async def test_a_name_that_is_not_unicode_is_escaped() -> None:
    for name, source in (("a\udcff.md", "a\\xff.md"), ("a\ud800.md", "a\\ud800.md")):
        with case(source):
            (row,) = await _cut(b"Text.", source=name)
            assert (row["source"], row["id"]) == (source, f"{source}#1")


async def test_an_argument_out_of_range_is_refused() -> None:
    for options in ({"size": 0}, {"overlap": 1200}, {"size": 10, "overlap": 10}, {"overlap": -1}):
        with case(options), pytest.raises(InvalidArgumentError):
            await _cut("text", source="a.md", **options)
    with pytest.raises(InvalidArgumentError, match="source"):
        await _cut(b"text")
    with pytest.raises(InvalidArgumentError, match=r"pass Path\(...\) instead of a text"):
        await _cut("notes/a.md")
    wrong: Any = ["text"]
    with pytest.raises(InvalidArgumentError, match="document must be a Path, the bytes of a file"):
        await _cut(wrong, source="a.md")
    with pytest.raises(DocumentError, match="No such file"):
        await _cut(Path("nosuch.md"))


async def test_passages_are_rows_of_a_table_with_the_schema(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text(GUIDE)
    async with connect(":memory:", embedder="demo") as store:
        await store.create_table("notes", documents.SCHEMA)
        await store.upsert("notes", documents.passages(guide))
        other = datetime(2020, 1, 1, tzinfo=UTC)
        text = documents.passages("# Other\n\nMore words.", source="o.md", modified=other)
        await store.upsert("notes", text)
        (hit, *_) = await store.search_hybrid("notes", "pip install", group_by="source", limit=2)
        assert (hit["source"], hit["start"]) == ("guide.md", 9)
        assert await store.count("notes", "modified < TIMESTAMP '2021-01-01T00:00:00Z'") == 1


async def test_sizes_count_the_tokens_of_a_given_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rows = await _cut("word " * 100, source="a.txt", size=10, tokenizer=words)
    assert [len(row["body"].split()) for row in rows] == [10] * 10
    assert rows[0]["hash"] != (await _cut("word " * 100, source="a.txt", size=10))[0]["hash"]
