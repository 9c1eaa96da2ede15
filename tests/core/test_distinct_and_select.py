"""Values of a payload key that a dict cannot hold, and selections of what is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aiovec
from aiovec import InvalidArgumentError, InvalidNameError, Schema, VectorStore

ROWS = [
    {"id": "a", "embedding": [1, 0], "title": "x", "k": 1, "n": 0},
    {"id": "b", "embedding": [0, 1], "title": "y", "k": True, "n": 1},
    {"id": "c", "embedding": [1, 1], "title": "z", "k": 1.0},
]


@pytest.fixture(params=["sqlite", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    target = ":memory:" if request.param == "sqlite" else f"lancedb://{tmp_path}/store"
    async with aiovec.connect(target) as opened:
        await opened.create_table("t", Schema(dim=2, fields={"title": "text"}))
        await opened.insert("t", ROWS)
        yield opened


async def test_distinct_counts_no_true_as_a_one(store: VectorStore) -> None:
    with pytest.raises(InvalidArgumentError, match="both 1 and TRUE") as caught:
        await store.distinct("t", "payload.k")
    assert "payload.k IN (TRUE, FALSE)" in str(caught.value)
    assert await store.distinct("t", "payload.k", "payload.k IN (0, 1)") == {1: 2}
    found = await store.distinct("t", "payload.k", "payload.k IN (TRUE, FALSE)")
    assert [(value is True, count) for value, count in found.items()] == [(True, 1)]
    assert await store.distinct("t", "payload.n") == {0: 1, 1: 1}


async def test_a_selected_name_that_is_no_field_is_refused(store: VectorStore) -> None:
    for names, hint in (
        (["titel"], "did you mean 'title'"),
        (["title", "embeding"], "did you mean 'embedding'"),
        (["color"], "there are id, embedding, title, payload, payload.<key>"),
    ):
        for call in (
            store.find("t", select=names),
            store.get("t", ["a"], select=names),
            store.search("t", [1, 0], select=names),
        ):
            with pytest.raises(InvalidNameError) as caught:
                await call
            assert hint in str(caught.value)


async def test_a_selected_key_of_the_payload_is_in_the_rows_that_have_it(
    store: VectorStore,
) -> None:
    rows = await store.find("t", select=["payload.n", "payload.typo"])
    assert [dict(row.fields) for row in rows] == [{"n": 0}, {"n": 1}, {}]
