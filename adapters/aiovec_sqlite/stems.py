"""Snowball stems of words in languages other than English.

FTS5 has no stemmer for these languages, so the index stores the stems: its view and its triggers
call the SQL function ``aiovec_stems``, which exists only if ``pystemmer`` is installed.

An index's entry records how its words were stemmed. If the entry has only a
language's name, the stems depend on accents until the index is rebuilt.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from functools import lru_cache
from importlib.util import find_spec

from aiovec.backend import LANGUAGES, accented, unaccented
from aiovec.errors import UnsupportedError

NAME = "aiovec_stems"
_WORD = re.compile(r"[^\W_]+")
# Follows the language's name if words with and without accents have the same stem.
_ALIKE = " without accents"


def has_stemmer() -> bool:
    """Return whether ``pystemmer`` is installed, without importing it."""
    return find_spec("Stemmer") is not None


def register(db: sqlite3.Connection) -> None:
    if has_stemmer():
        db.create_function(NAME, 2, stems, deterministic=True)


def stemming_of(analyzer: str) -> str:
    """Return the name of a new index's stemming.

    This is the analyzer's name, with a suffix if the analyzer needs pystemmer.
    """
    return f"{analyzer}{_ALIKE}" if analyzer in LANGUAGES else analyzer


def analyzer_of(stemming: str) -> str:
    return stemming.removesuffix(_ALIKE)


def stems(stemming: str, text: str | None) -> str | None:
    """Return a text in lower case, with each word replaced by its stem."""
    if text is None:
        return None
    language = analyzer_of(stemming)
    try:
        if language == stemming:
            return _WORD.sub(
                lambda word: _stem(language, word[0]), unicodedata.normalize("NFC", text).lower()
            )
        lower = unaccented(text.lower())
        return _WORD.sub(lambda word: _stem(language, accented(language, word[0])), lower)
    except ImportError as exc:
        raise no_stemmer(language) from exc


@lru_cache(maxsize=20_000)
def _stem(language: str, word: str) -> str:
    from Stemmer import Stemmer

    # Each call creates a stemmer, because threads cannot share one.
    return str(Stemmer(language).stemWord(word))


def no_stemmer(language: str | None = None) -> UnsupportedError:
    """Return the error for a call that needs pystemmer, which is not installed."""
    wanted = "a table's text index" if language is None else f"analyzer={language!r}"
    return UnsupportedError(
        "text",
        "sqlite",
        f"{wanted} needs the package pystemmer, which is not installed; install it with: pip "
        'install "aiovec[languages]"',
    )
