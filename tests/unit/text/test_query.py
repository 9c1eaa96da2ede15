"""Queries beyond any that a person types; the others are in the contract."""

from __future__ import annotations

import pytest

from aiovec import Field, InvalidArgumentError, Schema
from aiovec._search.query import parse

SCHEMA = Schema(3, fields={"title": Field(str, text=True)})


def test_queries_beyond_the_limits_are_refused() -> None:
    words = " ".join(f"w{n}" for n in range(1_001))
    with pytest.raises(InvalidArgumentError, match="1,001 different words; the limit") as caught:
        parse(words, SCHEMA)
    assert caught.value.argument == "query"
    assert len(str(caught.value)) < 300
    assert len(parse(words.replace("w1000", "w1"), SCHEMA)) == 1_000
    with pytest.raises(InvalidArgumentError, match="100,001 characters") as caught:
        parse("x" * 100_001, SCHEMA)
    assert len(str(caught.value)) < 300
    for piece in ('"', "a ", 'title:"', "-", "日", "a", "\u200f-"):  # none of them hangs
        assert len(parse((piece * 100_000)[:100_000], SCHEMA)) <= 3
