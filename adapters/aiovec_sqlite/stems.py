"""Stems of words in other languages than English, by Snowball.

FTS5 has no stemmer for them, so the index stores the stems: its view and its triggers call the SQL
function ``aiovec_stems``. Without the package, SQLite has no such function.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from importlib.util import find_spec

from aiovec.errors import UnsupportedError

NAME = "aiovec_stems"
_WORD = re.compile(r"[^\W_]+")


def has_stemmer() -> bool:
    """Return whether the package is installed, without importing it."""
    return find_spec("Stemmer") is not None


def register(db: sqlite3.Connection) -> None:
    if has_stemmer():
        db.create_function(NAME, 2, stems, deterministic=True)


def stems(language: str, text: str | None) -> str | None:
    """Return a text with each word in lower case and replaced by its stem."""
    if text is None:
        return None
    try:
        from Stemmer import Stemmer
    except ImportError as exc:
        raise no_stemmer(language) from exc
    stem = Stemmer(language).stemWord  # for this call only, because threads cannot share it
    composed = unicodedata.normalize("NFC", text).lower()
    return _WORD.sub(lambda word: stem(word[0]), composed)


def no_stemmer(language: str | None = None) -> UnsupportedError:
    """Return the error of a call that needs the missing package."""
    wanted = "a table's text index" if language is None else f"analyzer={language!r}"
    return UnsupportedError(
        "text",
        "sqlite",
        f"{wanted} needs the package pystemmer, which is not installed; install it with: pip "
        'install "aiovec[languages]"',
    )
