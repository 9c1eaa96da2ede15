"""Recall under filters that go with the topic of the vectors: their rows lie together, and mostly
not where the query is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import aiovec
from aiovec import Field, Schema, VectorStore

from ..data import real_folder
from ..measure import Check, Result, interleaved, medians
from ..options import Options
from ..searching.corpus import LIMIT, TABLE, TOLERANCE, Corpus
from ..searching.store import Ask, block

_ROWS, _DIM = 117_659, 384
_KINDS: Mapping[str, str] = {"ivf_rq": "auto", "ivf_pq": "ivf_pq", "hnsw_sq": "hnsw_sq"}
_QUERIES = 200
_TARGET = 0.95
_ROUNDS, _SECONDS = 6, 0.2
_LOAD = 10_000
# Topics of the real set, whose rows are 2 to 12 of 100, and parts of it by the field ``pos``.
_TOPICS = (14, 20, 18, 0)
_GROUPS = 40
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Topics:
    """Each row's topic, and the filters to measure with."""

    topics: npt.NDArray[np.int64]
    filters: Mapping[str, BoolArray]


async def run(options: Options) -> list[Result]:
    """One result for each kind of index; ``auto`` alone with ``--peers none``."""
    corpus = Corpus.load(options.rows(_ROWS), _DIM, options.data)
    topics = _topics(corpus, options.data)
    folder = options.folder / "topical"
    async with aiovec.connect(f"lancedb://{folder}") as store:
        await _fill(store, corpus, topics)
        results = []
        for kind, asked in _KINDS.items():
            if kind == "ivf_rq" or options.peers:
                await store.create_index(TABLE, asked)
                results.append(await _measured(store, corpus, topics, kind, options))
        return results


def _topics(corpus: Corpus, folder: str | None) -> _Topics:
    place = real_folder(folder)
    if place is not None and not corpus.origin.startswith("generated"):
        table = pq.read_table(_rows_of(place), columns=["lexfile", "pos"])
        topics = table.column("lexfile").to_numpy()[: len(corpus)].astype(np.int64)
        wanted = {f"topic = {topic}": topics == topic for topic in _TOPICS}
        wanted["topic < 20"] = topics < 20
        return _Topics(topics, {n: chosen for n, chosen in wanted.items() if chosen.any()})
    # Rows are of the topic of the nearest of some of them.
    centres = corpus.vectors[np.random.default_rng(3).choice(len(corpus), _GROUPS, replace=False)]
    topics = np.concatenate(
        [np.argmax(part @ centres.T, axis=1) for part in np.array_split(corpus.vectors, 64)]
    )
    wanted = {f"topic = {topic}": topics == topic for topic in range(3)}
    wanted["topic < 20"] = topics < 20
    return _Topics(topics, wanted)


def _rows_of(place: Path) -> Path:
    return next(place.glob("*.parquet"))


async def _fill(store: VectorStore, corpus: Corpus, topics: _Topics) -> None:
    fields = {"topic": Field(int), "text": Field(str)}
    await store.create_table(TABLE, Schema(corpus.dim, fields=fields, payload=False))
    for start in range(0, len(corpus), _LOAD):
        batch = corpus.batch(slice(start, start + _LOAD))
        place = batch.schema.get_field_index("pick")
        values = pa.array(topics.topics[start : start + _LOAD])
        await store.insert(TABLE, batch.set_column(place, "topic", values))
    await store.optimize(TABLE)


async def _measured(
    store: VectorStore, corpus: Corpus, topics: _Topics, kind: str, options: Options
) -> Result:
    asking = {"no filter": _ask(store, corpus, None)}
    asking |= {name: _ask(store, corpus, name) for name in topics.filters}

    def timed(ask: Ask) -> object:
        async def measure() -> float:
            return await block(ask, len(corpus.queries), 0, _SECONDS * min(1.0, options.repeat))

        return measure

    ways = {name: timed(ask) for name, ask in asking.items()}
    took = medians(await interleaved(ways, options.rounds(_ROUNDS)))  # type: ignore[arg-type]
    measured, checks = {}, []
    for name, chosen in topics.filters.items():
        shares = await _shares(corpus, chosen, asking[name], options)
        share = float(np.count_nonzero(chosen)) / len(corpus)
        label = f"{name} ({share:.1%} of the rows): recall {np.mean(shares):.4f}"
        measured[f"{label}, at least {min(shares):g}"] = took[name]
        checks.append(Check(f"recall where {name}", float(np.mean(shares)), _TARGET))
        nothing = shares.count(0.0)
        checks.append(Check(f"queries at 0 where {name}", nothing, 0, at_most=True))
    measured["no filter"] = took["no filter"]
    return Result(
        "lancedb-filters",
        f"{kind}, the {LIMIT} nearest of the rows of a topic, of {corpus}, queries of any topic",
        "ms",
        measured,
        checks,
    )


def _ask(store: VectorStore, corpus: Corpus, where: str | None) -> Ask:
    async def ask(query: int) -> list[int]:
        hits = await store.search(TABLE, corpus.queries[query], limit=LIMIT, where=where)
        return [int(hit.id[4:]) for hit in hits]

    return ask


async def _shares(corpus: Corpus, chosen: BoolArray, ask: Ask, options: Options) -> list[float]:
    """For each query the part of the nearest of the filter's rows that is found."""
    rows = corpus.vectors[chosen]
    count = min(LIMIT, len(rows))
    shares = []
    for query in range(min(options.rounds(_QUERIES), len(corpus.queries))):
        least = np.partition(rows @ corpus.queries[query], -count)[-count] - TOLERANCE
        found = corpus.vectors[await ask(query)] @ corpus.queries[query]
        shares.append(min(1.0, float(np.count_nonzero(found >= least)) / count))
    return shares
