"""Search texts for parts of words that the ngram index cannot find.

The needle and the text are folded as in FTS5's trigram index: to one form, to lower case, and
Latin letters lose their accents. In other scripts, a mark like an accent makes a different letter:
й, が, 가.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from aiovec.backend import unified

# Characters per call into C, which holds the GIL for about 3 ms.
_PIECE = 2**16


def _latin(decomposed: str) -> bool:
    return decomposed[0].isascii() and decomposed[0].isalpha()


@lru_cache(maxsize=1)
def _accents() -> frozenset[str]:
    """Return the combining accents of Latin letters, which the index removes from any letter."""
    apart = [unicodedata.normalize("NFD", chr(code)) for code in range(0xC0, 0x1F00)]
    return frozenset(accent for letter in apart if _latin(letter) for accent in letter[1:])


def _folded(char: str) -> str:
    """Return a character as the index compares it; "" for a combining accent."""
    if char in _accents():
        return ""
    lower = char.casefold()  # lower() would keep a final sigma
    if len(lower) > 1:
        lower = char.lower()
    apart = unicodedata.normalize("NFD", lower)
    if _latin(apart):
        return apart[0]
    return lower if len(lower) == 1 else char


class _Folding(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = char = _folded(chr(code))
        return char


_FOLDING = _Folding()


@lru_cache(maxsize=1)
def _changing() -> re.Pattern[str]:
    """Return a pattern for all characters that folding changes and all characters above U+FFFF.

    Searching a text for it takes a fifth as long as folding the text. Most ideographs do not match.
    """
    chars = "".join(char for char in map(chr, range(0x10000)) if _folded(char) != char)
    return re.compile(f"[{re.escape(chars)}\U00010000-\U0010ffff]")


def folded(text: str) -> str:
    """Return a text as the index compares it."""
    text = unified("ngram", text)
    if text.isascii():
        return text.lower()
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return "".join(
        piece.translate(_FOLDING) if _changing().search(piece) else piece for piece in pieces
    )


def count_in(needle: str, stored: bytes | None) -> int:
    """Count the occurrences of a needle in a text. This is the SQL function ``aiovec_counts``.

    The text is passed as a BLOB, because the driver cuts a text at a NUL.
    """
    if stored is None:
        return 0
    return folded(stored.decode()).count(folded(needle))
