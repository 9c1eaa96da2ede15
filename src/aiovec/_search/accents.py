"""Handle accents on Latin letters, because people often type words without them.

A stemmer knows the endings of its language with their accents: it reduces ``informação`` and
``informações`` to ``inform``, but ``informacao`` to ``informaca``. So before a word is stemmed, it
gets the accents that its ending usually has, however it was typed.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from .letters import unified

# The endings that decide most stems, by their frequency in the 30,000 most frequent words of each
# language. With them, 0.02 to 4 % of the words have a different stem from the one that Snowball
# gives the word as written (in Hungarian, 9 % without them).
_ENDINGS = {
    "dutch": "ciële reëren riële tiële",
    # FTS5 removes accents before it stems English words, LanceDB afterwards.
    "english": "cliché clichés exposé exposés fiancé fiancés protégé protégés résumé résumés",
    "french": "ée ité ées ère près éjà ités ières",
    "hungarian": "ó ól zért át ét iért ják ján ően zönöm ként hozzá",
    "italian": "lità rità vità ntità irà derà icità nità",
    "norwegian": "så står forstå nivå går nngå rpå",
    "portuguese": "ção ão ções também ência guém ável mãe vocês",
    "romanian": "ează ți ând ești ște ație ația că ră și",
    "spanish": "bién ría ían pués abía demás uí",
    "swedish": "för kså rstår ltså",
    "turkish": "ş ğı ği ğu öyle uğunu önce göre ğini ğını ünde ğim",  # noqa: RUF001
}
# The letters with accents that the languages use.
_LETTERS = {
    "danish": "åé", "dutch": "ëéï", "finnish": "äö", "french": "éèêàçïî", "german": "äöüé",
    "hungarian": "áéíóöőúüű", "italian": "àèéìòù", "norwegian": "åé", "portuguese": "áâãàçéêíóôõú",
    "romanian": "ăâîșț", "spanish": "áéíóúñü", "swedish": "åäöé", "turkish": "çğöşüâı",
}  # fmt: skip
_DOTLESS = "\u0131"
_ACCENTS = re.compile(r"(?<=[A-Za-z])[\u0300-\u036f]+")


def unaccented(text: str) -> str:
    """Return a text with the accents of its Latin letters removed."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))


@lru_cache(maxsize=20_000)
def accented(language: str, word: str) -> str:
    """Return a lower-case word with only the accents that its ending usually has."""
    word = unaccented(word)
    rule = _rule(language)
    return word if rule is None else rule[0].sub(lambda ending: rule[1][ending[0]], word, count=1)


def spellings(language: str, word: str) -> list[str]:
    """Return the spellings of a word, in lower case, that may have different stems: without
    accents, with the accents that its ending usually has, and with one accent near its end.
    """
    bare = unaccented(word.lower())
    words = [bare, accented(language, bare)]
    letters = _LETTERS.get(language, "")
    bases = unaccented(letters)
    if language == "turkish":
        # Lower case makes an i of each I, but the capitals are I for a dotless i, and I with a dot.
        bare, bases = bare.replace(_DOTLESS, "i"), bases.replace(_DOTLESS, "i")
        small = [word.lower(), unified(language, word).lower()]
        capitals = [each.translate({105: "\u0130", 0x131: "I"}).upper() for each in small]
        words = [*words, bare, *small, *capitals]
    # Only the last letters of a word decide its stem.
    for place in [n for n, letter in enumerate(bare) if letter in bases][-2:]:
        words += [
            bare[:place] + letter + bare[place + 1 :]
            for letter, base in zip(letters, bases, strict=True)
            if base == bare[place]
        ]
    return words


@lru_cache(maxsize=64)
def _rule(language: str) -> tuple[re.Pattern[str], dict[str, str]] | None:
    """Return the pattern of a language's endings, and each ending with its accents; None if the
    language has no list of endings."""
    endings = {unaccented(ending): ending for ending in _ENDINGS.get(language, "").split()}
    if not endings:
        return None
    longest_first = sorted(endings, key=len, reverse=True)
    return re.compile(rf"(?:{'|'.join(longest_first)})\Z"), endings
