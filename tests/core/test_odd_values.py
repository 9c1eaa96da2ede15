"""Arguments that Python cannot write out, never ends, or changes later; and new ids."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case

import aiovec
from aiovec import RRF, AiovecError, Decay, Factor, Field, Schema, VectorStore, Weighted, new_id

LOOPY: list[Any] = []
LOOPY.append(LOOPY)


class Foreign:
    calls = 0

    def __repr__(self) -> str:
        Foreign.calls += 1
        return "its own words"


async def test_values_without_a_text_are_refused_like_others(store: VectorStore) -> None:
    """Nobody asks an object of another library for its text."""
    await store.create_table("notes", Schema(2, fields={"year": int}))
    await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])
    values: dict[str, Any] = {"number": -(10**5000), "object": Foreign(), "list": LOOPY}
    for name, value in values.items():
        for call in (
            store.search("notes", [1, 0], limit=value),
            store.search("notes", [1, 0], diversity=value),
            store.search("notes", [1, 0], rerank=lambda _, value=value: [value, value]),
            store.search("notes", [1, 0], select=[value]),
            store.find("notes", offset=value),
            store.find("notes", order_by=value),
            store.find("notes", where=value),
            store.get("notes", [value]),
            store.delete("notes", [value]),
            store.count(value),
        ):
            with case(name), pytest.raises(AiovecError):
                await call
        with case(name), pytest.raises(AiovecError):
            store.table(value)
        row = {"id": "b", "embedding": [1, 0], "year": value, "extra": {"a": [value]}}
        with case(name), pytest.raises(AiovecError):
            await store.insert("notes", [row])
    assert not Foreign.calls
    for value, words in (
        (np.float32(1.5), f"not {np.float32(1.5)!r}"), (np.arange(3), "not <ndarray of length 3>"),
        (pa.array(["a"]), "not <StringArray of length 1>"), ([pa.scalar("a")], "<StringScalar>"),
        (Foreign(), "not <Foreign>"), (Schema(2).metric, "not 'cosine'"),
    ):  # fmt: skip
        with case(words), pytest.raises(aiovec.InvalidArgumentError) as caught:
            await store.search("notes", [1, 0], limit=value)
        assert words in str(caught.value)


def test_bad_fusions_are_refused() -> None:
    for bad in (0, -1, float("nan")):
        with pytest.raises(aiovec.InvalidArgumentError):
            RRF(k=bad)
    for vector, text in ((-1, 1), (1, -1), (0, 0), (float("nan"), 1)):
        with pytest.raises(aiovec.InvalidArgumentError):
            Weighted(vector=vector, text=text)


async def test_numbers_of_numpy_make_scores_that_json_takes(store: VectorStore) -> None:
    schema = Schema(2, fields={"body": Field(str, text=True), "worth": float})
    await store.create_table("notes", schema)
    rows = [{"id": str(n), "embedding": [1, n], "body": "a cat", "worth": n} for n in range(3)]
    await store.insert("notes", rows)
    third: Any = np.float32(1 / 3)
    for options in (
        {"fusion": Weighted(vector=third, text=third)}, {"fusion": RRF(third)},
        {"rerank": Factor("worth", third, third)}, {"rerank": Decay("payload.at", "7d", third)},
    ):  # fmt: skip
        with case(options):
            hits = await store.search_hybrid("notes", "cat", [1, 0], **options)
            json.dumps([hit.to_dict() for hit in hits])
            assert len(hits) == 3


async def test_a_bad_text_among_long_ones_is_named(store: VectorStore) -> None:
    long = "wörter " * 60_000
    texts = [None, "", *(f"{long}{n}" for n in range(9)), None, "last"]
    rows: dict[str, Any] = {
        "id": [f"r{n:02}" for n in range(len(texts))],
        "embedding": np.ones((len(texts), 2)),
        "body": texts,
    }
    await store.create_table("notes", Schema(2, fields={"body": str}))
    assert await store.insert("notes", rows) == len(texts)
    assert [row["body"] for row in await store.find("notes", order_by="id")] == texts
    rows["body"] = [*texts[:7], "lone \ud800", *texts[8:]]
    with pytest.raises(aiovec.InvalidRowError) as caught:
        await store.upsert("notes", rows)
    assert (caught.value.row, caught.value.id, caught.value.field) == (7, "r07", "body")


def test_new_ids_rise_in_each_thread_and_never_repeat() -> None:
    def make(_: int) -> list[str]:
        return [new_id() for _ in range(500)]

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(make, range(8)))
    assert all(ids == sorted(ids) for ids in made)
    assert len({id for ids in made for id in ids}) == 4_000
