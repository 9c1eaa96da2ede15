"""Compare the keyword searches of two tables.

Engines fold accents and stem in their own ways, so a row may match a word for one of them alone.
What is compared is what every engine has to say alike: a row whose text has the very word, in Latin
letters and digits without an accent near by, matches it, and with the plain analyzer or n-grams a
row of such texts alone that does not have it does not match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiovec.backend import Schema, TextClause
from aiovec.backend.contract import Backend, Columns, TextQuery

from .compare import Side, Sides, both
from .searches import sampled_ids, spread

# Rows of an answer. A word that more rows match is compared by these alone.
_MOST = 1_000
# Words of one row that are asked for, and letters of a word: n-grams have three.
_A_ROW, _LETTERS = 2, (3, 40)
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Keywords:
    """Keyword searches for sampled words.

    ``unlike`` counts the words for which a row was found on one side alone though it is the same
    on both; ``unlike_words`` are the first of them, ``unlike_ids`` such rows. ``moving`` counts
    words whose rows differed or changed meanwhile.
    """

    asked: int
    unlike: int = 0
    unlike_words: tuple[str, ...] = ()
    unlike_ids: tuple[str, ...] = ()
    moving: int = 0


async def compared_keywords(
    sides: Sides, count: int, rows: int, *, seconds: float = 1.0, least: int = 3
) -> Keywords | None:
    """Compare the rows that words of the source's texts find; None without keyword search.

    After ``seconds`` it ends, when the ``least`` words have been asked for.
    """
    fields = [name for name, field in sides.source.schema.fields.items() if field.text]
    here, there = sides.source.backend, sides.target.backend
    if not (fields and here.supports("text") and there.supports("text")):
        return None
    words = await _sampled_words(sides.source, fields, count, rows)
    unlike_words: list[str] = []
    unlike_ids: list[str] = []
    asked = moving = 0
    begun = sides.host.now()
    for place in spread(len(words)):
        if asked >= least and sides.host.now() - begun > seconds:
            break
        word = words[place]
        mine, theirs = await both(
            _found(here, sides.source, word), _found(there, sides.target, word)
        )
        asked += 1
        suspects = _on_one_side(mine, theirs)
        texts = await _texts_of(sides.source, fields, suspects)
        wrong = [id for id in texts if _matches(word, texts[id], sides.source.schema) is not None]
        if not wrong:
            continue
        own, other = await both(sides.source.looked_up(wrong), sides.target.looked_up(wrong))
        if same := [id for id in wrong if id in own and own[id] == other.get(id)]:
            unlike_words.append(word)
            unlike_ids += same
        else:
            moving += 1
    ids = tuple(dict.fromkeys(unlike_ids))[:10]
    return Keywords(asked, len(unlike_words), tuple(unlike_words[:10]), ids, moving)


async def _sampled_words(side: Side, fields: Sequence[str], count: int, rows: int) -> list[str]:
    """Words of rows from all over the table, the longest of each, which few rows have."""
    texts = await _texts_of(side, fields, await sampled_ids(side, count, rows))
    chosen: dict[str, None] = {}
    for id in sorted(texts):
        words = {word for text in texts[id] for word in _words(text)}
        fit = [word for word in words if _LETTERS[0] <= len(word) <= _LETTERS[1]]
        chosen.update(dict.fromkeys(sorted(fit, key=lambda word: (-len(word), word))[:_A_ROW]))
    return list(chosen)


async def _texts_of(side: Side, fields: Sequence[str], ids: Sequence[str]) -> dict[str, list[str]]:
    """The texts of each of the rows that exist."""
    if not ids:
        return {}
    rows = await side.backend.get(side.handle, ids, Columns(tuple(fields)))
    values = zip(*(rows.fields[name] for name in fields), strict=True)
    return {
        id: [text for text in texts if text is not None]
        for id, texts in zip(rows.ids, values, strict=True)
    }


async def _found(backend: Backend, side: Side, word: str) -> set[str]:
    query = TextQuery((TextClause(word),), _MOST, None, Columns(()))
    return set((await backend.search_text(side.handle, query)).rows.ids)


def _on_one_side(mine: set[str], theirs: set[str]) -> list[str]:
    """The rows that one side lacks, where its answer has all."""
    found = (mine - theirs if len(theirs) < _MOST else set()) | (
        theirs - mine if len(mine) < _MOST else set()
    )
    return sorted(found)


def _words(text: str) -> Iterator[str]:
    for part in text.split():
        if part.isascii():
            yield from _WORD.findall(part.lower())


def _matches(word: str, texts: Sequence[str], schema: Schema) -> bool | None:
    """Return whether a row matches the word, as every engine has to say; None where it need not."""
    for text in texts:
        if schema.analyzer == "ngram":
            if any(word in part.lower() for part in text.split() if part.isascii()):
                return True
        elif word in _words(text):
            return True
    # Another word may have its stem, or become this one when its accents are folded.
    return None if schema.analyzer == "english" or not all(map(str.isascii, texts)) else False
