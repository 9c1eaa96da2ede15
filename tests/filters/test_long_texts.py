"""A text in a filter has a bound, whichever way it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import aiovec
from aiovec import F, FilterError, Schema

MOST = 1024 * 1024
SCHEMA = Schema(dim=2, fields={"body": "text", "tags": "list[text]"})

CONDITIONS: list[Callable[[str], Any]] = [
    lambda text: F.body == text,
    lambda text: F.body.in_(["a", text]),
    lambda text: F.body.contains_text(text),
    lambda text: F.body.startswith(text),
    lambda text: F.body.like(text),
    lambda text: F.tags.contains(text),
    lambda text: F.tags == [text],
    lambda text: F["payload.x"] != text,
    lambda text: f"body = '{text}'",
    lambda text: f"body IN ('a', '{text}')",
    lambda text: f"body CONTAINS_TEXT '{text}'",
    lambda text: f"STARTSWITH(body, '{text}')",
    lambda text: f"body LIKE '{text}'",
    lambda text: f"tags CONTAINS '{text}'",
    lambda text: f"payload.x = '{text}'",
]


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_text_of_more_than_a_million_characters_is_refused(
    condition: Callable[[str], Any],
) -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", SCHEMA)
        for text in ("x" * (MOST + 1), "é" * (5 * MOST)):
            with pytest.raises(FilterError, match="at most 1,048,576") as caught:
                await store.count("t", condition(text))
            assert len(str(caught.value)) < 1000


async def test_a_text_of_a_million_characters_is_taken() -> None:
    async with aiovec.connect(":memory:") as store:
        await store.create_table("t", SCHEMA)
        quoted = "''" * MOST  # as many quotes
        for where in (F.body == "x" * MOST, F.body == "é" * MOST, f"body = '{quoted}'"):
            assert await store.count("t", where) == 0
