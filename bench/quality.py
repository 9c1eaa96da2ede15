"""Measure how good the first ten hits are on labelled questions, by default and at best.

``--sets faq,man`` asks these sets of ``SETS`` only, and ``--repeat 0.1`` a tenth of each set's
questions. A set whose packages cannot be had is skipped. Each figure of the table is nDCG@10, then
the parts of the questions with an answer first and among the first three.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import numpy as np

import aiovec
from aiovec import RRF, Decay, Embed, F, Field, Schema, VectorStore, Weighted
from aiovec._cli.tune import LIMIT, Judged, interval, judged

from . import questions
from .measure import Options, Result
from .models import models
from .questions import AGES, OLD, Labelled, MissingPackageError

DEFAULT, BEST = "hybrid", "best by hand"
_FUSIONS = {"RRF": RRF(), **{f"0.{w}": Weighted(w / 10, 1 - w / 10) for w in range(3, 9)}}
_LIMITS = 1, 3, 10, 20
# Hits of a peer, of which those of one user, and one for each source, are taken.
_DEEP = 400
SETS: Mapping[str, Callable[[], Labelled]] = {
    **{name: getattr(questions, name) for name in ("faq", "man", "library", "manuals")},
    **{name: partial(questions.on_pages, name) for name in ("pages", "sentences")},
    **{name: partial(questions.of_blocks, name) for name in ("support", "kitchen")},
    **{f"memories-{others}": partial(questions.memories, others) for others in (10, 100)},
    "memories-3000": partial(questions.memories, 3000, users=4),
    **{name: partial(questions.language, name) for name in questions.LANGUAGES},
}


async def run(options: Options) -> list[Result]:
    known, defaults, lines = models(), dict[str, float](), list[str]()
    for name in options.sets or SETS:
        try:
            labelled = await asyncio.to_thread(SETS[name])  # it may run an event loop
        except MissingPackageError as exc:
            lines.append(f"skipped: {name}: {exc}")
            continue
        asked = [*labelled.questions][: options.rounds(len(labelled.questions))]
        peers = {} if options.alone else _by_peers(labelled, asked)
        for model, embedder in known.items():
            if not isinstance(embedder, str):
                bodies = [passage.body for passage in labelled.passages.values()]
                await asyncio.to_thread(embedder.warm, bodies)
            ways = await _measured(labelled, embedder, asked) | peers
            defaults[f"{name}, {model}"] = _mean(ways[DEFAULT]).ndcg
            lines.append(f"{name:13} {model:7} {_line(ways)}")
            print(lines[-1], flush=True)
    return [Result("quality", f"nDCG@{LIMIT} of hybrid searches", "", defaults, notes=lines)]


def _mean(judgements: list[Judged]) -> Judged:
    return Judged(*np.mean(judgements, axis=0).tolist())


def _line(ways: Mapping[str, list[Judged]]) -> str:
    """Return the scores of each way, and the gain of the best one by hand over the default."""
    means = {way: _mean(judgements) for way, judgements in ways.items()}
    best = max((way for way in ways if way.startswith(BEST)), key=lambda way: means[way].ndcg)
    low, high = interval(
        [each.ndcg - usual.ndcg for each, usual in zip(ways[best], ways[DEFAULT], strict=True)]
    )
    shown = [
        f"{way} {mean.ndcg:.3f} {mean.first:.2f} {mean.three:.2f}"
        for way, mean in means.items()
        if way == best or not way.startswith(BEST)
    ]
    gain = means[best].ndcg - means[DEFAULT].ndcg
    return f"{' | '.join(shown)} | {gain:+.3f} (95 %: {low:+.3f} to {high:+.3f})"


async def _measured(labelled: Labelled, embedder: Any, asked: list[str]) -> dict[str, list[Judged]]:
    """Ask questions in every way, and by default on a table without the set's analyzer too."""
    judgements: dict[str, list[Judged]] = defaultdict(list)
    for analyzer in ("plain", labelled.analyzer):
        async with aiovec.connect(":memory:", embedder=embedder) as store:
            await _fill(store, labelled, analyzer)
            ways: dict[str, Any] = {f"{DEFAULT}, plain": store.search_hybrid}
            if analyzer != "plain":
                ways = _ways(store)
            for question, (way, search) in product(asked, ways.items()):
                hits = await search("t", question, **_only(labelled, question))
                sources = dict.fromkeys(labelled.source(hit.id) for hit in hits)
                judgements[way].append(judged([*sources], labelled.questions[question]))
            if labelled.users and analyzer != "plain":
                judgements |= await _remembered(store, labelled, asked)
    return judgements


async def _fill(store: VectorStore, labelled: Labelled, analyzer: Any) -> None:
    fields = {
        "body": Field(str, text=True), "title": Field(str, text=True), "source": Field(str),
        "user": Field(str), "at": Field(datetime),
    }  # fmt: skip
    await store.create_table("t", Schema(fields=fields, embed=Embed("body"), analyzer=analyzer))
    now = datetime.now(UTC)
    rows = [
        {"id": id, "body": each.body, "title": each.title, "source": labelled.source(id),
         "user": each.user, "at": now - timedelta(each.age)}
        for id, each in labelled.passages.items()
    ]  # fmt: skip
    await store.insert("t", rows)


