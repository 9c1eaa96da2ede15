"""The bridge to LlamaIndex, compared with its ``SimpleVectorStore``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.harness.cases import case

pytest.importorskip("llama_index.core", reason="needs aiovec[llamaindex]")

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import aiovec
from aiovec import InvalidArgumentError, sync
from aiovec_llamaindex import AiovecVectorStore

pytestmark = pytest.mark.slow

METADATA: dict[str, dict[str, Any]] = {
    "a": {"n": 1, "lang": "en", "tags": ["x", "y"]},
    "b": {"n": 2, "lang": "de", "tags": [], "text": "own", "a.b": 1},
    "c": {"n": 3.5, "lang": "English", "id": "own"},
    "d": {"n": None, "tags": ["y"], "rate": "100%"},
}
TEXTS = {"a": "red fox", "b": "blue fox", "c": "green zebra", "d": "a red house"}
VECTORS = {"a": [1.0, 0.0], "b": [0.875, 0.125], "c": [0.0, 1.0], "d": [0.5, 0.5]}
Op = FilterOperator
FILTERS: list[tuple[str, Op, Any]] = [
    ("n", Op.EQ, 2), ("n", Op.NE, 2), ("n", Op.GT, 1), ("n", Op.GTE, 2), ("n", Op.LT, 3),
    ("n", Op.LTE, 2), ("lang", Op.IN, ["en", "de"]), ("lang", Op.NIN, ["en", "de"]),
    ("tags", Op.ANY, ["x", "z"]), ("tags", Op.ALL, ["x", "y"]), ("tags", Op.CONTAINS, "y"),
    ("lang", Op.TEXT_MATCH, "gl"), ("lang", Op.TEXT_MATCH_INSENSITIVE, "EN"),
    ("rate", Op.TEXT_MATCH_INSENSITIVE, "0%"), ("rate", Op.TEXT_MATCH_INSENSITIVE, "%0"),
    ("tags", Op.IS_EMPTY, None), ("n", Op.IS_EMPTY, None), ("text", Op.EQ, "own"),
    ("id", Op.EQ, "own"), ("a.b", Op.EQ, 1), ("tags", Op.ANY, []), ("tags", Op.ALL, []),
]  # fmt: skip


def nodes() -> list[BaseNode]:
    source = NodeRelationship.SOURCE
    return [
        TextNode(
            id_=id, text=TEXTS[id], embedding=VECTORS[id], metadata=metadata,
            relationships={source: RelatedNodeInfo(node_id=f"doc-{id in 'ab'}")},
        )
        for id, metadata in METADATA.items()
    ]  # fmt: skip


def filters(*wanted: Any, condition: str = "and") -> MetadataFilters:
    made = [
        part if isinstance(part, MetadataFilters)
        else MetadataFilter(key=part[0], operator=part[1], value=part[2])
        for part in wanted
    ]  # fmt: skip
    return MetadataFilters(filters=made, condition=FilterCondition(condition))


@pytest.fixture
def ours(store: sync.VectorStore) -> AiovecVectorStore:
    made = AiovecVectorStore(store, "Nodes")
    assert made.add(nodes()) == list("abcd")
    return made


def ids(store: Any, vector: list[float] | None = None, **options: Any) -> list[str]:
    query = VectorStoreQuery(query_embedding=vector or [1.0, 0.0], **options)
    return list(store.query(query).ids or [])


def test_filters_select_as_in_llamaindexs_simple_store(ours: AiovecVectorStore) -> None:
    theirs = SimpleVectorStore()
    theirs.add(nodes())
    for wanted in FILTERS:
        with case(wanted):
            both = [
                ids(each, similarity_top_k=9, filters=filters(wanted)) for each in (ours, theirs)
            ]
            assert both[0] == both[1]
    for condition in ("and", "or", "not"):
        with case(condition):
            some = filters(("n", Op.GT, 1), ("lang", Op.EQ, "de"), condition=condition)
            both = [ids(each, similarity_top_k=9, filters=some) for each in (ours, theirs)]
            assert both[0] == both[1]
    ours.add([TextNode(id_="e", embedding=[0.0, 1.0], metadata={"in": {"deep": "x"}})])
    assert ids(ours, similarity_top_k=9, filters=filters(("in.deep", Op.EQ, "x"))) == ["e"]
    ours.delete_nodes(["e"])
    nested = filters(
        filters(("n", Op.EQ, 1), ("n", Op.EQ, 2), condition="or"), ("lang", Op.EQ, "de")
    )
    assert ids(ours, similarity_top_k=9, filters=nested) == ["b"]
    assert ids(ours, similarity_top_k=9, filters=filters()) == ["a", "b", "d", "c"]
    assert ids(ours, similarity_top_k=9, node_ids=["c", "a"]) == ["a", "c"]
    assert ids(ours, similarity_top_k=9, doc_ids=["doc-True"]) == ["a", "b"]
    assert ids(ours, similarity_top_k=9, doc_ids=[]) == []


def test_each_query_mode_ranks_as_documented(ours: AiovecVectorStore) -> None:
    mode = VectorStoreQueryMode
    assert ids(ours, similarity_top_k=2) == ["a", "b"]
    assert ids(ours, query_str="zebra", mode=mode.TEXT_SEARCH) == ["c"]
    assert ids(ours, query_str="fox", mode=mode.SPARSE, sparse_top_k=2) == ["a", "b"]
    hybrid = {"query_str": "zebra", "mode": mode.HYBRID, "hybrid_top_k": 1}
    assert ids(ours, alpha=0.0, **hybrid) == ["c"]
    assert ids(ours, alpha=1.0, **hybrid) == ["a"]
    both = VectorStoreQuery([1.0, 0.0], query_str="zebra", mode=mode.HYBRID)
    without = ours.query(both).similarities
    both.alpha = 0.5
    assert ours.query(both).similarities == without
    assert len(ids(ours, query_str="zebra", mode=mode.SEMANTIC_HYBRID, similarity_top_k=3)) == 3
    assert ids(ours, mode=mode.MMR, mmr_threshold=0.1, similarity_top_k=2) == ["a", "c"]
    assert len(ids(ours, mode=mode.MMR, similarity_top_k=50)) == 4
    result = ours.query(VectorStoreQuery(query_embedding=[0.0, 2.0], similarity_top_k=1))
    assert result.similarities == [1.0]
    with pytest.raises(InvalidArgumentError, match="one of default, mmr"):
        ids(ours, mode=mode.SVM)
    for wrong, name in (
        (VectorStoreQuery(query_str="zebra"), "query_embedding"),
        (VectorStoreQuery([1.0, 0.0], mode=mode.HYBRID), "query_str"),
        (VectorStoreQuery(mode=mode.TEXT_SEARCH), "query_str"),
    ):
        with pytest.raises(InvalidArgumentError, match=name):
            ours.query(wrong)
    with pytest.raises(TypeError, match="'where': pass filters instead"):
        ours.query(both, where="lang = 'de'")


def test_a_filter_without_a_vector_selects_nodes(ours: AiovecVectorStore) -> None:
    for query, expected in (
        (VectorStoreQuery(filters=filters(("lang", Op.EQ, "de"))), ["b"]),
        (VectorStoreQuery(doc_ids=["doc-False"], similarity_top_k=1), ["c"]),
        (VectorStoreQuery(node_ids=["d"], mode=VectorStoreQueryMode.MMR), ["d"]),
    ):
        result = ours.query(query)
        assert (result.ids, result.similarities) == (expected, None)
        assert [node.node_id for node in result.nodes or ()] == expected


def test_a_saved_store_names_its_target_and_its_table(tmp_path: Path) -> None:
    path = str(tmp_path / "nodes.db")
    with sync.connect(path) as store:
        made = AiovecVectorStore(store, "Nodes")
        made.add(nodes())
        saved = made.to_dict()
    assert (saved["store"], saved["table"]) == (path, "Nodes")
    assert AiovecVectorStore(tmp_path / "nodes.db", "Nodes").to_dict() == saved
    again = AiovecVectorStore.from_dict(saved, zero_as_none=True)
    assert ids(again, similarity_top_k=1) == ["a"]
    again.close()
    assert ids(again, similarity_top_k=1) == ["a"]  # opened again
    again.close()
    secret = AiovecVectorStore("s3://bucket/nodes?secret_access_key=sk-0123456789")
    assert "sk-0123456789" not in f"{secret!r} {secret.to_dict()}"


def test_nodes_without_vectors_need_a_table_or_a_dim(store: sync.VectorStore) -> None:
    bare = TextNode(id_="bare", text="no vector")
    with pytest.raises(InvalidArgumentError, match="'new' does not exist yet"):
        AiovecVectorStore(store, "new").add([bare])
    ours = AiovecVectorStore(store, "new", dim=2, zero_as_none=True)
    assert ours.add([bare, TextNode(id_="zeros", embedding=[0.0, 0.0])]) == ["bare", "zeros"]
    assert [node.embedding for node in ours.get_nodes()] == [None, None]


def test_nodes_come_back_whole(ours: AiovecVectorStore) -> None:
    more = [
        ImageNode(id_="image", text="caption", image="aGk=", embedding=[1.0, 1.0]),
        IndexNode(id_="index", text="points", index_id="x", embedding=[1.0, 1.0]),
        TextNode(id_="bare", text="no vector"),
    ]
    ours.add(more)
    ours.add(more[2:])
    stored = {node.node_id: node for node in ours.get_nodes()}
    for node in [*nodes(), *more]:
        back = stored[node.node_id]
        assert type(back) is type(node)
        assert back.model_dump() == node.model_dump()
    assert ids(ours, similarity_top_k=99, filters=filters(("n", Op.EQ, 1))) == ["a"]


def test_a_declared_ref_doc_id_selects_and_deletes_documents(store: sync.VectorStore) -> None:
    schema = aiovec.Schema(2, fields={"text": str, "ref_doc_id": aiovec.Field(str, index="btree")})
    made = AiovecVectorStore(store, "declared", schema=schema)
    made.add(nodes())
    query = VectorStoreQuery([1.0, 0.0], similarity_top_k=9, doc_ids=["doc-True"])
    assert sorted(made.query(query).ids or ()) == ["a", "b"]
    made.delete("doc-True")
    assert sorted(node.node_id for node in made.get_nodes()) == ["c", "d"]


def test_filters_select_the_same_in_declared_fields(store: sync.VectorStore) -> None:
    fields = {"text": str, "n": float, "lang": str, "tags": list[str]}
    made = AiovecVectorStore(store, "typed", schema=aiovec.Schema(2, fields=fields))
    made.add(nodes())
    theirs = SimpleVectorStore()
    theirs.add(nodes())
    more: list[Any] = [
        ("lang", Op.CONTAINS, "e"),
        ("lang", Op.ANY, ["n"]),
        ("lang", Op.IS_EMPTY, None),
    ]
    for wanted in [*FILTERS, *more]:
        with case(wanted):
            some = filters(wanted)
            both = [ids(each, similarity_top_k=9, filters=some) for each in (made, theirs)]
            assert both[0] == both[1]


def test_nodes_are_deleted_by_id_document_and_filter(ours: AiovecVectorStore) -> None:
    ours.delete("doc-True")
    assert ids(ours, similarity_top_k=9) == ["d", "c"]
    ours.delete_nodes(["c", "a"])
    assert ids(ours, similarity_top_k=9) == ["d"]
    empty = MetadataFilters(filters=[])
    for nothing in (None, empty, MetadataFilters(filters=[empty])):
        with pytest.raises(InvalidArgumentError, match=r"clear\(\)"):
            ours.delete_nodes(filters=nothing)
    ours.delete_nodes(filters=filters(("n", Op.IS_EMPTY, None)))
    assert ids(ours) == []
    ours.clear()
    assert (ids(ours), ours.get_nodes(), ours.add([])) == ([], [], [])
    ours.delete("doc-True")


def test_a_vector_store_index_retrieves_from_it(tmp_path: Path) -> None:
    ours = AiovecVectorStore(tmp_path / "nodes.db")
    context = StorageContext.from_defaults(vector_store=ours)
    embed: Any = MockEmbedding(embed_dim=4)
    plain = [TextNode(id_=id, text=text) for id, text in TEXTS.items()]
    VectorStoreIndex(plain, storage_context=context, embed_model=embed)
    index = VectorStoreIndex.from_vector_store(ours, embed_model=embed)
    options: dict[str, Any] = {"vector_store_query_mode": "text_search", "sparse_top_k": 1}
    (match,) = index.as_retriever(**options).retrieve("zebra")
    assert match.node.get_content() == "green zebra"
    ours.close()
