"""The bridge to Haystack: Haystack's own suites, and the retrievers."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

import pytest

pytest.importorskip("haystack", reason="needs aiovec[haystack]")

from haystack import Pipeline
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.testing import document_store as suite
from haystack.testing import document_store_async as asynchronous

import aiovec
from aiovec import Field, InvalidArgumentError, Schema, sync
from aiovec_haystack import (
    AiovecDocumentStore,
    AiovecEmbeddingRetriever,
    AiovecHybridRetriever,
    AiovecKeywordRetriever,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def document_store(store: sync.VectorStore) -> AiovecDocumentStore:
    return AiovecDocumentStore(store, embedding_dim=768)


class _Equal:
    """Compares documents sorted by id, with vectors in float32."""

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        def plain(documents: list[Document]) -> list[dict[str, object]]:
            by_id = sorted(documents, key=lambda document: document.id)
            return [{**document.to_dict(), "embedding": None} for document in by_id]

        assert plain(received) == plain(expected)
        vectors = {document.id: document.embedding for document in expected}
        for document in received:
            given = vectors[document.id]
            assert document.embedding == (given and pytest.approx(given, rel=1e-6))


class TestSync(
    _Equal, suite.DocumentStoreBaseExtendedTests, suite.CountDocumentsByFilterTest,
    suite.CountUniqueMetadataByFilterTest, suite.GetMetadataFieldsInfoTest,
    suite.GetMetadataFieldMinMaxTest, suite.GetMetadataFieldUniqueValuesTest,
):  # fmt: skip
    @pytest.fixture
    def document_store(self, store: sync.VectorStore) -> AiovecDocumentStore:
        return AiovecDocumentStore(store, embedding_dim=768)

    def test_write_documents(self, document_store: AiovecDocumentStore) -> None:
        document = Document(content="one")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document, Document(content="two")])
        assert document_store.count_documents() == 1


class TestAsync(
    _Equal, *(suite for name, suite in vars(asynchronous).items() if name.endswith("AsyncTest"))
):  # type: ignore[misc]  # fmt: skip
    async def test_write_documents_async(self, document_store: AiovecDocumentStore) -> None:
        document = Document(content="one")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


DOCUMENTS = [
    Document(id="a", content="red fox", embedding=[1.0, 0.0], meta={"lang": "en", "id": "own"}),
    Document(id="b", content="blue fox", embedding=[0.875, 0.125],
             meta={"lang": "de", "n": {"m": 1}}),
    Document(id="c", content="green zebra", embedding=[0.0, 1.0],
             meta={"lang": "en", "tags": ["x", "y"], "n.o": 2}),
    Document(id="d", content=None, blob=ByteStream(b"\x00\xff", mime_type="image/png"),
             sparse_embedding=SparseEmbedding(indices=[3], values=[0.5])),
]  # fmt: skip
ENGLISH = {"field": "meta.lang", "operator": "==", "value": "en"}


@pytest.fixture
def ours(store: sync.VectorStore) -> AiovecDocumentStore:
    made = AiovecDocumentStore(store, "My.Documents")
    assert made.write_documents(DOCUMENTS) == 4
    return made


def ids(result: dict[str, list[Document]]) -> list[str]:
    return [document.id for document in result["documents"]]


def test_documents_come_back_whole(ours: AiovecDocumentStore) -> None:
    assert ours.filter_documents() == DOCUMENTS
    nested = {"field": "meta.n.m", "operator": "==", "value": 1}
    own = {"field": "meta.id", "operator": "==", "value": "own"}
    by_id = {"field": "id", "operator": "in", "value": ["c", "d"]}
    dotted = {"field": "meta.n.o", "operator": ">", "value": 1}
    neither = {"field": "meta.n.o", "operator": "==", "value": None}
    for filters, wanted in (
        (nested, ["b"]), (own, ["a"]), (by_id, ["c", "d"]), (dotted, ["c"]),
        (neither, ["a", "b", "d"]),
    ):  # fmt: skip
        assert ids({"documents": ours.filter_documents(filters)}) == wanted
    for name, values in (("tags", ["x", "y"]), ("meta.n.m", [1]), ("n.o", [2]), ("no", [])):
        assert ours.get_metadata_field_unique_values(name) == (values, len(values))
    numbers = [1, 1.0, 2.5, True, "1", [1, 2.0]]
    ours.write_documents([
        Document(id=f"n{n}", content="", meta={"many": number, "in": {"many": number}})
        for n, number in enumerate(numbers)
    ])  # fmt: skip
    for name in ("many", "in.many"):
        values, total = ours.get_metadata_field_unique_values(name)
        assert (sorted(map(repr, values)), total) == (["'1'", "1", "1.0", "2.0", "2.5", "True"], 6)
    for name, bounds in (("n.m", [1, 1]), ("meta.n.o", [2, 2]), ("lang", ["de", "en"])):
        assert list(ours.get_metadata_field_min_max(name).values()) == bounds
    with pytest.raises(FilterError):
        ours.filter_documents({"operator": "XOR", "conditions": [ENGLISH]})
    every = {"field": "meta.lang", "operator": "not in", "value": []}
    true = {"operator": "OR", "conditions": [ENGLISH, every]}
    for change in (ours.delete_by_filter, lambda filters: ours.update_by_filter(filters, {"n": 1})):
        with pytest.raises(InvalidArgumentError, match="where='TRUE'"):
            change(true)
    ours.delete_all_documents(recreate_index=True)
    assert ours.write_documents([Document(content="x", embedding=[1.0, 2.0, 3.0])]) == 1


def test_the_text_of_an_existing_table_is_the_content(store: sync.VectorStore) -> None:
    schema = Schema(2, fields={"body": Field(str, text=True), "title": Field(str)})
    store.create_table("made", schema)
    store.insert("made", [{"id": "a", "body": "red fox", "title": "Fox", "embedding": [1, 0]}])
    made = AiovecDocumentStore(store, "made")
    for field, value in (("content", "red fox"), ("meta.title", "Fox")):
        (document,) = made.filter_documents({"field": field, "operator": "==", "value": value})
        assert (document.content, document.meta) == ("red fox", {"title": "Fox"})


def test_dates_in_a_filter_are_compared_in_utc(ours: AiovecDocumentStore) -> None:
    for id, at in (("e", "2026-01-01T10:00:00+00:00"), ("f", "2026-01-01T12:00:00+00:00")):
        ours.write_documents([Document(id=id, content=id, meta={"at": at})])
    for value in ("2026-01-01T13:00:00+02:00", datetime.fromisoformat("2026-01-01T13:00+02:00")):
        later = {"field": "meta.at", "operator": ">", "value": value}
        assert [document.id for document in ours.filter_documents(later)] == ["f"]


async def test_each_retriever_returns_the_best_documents(ours: AiovecDocumentStore) -> None:
    near = AiovecEmbeddingRetriever(ours, filters=ENGLISH, top_k=1, return_embedding=True)
    (hit,) = near.run([1.0, 0.1])["documents"]
    assert (hit.id, hit.embedding, hit.content) == ("a", [1.0, 0.0], "red fox")
    assert hit.score is not None
    assert 0.9 < hit.score < 1
    german = {"field": "meta.lang", "operator": "==", "value": "de"}
    assert ids(await near.run_async([1.0, 0.0], filters=german, top_k=5)) == ["b"]
    near.filter_policy = FilterPolicy.MERGE
    second = {"field": "id", "operator": "==", "value": "b"}
    assert ids(near.run([1.0, 0.0], filters=second)) == []
    words = AiovecKeywordRetriever(ours)
    assert set(ids(words.run("a fox, or (what?"))) == {"a", "b"}
    assert ids(await words.run_async("zebra", top_k=1)) == ["c"]
    assert words.run("fox", top_k=0) == {"documents": []}
    for options, query, wanted in (
        ({"alpha": 0.0}, "zebra", "c"), ({"alpha": 1.0}, "zebra", "a"), ({}, "red fox", "a"),
    ):  # fmt: skip
        both = AiovecHybridRetriever(ours, top_k=1, **options)
        assert ids(both.run(query, [1.0, 0.0])) == [wanted]
        assert ids(await both.run_async(query, [1.0, 0.0])) == [wanted]
    halves = AiovecHybridRetriever(ours, alpha=0.5).run("zebra", [1.0, 0.0])
    assert AiovecHybridRetriever(ours).run("zebra", [1.0, 0.0]) == halves
    nothing = AiovecDocumentStore(":memory:")
    assert AiovecKeywordRetriever(nothing).run("x") == {"documents": []}
    nothing.close()
    with pytest.raises(TypeError):
        AiovecKeywordRetriever("documents.db")  # type: ignore[arg-type]


async def test_documents_are_made_outside_of_the_apps_loop(
    ours: AiovecDocumentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creating 10,000 documents takes four times as long as a call may block the loop."""
    makers: set[threading.Thread] = set()
    monkeypatch.setattr(Document, "__post_init__", lambda _: makers.add(threading.current_thread()))
    assert await ours.filter_documents_async()
    assert ids(await AiovecEmbeddingRetriever(ours).run_async([1.0, 0.0]))
    assert makers
    assert threading.current_thread() not in makers


