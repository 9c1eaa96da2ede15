"""Measure the quality of the first ten hits for keyword, vector and hybrid search, per model.

Each set in ``bench/sets`` has passages, and questions with the passages that answer them. If there
is a real data set, whose Parquet file has a column ``words``, three more sets search its entries:
by their words, by misspelt words, and by descriptions.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import aiovec
from aiovec import RRF, Embed, Field, Schema, VectorStore, Weighted

from .data import FOLDER_VARIABLE, LIMIT
from .measure import Options, Result

_SETS = Path(__file__).parent / "sets"
_PAGES = Path(__file__).parents[1] / "docs"
_ENTRIES = 13_000
_WORDS = 150

Search = Callable[[VectorStore, str], "aiovec.Results[aiovec.Hit]"]
_WAYS = {
    "keywords, all": lambda store, words: store.search_text("t", words, match="all"),
    "keywords, any": lambda store, words: store.search_text("t", words, match="any"),
    "keywords, best": lambda store, words: store.search_text("t", words),
    "vector": lambda store, words: store.search("t", words),
    "hybrid": lambda store, words: store.search_hybrid("t", words),
    "hybrid, Weighted(.7, .3)": lambda store, words: store.search_hybrid(
        "t", words, fusion=Weighted(vector=0.7, text=0.3)
    ),
    "hybrid, RRF": lambda store, words: store.search_hybrid("t", words, fusion=RRF()),
}


@dataclass(frozen=True)
class Labelled:
    """Passages by id, and for each question the ids of the passages that answer it."""

    passages: Mapping[str, str]
    questions: Mapping[str, set[str]]


async def run(options: Options) -> list[Result]:
    models = ["demo", *(["local"] if find_spec("wordllama") else [])]
    return [
        Result(
            "quality",
            f"{name}: nDCG@{LIMIT} of {len(labelled.questions)} questions about "
            f"{len(labelled.passages):,} passages, by {model!r}",
            "",
            await _measured(labelled, model, options.rounds(len(labelled.questions))),
        )
        for name, labelled in _sets(options.data)
        for model in models
    ]


async def _measured(labelled: Labelled, model: str, most: int) -> dict[str, float]:
    worth: dict[str, list[float]] = {name: [] for name in _WAYS}
    async with aiovec.connect(":memory:", embedder=model) as store:
        fields = {"body": Field(str, text=True)}
        schema = Schema(fields=fields, embed=Embed("body"), analyzer="english")
        rows = {"id": [*labelled.passages], "body": [*labelled.passages.values()]}
        await store.create_table("t", schema)
        await store.insert("t", rows)
        for question, answers in list(labelled.questions.items())[:most]:
            for name, search in _WAYS.items():
                hits = await search(store, question)
                worth[name].append(_ndcg([hit.id for hit in hits], answers))
    return {name: float(np.mean(values)) for name, values in worth.items()}


def _ndcg(ids: list[str], answers: set[str]) -> float:
    gain = sum(1 / math.log2(place + 2) for place, id in enumerate(ids) if id in answers)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(LIMIT, len(answers))))


def _sets(folder: str | None) -> Iterator[tuple[str, Labelled]]:
    for name in ("support", "kitchen"):
        yield name, Labelled({id: text for id, text, _ in _blocks(name)}, _answers(name))
    yield "pages", on_pages("pages")
    yield "sentences", on_pages("sentences")
    place = folder or os.environ.get(FOLDER_VARIABLE)
    if place:
        yield from _dictionary(Path(place))


def _blocks(name: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the id, the text and the questions of each block of a set."""
    id, text, questions = "", "", []
    for line in [*(_SETS / f"{name}.txt").read_text("utf-8").splitlines()[1:], ""]:
        if line.startswith("? "):
            questions.append(line[2:])
        elif questions or not line or not id:
            if id and (questions or text):
                yield id, text, questions
            id, text, questions = line, "", []
        else:
            text = f"{text} {line}".strip()


def _answers(name: str) -> dict[str, set[str]]:
    """Return the questions of a set, each with the ids of the blocks that answer it."""
    answers: dict[str, set[str]] = {}
    for id, _, questions in _blocks(name):
        for question in questions:
            answers.setdefault(question, set()).add(id)
    return answers


def on_pages(name: str) -> Labelled:
    """Return the sections of the users' documentation, and the questions of a set about them."""
    passages = {}
    for path in sorted(_PAGES.glob("[!i]*/*.md")):  # without internals
        page = path.relative_to(_PAGES.parent).as_posix()
        parts = re.split(r"^##+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
        passages[page] = parts[0]
        for heading, text in zip(parts[1::2], parts[2::2], strict=True):
            passages[f"{page}#{heading}"] = f"{heading}\n{text}"
    questions = _answers(name)
    assert not (lacking := set().union(*questions.values()) - passages.keys()), lacking
    return Labelled(passages, questions)


def _dictionary(folder: Path) -> Iterator[tuple[str, Labelled]]:
    """Yield the three sets that search a dictionary's entries."""
    rows = pq.read_table(next(folder.glob("*.parquet")), columns=["id", "words", "text"])
    described = {word: listed for word, _, listed in _blocks("descriptions")}
    chance = random.Random(5)
    entries = rows.to_pylist()
    chance.shuffle(entries)
    wanted = [entry for entry in entries if not described.keys().isdisjoint(entry["words"])]
    entries = [*wanted, *entries[:_ENTRIES]]
    meant: dict[str, set[str]] = {}
    for entry in entries:
        for word in entry["words"]:
            meant.setdefault(word, set()).add(entry["id"])
    passages = {entry["id"]: entry["text"] for entry in entries}
    words = [word for word in meant if re.fullmatch("[a-z]{6,}", word)][:_WORDS]
    yield "words", Labelled(passages, {word: meant[word] for word in words})
    yield "misspelt", Labelled(passages, {_misspelt(word, chance): meant[word] for word in words})
    questions = {text: meant[word] for word, texts in described.items() for text in texts}
    yield "descriptions", Labelled(passages, questions)


def _misspelt(word: str, chance: random.Random) -> str:
    """Return a word with two neighbouring letters swapped; the first letter stays."""
    place = chance.randrange(1, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
