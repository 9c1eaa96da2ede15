"""Every public call as a user types it. mypy and pyright check this file, and a test runs it.

Type checkers must reject each line with ``type: ignore``: both report unused ignore comments.
"""

from __future__ import annotations

import array
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, assert_type, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

import aiovec
from aiovec import (
    F,
    Field,
    Hit,
    IndexInfo,
    Record,
    Results,
    ResultsList,
    Schema,
    TableStats,
    compat,
    sync,
)
from aiovec.backend.contract import IndexOptions

SCHEMA = Schema(
    2,
    metric="cosine",
    model="small",
    fields={
        "year": int,
        "score": float,
        "seen": datetime,
        "tags": list[str],
        "lang": Field(str, index="bitmap"),
        "kind": "text",
        "body": Field(str, text=True),
    },
)
PAGE = Field(int, index="btree")
FIELDS: aiovec.Fields = {"title": Field(str, text=True), "stars": int, "tags": list[str]}
OTHER = Schema(3, fields=FIELDS)


class Note(BaseModel):
    id: str
    embedding: list[float]
    year: int


class Answer(BaseModel):
    hits: Results[Hit]
    counts: aiovec.Counts


@dataclass
class Page:
    id: str
    embedding: list[float]


class Line(NamedTuple):
    id: str
    embedding: tuple[float, float]


class Entry(TypedDict):
    id: str
    embedding: list[float]


class Tensor:
    """The interface of tensors of PyTorch and others."""

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return np.array([0.5, 0.5], dtype=np.float32)


class Letters:
    """An embedder that treats texts and queries differently, as its page describes it."""

    model = "letters"
    dim = 2

    def __call__(self, texts: list[str], *, kind: str) -> list[list[float]]:
        return [[len(text), kind == "query"] for text in texts]


class AwaitedLetters:
    model = "letters"
    dim: int | None = None

    async def __call__(
        self, texts: list[str], *, kind: Literal["document", "query"]
    ) -> list[list[float]]:
        return Letters()(texts, kind=kind)


class SameLetters:
    model = "letters"
    dim = 2

    def __call__(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 2), np.float32)


class Unnamed:
    def __call__(self, texts: list[str]) -> list[list[float]]:
        return []


async def coming() -> AsyncIterator[dict[str, object]]:
    yield {"id": "coming", "embedding": [1.0, 0.5]}


async def rows_of_every_form(store: aiovec.VectorStore) -> None:
    matrix = np.ones((1, 2), dtype=np.float32)
    entry: Entry = {"id": "typed", "embedding": [1, 2]}
    await store.upsert("notes", [{"id": "a", "embedding": [1.0, 2.0], "year": 2024}])
    await store.upsert("notes", ({"id": str(n), "embedding": [n, 1]} for n in range(3)))
    await store.upsert("notes", {"id": ["b"], "embedding": matrix, "tags": [["x", "y"]]})
    await store.upsert("notes", [entry])
    await store.upsert("notes", [Note(id="c", embedding=[1.0, 2.0], year=2024)])
    await store.upsert("notes", [Page("d", [1.0, 2.0])])
    await store.upsert("notes", [Line("e", (1.0, 2.0))])
    await store.upsert("notes", [Record("f", [1.0, 2.0], {"year": 2024})])
    await store.upsert("notes", coming())
    await store.upsert("notes", pl.DataFrame({"id": ["g"], "embedding": [[1.0, 2.0]]}))
    # Not pandas itself: it has no types, and pyright does not always find its names.
    frame = pl.DataFrame({"id": ["h"], "embedding": [[1.0, 2.0]]})
    await store.upsert("notes", frame.to_pandas())
    table = pa.table({"id": ["i"], "embedding": [[1.0, 2.0]]})
    await store.upsert("notes", table)
    await store.upsert("notes", table.to_batches())
    await store.upsert("notes", store.export("notes"))
    rows: aiovec.Rows = [{"id": "j", "embedding": [1.0, 2.0]}, Page("k", [1.0, 2.0])]
    await store.upsert("notes", rows)


async def vectors_of_every_form(store: aiovec.VectorStore) -> None:
    vectors: list[aiovec.Vector] = [
        [1, 0.5],
        (1.0, 0.5),
        array.array("f", [1.0, 0.5]),
        np.array([1.0, 0.5]),
        [np.float32(1), np.float32(0.5)],
        Tensor(),
        memoryview(array.array("f", [1.0, 0.5])),
    ]
    for vector in vectors:
        assert len(await store.search("notes", vector)) == 10
    many: aiovec.Vectors = np.ones((3, 2), dtype=np.float32)
    for each in (vectors, many, iter(vectors), [[1.0, 0.5]]):
        assert_type(await store.search_many("notes", each), ResultsList)
    await store.search_many("notes", many, each_where=[F.year > 1, "year > 2", None])
    assert_type(await store.search_like("notes", "a", min_score=0.1), Results[Hit])


