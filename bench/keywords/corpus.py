"""Entries of a dictionary, "words: what they mean", and words to look for.

A real set has them as the texts of its rows, and the words in ``queries.json`` for the vectors in
its ``queries-<dim>-f16.npy``. Else the texts are generated: their words are as frequent as those of
a language are, and a text's vector is the mean of its words' vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from aiovec import Field, Schema

from ..data import Dataset, Float32Array, load, real_folder
from ..searching.corpus import LIMIT, QUERIES, Corpus

# Of generated texts: with them, a word is as long and a gloss as many words as in the real set.
_VOCABULARY = 40_000
_OFFSET = 2.7  # of Zipf's law as Mandelbrot put it
_GLOSS_WORDS = 11
_SYLLABLES = "ka lo mi ten ra su ver dan no pel ist or an ge tri ul mar be sho en".split()
# What a meaning's own words weigh in its vector, and what is in no word.
_OWN, _NOISE = 4.0, 0.5
_CHARACTERS = 3_000  # that a Chinese newspaper uses
_FIRST_CHARACTER = 0x4E00


class Words(Corpus):
    """Rows with a text for keyword search, and a word or name for each query vector."""

    def __init__(self, data: Dataset, words: list[str]) -> None:
        super().__init__(data)
        self.words = words

    @classmethod
    def load(cls, rows: int, dim: int, folder: str | None) -> Words:
        """The real set where it is of this dimension and has words, else generated rows."""
        place = real_folder(folder)
        named = place / "queries.json" if place else None
        if named is not None and named.exists():
            data = load(rows, dim, folder, queries=QUERIES)
            words = json.loads(named.read_text(encoding="utf-8"))[: len(data.queries)]
            if not data.origin.startswith("generated"):
                return cls(data, words)
        return _generated(rows, dim)

    def narrow(self) -> Words:
        """The same texts with vectors so short that no index of them takes time to build."""
        few = self.vectors[:, :8], self.texts, self.queries[:, :8]
        return Words(Dataset(self.origin, *few), self.words)

    def text_schema(self, *, text: bool = True) -> Schema:
        fields = {"pick": Field(int, index="btree"), "text": Field(str, text=text)}
        return Schema(self.dim, fields=fields)

    @cached_property
    def entries(self) -> list[list[int]]:
        """The rows that are entries of each query's word."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(self.texts):
            for word in text.partition(": ")[0].split(", "):
                rows.setdefault(word, []).append(row)
        return [rows.get(word, []) for word in self.words]

    def share(self, answers: Sequence[tuple[int, Sequence[int]]]) -> float:
        """The share of the entries of a word that its answer has, of those that fit into it."""
        shares = [
            len(set(found).intersection(self.entries[query])) / min(LIMIT, len(self.entries[query]))
            for query, found in answers
            if self.entries[query]
        ]
        return float(np.mean(shares))

    def long_queries(self, count: int, words: int) -> list[str]:
        """Queries of so many words each, as frequent as they are in the texts."""
        random = np.random.default_rng(20240503)
        known = " ".join(self.texts[:20_000]).replace('"', " ").split()
        return [" ".join(random.choice(known, words)) for _ in range(count)]


def _generated(rows: int, dim: int) -> Words:
    random = np.random.default_rng(20240502)
    vocabulary = _vocabulary(random)
    chances = 1 / (np.arange(_VOCABULARY) + _OFFSET)
    chances /= chances.sum()
    meanings = random.standard_normal((_VOCABULARY, dim), dtype=np.float32)
    # Words that have an entry are content words, so not the most frequent ones.
    own = random.integers(200, _VOCABULARY, size=rows)
    lengths = np.clip(random.lognormal(np.log(_GLOSS_WORDS), 0.6, rows), 2, 80).astype(np.int64)
    used = random.choice(_VOCABULARY, size=int(lengths.sum()), p=chances)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    texts, vectors = [], np.empty((rows, dim), dtype=np.float32)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        gloss = used[start : start + length]
        texts.append(f"{vocabulary[own[row]]}: {' '.join(vocabulary[word] for word in gloss)}")
        vectors[row] = _OWN * meanings[own[row]] + meanings[gloss].mean(axis=0)
    vectors += _NOISE * random.standard_normal((rows, dim), dtype=np.float32)
    asked = random.choice(own, size=QUERIES)
    noise = _NOISE * random.standard_normal((QUERIES, dim), dtype=np.float32)
    queries: Float32Array = meanings[asked] + noise
    data = Dataset("generated texts", vectors, texts, queries)
    return Words(data, [vocabulary[word] for word in asked])


def _vocabulary(random: np.random.Generator) -> list[str]:
    """Different words, the frequent ones short."""
    found: dict[str, None] = {}
    while len(found) < _VOCABULARY:
        longest = 1 + len(found) ** 0.15
        count = max(1, round(random.normal(longest, 0.7)))
        found["".join(random.choice(_SYLLABLES, count))] = None
    return list(found)


def chinese_texts(rows: int, characters: int) -> list[str]:
    """Texts of characters that are as frequent as those of a newspaper are."""
    random = np.random.default_rng(20240504)
    chances: npt.NDArray[np.float64] = 1 / (np.arange(_CHARACTERS) + 10.0)
    chances /= chances.sum()
    used = random.choice(_CHARACTERS, size=(rows, characters), p=chances) + _FIRST_CHARACTER
    return ["".join(map(chr, row)) for row in used]
