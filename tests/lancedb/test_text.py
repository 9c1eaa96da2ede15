"""Keyword search in every state of a table's text index, and what could break it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import lancedb
import pytest
from lancedb.query import AsyncFTSQuery
from tests.contract.base import case
from tests.lancedb.support import lance_calls, opened

from aiovec import Field, Schema, VectorStore
from aiovec.errors import InvalidArgumentError, UnsupportedError

TEXTS = Schema(
    2, fields={"title": Field(str, text=True), "body": Field(str, text=True), "year": int}
)
GRAMS = Schema(2, fields=TEXTS.fields, analyzer="ngram")


def row(id: str, title: str | None, body: str | None, year: int = 0) -> dict[str, Any]:
    return {"id": id, "embedding": [1.0, 2.0], "title": title, "body": body, "year": year}


async def matching(store: VectorStore, query: str, **options: Any) -> list[str]:
    hits = await store.search_text("notes", query, limit=100_000, select=[], **options)
    return sorted(hit.id for hit in hits)


async def text_indexes(store: VectorStore) -> dict[str, tuple[int, int]]:
    return {
        info.column: (info.rows_indexed, info.rows_unindexed)
        for info in await store.indexes("notes")
        if info.kind == "text"
    }


async def test_a_table_whose_text_index_is_missing(tmp_path: Path) -> None:
    """As one of an earlier release, or where another program dropped it."""
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", TEXTS)
        await store.insert("notes", [row("a", "Wool", "the cats"), row("b", None, "wool cat")])
    table = await (await lancedb.connect_async(tmp_path / "s")).open_table("notes")
    for index in await table.list_indices():
        if index.index_type == "FTS":
            await table.drop_index(index.name)
    async with opened(tmp_path / "s") as store:
        with pytest.raises(UnsupportedError, match="optimize"):
            await matching(store, "wool")
        await store.optimize("notes")
        assert await matching(store, "wool") == ["a", "b"]
        assert await matching(store, '"the cats"') == ["a"]
        assert set(await text_indexes(store)) == {"title", "body"}


async def test_a_text_index_beside_another(store: VectorStore) -> None:
    schema = Schema(2, fields={"body": Field(str, text=True, index="btree")})
    await store.create_table("notes", schema)
    await store.insert("notes", [{"id": "a", "embedding": [1.0, 2.0], "body": "wool hat"}])
    assert {info.kind for info in await store.indexes("notes")} == {"btree", "text"}
    for info in await store.indexes("notes"):
        with pytest.raises(InvalidArgumentError, match="drop_field_index"):
            await store.drop_index("notes", info.name)
    await store.drop_field_index("notes", "body", "btree")
    await store.optimize("notes")
    assert [info.kind for info in await store.indexes("notes")] == ["text"]
    assert await matching(store, "hat") == ["a"]


async def test_long_words_and_queries_of_many_words(store: VectorStore) -> None:
    await store.create_table("notes", TEXTS)
    long, words = "x" * 90_000, [f"w{n}" for n in range(50)]
    rows = [
        row("a", long, None), row("b", "y" * 300_000, f"{long}x wool"),
        row("all", " ".join(words[:25]), " ".join(words[25:])),
    ]  # fmt: skip
    await store.insert("notes", rows)
    for _ in range(2):
        assert await matching(store, long) == ["a"]
        assert await matching(store, f"wool -{long}") == ["b"]
        assert await matching(store, long[1:]) == []
        assert await matching(store, " ".join(words)) == ["all"]
        assert await matching(store, " ".join(words), match="any") == ["all"]
        excluding = " ".join(f"-{word}" for word in words)
        assert await matching(store, f"wool {excluding}") == ["b"]
        await store.optimize("notes")
    (hit,) = await store.search_text("notes", " ".join(words), match="any", highlight=True)
    assert hit.highlights["title"].startswith("<mark>w0</mark> <mark>w1</mark>")


async def test_beginnings_of_any_length(store: VectorStore) -> None:
    await store.create_table("notes", TEXTS)
    long, parts = "x" * 90_000, ["ab"] * 900
    await store.insert("notes", [row("a", long, None), row("b", "-".join(parts), "x wool")])
    for query, ids in [
        (f"{long[:-1]}*", "a"), (f"{long}*", "a"), (f"{long[:5000]}y*", ""),
        (f"{'-'.join(parts[1:])}*", "b"), (f"{'é' * 40_000}*", ""),
    ]:  # fmt: skip
        with case(query[:9]):
            assert await matching(store, query) == list(ids)


async def test_the_beginning_of_a_word_whose_accents_decide_its_stem(store: VectorStore) -> None:
    schema = Schema(2, analyzer="english", fields={"title": Field(str, text=True)})
    await store.create_table("notes", schema)
    rows = [row("a", "GÖLGE", None), row("b", "a gölge of felt", None), row("c", "golge", None)]
    await store.insert("notes", [{k: r[k] for k in ("id", "embedding", "title")} for r in rows])
    for query, ids in (("g*", "abc"), ("golg*", "abc"), ("göl*", "abc"), ('"a gölge"', "b")):
        with case(query):
            assert await matching(store, query) == list(ids)


async def test_letters_that_lance_folds(store: VectorStore) -> None:
    """Each of these is a difference to SQLite that ``docs/internals/lancedb.md`` names."""
    await store.create_table("notes", TEXTS)
    await store.insert("notes", [
        row("letters", "Straße ærø Łódź \u0131rmak", "Ørsted"), row("greek", "Ωμέγα", "Чай й"),
        row("apart", "re\u0301sume\u0301", None), row("two", None, "re sume"),
        row("signs", "x² nª Ⓐ ﬁx \uff21\uff22", None), row("cases", "İstanbul ΟΔΟΣ", "τέλος"),
    ])  # fmt: skip
    for query, ids in (
        ("strasse", ["letters"]), ("aero", ["letters"]), ("lodz orsted", ["letters"]),
        ("irmak", ["letters"]),
        ("ωμέγα", ["greek"]), ("ωμεγα", []), ("чаи", []), ("résumé", ["apart", "two"]),
        ("resume", []), ("x2", ["signs"]), ("na", ["signs"]), ("fix", ["signs"]),
        ("ab", ["signs"]), ("istanbul", []), ("İstanbul", ["cases"]), ("οδος", []),
        ("τέλος", ["cases"]),
    ):  # fmt: skip
        assert await matching(store, query) == ids, query
    grams = {"nul": "foo\0bar", "long": "\u017fize 5\u00b5m", "parts": "ọ\u0301jọ"}
    await store.create_table("grams", GRAMS)
    rows = [{"id": id, "embedding": [1.0, 2.0], "body": text} for id, text in grams.items()]
    await store.insert("grams", rows)
    for query, ids in (
        ("foobar", []), ("size", ["long"]), ("5μm", []), ("ojo", []),
        (grams["long"], ["long"]), (grams["parts"], ["parts"]),
    ):  # fmt: skip
        assert [hit.id for hit in await store.search_text("grams", query)] == ids, query


async def test_a_prefix_marks_the_words_that_it_finds(store: VectorStore) -> None:
    """The stem of an Arabic word may begin with another letter than the word."""
    await store.create_table("notes", Schema(2, fields=TEXTS.fields, analyzer="arabic"))
    await store.insert("notes", [row("a", None, "اللغة الإنجليزية")])
    (hit,) = await store.search_text("notes", "الإ*", highlight=("[", "]"))
    assert hit.highlights == {"body": "اللغة [الإنجليزية]"}


@pytest.mark.slow
async def test_searches_beside_upserts_and_compactions(store: VectorStore) -> None:
    """Each row is found by its present words alone, whatever upkeep does meanwhile."""
    await store.create_table("notes", TEXTS)
    ids = sorted(f"r{n}" for n in range(40))
    await store.insert("notes", [row(id, "wool", "turn0") for id in ids])
    over, every_turn = False, " ".join(f"turn{n}" for n in range(16))

    async def tidy() -> None:
        while not over:
            await store.optimize("notes")

    async def read() -> None:
        while not over:
            assert await matching(store, "wool") == ids
            assert await matching(store, every_turn, match="any") == ids
            assert len(await matching(store, "turn3")) in (0, 40)

    tasks = [asyncio.ensure_future(work()) for work in (tidy, read, read)]
    try:
        for turn in range(1, 16):
            await store.upsert("notes", [row(id, "wool", f"turn{turn}") for id in ids])
    finally:
        over = True
        await asyncio.gather(*tasks)
    assert await matching(store, "turn14") == []
    assert await matching(store, "turn15") == ids


async def test_a_keyword_search_with_few_matches_reads_few_rows(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where deleted rows took places is the table looked at."""
    await store.create_table("notes", TEXTS)
    texts = ["wool wool wool", *(f"wool {n}" for n in range(1, 40))]
    await store.insert("notes", [row(f"r{n:02}", None, text, n) for n, text in enumerate(texts)])
    await store.optimize("notes")
    limits: list[int] = []
    set_limit = AsyncFTSQuery.limit
    monkeypatch.setattr(AsyncFTSQuery, "limit", lambda q, n: limits.append(n) or set_limit(q, n))
    for query, limit, queries in (("wool", 1, 1), ("wool 7", 10, 2), ("zoo", 10, 2)):
        with case(query), lance_calls() as calls:
            hits = await store.search_text("notes", query, limit=limit, match="all")
            assert len(hits) == min(limit, {"wool": 40, "zoo": 0}.get(query, 1))
            assert (calls["to_batches"], calls["where"]) == (queries, 0)
    assert max(limits) == 11
    await store.delete("notes", [f"r{n:02}" for n in range(30)])
    await store.optimize("notes")
    hits = await store.search_text("notes", "wool", limit=10)
    assert sorted(hit.id for hit in hits) == [f"r{n}" for n in range(30, 40)]
