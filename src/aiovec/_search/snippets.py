"""Snippets of texts with marked matches, for every analyzer and backend.

With a word analyzer, a word of a text matches if a word of the query has the same tokens, and with
"ngram" any part that is equal to a part of the query. Texts are compared in another form than they
are written in; the snippets are parts of the texts as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from .accents import unaccented
from .letters import Unified, unified, word_pattern
from .query import TextClause

SNIPPET_GAP = "…"
# Characters in a snippet, and roughly how many of them precede its first match.
_CHARACTERS, _BEFORE = 160, 40

Match = tuple[int, int, int]
"""The start and the end of a match, and the number of its clause."""
Matches = Callable[[Sequence[TextClause], str], Iterable[Match]]
"""A function that returns the matches of clauses in a text."""
Texts = Mapping[str, str | None]
"""The texts of a row, by field."""


def word_snippets(
    texts: Sequence[Texts],
    clauses: Sequence[TextClause],
    analyzer: str,
    tokens_of: Callable[[str], Sequence[str]],
    highlight: tuple[str, str],
) -> list[dict[str, str]]:
    """Return each row's snippets, with the words that match the query marked.

    ``tokens_of`` returns the tokens of a text, in order, as the index compares them.
    """
    change, word_of = partial(unified, analyzer), word_pattern(analyzer)
    clauses = [replace(clause, text=change(clause.text)) for clause in clauses]
    known = {text: Unified(text, change) for row in texts for text in row.values() if text}
    all_texts = [*(text.text for text in known.values()), *(clause.text for clause in clauses)]
    words = dict.fromkeys(chain.from_iterable(map(word_of.findall, all_texts)))
    stems = _stems([*words], tokens_of)

    def matches(clauses: Sequence[TextClause], text: str) -> Iterator[Match]:
        words = [*word_of.finditer(known[text].text)]
        of_words = [stems[word[0]] for word in words]
        places: dict[str, list[int]] = {}  # so that a clause does not read every word
        for n, stem in enumerate(of_words):
            places.setdefault(stem, []).append(n)
        for n, clause in enumerate(clauses):
            typed = word_of.findall(clause.text) or [""]
            *before, last = [stems.get(word, "") for word in typed]
            ends: Iterable[int] = places.get(last, ())
            if clause.prefix:  # the beginning of a word or of a stem
                first = _bare(typed[-1])
                ends = (
                    n
                    for n, (word, stem) in enumerate(zip(words, of_words, strict=True))
                    if stem.startswith(last) or _bare(word[0]).startswith(first)
                )
            for end in ends:
                start = end - len(before)
                if start >= 0 and of_words[start:end] == before:
                    yield *known[text].origin(words[start].start(), words[end].end()), n

    return _snippets(texts, clauses, matches, highlight)


def part_snippets(
    texts: Sequence[Texts],
    clauses: Sequence[TextClause],
    folded: Callable[[str], str],
    highlight: tuple[str, str],
) -> list[dict[str, str]]:
    """Return each row's snippets, with the parts of words that match the query marked.

    ``folded`` returns a text as the index compares it.
    """

    def matches(clauses: Sequence[TextClause], text: str) -> Iterator[Match]:
        whole = Unified(text, folded)
        for number, clause in enumerate(clauses):
            wanted = folded(clause.text)
            at = whole.text.find(wanted) if wanted else -1
            while at >= 0:
                end = at + len(wanted)
                yield *whole.origin(at, end), number
                at = whole.text.find(wanted, end)

    return _snippets(texts, clauses, matches, highlight)


def _bare(word: str) -> str:
    return unaccented(word.lower())


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


def _snippets(
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
    at, marked = start, 0
    for start, last, _ in matches:
        if last <= at or last > end:
            continue
        if start < marked:  # it overlaps the match before
            parts[-1:] = [text[at:last], highlight[1]]
        else:
            start = max(start, at)
            parts += [text[at:start], highlight[0], text[start:last], highlight[1]]
        at = marked = last
    parts += [text[at:end], SNIPPET_GAP if end < len(text) else ""]
    return "".join(parts)
