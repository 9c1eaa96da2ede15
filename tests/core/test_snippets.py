"""Snippets of long texts, from pieces of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from aiovec.backend import snippet_of

_FILLER = "some other words " * 1_000


def _snippet(text: str, match: str) -> str | None:
    with closing(sqlite3.connect(":memory:")) as db:
        for _ in range(2):  # nothing of the first is left
            found = snippet_of(text, match, "b", ("a", "b"), "unicode61", ("[", "]"), db)
        return found


@pytest.mark.parametrize("before", range(700, 1100, 7))
def test_a_phrase_is_in_a_piece_wherever_it_stands(before: int) -> None:
    found = _snippet(f"{'x' * before} red wool hats {_FILLER}", 'b : "red wool hats"')
    assert found is not None
    assert "[red wool hats]" in found


def test_a_snippet_tells_where_text_was_cut_off() -> None:
    first = _snippet(f"wool {_FILLER}", "wool")
    assert first is not None
    assert (first[:6], first[-1]) == ("[wool]", "…")
    assert len(first.split()) == 32
    middle, last = (
        _snippet(f"{_FILLER} wool {_FILLER}", "wool"),
        _snippet(f"{_FILLER} wool", "wool"),
    )
    assert middle is not None
    assert last is not None
    assert (middle[0], middle[-1]) == ("…", "…")
    assert (last[0], last[-6:]) == ("…", "[wool]")


def test_the_best_piece_has_the_rarest_words() -> None:
    found = _snippet(f"{'wool ' * 2_000}{_FILLER} wool hat {_FILLER}", "wool OR hat")
    assert found is not None
    assert "[wool] [hat]" in found


def test_what_is_longer_than_a_piece_is_not_found() -> None:
    assert _snippet("y" * 10_000, "y" * 10_000) is None
    assert _snippet(_FILLER, '"absent"') is None
    assert _snippet(_FILLER, 'a : "other"') is None


def test_a_text_with_nul_in_it() -> None:
    found = _snippet(f"a\0wool {_FILLER}", "wool")
    assert found is not None
    assert "[wool]" in found
