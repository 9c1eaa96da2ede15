"""Compare the recall that ``stats`` reports for LanceDB's indexes with the true recall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

import aiovec
from aiovec import VectorStore

from .data import LIMIT, PICKS, ROWS, TABLE, Data, Float32Array, load, row_number
from .measure import Options, Result
from .stores import fill

KINDS = ("ivf_rq", "hnsw_sq")
# How many questions an app asks before the measurement, and how many others are asked after it.
_ASKED, _OTHERS = 256, 400
_COPIES, _APART = 8, 0.05
_REPLACED = 0.3
_STANDARD_ERRORS = 3  # by which the reported and the true recall may differ
_LEAST_ROWS = 2_000


async def run(options: Options) -> list[Result]:
    data = load(max(_LEAST_ROWS, options.rows(ROWS)), options.data)
    return [
        await _reported_and_true(name, shape, kind, options)
        for name, shape in _shapes(data, options)
        for kind in KINDS
    ]


def _shapes(data: Data, options: Options) -> Iterator[tuple[str, Data]]:
    """Yield tables whose queries are first an app's 256 questions, then other questions."""
    chance = np.random.default_rng(7)
    size = _ASKED + _OTHERS
    mixed_up = chance.permutation(len(data))
    held = data.vectors[mixed_up[:size]]
    texts = [data.texts[row] for row in mixed_up[size:]]
    data = Data(data.origin, data.vectors[mixed_up[size:]], texts, data.queries)
    yield "short questions", data
    yield "other texts", _with(data, data.vectors, held)
    few = np.repeat(data.vectors[: len(data) // _COPIES], _COPIES, axis=0)
    ways = chance.standard_normal(few.shape, dtype=np.float32)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    yield "near copies", _with(data, few + _APART * ways, held)
    yield "a mix", _with(data, data.mixed(len(data)), data.mixed(size, seed=8))


def _with(data: Data, vectors: Float32Array, queries: Float32Array) -> Data:
    return Data(data.origin, vectors, data.texts, queries)


async def _reported_and_true(name: str, data: Data, kind: str, options: Options) -> Result:
    config = options.folder / "recall.toml"
    config.write_text('[retrieval.lancedb]\nindex = "none"\n')
    target = f"lancedb://{options.folder / f'{name}-{kind}'}"
    others = range(_ASKED, _ASKED + max(20, options.rounds(_OTHERS)))
    measured: dict[str, float] = {}
    async with aiovec.connect(target, config=config) as store:
        await fill(store, data)
        await store.create_index(TABLE, kind)
        # Search through another store, because this one remembers questions to measure with them.
        async with aiovec.connect(target, read_only=True) as reader:
            for source in ("made questions", "its own"):
                measured[f"{source}, reported"] = (await store.stats(TABLE)).details["recall"]
                recalls = await _true(reader, data, others)
                measured[f"{source}, true"] = float(recalls.mean())
                await store.search_many(TABLE, data.queries[:_ASKED], limit=LIMIT, select=[])
                await store.optimize(TABLE)
            for share in (10, 1):
                filtered = await _true(reader, data, others, share * 10)
                measured[f"its own, true under a filter of {share} %"] = float(filtered.mean())
            data = await _replaced(store, data)
            replaced = await _true(reader, data, others)
            measured["its own, true with 30 % replaced"] = float(replaced.mean())
        effort = (await store.stats(TABLE)).details["effort"]
    differences = {
        f"{source}, reported - true": measured[f"{source}, reported"] - measured[f"{source}, true"]
        for source in ("made questions", "its own")
    }
    wrong = []
    error = float(recalls.std()) * (1 / _ASKED + 1 / len(others)) ** 0.5
    if abs(differences["its own, reported - true"]) > _STANDARD_ERRORS * error:
        wrong.append(f"{name}, {kind}: the recall reported for its own questions is not true")
    return Result(
        f"recall of {kind}, {name}", f"{data}, {len(others)} questions, {effort}",
        "", measured, {**differences, "standard error of it": error}, wrong=wrong,
    )  # fmt: skip


async def _replaced(store: VectorStore, data: Data) -> Data:
    """Replace the vectors of some rows with points between two other vectors."""
    rows = np.random.default_rng(9).permutation(len(data))[: int(_REPLACED * len(data))]
    vectors = data.vectors.copy()
    vectors[rows] = data.mixed(len(rows), 0.8, seed=9)
    data = _with(data, vectors, data.queries)
    for part in np.array_split(rows, max(1, len(rows) // 10_000)):
        await store.upsert(TABLE, data.batch(part))
    await store.optimize(TABLE)
    return data


async def _true(
    store: VectorStore, data: Data, questions: range, picks: int = PICKS
) -> npt.NDArray[np.float64]:
    """Return the recall of each question among the rows whose ``pick`` is below a bound."""
    results = await store.search_many(
        TABLE, data.queries[questions.start : questions.stop], limit=LIMIT, select=[],
        where=None if picks == PICKS else f"pick < {picks}",
    )  # fmt: skip
    answers = [[row_number(hit.id) for hit in hits] for hits in results]
    allowed = np.flatnonzero(data.picks < picks)
    return data.recalls(zip(questions, answers, strict=True), allowed)
