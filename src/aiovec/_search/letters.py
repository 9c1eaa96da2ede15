"""One form for letters that can be written in several ways, and words without spaces.

Unicode has several ways to write a letter: composed or as a letter and a mark, in full or half
width, in a ligature. Keyword search compares texts in one form, NFKC.

Chinese, Japanese and Korean texts have no spaces, or few, between words, so the analyzer "cjk"
compares overlapping pairs of letters, and "ngram" cuts long terms of questions.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

# Letters of Chinese, Japanese and Korean: for a character class.
_CJK = (
    "\u1100-\u11ff\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb"
    "\uf900-\ufaff\U00020000-\U0002fa1f"
)
_RUN = re.compile(f"[{_CJK}]+")
_LETTER_AT_END = re.compile(f"(?<![{_CJK}])[{_CJK}]$")
# For each analyzer that cuts questions, the runs to cut, and the letters of a part. With "ngram",
# a run of at most four letters is a term, which rows contain as a whole.
_CUT = {
    "cjk": (re.compile(f"[{_CJK}]{{2,}}"), 2),
    "ngram": (re.compile(f"[{_CJK}]{{5,}}"), 3),
}
# Marks of vowels, and the line that stretches a word, in Arabic.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670]")
# The small letters of I without and with a dot.
_TURKISH = str.maketrans({"I": "\u0131", "\u0130": "i"})


class _Symbols(dict[int, str]):
    """Maps symbols that NFKC would turn into letters, such as ™ and ㎏, and NUL, to a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        symbol = unicodedata.category(char)[0] not in "LMN"
        becomes_letters = any(map(str.isalnum, unicodedata.normalize("NFKC", char)))
        self[code] = found = " " if not code or (symbol and becomes_letters) else char
        return found


_SYMBOLS = _Symbols()


def unified(analyzer: str, text: str) -> str:
    """Return a text in the form in which an analyzer's index compares its letters.

    Case and accents stay, except in Turkish, which has a dotless i with I as its capital.
    """
    if analyzer == "ngram":
        return unicodedata.normalize("NFKC", text.replace("\0", ""))
    if analyzer == "turkish":
        text = text.translate(_TURKISH)
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS))
    if analyzer == "arabic":
        text = _ARABIC_MARKS.sub("", text)
    return text.replace("\0", " ")


def variants(text: str) -> list[str]:
    """Return ways to write a text: as it is, composed, decomposed, unified, in half width."""
    if text.isascii():
        return [text]
    composed, apart, one = (unicodedata.normalize(f, text) for f in ("NFC", "NFD", "NFKC"))
    return list(dict.fromkeys((composed, apart, text, one, one.translate(_half_width()))))


@lru_cache(maxsize=1)
def _half_width() -> dict[int, str]:
    """Return the half-width form of each Japanese letter that has one."""
    marks = {"": "", "\u3099": "\uff9e", "\u309a": "\uff9f"}
    halves = {}
    for half in map(chr, range(0xFF66, 0xFF9E)):
        full = unicodedata.normalize("NFKC", half)
        for mark, half_mark in marks.items():
            letter = unicodedata.normalize("NFC", full + mark)
            if len(letter) == 1:
                halves[ord(letter)] = half + half_mark
    return halves


@lru_cache(maxsize=1)
def _characters() -> re.Pattern[str]:
    """Return a pattern for a character with the marks and letters that may combine with it."""
    marks = (char for char in map(chr, range(0x10000)) if unicodedata.category(char)[0] == "M")
    return re.compile(f".[{''.join(marks)}\u0640\u1160-\u11ff\uff9e\uff9f]*", re.DOTALL)


