"""The texts that an index stores: with letters in one form, and with stems or pairs as words.

FTS5 compares letters as they are written, and has a stemmer for English only. So an index's view
and its triggers call an SQL function: ``aiovec_letters`` or, for stems in other languages,
``aiovec_stems``, which exists only if ``pystemmer`` is installed.

An index's entry records how its texts were changed. If the entry has only an analyzer's name, an
earlier version built the index: then its letters stay as they are written, and its stems depend on
accents, until the index is rebuilt.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from functools import lru_cache
from importlib.util import find_spec

from aiovec.backend import LANGUAGES, accented, in_pairs, unaccented, unified
from aiovec.errors import UnsupportedError

NAME = "aiovec_stems"
_LETTERS = "aiovec_letters"
_WORD = re.compile(r"[^\W_]+")
# Follows the analyzer's name if letters are in one form, and accents do not change stems.
_UNIFIED = " unified"
# Follows the language's name if only accents do not change stems.
_ALIKE = " without accents"


def has_stemmer() -> bool:
    """Return whether ``pystemmer`` is installed, without importing it."""
    return find_spec("Stemmer") is not None


def register(db: sqlite3.Connection) -> None:
    db.create_function(_LETTERS, 2, stems, deterministic=True)
    if has_stemmer():
        db.create_function(NAME, 2, stems, deterministic=True)


def stemming_of(analyzer: str) -> str:
    """Return the name of a new index's stemming."""
    return analyzer + _UNIFIED


def analyzer_of(stemming: str) -> str:
    return stemming.removesuffix(_UNIFIED).removesuffix(_ALIKE)


def stored(stemming: str, column: str) -> str:
    """Return SQL for the text that an index stores for a column."""
    analyzer = analyzer_of(stemming)
    if analyzer in LANGUAGES or stemming != analyzer:
        function = NAME if analyzer in LANGUAGES else _LETTERS
        # As a BLOB, because the driver cuts a text at a NUL.
        return f"{function}('{stemming}', CAST({column} AS BLOB))"
    return column


def stems(stemming: str, text: str | bytes | None, *, whole: bool = True) -> str | None:
    """Return a text as an index stores it: with stems in lower case, or with pairs.

    Without ``whole``, the text is a part of others (see ``in_pairs``).
    """
    if text is None:
        return None
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    analyzer = analyzer_of(stemming)
    if stemming.endswith(_UNIFIED):
        text = unified(analyzer, text)
    if analyzer == "cjk":
        return in_pairs(text, whole=whole)
    if analyzer not in LANGUAGES:
        return text
    try:
        if analyzer == stemming:
            lower = unicodedata.normalize("NFC", text).lower()
            return _WORD.sub(lambda word: _stem(analyzer, word[0]), lower)
        lower = unaccented(text.lower())
        text = _WORD.sub(lambda word: _stem(analyzer, accented(analyzer, word[0])), lower)
    except ImportError as exc:
        raise no_stemmer(analyzer) from exc
    # The dotless i is a letter of its own in Turkish, but many people type i.
    return text.replace("\u0131", "i") if stemming == f"turkish{_UNIFIED}" else text


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
