"""Snippets of long texts, as a keyword search with highlights shows them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

import aiovec
from aiovec import Field, Schema, VectorStore

FILLER = "some other words " * 1_000


@pytest.fixture(params=["sqlite", "lancedb"])
async def texts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    target = ":memory:" if request.param == "sqlite" else f"lancedb://{tmp_path}/store"
    async with aiovec.connect(target) as opened:
        await opened.create_table("t", Schema(2, fields={"body": Field(str, text=True)}))
        yield opened


async def snippets(store: VectorStore, query: str, bodies: Mapping[str, str]) -> dict[str, str]:
    rows = [{"id": id, "embedding": [1, 1], "body": body} for id, body in bodies.items()]
    await store.upsert("t", rows)
    hits = await store.search_text("t", query, highlight=("[", "]"), limit=100)
    assert {hit.id for hit in hits} == bodies.keys()
    return {hit.id: hit.highlights["body"] for hit in hits}


async def test_a_phrase_is_in_the_snippet_wherever_it_stands(texts: VectorStore) -> None:
    bodies = {f"{n}": f"{'x' * n} red wool hats {FILLER}" for n in range(0, 2_200, 71)}
    for id, snippet in (await snippets(texts, '"red wool hats"', bodies)).items():
        assert "[red wool hats]" in snippet, id


async def test_a_snippet_shows_where_text_was_cut_off(texts: VectorStore) -> None:
    bodies = {
        "first": f"wool {FILLER}", "middle": f"{FILLER} wool {FILLER}", "last": f"{FILLER} wool",
        "nul": f"a\0wool {FILLER}", "short": "wool & <b>",
    }  # fmt: skip
    shown = await snippets(texts, "wool", bodies)
    assert (shown["first"][:6], shown["first"][-1]) == ("[wool]", "…")
    assert 20 < len(shown["first"].split()) < 40
    assert (shown["middle"][0], shown["middle"][-1]) == ("…", "…")
    assert (shown["last"][0], shown["last"][-6:]) == ("…", "[wool]")
    assert "[wool]" in shown["nul"]
    assert shown["short"] == "[wool] & <b>"


async def test_a_snippet_has_the_most_different_words(texts: VectorStore) -> None:
    body = f"{'wool ' * 2_000}{FILLER} wool hat {FILLER}"
    (shown,) = (await snippets(texts, "wool hat", {"a": body})).values()
    assert "[wool] [hat]" in shown
