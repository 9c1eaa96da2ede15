"""Snippets of texts with marked matches, for every analyzer and backend.

With a word analyzer, a word of a text matches if a word of the query has the same tokens. With
"ngram", a backend finds the matches itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from .query import TextClause

SNIPPET_GAP = "…"
# Characters in a snippet, and roughly how many of them precede its first match.
_CHARACTERS, _BEFORE = 160, 40
# A word with its combining accents.
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")

Match = tuple[int, int, int]
"""The start and the end of a match, and the number of its clause."""
Matches = Callable[[Sequence[TextClause], str], Iterable[Match]]
"""A function that returns the matches of clauses in a text."""
Texts = Mapping[str, str | None]
"""The texts of a row, by field."""


def word_snippets(
    texts: Sequence[Texts],
    clauses: Sequence[TextClause],
    tokens_of: Callable[[str], Sequence[str]],
    highlight: tuple[str, str],
) -> list[dict[str, str]]:
    """Return each row's snippets, with the words that match the query marked.

    ``tokens_of`` returns the tokens of a text, in order, as the index compares them.
    """
    all_texts = [text or "" for row in texts for text in row.values()]
    all_texts += [clause.text for clause in clauses]
    words = dict.fromkeys(chain.from_iterable(map(_WORD.findall, all_texts)))
    stems = _stems([*words], tokens_of)

    def matches(clauses: Sequence[TextClause], text: str) -> Iterator[Match]:
        words = [(*word.span(), stems[word[0]]) for word in _WORD.finditer(text)]
        places: dict[str, list[int]] = {}  # so that a clause does not read every word
        for n, (_, _, stem) in enumerate(words):
            places.setdefault(stem, []).append(n)
        for n, clause in enumerate(clauses):
            *before, last = [stems[word] for word in _WORD.findall(clause.text)] or [""]
            ends = [last]
            if clause.prefix:
                ends = [stem for stem in places if stem.startswith(last)]
            for end in chain.from_iterable(places.get(stem, ()) for stem in ends):
                start = end - len(before)
                if start >= 0 and all(words[start + i][2] == stem for i, stem in enumerate(before)):
                    yield words[start][0], words[end][1], n

    return snippets(texts, clauses, matches, highlight)


def _stems(words: Sequence[str], tokens_of: Callable[[str], Sequence[str]]) -> dict[str, str]:
    """Return the tokens of each word, joined. ``tokens_of`` may take milliseconds, so it is called
    once for all words."""
    divider = "0" * 12  # a token between two words, since a word may have none or several tokens
    tokens: Sequence[str] = ()
    while words:
        tokens = tokens_of(f" {divider} ".join(words))
        if tokens.count(divider) == len(words) - 1:
            break
        divider += "0"  # one of the words equals the divider
    stems: list[list[str]] = [[]]
    for token in tokens:
        if token == divider:
            stems.append([])
        else:
            stems[-1].append(token)
    return {word: " ".join(stem) for word, stem in zip(words, stems, strict=False)}


def snippets(
    texts: Sequence[Texts],
    clauses: Sequence[TextClause],
    matches: Matches,
    highlight: tuple[str, str],
) -> list[dict[str, str]]:
    """Return each row's snippets: from each text, the part that matches the most clauses."""
    wanted = [clause for clause in clauses if not clause.excluded]
    result: list[dict[str, str]] = []
    for row in texts:
        result.append({})
        for name, text in row.items():
            of_field = [clause for clause in wanted if clause.field in (None, name)]
            if text and (places := sorted(matches(of_field, text))):
                result[-1][name] = _around(text, places, _densest(places), highlight)
    return result


def _densest(matches: Sequence[Match]) -> Match:
    """Return the match at which the part that matches the most clauses begins."""
    best, most, end = 0, 0, 0
    counts: dict[int, int] = {}
    for first, (start, _, clause) in enumerate(matches):
        while end < len(matches) and (
            end <= first or matches[end][1] <= start + _CHARACTERS - _BEFORE
        ):
            counts[matches[end][2]] = counts.get(matches[end][2], 0) + 1
            end += 1
        if len(counts) > most:
            best, most = first, len(counts)
        counts[clause] -= 1
        if not counts[clause]:
            del counts[clause]
    return matches[best]


def _around(text: str, matches: Sequence[Match], first: Match, highlight: tuple[str, str]) -> str:
    """Return the part of a text around a match, with all matches in it marked."""
    begin, first_end, _ = first
    start = begin - _BEFORE
    if start < _BEFORE // 2:
        start = 0
    elif (space := text.find(" ", start, begin)) >= 0:
        start = space + 1
    end = start + _CHARACTERS
    if end >= len(text):
        end = len(text)
    elif (space := text.rfind(" ", first_end, end)) >= 0:
        end = space
    end = max(end, first_end)
    parts = [SNIPPET_GAP if start else ""]
    at = start
    for start, last, _ in matches:
        if last <= at or last > end:
            continue
        start = max(start, at)
        parts += [text[at:start], highlight[0], text[start:last], highlight[1]]
        at = last
    parts += [text[at:end], SNIPPET_GAP if end < len(text) else ""]
    return "".join(parts)
