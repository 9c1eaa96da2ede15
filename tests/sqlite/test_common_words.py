"""Searches for any of some words, where not every row of the common ones is scored."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sqlite.support import opened

from aiovec import F, Field, Schema
from aiovec_sqlite.text import common_words, search

DIM = 4
ROWS = 3_000
# The word of place n is in about one row of n + 1.
WORDS = [f"w{n}" for n in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)]


def texts(random_: random.Random) -> list[str]:
    made = []
    for _ in range(ROWS):
        words = [word for word in WORDS if random_.random() < 1 / (int(word[1:]) + 1)]
        words += random_.choices(["filler", "stuffing"], k=random_.randrange(12))
        words += random_.choices(words, k=random_.randrange(3))
        random_.shuffle(words)
        made.append(" ".join(words))
    return made


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each search went without some rows, in a list that grows."""
    seen: list[bool] = []

    def watched(*args: Any) -> common_words.Scored | None:
        best = common_words.best_by_rare_words(*args)
        seen.append(best is not None)
        return best

    monkeypatch.setattr(search, "best_by_rare_words", watched)
    return seen


@pytest.mark.parametrize("deleted", [False, True])
async def test_the_best_are_those_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, deleted: bool
) -> None:
    random_ = random.Random(7 + deleted)
    seen = counted(monkeypatch)
    async with opened(tmp_path / "s.db") as store:
        fields = {"body": Field(str, text=True), "title": Field(str, text=True), "n": int}
        await store.create_table("notes", Schema(DIM, fields=fields))
        await store.insert(
            "notes",
            {
                "id": [f"r{n:05}" for n in range(ROWS)],
                "embedding": np.ones((ROWS, DIM), dtype=np.float32),
                "body": texts(random_),
                "title": texts(random_),
                "n": list(range(ROWS)),
            },
        )
        if deleted:
            await store.delete_where("notes", F.n < 900)
        for turn in range(60):
            words = random_.sample(WORDS, random_.randrange(2, 7))
            if turn % 3 == 0:
                words.append(f"w{random_.choice('125')}*")
            if turn % 10 == 9:
                words.append(f"-{random_.choice(WORDS[3:])}")
            if turn % 4 == 0:
                words.append(f"title:{random_.choice(WORDS)}")
            if turn % 5 == 0:
                words.append(f'"{words[0]} {words[1]}"')
            query = {
                "query": " ".join(words), "any": True, "limit": random_.choice((1, 5, 30)),
                "where": random_.choice((None, F.n < 1_500, F.n >= 2_990)),
            }  # fmt: skip
            monkeypatch.setattr(common_words, "_WORTH_COUNTING", 0)
            quick = await store.search_text("notes", **query)
            monkeypatch.setattr(common_words, "_WORTH_COUNTING", 10**12)
            whole = await store.search_text("notes", **query)
            assert len(quick) == len(whole), query
            assert np.allclose([h.score for h in quick], [h.score for h in whole]), query
            if whole:
                # Of rows with the last score, any may be left out.
                last = whole[-1].score + 1e-9
                expected = {hit.id for hit in whole if hit.score > last}
                assert {hit.id for hit in quick if hit.score > last} == expected, query
    assert sum(seen) > 10
    assert not any(seen[1::2])


async def test_a_small_table_is_not_counted_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    async with opened(tmp_path / "s.db") as store:
        await store.create_table("notes", Schema(DIM, fields={"body": Field(str, text=True)}))
        assert await store.search_text("notes", "wool yarn", any=True) == []
        await store.insert("notes", [{"id": "a", "embedding": [1.0] * DIM, "body": "wool"}])
        for query in ("wool yarn", "yarn wool -silk", "wool", "wool wool"):
            assert [h.id for h in await store.search_text("notes", query, any=True)] == ["a"]
    assert not any(seen)
