"""The bridge to LangChain: LangChain's own suites, and tests of methods that they do not cover."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs aiovec[langchain] and langchain-tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.indexing import index
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests
from langchain_tests.integration_tests.indexer import (
    AsyncDocumentIndexTestSuite,
    DocumentIndexerTestSuite,
)
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from aiovec import (
    F,
    Field,
    FilterError,
    InvalidArgumentError,
    Schema,
    TableNotFoundError,
    connect,
    sync,
)
from aiovec_langchain import (
    AiovecByteStore,
    AiovecDocumentIndex,
    AiovecRecordManager,
    AiovecVectorStore,
)

pytestmark = pytest.mark.slow


class Letters(Embeddings):
    """Embeds a text as its counts of the letters a, b and c."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[text.count(letter) + 0.01 for letter in "abc"] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store: sync.VectorStore) -> AiovecVectorStore:
        return AiovecVectorStore(self.get_embeddings(), store)


class TestByteStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, store: sync.VectorStore) -> AiovecByteStore:
        return AiovecByteStore(store)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"\x00\xff", b""


class TestByteStoreAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, store: sync.VectorStore) -> AiovecByteStore:
        return AiovecByteStore(store)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"\x00\xff", b""


def document_index(store: sync.VectorStore) -> AiovecDocumentIndex:
    embeddings = DeterministicFakeEmbedding(size=6)
    return AiovecDocumentIndex(store=AiovecVectorStore(embeddings, store))


class TestDocumentIndex(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self, store: sync.VectorStore) -> AiovecDocumentIndex:
        return document_index(store)


class TestDocumentIndexAsync(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(self, store: sync.VectorStore) -> AiovecDocumentIndex:
        return document_index(store)


def ids_of(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


@pytest.fixture
def letters(store: sync.VectorStore) -> AiovecVectorStore:
    made = AiovecVectorStore(Letters(), store, "My Letters")
    made.add_texts(
        ["aaa", "aab", "bbb", "ccc zebra"],
        [{"n": 1, "id": "x"}, {"n": 2, "text": "y"}, {"n": 3, "in": {"deep": 1}}, {}],
        ids=["a", "ab", "b", "c"],
    )
    return made


def test_metadata_comes_back_as_it_went_in(letters: AiovecVectorStore) -> None:
    documents = letters.get_by_ids(["a", "ab", "b", "c"])
    assert [document.metadata for document in documents] == [
        {"n": 1, "id": "x"}, {"n": 2, "text": "y"}, {"n": 3, "in": {"deep": 1}}, {},
    ]  # fmt: skip
    assert [document.page_content for document in documents] == ["aaa", "aab", "bbb", "ccc zebra"]


def test_a_wrong_call_says_what_to_do(letters: AiovecVectorStore) -> None:
    with pytest.raises(FilterError, match="not a function"):
        letters.similarity_search("a", filter=lambda document: True)
    for nothing in ({}, {"filter": {}}, {"filter": {"$or": [{}, {"n": 1}]}}):
        with pytest.raises(InvalidArgumentError, match="delete_collection"):
            letters.delete(**nothing)
    with pytest.raises(InvalidArgumentError, match="as many as texts, 1"):
        letters.add_texts(["x"], [{}, {}])
    with pytest.raises(InvalidArgumentError, match=r"metadata\.file"):
        letters.add_texts(["x"], [{"file": object()}])
    with pytest.raises(TypeError, match="metadata"):
        letters.add_texts(["x"], metadata=[{}])
    with pytest.raises(TypeError, match="filters"):
        letters.delete(["a"], filters={"n": 1})
    with pytest.raises(TypeError, match="'where': pass filter instead"):
        letters.similarity_search("a", where="n = 1")
    with pytest.raises(TypeError, match="'where': pass filter instead"):
        letters.delete(["a"], where="n = 1")
    assert len(letters.similarity_search("a", 10)) == 4


def test_each_kind_of_search_ranks_and_filters(letters: AiovecVectorStore) -> None:
    for where in ({"n": {"$in": [1, 3]}}, F["payload.n"].in_([1, 3]), "payload.n IN (1, 3)"):
        assert ids_of(letters.similarity_search("a", filter=where)) == ["a", "b"]
    assert ids_of(letters.similarity_search("a", 2)) == ["a", "ab"]
    assert "c" not in ids_of(letters.similarity_search("zebra", 2))
    assert "c" in ids_of(letters.similarity_search("zebra", 2, hybrid=True))
    assert ids_of(letters.max_marginal_relevance_search("a", 2, lambda_mult=0.1)) == ["a", "b"]
    scored = letters.similarity_search_with_relevance_scores("a", 4)
    assert ids_of([document for document, _ in scored])[0] == "a"
    assert all(0 <= score <= 1 for _, score in scored)
    retriever = letters.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9}
    )
    assert "b" not in ids_of(retriever.invoke("a"))