def _only(labelled: Labelled, question: str) -> dict[str, Any]:
    """Return the options of every search for a question."""
    options: dict[str, Any] = {"group_by": "source"} if labelled.by_source else {}
    if user := labelled.users.get(question):
        options["where"] = F.user == user
    return options


def _ways(store: VectorStore) -> dict[str, Any]:
    hybrid: Any = store.search_hybrid
    by_hand: dict[str, Any] = {
        f"{BEST}: {name}, {match}": partial(hybrid, fusion=fusion, match=match)
        for (name, fusion), match in product(_FUSIONS.items(), ("best", "any"))
    }
    words = {"words": store.search_text, "words, best": partial(store.search_text, match="best")}
    return {DEFAULT: hybrid, "vectors": store.search, **words, **by_hand}


async def _remembered(
    store: VectorStore, labelled: Labelled, asked: list[str]
) -> dict[str, list[Judged]]:
    """Judge a memory's first hit: its topic by limit; with Decay, the newest and an old fact."""
    judgements: dict[str, list[Judged]] = defaultdict(list)
    for question in asked:
        (topic,) = labelled.questions[question]
        options: dict[str, Any] = {"where": F.user == labelled.users[question]}
        for limit in _LIMITS:
            hits = await store.search_hybrid("t", question, limit=limit, **options)
            judgements[f"limit {limit}"].append(judged([labelled.source(hits[0].id)], {topic}))
        hits = await store.search_hybrid("t", question, rerank=Decay("at", "30d"), **options)
        is_old = f"{topic}#{OLD}" in labelled.passages
        way, age = ("an old fact", OLD) if is_old else ("the newest", AGES[0])
        judgements[f"with Decay, {way}"].append(judged([hits[0].id], {f"{topic}#{age}"}))
    return judgements


def _by_peers(labelled: Labelled, asked: list[str]) -> dict[str, list[Judged]]:
    """Judge the words' hits of other libraries, those that are installed."""
    ways: dict[str, list[Judged]] = {}
    for name, index in {"tantivy": _tantivy, "bm25s": _bm25s}.items():
        try:
            search = index(labelled)
        except ImportError:
            continue
        ids = [*labelled.passages]
        for question in asked:
            user = labelled.users.get(question)
            hits = [ids[row] for row in search(question)]
            hits = [id for id in hits if user in (None, labelled.passages[id].user)]
            sources = dict.fromkeys(map(labelled.source, hits))
            ways.setdefault(name, []).append(judged([*sources], labelled.questions[question]))
    return ways


def _tantivy(labelled: Labelled) -> Callable[[str], list[int]]:
    module: Any = importlib.import_module("tantivy")
    if labelled.analyzer == "cjk":
        builder = module.TextAnalyzerBuilder(module.Tokenizer.ngram(2, 2))
    else:
        builder = module.TextAnalyzerBuilder(module.Tokenizer.simple())
    builder = builder.filter(module.Filter.lowercase())
    if labelled.analyzer != "cjk":
        builder = builder.filter(module.Filter.stemmer(labelled.analyzer))
    schema = module.SchemaBuilder().add_integer_field("row", stored=True)
    schema = schema.add_text_field("text", tokenizer_name="of set").build()
    index = module.Index(schema)
    index.register_tokenizer("of set", builder.build())
    writer = index.writer(heap_size=64 << 20, num_threads=1)
    for row, text in enumerate(_texts(labelled)):
        writer.add_document(module.Document(row=row, text=text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(question: str) -> list[int]:
        query, _ = index.parse_query_lenient(" ".join(re.findall(r"\w+", question)), ["text"])
        hits = searcher.search(query, _DEEP).hits
        return [searcher.doc(address)["row"][0] for _, address in hits]

    return search


def _bm25s(labelled: Labelled) -> Callable[[str], list[int]]:
    if labelled.analyzer == "cjk":
        raise ImportError("bm25s has no tokenizer for these languages")
    module: Any = importlib.import_module("bm25s")
    stem = importlib.import_module("Stemmer").Stemmer(labelled.analyzer).stemWords
    options = {"stopwords": None, "stemmer": stem, "show_progress": False}
    index = module.BM25()
    index.index(module.tokenize(_texts(labelled), **options), show_progress=False)

    def search(question: str) -> list[int]:
        wanted = module.tokenize(question, **options)
        most = min(_DEEP, len(labelled.passages))
        rows, scores = index.retrieve(wanted, k=most, show_progress=False)
        return [int(row) for row, score in zip(rows[0], scores[0], strict=True) if score > 0]

    return search


def _texts(labelled: Labelled) -> list[str]:
    return [f"{each.title}\n{each.body}" for each in labelled.passages.values()]
