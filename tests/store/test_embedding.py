"""Texts instead of vectors: rows and searches whose vectors an embedder makes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case
from tests.harness.values import DIM

import aiovec
from aiovec import DimensionMismatchError, Embed, EmbeddingError, Field, InvalidRowError, Schema

EMBEDDED = Schema(
    DIM, model="letters", fields={"body": Field(str), "year": Field(int)}, embed=Embed("body")
)
UNNAMED = Schema(DIM, fields={"body": Field(str), "year": Field(int)}, embed=Embed("body"))


class Letters:
    """A small embedder: counts of letters. ``refused`` are words of texts that it refuses."""

    model = "letters"
    dim = DIM

    def __init__(self, *, model: str = "letters", dim: int = DIM) -> None:
        self.model = model
        self.dim = dim
        self.calls: list[tuple[str, list[str]]] = []
        self.refused: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Semaphore(0)

    async def __call__(self, texts: list[str], *, kind: str = "document") -> Any:
        self.calls.append((kind, list(texts)))
        self.asked.release()
        if self.gate is not None:
            await self.gate.wait()
        if any(word in text for word in self.refused for text in texts):
            raise ValueError("this text is refused")
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> list[float]:
        counts = Counter(ord(letter) % self.dim for letter in text)
        return [1.0 + counts[n] for n in range(self.dim)]


def opened(path: Path, embedder: Any) -> Any:
    """A store that has this embedder as "default", to be awaited or entered."""
    given = None if embedder is None else {"default": embedder}
    return aiovec.connect(path / "store.db", embedders=given)


async def test_rows_without_a_vector_get_that_of_their_text(tmp_path: Path) -> None:
    letters = Letters()
    ones = [1.0] * DIM
    mixed = pa.array([None, ones, None], pa.list_(pa.float32(), DIM))
    without = pa.table({"id": ["d", "e"], "body": ["ef", "gh"]})
    given: dict[str, tuple[Any, dict[str, str | None]]] = {
        "mappings": ([{"id": "a", "body": "abba"}, {"id": "b", "embedding": ones},
                      {"id": "c", "body": "ééé", "embedding": None}],
                     {"a": "abba", "b": None, "c": "ééé"}),
        "columns": ({"id": ["d"], "body": ["abba"]}, {"d": "abba"}),
        "Arrow": (pa.table({"id": ["a", "b", "c"], "embedding": mixed, "body": ["ab", None, "cd"]}),
                  {"a": "ab", "b": None, "c": "cd"}),
        "batches": (without.to_batches(), {"d": "ef", "e": "gh"}),
        "nothing": (without.slice(0, 0), {}),
    }  # fmt: skip
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", UNNAMED)
        assert (await store.schema("notes")).model == "letters"
        for name, (rows, texts) in given.items():
            with case(name):
                assert await store.insert("notes", rows) == len(texts)
                for record in await store.get("notes", [*texts]):
                    text = texts[record.id]
                    vector = ones if text is None else letters.vector(text)
                    assert np.asarray(record.vector).tolist() == pytest.approx(vector)
                await store.delete("notes", where="TRUE")
        embedded = [text for kind, texts in letters.calls for text in (kind, *texts)]
        assert embedded.count("abba") == 1  # the second time it came from memory
        assert "query" not in embedded


async def test_a_text_stands_for_a_vector_in_searches(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", EMBEDDED)
        texts = ["banana", "xylophone", "kiwi", "cherry pie"]
        await store.insert("notes", [{"id": t, "body": t, "year": 1} for t in texts])
        for text in texts:
            (hit,) = await store.search("notes", text, limit=1)
            assert hit.id == text
            assert hit.score == pytest.approx(1.0, abs=1e-5)
        many = await store.search_many(
            "notes", ["kiwi", letters.vector("banana"), "kiwi", "xylophone"], limit=1
        )
        assert [hits[0].id for hits in many] == ["kiwi", "banana", "kiwi", "xylophone"]
        assert {kind for kind, _ in letters.calls[1:]} == {"query"}
        assert await store.search("notes", "kiwi", where="year = 2") == []
        for bad in ("", "\ud800"):
            with pytest.raises(aiovec.InvalidArgumentError):
                await store.search("notes", bad)


async def test_a_row_without_text_and_vector_is_refused(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", EMBEDDED)
        for bad in (None, ""):
            rows: list[dict[str, object]] = [{"id": "a", "body": "fine"}, {"id": "b", "body": bad}]
            with pytest.raises(InvalidRowError) as caught:
                await store.insert("notes", rows)
            assert (caught.value.row, caught.value.id, caught.value.field) == (1, "b", "body")
        # Rows that cannot be written are found before the embedder is asked.
        with pytest.raises(InvalidRowError):
            await store.insert("notes", [{"id": "a", "body": "fine", "year": "no"}])
        with pytest.raises(aiovec.DuplicateIdError):
            await store.insert("notes", [{"id": "a", "body": "b"}] * 2)
        with pytest.raises(DimensionMismatchError):
            await store.insert("notes", [{"id": "a", "body": "b", "embedding": [1.0]}])
        assert letters.calls == []
        assert await store.count("notes") == 0


async def test_a_failed_embedding_writes_nothing_and_names_the_row(tmp_path: Path) -> None:
    letters = Letters()
    letters.refused = {"bad"}
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", EMBEDDED)
        rows = [{"id": f"r{n}", "body": f"text {n}"} for n in range(20)]
        rows[13]["body"] = "a bad one"
        for write in (store.insert, store.upsert):
            with pytest.raises(EmbeddingError, match="refused") as caught:
                await write("notes", rows)
            assert caught.value.id == "r13"
            assert caught.value.embedder == "default"
            assert not caught.value.retryable
            assert await store.count("notes") == 0
        for search in (
            store.search("notes", "bad"), store.search_many("notes", ["good", "bad"]),
        ):  # fmt: skip
            with pytest.raises(EmbeddingError) as caught:
                await search
            assert caught.value.id is None
            assert ("row" in str(caught.value)) == (caught.value.row is not None)
        assert caught.value.row == 1


async def test_rows_that_are_skipped_are_not_embedded(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", EMBEDDED)
        await store.insert("notes", [{"id": f"r{n}", "body": f"old {n}"} for n in range(0, 9, 2)])
        letters.refused = {"new 4"}  # of a row that is there
        before = len(letters.calls)
        rows: list[dict[str, Any]] = [{"id": f"r{n}", "body": f"new {n}"} for n in range(9)]
        rows[5]["embedding"] = [2.0] * DIM
        rows.append({"id": "r7", "body": "a second r7"})
        assert await store.insert("notes", rows, on_conflict="skip") == 4
        texts = [text for _, texts in letters.calls[before:] for text in texts]
        assert texts == ["new 1", "new 3", "new 7"]
        for record in await store.get("notes", [f"r{n}" for n in range(9)]):
            text = f"{'new' if int(record.id[1]) % 2 else 'old'} {record.id[1]}"
            vector = [2.0] * DIM if record.id == "r5" else letters.vector(text)
            assert record["body"] == text
            assert np.asarray(record.vector).tolist() == pytest.approx(vector)
        before = len(letters.calls)
        assert await store.insert("notes", rows, on_conflict="skip") == 0
        assert len(letters.calls) == before


async def test_a_cancelled_call_harms_no_other(tmp_path: Path) -> None:
    letters = Letters()
    letters.gate = asyncio.Event()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", EMBEDDED)
        calls = [
            asyncio.ensure_future(store.insert("notes", [{"id": f"r{n}", "body": f"t {n}"}]))
            for n in range(8)
        ]
        await letters.asked.acquire()
        for n in (0, 3):
            calls[n].cancel()
        await asyncio.sleep(0.01)
        letters.gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        kept = [n for n, outcome in enumerate(outcomes) if outcome == 1]
        assert kept == [1, 2, 4, 5, 6, 7]
        assert await store.count("notes") == 6


async def test_a_store_without_the_embedder_reads_and_searches_by_vectors(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", UNNAMED)
        await store.insert("notes", [{"id": "a", "body": "abc"}])
    async with opened(tmp_path, None) as store:
        # Without the embedder nobody knows the model's name; the table keeps it.
        await store.create_table("notes", UNNAMED, exist_ok=True)
        assert (await store.schema("notes")).model == "letters"
        assert [r.id for r in await store.find("notes")] == ["a"]
        assert len(await store.search("notes", letters.vector("abc"))) == 1
        row = {"id": "b", "body": "x", "embedding": [1.0] * DIM}
        assert await store.insert("notes", [row]) == 1
        for call in (
            lambda: store.insert("notes", [{"id": "c", "body": "x"}]),
            lambda: store.search("notes", "x"),
        ):
            with pytest.raises(EmbeddingError, match="embedder=") as caught:
                await call()
            assert caught.value.embedder == "default"


async def test_another_model_or_length_is_refused_before_embedder_is_asked(tmp_path: Path) -> None:
    async with opened(tmp_path, Letters()) as store:
        await store.create_table("notes", UNNAMED)
        await store.insert("notes", [{"id": "a", "body": "abc"}])
        with pytest.raises(aiovec.ModelMismatchError):
            await store.create_table("other", Schema(DIM, model="x", fields={"body": str},
                                                     embed=Embed("body")))  # fmt: skip
        with pytest.raises(DimensionMismatchError):
            await store.create_table("other", Schema(DIM + 1, fields={"body": str},
                                                     embed=Embed("body")))  # fmt: skip
        assert await store.tables() == ["notes"]
    for other, error in (
        (Letters(model="other"), aiovec.ModelMismatchError),
        (Letters(dim=DIM + 1), DimensionMismatchError),
    ):
        async with opened(tmp_path, other) as store:
            with pytest.raises(error):
                await store.insert("notes", [{"id": "b", "body": "abc"}])
            with pytest.raises(error):
                await store.search("notes", "abc")
            with pytest.raises(error):
                await store.create_table("notes", UNNAMED, exist_ok=True)
            assert other.calls == []
            assert await store.count("notes") == 1


async def test_a_hybrid_search_takes_its_vector_from_the_query(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        schema = Schema(DIM, model="letters", fields={"body": Field(str, text=True)},
                        embed=Embed("body"))  # fmt: skip
        await store.create_table("notes", schema)
        texts = ["banana split", "xylophone", "kiwi", "cherry pie"]
        await store.insert("notes", [{"id": t, "body": t} for t in texts])
        for vector in (None, "kiwi", letters.vector("kiwi")):
            hits = await store.search_hybrid("notes", "kiwi", vector, limit=2)
            assert hits[0].id == "kiwi"
            assert set(hits[0].ranks) == {"vector", "text"}


async def test_rows_without_a_text_may_stay_without_a_vector(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        schema = Schema(DIM, model="letters", fields={"body": str}, embed=Embed("body"),
                        vector_nullable=True)  # fmt: skip
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": "z"}])
        assert letters.calls == []
        given: list[dict[str, object]] = [
            {"id": "a", "body": "one"}, {"id": "b"}, {"id": "c", "body": ""},
            {"id": "d", "embedding": [2.0] * DIM},
        ]  # fmt: skip
        await store.insert("notes", given)
        records = {record.id: record.vector for record in await store.get("notes", list("abcdz"))}
        assert records["b"] is records["c"] is records["z"] is None
        assert np.asarray(records["a"]).tolist() == pytest.approx(letters.vector("one"))
        assert np.asarray(records["d"]).tolist() == [2.0] * DIM
        assert {hit.id for hit in await store.search("notes", "one")} == {"a", "d"}


async def test_an_update_that_takes_the_text_takes_the_vector(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        schema = Schema(DIM, model="letters", fields={"body": str, "year": int},
                        embed=Embed("body"), vector_nullable=True)  # fmt: skip
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": f"r{n}", "body": f"text {n}"} for n in range(6)])
        before = len(letters.calls)
        assert await store.update("notes", {"body": None}, ids=["r0", "none"]) == 1
        assert await store.update("notes", {"body": "", "year": 3}, ids=["r1"]) == 1
        change: dict[str, Any] = {"body": None, "payload.a": 1}
        assert await store.update("notes", change, where="id = 'r2'") == 1
        assert len(letters.calls) == before
        records = await store.get("notes", [f"r{n}" for n in range(6)])
        assert [record.vector is None for record in records] == [True] * 3 + [False] * 3
        assert [record["body"] for record in records][:4] == [None, "", None, "text 3"]
        hits = await store.search("notes", "text", exact=True)
        assert {hit.id for hit in hits} == {"r3", "r4", "r5"}
        assert await store.update("notes", {"body": "again"}, ids=["r0", "r2", "r3"]) == 3
        for record in await store.get("notes", ["r0", "r2", "r3"]):
            vector = letters.vector("again")
            assert np.asarray(record.vector).tolist() == pytest.approx(vector)
        assert len(await store.search("notes", "text", exact=True)) == 5


async def test_an_update_that_matches_no_row_calls_no_embedder(tmp_path: Path) -> None:
    letters = Letters()
    async with opened(tmp_path, letters) as store:
        await store.create_table("notes", UNNAMED)
        await store.insert("notes", [{"id": "a", "body": "one", "year": 1}])
        before = len(letters.calls)
        text = {"body": "another"}
        assert await store.update("notes", text, where="year = 2") == 0
        assert await store.update("notes", text, ids=["none"]) == 0
        assert await store.update("notes", text, ids=["none"], where="year = 1") == 0
        assert await store.update("notes", text, ids=["a"], where="year = 2") == 0
        assert len(letters.calls) == before
        assert await store.update("notes", text, ids=["none", "a"], where="year = 1") == 1
        assert letters.calls[before:] == [("document", ["another"])]


async def test_closing_ends_calls_that_wait_for_vectors(tmp_path: Path) -> None:
    letters = Letters()
    letters.gate = asyncio.Event()
    store = await opened(tmp_path, letters)
    await store.create_table("notes", EMBEDDED)
    insert = asyncio.ensure_future(store.insert("notes", [{"id": "a", "body": "b"}]))
    search = asyncio.ensure_future(store.search("notes", "c"))
    for _ in range(2):
        await letters.asked.acquire()
    await asyncio.wait_for(store.close(), 30)
    for outcome in await asyncio.gather(insert, search, return_exceptions=True):
        assert isinstance(outcome, aiovec.StoreClosedError)
