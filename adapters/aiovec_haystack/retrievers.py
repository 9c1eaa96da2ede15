"""Haystack retrievers for an aiovec store: by vector, by keywords, and by both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from aiovec import Hit, Table, Weighted
from aiovec.bridge import DocumentBridge, blocking, in_store

from .store import AiovecDocumentStore

_Filters = dict[str, Any] | None
_Documents = dict[str, list[Document]]
_gives_documents = component.output_types(documents=list[Document])


class _Retriever:
    """The base of the three retrievers.

    ``filter_policy`` says whether the filters of a run replace or narrow the retriever's filters.
    With ``return_embedding``, documents include their embeddings.
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
        self.filter_policy: FilterPolicy = FilterPolicy.from_str(str(filter_policy))
        self.return_embedding = return_embedding

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for ``from_dict``."""
        settings = {name: getattr(self, name) for name in self._settings}
        return default_to_dict(self, **settings, filter_policy=str(self.filter_policy))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return a retriever with these settings."""
        return default_from_dict(cls, data)

    @property
    def _bridge(self) -> DocumentBridge:
        return self.document_store._bridge

    @in_store
    async def _documents(
        self,
        search: Callable[..., Awaitable[Sequence[Hit]]],
        filters: _Filters,
        top_k: int | None,
    ) -> _Documents:
        limit = self.top_k if top_k is None else top_k
        if limit < 1:
            return {"documents": []}
        store = self.document_store
        where = store._where(apply_filter_policy(self.filter_policy, self.filters, filters))
        options = {"limit": limit, "where": where, "include_vector": self.return_embedding}
        hits = await self._bridge.read(partial(search, **options), ())
        return {"documents": [replace(store._document(hit), score=hit.score) for hit in hits]}


@component
class AiovecEmbeddingRetriever(_Retriever):
    """Retrieve the documents whose vectors are nearest to a query's vector."""

    @_gives_documents
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with their scores by the store's metric, best first."""
        return await self._documents(partial(Table.search, vector=query_embedding), filters, top_k)

    @_gives_documents
    @blocking(run_async)
    def run(self) -> Any:
        """Like ``run_async``."""


@component
class AiovecKeywordRetriever(_Retriever):
    """Retrieve the documents with any word of a query, ranked by BM25."""

    @_gives_documents
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with their BM25 scores, best first."""
        search = partial(Table.search_text, query=query)
        return await self._documents(search, filters, top_k)

    @_gives_documents
    @blocking(run_async)
    def run(self) -> Any:
        """Like ``run_async``."""


@component
class AiovecHybridRetriever(_Retriever):
    """Retrieve documents by words and by vectors.

    The score is a weighted mean of the keyword and vector scores. ``alpha`` is the weight of the
    vector score: 1 uses only vectors, and 0 only words.
    """

    _settings = (*_Retriever._settings, "alpha")

    def __init__(
        self, document_store: AiovecDocumentStore, alpha: float = 0.5, **options: Any
    ) -> None:
        _Retriever.__init__(self, document_store, **options)  # @component creates a new class
        self.alpha = alpha

    @_gives_documents
    async def run_async(
        self,
        query: str,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Return documents with a score from 0 to 1, best first."""
        fusion = Weighted(vector=self.alpha, text=1 - self.alpha)
        search = partial(Table.search_hybrid, query=query, vector=query_embedding, fusion=fusion)
        return await self._documents(search, filters, top_k)

    @_gives_documents
    @blocking(run_async)
    def run(self) -> Any:
        """Like ``run_async``."""
