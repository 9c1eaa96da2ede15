"""Parts of words too short for the ngram index, found in the texts themselves.

A needle becomes a regular expression in which each letter stands for all that the index takes for
the same: upper and lower case, with accents or without.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Code points beyond these are not folded: emoji, and ideographs, which have no case.
_LAST = 0x1F000


def _folded(char: str) -> str:
    """A character in lower case without accents; empty for an accent of its own."""
    if unicodedata.combining(char):
        return ""
    lower = char.lower()
    base = unicodedata.normalize("NFD", lower)[0]
    return base if len(lower) == 1 or lower[0] != char else char


def folded(text: str) -> str:
    """A text as the index compares it."""
    return "".join(map(_folded, text))


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
def pattern_of(needle: str) -> re.Pattern[str]:
    """A pattern that finds a needle in any case, with or without accents."""
    alike = _alike()
    accents = f"[{re.escape(alike[''])}]*"
    chars = [f"[{re.escape(char + alike.get(char, ''))}]" for char in folded(needle)]
    # Behind the last one too, so that a letter is marked with its accents.
    return re.compile("".join(f"{char}{accents}" for char in chars))


def count_in(needle: str, text: object) -> int:
    """How often a needle stands in a text: the SQL function ``aiovec_counts``."""
    if type(text) is not str:
        return 0
    return sum(1 for _ in pattern_of(needle).finditer(text))