async def every_call(target: str, copy: Path) -> None:
    async with aiovec.connect(target) as store:
        assert_type(store, aiovec.VectorStore)
        assert_type(store.supports("text"), bool)
        assert_type(store.read_only, bool)
        assert_type(store.target, str)
        assert_type(store.backend_name, str)
        await store.ping()
        await store.create_table("notes", SCHEMA, exist_ok=True)
        await store.add_field("notes", "live", bool)
        await store.add_field("notes", "page", PAGE)
        assert_type(await store.tables(), list[str])
        assert_type(await store.schema("notes"), Schema)

        assert_type(await store.insert("notes", [{"id": "z", "embedding": [1, 1]}]), int)
        await rows_of_every_form(store)
        await vectors_of_every_form(store)
        changes: Mapping[str, aiovec.JsonValue] = {"source": {"url": "x", "pages": [1, 2]}}
        await store.update("notes", changes, ids="a")
        now = datetime.now(UTC)
        count = await store.update("notes", {"year": 2025, "seen": now}, where=F.year == 2024)
        assert_type(count, int)

        where: aiovec.Where = (F.year >= 2024) & F.lang.in_(["en"]) | F["payload.kind"].is_null()
        assert_type(await store.count("notes", where), int)
        closed = (F.lang == "en") & aiovec.where("year = 1 OR year = 2")
        assert_type(await store.count("notes", [closed, {"year": [1, 2]}, "year = 1"]), int)
        assert_type(await store.count("notes", {"lang": None}), int)
        assert_type(await store.get("notes", ["a", "b"]), Results[Record])
        matches = await store.find(
            "notes", "year > 2000", order_by="year", descending=True, limit=2
        )
        assert_type(matches, Results[Record])
        hits = await store.search(
            "notes", [1.0, 0.0], limit=5, where=where, select=["year"], model="small",
            include_vector=True, exact=True, tuning=aiovec.Tuning(ef=10), diversity=0.5,
            rerank=by_score,
        )  # fmt: skip
        assert_type(hits, Results[Hit])
        plain: list[Hit] = hits
        assert_type(plain[0], Hit)
        assert_type(hits[1:], Results[Hit])
        assert_type(hits.to_polars(), pl.DataFrame)
        for hit in hits:
            assert_type(hit.id, str)
            assert_type(hit.score, float)
            assert_type(hit.distance, float | None)
            if hit.vector is not None:
                await store.search("notes", hit.vector)
            assert hit["year"] == hit.fields["year"]
            assert hit.to_dict()["_score"] == hit.score
        if store.supports("text"):
            assert_type(await store.search_text("notes", "wool", match="any"), Results[Hit])
            await store.search_text("notes", "wool", highlight=("[", "]"), group_by="year")
            await store.search_hybrid("notes", "wool", [1, 0], fusion=aiovec.RRF(k=30))
            await store.search_hybrid("notes", "wool", [1, 0], fusion=aiovec.Weighted(vector=0.5))
        export = store.export("notes", batch_size=10, select=["year"], after=None)
        assert sum([batch.num_rows async for batch in export])

        assert_type(await store.stats("notes"), TableStats)
        await store.optimize("notes")
        if store.supports("indexes"):
            await store.optimize("notes", questions=[[1, 0]] * 64)
            await store.create_index("notes", questions=[[1, 0]] * 64)
            await store.create_index("notes", "hnsw_sq", wait=True, m=16, ef_construction=100)
            options: IndexOptions = {"num_partitions": 4, "recall": 0.9}
            await store.create_index("notes", "ivf_flat", **options)
            indexes = await store.indexes("notes")
            assert_type(indexes, list[IndexInfo])
            of_vectors = next(index for index in indexes if index.kind == "ivf_flat")
            await store.drop_index("notes", of_vectors.name)
        if store.supports("snapshots"):
            versions = await store.versions("notes")
            await store.revert("notes", versions[-1]["version"])
        if store.supports("backup"):
            await store.backup(copy)
        await by_table(store.table("notes"))
        page = [Page("t", [1.0, 2.0])]
        assert_type(await store.table("pages").create_from(page, metric="l2"), Schema)
        assert_type(await store.delete("notes", "a"), int)
        assert_type(await store.delete("notes", where=F.id.startswith("b")), int)
        await store.drop_table("notes", missing_ok=True)


