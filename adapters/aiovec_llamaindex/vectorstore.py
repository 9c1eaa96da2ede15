"""A table of nodes as a LlamaIndex ``BasePydanticVectorStore``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from aiovec import F, Hit, InvalidArgumentError, Record, Weighted
from aiovec.bridge import (
    Closable,
    DocumentBridge,
    StoreOrTarget,
    all_of,
    any_of,
    blocking,
    comparison,
    empty,
    in_store,
    refuse_options,
    unless_true,
)

_WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)
_BOTH = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID)
_NEAREST = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)


class AiovecVectorStore(Closable, BasePydanticVectorStore):
    """Nodes in one table of an aiovec store. Every operation also has an async method.

    ``store`` is a store from ``aiovec.sync.connect`` or a target such as ``"notes.db"``; a store
    from ``aiovec.connect`` supports only the async methods. The first write creates the table.
    ``options`` are passed to ``aiovec.bridge.DocumentBridge`` (``schema``, ``metric``, ``text``)
    and, for a target, to ``aiovec.connect``. Nodes without embeddings need an existing table,
    ``dim`` or ``schema``. ``to_dict`` stores only the target and the table, so pass the options to
    ``from_dict`` again.
    """

    stores_text: bool = True
    store: str
    table: str
    _bridge: DocumentBridge = PrivateAttr()

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "llamaindex",
        *,
        stores_text: bool = True,
        is_embedding_query: bool = True,
        **options: Any,
    ) -> None:
        documents = DocumentBridge(store, table, vector_nullable=True, **options)
        names: dict[str, Any] = {"store": documents.target, "table": table}
        super().__init__(stores_text=stores_text, is_embedding_query=is_embedding_query, **names)
        self._bridge = documents

    @classmethod
    def class_name(cls) -> str:
        """Return the class's name in serialized indexes."""
        return "AiovecVectorStore"

    @property
    def client(self) -> DocumentBridge:
        """The bridge to the table, to call aiovec directly."""
        return self._bridge

    @in_store
    async def async_add(self, nodes: Sequence[BaseNode], **_: Any) -> list[str]:
        """Add nodes, replacing existing ones with the same ids, and return the ids."""
        if not nodes:
            return []
        rows = [
            self._bridge.row(
                node.node_id,
                node.get_content(metadata_mode=MetadataMode.NONE),
                node.embedding,
                node_to_metadata_dict(node, remove_text=True),
            )
            for node in nodes
        ]
        dim = next((len(node.embedding) for node in nodes if node.embedding is not None), None)
        await self._bridge.write(dim, lambda table: table.upsert(rows))
        return [node.node_id for node in nodes]

    @blocking(async_add)
    def add(self) -> Any:
        """Like ``async_add``."""

    @in_store
    async def adelete(self, ref_doc_id: str, **_: Any) -> None:
        """Delete the nodes of a document."""
        where = self._bridge.field("ref_doc_id") == ref_doc_id
        await self._bridge.read(lambda table: table.delete(where=where), 0)

    @blocking(adelete)
    def delete(self) -> Any:
        """Like ``adelete``."""

    @in_store
    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **_: Any,
    ) -> None:
        """Delete nodes that have these ids and match the filters. Pass ids, filters, or both."""
        where = self._narrowed(node_ids, filters)
        if where is None:
            raise InvalidArgumentError("node_ids", None, "ids, or filters; clear() deletes all")
        await self._bridge.read(lambda table: table.delete(where=where), 0)

    @blocking(adelete_nodes)
    def delete_nodes(self) -> Any:
        """Like ``adelete_nodes``."""

    async def aclear(self) -> None:
        """Delete everything. The next write creates the table again."""
        await self._bridge.drop()

    @blocking(aclear)
    def clear(self) -> Any:
        """Like ``aclear``."""

    @in_store
    async def aget_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
    ) -> list[BaseNode]:
        """Return the nodes that have these ids and match the filters."""
        where = self._narrowed(node_ids, filters)
        rows = await self._bridge.read(
            lambda table: table.find(where, limit=None, include_vector=True), ()
        )
        return list(map(self._node, rows))

    @blocking(aget_nodes)
    def get_nodes(self) -> Any:
        """Like ``aget_nodes``."""

    @in_store
    async def aquery(
        self,
        query: VectorStoreQuery,
        *,
        mmr_threshold: float | None = None,
        **options: Any,
    ) -> VectorStoreQueryResult:
        """Return the best nodes by vector, by words, or by both.

        The score of a hybrid query is the weighted mean of the scaled vector and keyword scores;
        ``alpha`` is the weight of the vector score, by default 0.5. In the vector modes, a query
        that has filters but no vector returns matching nodes, without scores.
        """
        refuse_options(options, where="filters", limit="similarity_top_k")
        # An index that keeps no list of its nodes passes an empty list to mean all nodes.
        where = self._narrowed(query.node_ids or None, query.filters, query.doc_ids)
        limit, mode = query.similarity_top_k, query.mode
        words, vector = query.query_str or "", query.query_embedding
        options.update(where=where, limit=limit)
        if query.query_str is None and mode in (*_WORDS, *_BOTH):
            raise InvalidArgumentError("query_str", None, f"a text in the mode {mode.value!r}")
        if vector is None and where is not None and mode in _NEAREST:
            rows = await self._bridge.read(lambda table: table.find(where, limit=limit), ())
            return VectorStoreQueryResult(
                nodes=list(map(self._node, rows)), ids=[row.id for row in rows]
            )
        if mode in _WORDS:
            options["limit"] = query.sparse_top_k or limit
            hits = await self._bridge.read(lambda table: table.search_text(words, **options), ())
        elif vector is None:
            raise InvalidArgumentError(
                "query_embedding", None, f"a vector in the mode {mode.value!r}"
            )
        elif mode in _BOTH:
            options["limit"] = query.hybrid_top_k or limit
            if query.alpha is not None:
                options["fusion"] = Weighted(vector=query.alpha, text=1 - query.alpha)
            hits = await self._bridge.read(
                lambda table: table.search_hybrid(words, vector, **options), ()
            )
        elif mode in _NEAREST:
            if mode == VectorStoreQueryMode.MMR:
                near = query.mmr_threshold if mmr_threshold is None else mmr_threshold
                options["diversity"] = 0.5 if near is None else 1 - near
                options.setdefault("fetch_k", max(40, limit))
            hits = await self._bridge.read(lambda table: table.search(vector, **options), ())
        else:
            names = ", ".join(known.value for known in (*_NEAREST, *_WORDS, *_BOTH))
            raise InvalidArgumentError("mode", mode.value, f"one of {names}")
        return VectorStoreQueryResult(
            nodes=list(map(self._node, hits)),
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    @blocking(aquery)
    def query(self) -> Any:
        """Like ``aquery``."""

    def _node(self, row: Record | Hit) -> BaseNode:
        text = row.fields.get(self._bridge.text)
        node: BaseNode = metadata_dict_to_node(self._bridge.metadata(row), text)
        node.embedding = None if row.vector is None else [float(number) for number in row.vector]
        return node

    def _narrowed(
        self,
        node_ids: Iterable[str] | None,
        filters: MetadataFilters | None,
        doc_ids: Iterable[str] | None = None,
    ) -> Any:
        """Return conditions for nodes that have these ids, belong to these documents, and match the
        filters; None if there are no conditions."""
        metadata = unless_true(self._all(filters)) if filters else None
        conditions = [] if metadata is None else [metadata]
        if node_ids is not None:
            conditions.append(F.id.in_(node_ids))
        if doc_ids is not None:
            conditions.append(self._bridge.field("ref_doc_id").in_(doc_ids))
        return conditions or None

    def _all(self, filters: MetadataFilters) -> Any:
        parts = [
            self._all(part) if isinstance(part, MetadataFilters) else self._condition(part)
            for part in filters.filters
        ]
        if parts and filters.condition == FilterCondition.NOT:
            return any_of(parts).is_not_true()
        if parts and filters.condition == FilterCondition.OR:
            return any_of(parts)
        return all_of(parts)

    def _condition(self, wanted: MetadataFilter) -> Any:
        fields = self._bridge.fields(wanted.key)
        value: Any = wanted.value
        match wanted.operator:
            case FilterOperator.ANY:
                return any_of([comparison(fields, "$contains", item) for item in value])
            case FilterOperator.ALL:  # with no items, every node with the key matches
                each = [comparison(fields, "$contains", item) for item in value]
                return all_of([comparison(fields, "$exists", True), *each])
            case FilterOperator.TEXT_MATCH:
                return any_of([field.contains_text(value) for field in fields])
            case FilterOperator.TEXT_MATCH_INSENSITIVE:
                return any_of([_ilike(field, value) for field in fields])
            case FilterOperator.IS_EMPTY:
                return all_of([empty(field) for field in fields])
        return comparison(fields, _COMPARISONS[wanted.operator], value)


def _ilike(field: Any, part: str) -> Any:
    for special in "\\%_":
        part = part.replace(special, f"\\{special}")
    return field.ilike(f"%{part}%", escape="\\")


_COMPARISONS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
