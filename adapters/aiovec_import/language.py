# ruff: noqa: RUF001 - letters of other scripts look like Latin ones
"""Recognize the language of texts, to choose how keyword search splits them into words.

A language is recognized by its most frequent words. Unless one language is clear, none is named:
stems of a wrong language harm more than none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiovec.backend import LANGUAGES, script_of

# The size of a sample. A language is mostly clear after 1,000 characters.
_MOST_ROWS, _MOST_CHARACTERS = 200, 50_000
# Frequent words, including those that set a language apart from its neighbors. Words of code, such
# as "for" and "in", count for every language that has them, so they decide nothing.
_WORDS_OF = {
    "arabic": "في من على أن إلى التي الذي هذا هذه مع لا ما أو عن كان هو هي ذلك كل بعد قد لم كما",
    "danish": "og i at er en til af på som med for den de ikke et der det kan har fra hvis bliver "
    "eller hvad jeg blev kun også ved",
    "dutch": "de het een van en in is dat op te zijn voor met die niet aan er om ook als door "
    "wordt bij naar of maar deze",
    "english": "the of and to a in is that for it as with be by on are this not or from an if you "
    "which at was can have will",
    "finnish": "ja on ei että se joka tai kun jos mutta myös oli voi niin ole kuin sen hän "
    "tämä tämän jotka ovat vain kanssa mitä sitä jälkeen sekä",
    "french": "le la les de des et en un une du est que pour dans qui par sur pas plus ne au il "
    "avec ce cette sont ou être si",
    "german": "der die und das in den von zu mit ist ein eine nicht auf für wird dem des sich als "
    "im es werden oder auch kann wenn",
    "greek": "και το του να την της η ο για με από είναι που τα στο οι δεν σε θα ένα αυτό τον στην",
    "hungarian": "a az és hogy nem is egy van ha meg de csak vagy mint ez ezt kell már volt lehet "
    "azt még ki el minden nincs mert akkor",
    "italian": "di e il la che un in per è una non del della le con i si da dei sono come al lo "
    "gli nel alla questo più anche",
    "norwegian": "og i at er en til av på som med for den de ikke et det kan har fra hvis blir "
    "eller hva jeg ble bare også ved å",
    "portuguese": "de o a e que do da em um para é com não uma os no se na por mais as dos como "
    "ou ao ser são foi pelo",
    "romanian": "de în și şi la a cu pe nu că un o din să pentru este care sau mai au fi prin sunt "
    "ale dacă această acest",
    "russian": "и в не на что с по это для как из или от если к он при так же то но его может был "
    "все",
    "spanish": "de la que el en y a los se del las un por con una para es no su al lo como más o "
    "si está este son",
    "swedish": "och i att det är en som på av för med den till inte om ett kan har från de eller "
    "så var när denna men också",
    "turkish": "ve bir bu için ile de da olarak ne gibi daha çok ya her olan veya en değil "
    "ise sonra kadar var tüm ancak en ben bunu mi",
    # Languages without an analyzer that share many words with one of those above.
    "bulgarian": "и в на с от за не се по да е като или че са това ако при може към до ще",
    "catalan": "de la que el en i a els les un una per amb és no del al dels als si com o aquest "
    "més són",
    "czech": "a se na je v že s do pro to z jako nebo není o by i za při jsou která tak",
    "ukrainian": "і в на не що та з у до для це як від за є або якщо не про було цей може його",
}
_WORDS = {language: frozenset(words.split()) for language, words in _WORDS_OF.items()}
_WORD = re.compile(r"[^\W\d_]+")
# Letters from here on are not Latin. Texts in other scripts name commands and products in Latin
# letters, so their own words decide from this share of all words.
_OTHER_SCRIPTS, _LEAST_OTHERS = "\u0370", 0.3
# A text has at least this share of its language's words, and this many different ones. They are
# 0.3 of most texts, 0.15 in languages of many endings, and less of code and lists.
_LEAST_SHARE, _LEAST_WORDS = 0.1, 5


def language_of(text: str) -> str:
    """Return the analyzer for a text: "cjk", a language, or "" if no language is clear."""
    if script_of(text) == "cjk":
        return "cjk"
    words = _WORD.findall(text.lower())
    others = [word for word in words if word[0] >= _OTHER_SCRIPTS]
    words = others if len(others) > _LEAST_OTHERS * len(words) else words
    counts = Counter(words)

    def count(some: Collection[str]) -> int:
        return sum(counts[word] for word in some)

    second, best = sorted(_WORDS, key=lambda name: count(_WORDS[name]))[-2:]
    is_clear = (
        len(_WORDS[best] & counts.keys()) >= _LEAST_WORDS
        and count(_WORDS[best]) >= _LEAST_SHARE * len(words)
        and count(_WORDS[best] - _WORDS[second]) > 2 * count(_WORDS[second] - _WORDS[best])
    )
    return best if is_clear and best in LANGUAGES | {"english"} else ""


def sample(rows: Any, names: Sequence[str]) -> str:
    """Return up to 50,000 characters of some rows' fields; rows may be an Arrow table."""
    some = range(0, len(rows), max(1, len(rows) // _MOST_ROWS))
    if not isinstance(rows, list):
        rows = rows.select(names).take([*some]).to_pylist()
        some = range(len(rows))
    texts = [text for n in some for name in names if (text := rows[n].get(name))]
    return " ".join(text[: _MOST_CHARACTERS // len(texts)] for text in texts)


def analyzer_line(facts: Mapping[str, Any]) -> list[str]:
    """Return a line about a new table's analyzer; none if the import did not choose it."""
    because, change = facts["analyzer_because"], "--analyzer NAME sets another for a new table"
    return [f"analyzer: {facts['analyzer']} ({because}); {change}"] if because else []
