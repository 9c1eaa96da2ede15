"""Parts of words in long texts: found in pieces as in the whole."""

from __future__ import annotations

import re
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiovec.backend import TextClause, part_snippets
from aiovec_sqlite.sql import folding
from aiovec_sqlite.sql.folding import count_in, folded

# Letters in both cases, with accents in one character and of their own, and what is no letter.
TEXTS = st.text("aAáÁbß日 \u0301\u0308", max_size=60)


def in_the_whole(needle: str, text: str) -> list[tuple[int, int]]:
    wanted = re.compile("".join(f"{re.escape(char)}\0*" for char in folded(needle)))
    # A character for each, so that the places are those of the text.
    return [match.span() for match in wanted.finditer("".join(folded(c) or "\0" for c in text))]


@settings(max_examples=60)
@given(st.text("aáb日\u0301", min_size=1, max_size=3), TEXTS, st.integers(1, 30))
@example("ab", "a" + "\u0301" * 20 + "b", 3)
@example("a", "a" + "\u0301" * 20 + "a", 3)
@example("aab", "aaaab", 2)
def test_a_text_in_pieces_has_the_matches_of_the_whole(needle: str, text: str, piece: int) -> None:
    if not folded(needle):
        return
    whole = in_the_whole(needle, text)
    with mock.patch.object(folding, "_PIECE", piece):
        (snippets,) = part_snippets([{"t": text}], [TextClause(needle)], folded, ("<", ">"))
        marked = text
        for start, end in reversed(whole):
            marked = f"{marked[:start]}<{marked[start:end]}>{marked[end:]}"
        assert snippets.get("t", text) == marked
        assert count_in(needle, text.encode()) == len(whole)
