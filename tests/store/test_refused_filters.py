"""Filters that are refused, and how they are told."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.base import case, filled
from tests.contract.filtering import SCHEMA
from tests.harness.values import vectors

from aiovec import F, VectorStore
from aiovec.errors import FilterError

BAD = (
    "", "   ", "year", "year =", "= 1", "year = 1 AND", "AND year = 1", "year = 1)",
    "(year = 1", "year = 'x'", "year = TRUE", "name = 1", "live = 1", "live > TRUE", "live = 'x'",
    "seen = '2024-01-01T00:00:00Z'", "seen > 5", "year = TIMESTAMP '2024-01-01T00:00:00Z'",
    "seen > TIMESTAMP '2024-01-01T00:00:00'", "seen > TIMESTAMP 'x'", "tags = 'x'",
    "tags CONTAINS 1", "name CONTAINS 'x'", "year LIKE '1%'", "year STARTSWITH '1'",
    "embedding = 1", "embedding IS EMPTY", "absent = 1", "Year = 1", "year = NULL",
    "year IN (1, NULL)", "year IN 1", "year BETWEEN 1", "name = \"x\"", "name = 'x", "year = 1;",
    "year = 1 -- x", "year = 9223372036854775808", "year = 1e999", "year = nan", "payload = 1",
    "payload.x CONTAINS NULL", "payload. = 1", "id > 1", "id = 1.5", "id = TRUE", "year IS 1",
    "year LIKE", "1 = 1", "'a' = 'a'", "year = year", "year + 1 = 2", "NOT", "year = 1 OR OR live",
    "name.x = 1", "name LIKE 5", "\0", "year = 1\0", "SELECT 1", "year = ?", "year = :x",
    "1; DROP TABLE notes", "name = 'a' OR '1'='1", "tags = [", "tags = ['a'", "tags = ['a',]",
    "tags = [1]", "tags = [NULL]", "tags > ['a']", "name = ['a']", "tags IN (['a'])",
    "name IS EMPTY",
    "payload.x = [[1]]", "['a'] = tags",
    "year IS TRUE", "name IS NOT FALSE", "tags IS TRUE", "(live) IS", "(live) IS NULL",
    "(live) IS NOT", "(live) IS NOT EMPTY", "(live) IS TRUE FALSE", "year = 1 IS TRUE",
    "name LIKE 'a' ESCAPE", "name LIKE 'a' ESCAPE ''", "name LIKE 'a' ESCAPE '!!'",
    "name LIKE 'a!' ESCAPE '!'", "name LIKE 'a!!!' ESCAPE '!'", "name LIKE 'a' ESCAPE 5",
    "name STARTSWITH 'a' ESCAPE '!'", "year ILIKE '1%'", "name ILIKE 5", "name CONTAINS_TEXT 5",
    "tags CONTAINS_TEXT 'x'", "year CONTAINS_TEXT '1'", "name NOT IS TRUE",
    "nums CONTAINS '1'", "nums = ['a']", "weights CONTAINS TRUE", "nums = 1", "nums = [TRUE]",
    "weights = [1e999]", "nums CONTAINS_TEXT '1'", "weights IS TRUE",
)  # fmt: skip


async def test_bad_filters_are_told(store: VectorStore) -> None:
    await filled(store, SCHEMA)
    for text in BAD:
        with case(text):
            with pytest.raises(FilterError) as caught:
                await store.find("notes", text)
            assert isinstance(caught.value, ValueError)
            if caught.value.position is not None:
                assert 0 <= caught.value.position <= len(text)


async def test_a_bad_filter_writes_nothing(store: VectorStore) -> None:
    await filled(store, SCHEMA)
    before = await store.find("notes")
    for where in ("absent = 1", F.year == "x", "year = "):
        with pytest.raises(FilterError):
            await store.delete("notes", where=where)
        with pytest.raises(FilterError):
            await store.update("notes", {"year": 0}, where=where)
        with pytest.raises(FilterError):
            await store.search("notes", vectors(1)[0], where=where)
        with pytest.raises(FilterError):
            await store.find("notes", where)
        with pytest.raises(FilterError):
            async for _ in store.export("notes", where=where):
                pass
    assert await store.find("notes") == before


async def test_what_is_no_filter_is_refused(notes: VectorStore) -> None:
    wrong: Any
    for wrong in (1, [["year = 1"]], [1], {1: 1}, b"year = 1", True, F):
        with pytest.raises(FilterError):
            await notes.find("notes", wrong)


async def test_where_an_escape_is_wrong(notes: VectorStore) -> None:
    for text, position in (
        ("name LIKE 'a' ESCAPE '!!'", 21), ("live IS NULL OR name LIKE 'a!' ESCAPE '!'", 26),
        ("name ILIKE 'a' ESCAPE ''", 22), ("name ILIKE '" + "a" * 1_001 + "'", 11),
        ("(year = 1) IS NOT NULL", 18), ("year = 1 AND year = ['a']", 13),
    ):  # fmt: skip
        with pytest.raises(FilterError) as caught:
            await notes.find("notes", text)
        assert caught.value.position == position, text
    wrong: Any
    for wrong in ("", "ab", 5, "\ud800"):
        with pytest.raises(FilterError):
            F.name.like("a", escape=wrong)
    with pytest.raises(FilterError):
        F.name.ilike("a\\", escape="\\")
    with pytest.raises(FilterError):
        await notes.count("notes", F["payload.x"] == list(range(1_001)))