def test_a_pipeline_is_saved_and_loaded(tmp_path: Path) -> None:
    store = AiovecDocumentStore(str(tmp_path / "documents.db"), metric="dot", config=None)
    store.write_documents(DOCUMENTS[:1])
    store.close()
    pipeline = Pipeline()
    pipeline.add_component("near", AiovecEmbeddingRetriever(store, top_k=3, filters=ENGLISH))
    pipeline.add_component("both", AiovecHybridRetriever(store, alpha=0.25))
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=["aiovec_haystack"])
    results = loaded.run({"near": {"query_embedding": [2.0, 0.0]},
                        "both": {"query": "fox", "query_embedding": [2.0, 0.0]}})  # fmt: skip
    assert ids(results["near"]) == ids(results["both"]) == ["a"]
    assert results["near"]["documents"][0].score == 2.0
    for name in ("near", "both"):
        loaded.get_component(name).document_store.close()


async def test_an_apps_own_store_and_schema_are_used(tmp_path: Path) -> None:
    schema = Schema(dim=2, vector_nullable=True, fields={
        "content": Field(str, text=True), "lang": Field(str, index="bitmap")})  # fmt: skip
    async with aiovec.connect(tmp_path / "app.db") as app:
        store = AiovecDocumentStore(app, schema=schema)
        assert await store.write_documents_async(DOCUMENTS) == 4
        again = await store.write_documents_async(DOCUMENTS, DuplicatePolicy.OVERWRITE)
        assert again == 4
        assert await store.filter_documents_async(ENGLISH) == [DOCUMENTS[0], DOCUMENTS[2]]
        info = await store.get_metadata_fields_info_async()
        assert {name: facts["type"] for name, facts in info.items()} == {
            "lang": "keyword", "id": "keyword", "n": "keyword", "tags": "keyword",
            "n.o": "int"}  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            store.to_dict()
        unknown = AiovecDocumentStore(app, "other")
        with pytest.raises(InvalidArgumentError, match="length of the vectors"):
            await unknown.write_documents_async([Document(content="no vector")])
