"""Haystack's retrievers for a store of aiovec: by vector, by keywords, and by both."""

from __future__ import annotations

from typing import Any, TypeVar

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from aiovec import Weighted

from .store import AiovecDocumentStore

_T = TypeVar("_T", bound="_Retriever")


class _Retriever:
    """What the three retrievers share.

    ``filter_policy`` says whether filters at a run replace the retriever's own or narrow them.
    Documents have their embedding with ``return_embedding``.
    """

    _settings: tuple[str, ...] = ("document_store", "filters", "top_k", "return_embedding")

    def __init__(
        self,
        document_store: AiovecDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: FilterPolicy | str = FilterPolicy.REPLACE,
        return_embedding: bool = False,
    ) -> None:
        if not isinstance(document_store, AiovecDocumentStore):
            raise TypeError("document_store must be an AiovecDocumentStore")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = FilterPolicy.from_str(str(filter_policy))
        self.return_embedding = return_embedding

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, of which ``from_dict`` makes a retriever like this one."""
        settings = {name: getattr(self, name) for name in self._settings}
        return default_to_dict(self, **settings, filter_policy=str(self.filter_policy))

    @classmethod
    def from_dict(cls: type[_T], data: dict[str, Any]) -> _T:
        """Return a retriever with these settings."""
        return default_from_dict(cls, data)

    def _options(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        return {
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
            "include_vector": self.return_embedding,
        }


@component
class AiovecEmbeddingRetriever(_Retriever):
    """Retrieve the documents whose vectors are nearest."""

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with the score of the store's metric, best first."""
        options = self._options(filters, top_k)
        return {"documents": self.document_store._embedding_retrieval(query_embedding, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """As ``run``."""
        options = self._options(filters, top_k)
        retrieval = self.document_store._embedding_retrieval_async(query_embedding, **options)
        return {"documents": await retrieval}


@component
class AiovecKeywordRetriever(_Retriever):
    """Retrieve the documents with any word of a query, ranked by BM25."""

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with their BM25 score, best first."""
        options = self._options(filters, top_k)
        return {"documents": self.document_store._bm25_retrieval(query, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """As ``run``."""
        options = self._options(filters, top_k)
        return {"documents": await self.document_store._bm25_retrieval_async(query, **options)}


@component
class AiovecHybridRetriever(_Retriever):
    """Retrieve documents by their words and their vectors, fused by places or by weights.

    ``alpha`` weighs the scores: 1 counts vectors alone, 0 words alone. Without it, the places in
    both lists count.
    """

    _settings = (*_Retriever._settings, "alpha")

    def __init__(
        self, document_store: AiovecDocumentStore, alpha: float | None = None, **options: Any
    ) -> None:
        _Retriever.__init__(self, document_store, **options)  # @component makes another class
        self.alpha = alpha

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with a fused score from 0 to 1, best first."""
        options = self._options(filters, top_k)
        store = self.document_store
        return {"documents": store._hybrid_retrieval(query, query_embedding, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """As ``run``."""
        options = self._options(filters, top_k)
        retrieval = self.document_store._hybrid_retrieval_async(query, query_embedding, **options)
        return {"documents": await retrieval}

    def _options(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        options = _Retriever._options(self, filters, top_k)
        if self.alpha is not None:
            options["fusion"] = Weighted(vector=self.alpha, text=1 - self.alpha)
        return options