def test_an_apps_schema_with_fields_is_used(store: sync.VectorStore) -> None:
    schema = Schema(
        dim=3, metric="l2", vector="v", fields={"text": Field(str), "n": Field(int, index="btree")}
    )
    made = AiovecVectorStore(Letters(), store, "typed", schema=schema)
    made.add_texts(["aaa", "bbb"], [{"n": 1, "v": "w"}, {"m": 2}], ids=["a", "b"])
    assert store.schema("typed").fields["n"].index == "btree"
    assert ids_of(made.similarity_search("b", filter={"n": {"$gt": 0}, "v": "w"})) == ["a"]
    assert [document.metadata for document in made.get_by_ids(["a", "b"])] == [
        {"n": 1, "v": "w"},
        {"m": 2},
    ]
    assert made.similarity_search_with_relevance_scores("bbb", 1)[0][1] == 1


def test_an_existing_table_keeps_its_fields_and_its_metric(store: sync.VectorStore) -> None:
    schema = Schema(3, metric="dot", vector="v", fields={"body": Field(str, text=True), "n": int})
    store.create_table("made", schema)
    made = AiovecVectorStore(Letters(), store, "made")
    made.add_texts(["aaa", "abb", "ccc"], [{"n": 1}, {"n": 2}, {}], ids=["a", "b", "c"])
    assert store.get("made", ["a"])[0]["body"] == "aaa"
    assert made.get_by_ids(["a", "c"]) == [
        Document("aaa", id="a", metadata={"n": 1}),
        Document("ccc", id="c"),
    ]
    other = AiovecVectorStore(Letters(), store, "made")
    scored = other.similarity_search_with_relevance_scores("a", filter={"n": {"$gte": 1}})
    assert [(document.id, score < 1) for document, score in scored] == [("a", True), ("b", True)]
    AiovecVectorStore(Letters(), store, "made").delete(filter={"n": {"$ne": 1}})
    assert store.exists("made", ["a", "b", "c"]) == {"a"}
    store.drop_table("made")
    with pytest.raises(TableNotFoundError):
        made.add_texts(["aaa"])
    made.add_texts(["aaa"], [{"n": "text", "v": 1}])
    assert made.similarity_search("a")[0].metadata == {"n": "text", "v": 1}


def test_the_indexing_api_skips_existing_documents(store: sync.VectorStore) -> None:
    made, records = AiovecVectorStore(Letters(), store), AiovecRecordManager("letters", store)
    records.create_schema()
    first = [Document("aaa", metadata={"source": "1"}), Document("bbb", metadata={"source": "2"})]
    second = [first[0], Document("bcb", metadata={"source": "2"})]
    options: dict[str, Any] = {"source_id_key": "source", "key_encoder": "sha256"}
    done = index(first, records, made, cleanup="full", **options)
    assert (done["num_added"], done["num_deleted"]) == (2, 0)
    done = index(second, records, made, cleanup="full", **options)
    assert (done["num_added"], done["num_skipped"], done["num_deleted"]) == (1, 1, 1)
    assert sorted(document.page_content for document in made.similarity_search("a")) == [
        "aaa",
        "bcb",
    ]


def test_the_record_manager_lists_keys_by_time_and_group(store: sync.VectorStore) -> None:
    records = AiovecRecordManager("kittens/1", store)
    assert records.list_keys() == []
    assert records.exists(["a"]) == [False]
    began = records.get_time()
    records.update(["a", "b"], group_ids=["g", None], time_at_least=began)
    between = records.get_time()
    records.update(["c"])
    assert records.exists(["c", "x", "a"]) == [True, False, True]
    assert records.list_keys(before=between) == ["a", "b"]
    assert records.list_keys(after=began, group_ids=["g"]) == ["a"]
    assert records.list_keys(limit=1) == ["a"]
    records.delete_keys(["a", "x"])
    assert records.list_keys() == ["b", "c"]
    with pytest.raises(ValueError, match="time_at_least"):
        records.update(["a"], time_at_least=records.get_time() + 60)
    with pytest.raises(ValueError, match="group_ids"):
        records.update(["a"], group_ids=["g", "h"])
    assert AiovecRecordManager("kittens-1", store).list_keys() == []


async def test_the_record_manager_uses_an_apps_own_clock(store: sync.VectorStore) -> None:
    class Records(AiovecRecordManager):
        def get_time(self) -> float:
            return 7.0

    records = Records("mine", store)
    await records.aupdate(["a"])
    assert await records.aget_time() == 7
    assert await records.alist_keys(before=8) == ["a"]


async def test_a_store_of_the_apps_own_loop_is_made_of_texts_and_searched() -> None:
    async with connect(":memory:") as store:
        made = await AiovecVectorStore.afrom_texts(["aaa", "bbb"], Letters(), store=store)
        (document,) = await made.amax_marginal_relevance_search("b", 1, lambda_mult=0.1)
        assert document.page_content == "bbb"


def test_embeddings_are_added_and_found_by_a_vector_with_their_scores(
    store: sync.VectorStore,
) -> None:
    made = AiovecVectorStore(Letters(), store, "embeddings")
    facts = {"user_id": "ana"}
    made.add_embeddings(embeddings=[[1, 0, 0], [0, 1, 0]], metadatas=[facts, {}], ids=["1", "2"])
    matches = made.similarity_search_with_score_by_vector(embedding=[1, 0, 0], k=5, filter=facts)
    assert [(document.id, document.metadata, score) for document, score in matches] == [
        ("1", facts, 1.0)
    ]
