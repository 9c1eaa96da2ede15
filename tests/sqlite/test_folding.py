"""Parts of words in long texts: found in pieces as in the whole."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiovec_sqlite.text import folding
from aiovec_sqlite.text.folding import count_in, folded, spans_of

# Letters in both cases, with accents in one character and of their own, and what is no letter.
CHARACTERS = "aAáÁbß日 \u0301\u0308"
TEXTS = st.text(CHARACTERS, max_size=60)


def in_the_whole(needle: str, text: str) -> list[tuple[int, int]]:
    wanted = re.compile("".join(f"{re.escape(char)}\0*" for char in folded(needle)))
    # A character for each, so that the places are those of the text.
    return [match.span() for match in wanted.finditer("".join(folded(c) or "\0" for c in text))]


@given(st.text("aáb日\u0301", min_size=1, max_size=12), TEXTS, st.integers(1, 30))
@example("ab", "a" + "\u0301" * 20 + "b", 3)
@example("a", "a" + "\u0301" * 20 + "a", 3)
@example("aab", "aaaab", 2)
def test_a_text_in_pieces(needle: str, text: str, piece: int) -> None:
    if not folded(needle):
        return
    with mock.patch.object(folding, "_PIECE", len(text) + 1):
        whole = list(spans_of(needle, text))
        if len(folded(needle)) <= folding._SHORT:
            assert whole == in_the_whole(needle, text)
        count = count_in(needle, text.encode())
        whole_folded = folded(text)
    with mock.patch.object(folding, "_PIECE", piece):
        assert list(spans_of(needle, text)) == whole
        assert count_in(needle, text.encode()) == count == len(whole)
        assert folded(text) == whole_folded


@pytest.mark.parametrize("needle", ["be", "bedeutend", "日本", "日本語の文章全部です"])
def test_no_call_looks_at_much_of_a_long_text(needle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call into C lets no other thread go on, nor the event loop."""
    text = "ein BÉ deutender Text 日本語の文章全部です " * 10_000
    pattern = folding._pattern_of

    class Looked(str):
        """A text that notes how much of it is folded at once."""

        def translate(self, table: object) -> str:
            raise AssertionError(len(self))

    class Pattern:
        def __init__(self, wanted: str) -> None:
            self._pattern = pattern(wanted)

        def finditer(self, text: str, start: int = 0, end: int = len(text)) -> object:
            assert end - start <= folding._PIECE
            return self._pattern.finditer(text, start, end)

    monkeypatch.setattr(folding, "_pattern_of", Pattern)
    found = list(spans_of(needle, Looked(text)))
    assert len(found) == (10_000 if needle != "bedeutend" else 0)