async def by_table(table: aiovec.Table) -> None:
    await table.create(
        SCHEMA.with_field("live", Field(bool)).with_field("page", PAGE), exist_ok=True
    )
    assert_type(await table.insert([Page("t", [1.0, 2.0])]), int)
    assert_type(await table.upsert({"id": ["t"], "embedding": [[1, 2]]}), int)
    assert_type(await table.update({"year": 1}, ids=["t"]), int)
    assert_type(
        await table.update([{"id": "t", "year": 1, "payload.seen": aiovec.REMOVE}], strict=True),
        int,
    )
    assert_type(await table.search([1, 2], limit=1, where="year = 1"), Results[Hit])
    assert_type(await table.search_many([[1, 2]], limit=1), ResultsList)
    assert_type(await table.get("t"), Results[Record])
    assert_type(await table.find(F.year == 1), Results[Record])
    assert_type(await table.count(), int)
    assert_type(await table.stats(), TableStats)
    assert sum([batch.num_rows async for batch in table.export(select=["id"])])
    assert_type(await table.delete(["t"]), int)


def by_score(hits: list[Hit]) -> list[float]:
    return [hit.score for hit in hits]


def without_async(target: Path) -> None:
    with sync.connect(target) as store:
        store.create_table("notes", SCHEMA)
        assert_type(store.insert("notes", [Page("a", [1.0, 2.0])]), int)
        assert_type(store.search("notes", [1, 2], where=F.year > 1), Results[Hit])
        assert_type(store.search_many("notes", np.ones((1, 2))), ResultsList)
        table = store.table("notes")
        assert_type(table.upsert(pl.DataFrame({"id": ["a"], "embedding": [[1.0, 2.0]]})), int)
        assert_type(table.search([1, 2]), Results[Hit])
        assert_type(list(map(id, table.export())), list[int])
    with sync.connect(":memory:", embedder=Letters(), embedders={"b": AwaitedLetters()}) as store:
        store.create_table("letters", Schema(fields={"body": str}, embed=aiovec.Embed("body")))
        assert_type(store.insert("letters", [{"id": "a", "body": "abc"}]), int)
        assert_type(store.search("letters", "abcd"), Results[Hit])
    with sync.connect(":memory:", embedder=SameLetters()) as store:
        assert store.tables() == []
    with compat.VectorStore(target.with_name("collections.db")) as points:
        points.ensure_collection("notes", 2)
        points.upsert("notes", id="a", vector=[1, 2], payload={"tags": ["x"], "pages": {"n": 1}})
        assert_type(points.upsert_batch("notes", [{"id": "b", "vector": [1, 2]}]), int)
        must = [compat.FieldCondition("tags", None)]
        points.search("notes", [1, 2], filter_=compat.VectorFilter(must=must))


async def refused(store: aiovec.VectorStore, number: int, text: str) -> None:
    """Make calls that both checkers must reject. This function never runs."""
    await store.insert("notes", number)  # type: ignore[arg-type]
    await store.insert("notes", text)  # type: ignore[arg-type]
    await store.insert("notes", [number])  # type: ignore[list-item]
    await store.insert("notes", [text])  # type: ignore[list-item]
    await store.search("notes", number)  # type: ignore[arg-type]
    await store.search("notes", [text])  # type: ignore[list-item]
    await store.search("notes", [[1.0, 2.0]])  # type: ignore[list-item]
    await store.search("notes", None)  # type: ignore[arg-type]
    await store.search_many("notes", [1.0, 2.0])  # type: ignore[list-item]
    await store.search("notes", [1.0], where=number)  # type: ignore[arg-type]
    await store.search("notes", [1.0], limits=5)  # type: ignore[call-arg]
    await store.update("notes", number, ids="a")  # type: ignore[arg-type]
    await store.create_index("notes", num_partition=4)  # type: ignore[call-arg]
    await store.create_index("notes", m="4")  # type: ignore[arg-type]
    await store.table("notes").insert(number)  # type: ignore[arg-type]
    await store.add_field("notes", "x", "integer")  # type: ignore[arg-type]
    Schema(2, metric="euclid")  # type: ignore[arg-type]
    Field("integer")  # type: ignore[arg-type]
    aiovec.connect(embedder=Unnamed())  # type: ignore[arg-type]
    blocking = cast("sync.VectorStore", store)
    blocking.insert("notes", number)  # type: ignore[arg-type]
    blocking.table("notes").search(number)  # type: ignore[arg-type]
