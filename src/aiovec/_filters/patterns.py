"""LIKE patterns with their wildcards marked, and case folding for ILIKE.

The case rule is Unicode's simple case folding: two characters are the same letter if it maps them
to the same character. So a character matches one character, independent of language and context: a
sigma matches a final sigma, ß matches ẞ but not ss, and İ matches only itself. The folding table
comes from Python, since each engine has a different one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from .._tools.messages import shown
from ..errors import FilterError
from . import literals

# Lone surrogates, which neither stored texts nor patterns can contain.
ANY_TEXT, ANY_CHARACTER = "\ud825", "\ud85f"
"""The wildcards of a marked pattern; every other character in it is literal."""

_WILDCARDS = {ord("%"): ANY_TEXT, ord("_"): ANY_CHARACTER}
_SPECIAL = re.compile(r"[%_\\]")


def checked_escape(escape: object) -> str:
    """Return the escape, or raise FilterError if it is not a single character."""
    character = literals.checked_text(escape)
    if len(character) != 1:
        raise FilterError(f"ESCAPE takes a single character, not {shown(character)}")
    return character


def marked(pattern: str, escape: str | None = None) -> str:
    """Return the pattern with marks in place of its wildcards, and without its escapes.

    Any character after ``escape`` is literal. Raises FilterError if no character follows it.
    """
    if escape is None:
        return pattern.replace("%", ANY_TEXT).replace("_", ANY_CHARACTER)
    parts = []
    rest = iter(pattern)
    for character in rest:
        if character != escape:
            parts.append(_WILDCARDS.get(ord(character), character))
            continue
        literal = next(rest, None)
        if literal is None:
            raise FilterError(
                f"the pattern ends with its escape {shown(escape)}; a character must follow"
            )
        parts.append(literal)
    return "".join(parts)


def written(pattern: str) -> str:
    """Return a marked pattern as filter text, with an escape if it needs one."""
    escape = ""
    if "%" in pattern or "_" in pattern:
        pattern, escape = _SPECIAL.sub(r"\\\g<0>", pattern), r" ESCAPE '\'"
    return literals.literal(pattern.replace(ANY_TEXT, "%").replace(ANY_CHARACTER, "_")) + escape


def fold_case(text: str) -> str:
    """Return the text with both cases of each letter mapped to the same character."""
    return text.lower() if text.isascii() else text.translate(_folded())


def same_letter(character: str) -> str:
    """Return the characters that are the same letter as this one, including itself, sorted."""
    return _letters().get(fold_case(character), character)


@cache
def _folded() -> Mapping[int, str]:
    folded = {}
    for first, end in _CASED:
        for code in range(first, end):
            character = chr(code)
            # Full folding turns some characters into two; their simple folding is lower().
            ways = (character.casefold(), character.lower())
            simple = next((way for way in ways if len(way) == 1), character)
            if simple != character:
                folded[code] = simple
    return folded


@cache
def _letters() -> Mapping[str, str]:
    letters: dict[str, str] = {}
    for code, to in _folded().items():
        letters[to] = letters.get(to, to) + chr(code)
    return {to: "".join(sorted(all_of)) for to, all_of in letters.items()}


# Ranges of the scripts with upper and lower case.
_CASED = (
    (0x41, 0x600), (0x10A0, 0x1400), (0x1C80, 0x2D30), (0xA640, 0xABC0), (0xFF21, 0xFF3B),
    (0x10400, 0x10E00), (0x118A0, 0x118C0), (0x16E40, 0x16F00), (0x1E900, 0x1E922),
)  # fmt: skip
