"""Parts of words that the ngram index cannot find, found in the texts themselves.

Needle and text are folded to what the index takes for the same: lower case without accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

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


@lru_cache(maxsize=1)
def _changing() -> re.Pattern[str]:
    """A pattern of the characters that folding changes, and of all that take more than 16 bits.

    To look for them takes a fifth of the time of folding, and ideographs are none of them.
    """
    chars = "".join(char for char in map(chr, range(0x10000)) if _folded(char) != char)
    return re.compile(f"[{re.escape(chars)}\U00010000-\U0010ffff]")


def folded(text: str) -> str:
    """A text as the index compares it."""
    if text.isascii():
        return text.lower()
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return "".join(
        piece.translate(_FOLDING) if _changing().search(piece) else piece for piece in pieces
    )


def spans_of(needles: Iterable[str], text: str) -> Iterator[tuple[int, int]]:
    """Where folded needles stand in a text, in any case, with or without accents."""
    whole = folded(text)
    # The characters that the folded ones come from: accents of their own are left out.
    if len(whole) == len(text):
        origins: Sequence[int] = range(len(text))
    else:
        origins = [n for n, char in enumerate(text) if _FOLDING[ord(char)]]
    for wanted in needles:
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
    return folded(stored.decode()).count(folded(needle))