class Unified:
    """A text in another form, which knows the part of the text that each of its parts is from."""

    def __init__(self, text: str, change: Callable[[str], str]) -> None:
        self.text = change(text)
        self._starts: Sequence[int] | None = None
        if len(self.text) == len(text) and unicodedata.is_normalized("NFKC", text):
            return  # each letter became one letter
        pieces, starts, ends = [], array("L"), array("L")
        for match in _characters().finditer(text):
            pieces.append(change(match[0]))
            starts.extend([match.start()] * len(pieces[-1]))
            ends.extend([match.end()] * len(pieces[-1]))
        self.text, self._starts, self._ends = "".join(pieces), starts, ends

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the start and end in the original text of a part of this text."""
        if self._starts is None:
            return start, end
        return self._starts[start], self._ends[end - 1]


def word_pattern(analyzer: str) -> re.Pattern[str]:
    """Return the pattern of a word in a unified text; with "cjk", a letter of a run is a word."""
    return _CJK_WORD if analyzer == "cjk" else _WORD


# A word with its combining accents.
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")
_OTHER = rf"[^\W_{_CJK}]"
_CJK_WORD = re.compile(rf"[{_CJK}]|(?:{_OTHER}|[\u0300-\u036f])+")
# A run as it may be written, also decomposed or in half width, or other letters.
_WRITTEN = re.compile(rf"[{_CJK}\u3099\u309a\uff66-\uff9f]+|{_OTHER}+")


def in_pairs(text: str, *, whole: bool = True) -> str:
    """Return a unified text in which each run is replaced by its pairs and its last letter.

    With the last letters, a search for a single letter finds them as beginnings of tokens. Without
    ``whole``, a run at the end of the text has no last letter, because the text is a part of
    others.
    """

    def cut(run: re.Match[str]) -> str:
        pairs = [run[0][n : n + 2] for n in range(len(run[0]) - (not whole and run.end() == end))]
        return f" {' '.join(pairs or run[0])} "

    end = len(text)
    return _RUN.sub(cut, text)


def ends_in_letter(text: str) -> bool:
    """Return whether a text for the analyzer "cjk" ends in a run of a single letter."""
    return _LETTER_AT_END.search(unified("cjk", text)) is not None


def runs_of(text: str) -> list[str]:
    """Return the runs of letters and digits of a text as it is written, for "cjk"."""
    return _WRITTEN.findall(text)


def pattern_of(text: str, *, prefix: bool) -> re.Pattern[str] | None:
    """Return a pattern that finds a text in others as the analyzer "cjk" does; None without a word.

    Words match as a whole, or with ``prefix`` the last one as the beginning of a word. Letters of
    runs match as parts of runs.
    """
    parts, end, before = list[str](), 0, ""
    for word in _CJK_WORD.finditer(text):
        letters = [_RUN.match(each) is not None for each in (before, word[0])]
        if before and (letters != [True, True] or word.start() > end):
            parts.append(r"[\W_]+" if letters[0] == letters[1] else r"[\W_]*")
        elif not before and not letters[1]:
            parts.append(f"(?<!{_OTHER})")
        parts.append(re.escape(word[0]))
        end, before = word.end(), word[0]
    if before and not prefix and not _RUN.match(before):
        parts.append(f"(?!{_OTHER})")
    return re.compile("".join(parts)) if before else None


def script_of(text: str) -> str:
    """Return the script of most words of a text, such as "latin", "cyrillic" or "cjk"; "" without.

    Each letter of Chinese, Japanese and Korean counts as a word.
    """
    words = (word[0] for word in _CJK_WORD.finditer(unified("cjk", text)))
    scripts = Counter(
        "cjk" if _RUN.match(word) else unicodedata.name(word[0], "").split(" ")[0].lower()
        for word in words
        if word[0].isalpha()
    )
    return max(scripts, key=scripts.__getitem__, default="")


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are written, without white space and punctuation."""
    if text.isascii():
        return _WORD.findall(text)
    return "".join(char if _is_of_word(char) else " " for char in text).split()


def _is_of_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char) in ("Mn", "Mc", "Me", "Co")


def is_particle(text: str) -> bool:
    """Return whether a text is a single letter of hiragana, which is a particle as a word."""
    return len(text) == 1 and "\u3041" <= text <= "\u3096"


def cut(analyzer: str, word: str) -> list[str]:
    """Return the parts of a word of a question that the analyzer matches one by one.

    Long runs become overlapping pairs ("cjk") or triples ("ngram"). Other letters, digits and
    punctuation stay together.
    """
    if analyzer not in _CUT or word.isascii():
        return [word]
    long, size = _CUT[analyzer]
    text, parts, place = unified(analyzer, word), list[str](), 0
    for run in long.finditer(text):
        parts += [text[place : run.start()]] if run.start() > place else []
        parts += [run[0][n : n + size] for n in range(len(run[0]) - size + 1)]
        place = run.end()
    return [*parts, text[place:]] if parts and place < len(text) else parts or [word]
