"""Highlights of many hits with many words: each hit has its own words marked, and no others."""

from __future__ import annotations

from pathlib import Path

import aiovec
from aiovec import Field, Schema

SCHEMA = Schema(2, fields={"title": Field(str, text=True), "body": Field(str, text=True)})
# More rows than the number whose highlights are made together.
ROWS = 600


def texts(n: int) -> tuple[str, str]:
    return f"about word{n % 100}", f"first word{(n + 1) % 100} then other{n} " + "more " * (n % 3)


async def test_each_hit_has_its_own_words_marked(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "a.db") as store:
        await store.create_table("notes", SCHEMA)
        titles, bodies = map(list, zip(*map(texts, range(ROWS)), strict=True))
        bodies[300] += "long " * 2_000 + "word5"
        vectors = [[1.0, 0.0]] * ROWS
        ids = [str(n) for n in range(ROWS)]
        await store.insert(
            "notes", {"id": ids, "embedding": vectors, "title": titles, "body": bodies}
        )
        words = " ".join(f"word{n}" for n in range(100) if n != 50)
        hits = await store.search_text(
            "notes", words, match="any", limit=2_000, highlight=("[", "]")
        )
        assert len(hits) == ROWS
        for hit in hits:
            n = int(hit.id)
            expected = {}
            if n % 100 != 50:
                expected["title"] = f"about [word{n % 100}]"
            if (n + 1) % 100 != 50:
                expected["body"] = texts(n)[1].replace(
                    f"word{(n + 1) % 100} ", f"[word{(n + 1) % 100}] "
                )
            if n == 300:
                assert hit.highlights["title"] == expected["title"]
                assert "[word" in hit.highlights["body"]
                assert len(hit.highlights["body"]) < 500
            else:
                assert hit.highlights == expected
