"""Parts of words that the ngram index cannot find, found in the texts themselves.

A short needle becomes a regular expression in which each letter stands for all that the index takes
for the same: upper and lower case, with accents or without. For a long one, whose expression would
take seconds and megabytes to compile, the text is folded instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

# Code points beyond these are not folded: emoji, and ideographs, which have no case.
_LAST = 0x1F000
# Characters of a needle that is worth an expression: about 10 ms to compile.
_SHORT = 8
# Characters that one call into C looks at. It holds the interpreter meanwhile, for some 3 ms.
_PIECE = 2**16


def _folded(char: str) -> str:
    """A character in lower case without accents; empty for an accent of its own."""
    if unicodedata.combining(char):
        return ""
    lower = char.lower()
    base = unicodedata.normalize("NFD", lower)[0]
    return base if len(lower) == 1 or lower[0] != char else char


class _Folding(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = found = _folded(chr(code))
        return found


_FOLDING = _Folding()


def folded(text: str) -> str:
    """A text as the index compares it."""
    if text.isascii():
        return text.lower()
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return "".join(piece.translate(_FOLDING) for piece in pieces)


@lru_cache(maxsize=1)
def _alike() -> dict[str, str]:
    """For each folded character the others that are folded to it, and under "" the accents."""
    found: dict[str, str] = {}
    for code in range(0x41, _LAST):
        if not 0xD800 <= code < 0xE000:
            char = chr(code)
            base = _folded(char)
            if base != char:
                found[base] = found.get(base, "") + char
    return found


@lru_cache(maxsize=512)
def _pattern_of(needle: str) -> re.Pattern[str]:
    """A pattern that finds a folded needle in any case, with or without accents."""
    alike = _alike()
    accents = f"[{re.escape(alike[''])}]*"
    chars = [f"[{re.escape(char + alike.get(char, ''))}]" for char in needle]
    # Behind the last one too, so that a letter is marked with its accents.
    return re.compile("".join(f"{char}{accents}" for char in chars))


def _spans_of_short(wanted: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a short folded needle stands in a text, which is looked at in pieces.

    A match that reaches the end of a piece may go on behind it. So the next piece begins with the
    first match that can: it holds no more letters of this piece than the needle has.
    """
    pattern = _pattern_of(wanted)
    start, size = 0, _PIECE
    while (end := start + size) < len(text):
        behind = start
        for match in pattern.finditer(text, start, end):
            if match.end() == end:
                break
            yield match.span()
            behind = match.end()
        begins, letters = end, 0
        while begins > behind and letters < len(wanted):
            begins -= 1
            letters += bool(_FOLDING[ord(text[begins])])
        # Nothing but accents may fill a piece.
        size = _PIECE if begins > start else 2 * size
        start = begins
    yield from (match.span() for match in pattern.finditer(text, start))


def spans_of(needle: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a needle stands in a text, in any case, with or without accents."""
    wanted = folded(needle)
    if len(wanted) <= _SHORT:
        yield from _spans_of_short(wanted, text)
        return
    whole = folded(text)
    # The characters that the folded ones come from: accents of their own are left out.
    if len(whole) == len(text):
        origins: Sequence[int] = range(len(text))
    else:
        origins = [n for n, char in enumerate(text) if _FOLDING[ord(char)]]
    at = whole.find(wanted)
    while at >= 0:
        behind = at + len(wanted)
        yield origins[at], origins[behind] if behind < len(origins) else len(text)
        at = whole.find(wanted, behind)


def count_in(needle: str, stored: bytes | None) -> int:
    """The number of times that a needle stands in a text: the SQL function ``aiovec_counts``.

    The text is a BLOB, which the driver hands over whole; a text it cuts at a NUL.
    """
    if stored is None:
        return 0
    text = stored.decode()
    wanted = folded(needle)
    if len(wanted) > _SHORT:
        return folded(text).count(wanted)
    return sum(1 for _ in _spans_of_short(wanted, text))
