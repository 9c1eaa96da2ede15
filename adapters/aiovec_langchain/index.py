"""An ``AiovecVectorStore`` as a LangChain ``DocumentIndex``, which is also a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, DocumentIndex, UpsertResponse
from pydantic import Field

from .vectorstore import AiovecVectorStore


class AiovecDocumentIndex(DocumentIndex):
    """An index to upsert, read and delete documents by id, and to retrieve them by a query.

    ``search_kwargs`` are arguments of each search, such as ``k``, ``filter`` and ``hybrid``.
    """

    store: AiovecVectorStore
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Add documents, replacing existing ones with the same ids; write all or none."""
        return {"succeeded": self.store.add_documents(list(items), **kwargs), "failed": []}

    async def aupsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Like ``upsert``."""
        return {"succeeded": await self.store.aadd_documents(list(items), **kwargs), "failed": []}

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Delete the documents with these ids."""
        existing = _ids_of(self.get(ids or []))
        self.store.delete(ids, **kwargs)
        return _deleted(existing)

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Like ``delete``."""
        existing = _ids_of(await self.aget(ids or []))
        await self.store.adelete(ids, **kwargs)
        return _deleted(existing)

    def get(self, ids: Sequence[str], /, **_: Any) -> list[Document]:
        """Return the documents with these ids."""
        return self.store.get_by_ids(ids)

    async def aget(self, ids: Sequence[str], /, **_: Any) -> list[Document]:
        """Like ``get``."""
        return await self.store.aget_by_ids(ids)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.store.similarity_search(query, **self.search_kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return await self.store.asimilarity_search(query, **self.search_kwargs)


def _ids_of(documents: Sequence[Document]) -> list[str]:
    return [document.id for document in documents if document.id is not None]


def _deleted(ids: list[str]) -> DeleteResponse:
    return {"num_deleted": len(ids), "succeeded": ids, "num_failed": 0, "failed": []}
