"""Letters in one form: what counts as equal, and which script a text has."""

from __future__ import annotations

import pytest

from aiovec.backend import script_of, unified


def test_symbols_stay_apart_from_words() -> None:
    """NFKC would join them with the word before."""
    assert unified("plain", "Python™ 5㎏\0x").split() == ["Python", "5", "x"]
    assert unified("plain", "ｘ² Ⅻ ﬁle ½") == "x2 XII file 1\u20442"
    # For parts of words, a symbol is a part like any other.
    assert unified("ngram", "20℃ foo\0bar") == "20°C foobar"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Letters of 東京 in a text of English words", "latin"), ("Привет, мир; hello", "cyrillic"),
        ("Pythonで辞書をソートする", "cjk"), ("ｶﾞｲﾄﾞ", "cjk"), ("서울 Seoul", "cjk"),
        ("αθήνα", "greek"), ("أحمد", "arabic"), ("12 … 3", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_script_of_most_words(text: str, script: str) -> None:
    assert script_of(text) == script
