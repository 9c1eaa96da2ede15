"""A table of documents as a LangChain ``VectorStore``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from aiovec import Hit, InvalidArgumentError, Record, Table, Where, new_id
from aiovec.bridge import (
    Closable,
    DocumentBridge,
    StoreOrTarget,
    blocking,
    in_store,
    refuse_options,
    relevance,
)

Filter = Mapping[str, Any] | Where


class AiovecVectorStore(Closable, VectorStore):
    """Documents in one table of an aiovec store. Every operation also has an async method.

    ``store`` is a store from ``aiovec.sync.connect`` or a target such as ``"notes.db"`` or
    ``"lancedb://notes"``; a store from ``aiovec.connect`` supports only the async methods. The
    first write creates the table; an existing table works too. ``options`` are passed to
    ``aiovec.bridge.DocumentBridge`` (``schema``, ``metric``, and ``text``, the name of the text
    field) and, for a target, to ``aiovec.connect``.

    Searches take ``filter``: a mapping such as ``{"year": {"$gte": 2020}}``, a condition of
    ``aiovec.F``, or a condition as a string. ``hybrid=True`` also searches by keywords; other
    arguments are passed to ``aiovec.VectorStore.search``. Scores are aiovec's: higher is better.
    """

    def __init__(
        self,
        embedding: Embeddings,
        store: StoreOrTarget = ":memory:",
        table: str = "langchain",
        **options: Any,
    ) -> None:
        self._embedding = embedding
        self._bridge: DocumentBridge = DocumentBridge(store, table, **options)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model that computes the vectors."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> AiovecVectorStore:
        """Return a store with these texts; keyword arguments are passed to the constructor."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> AiovecVectorStore:
        """Like ``from_texts``."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    # Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **unknown: Any,
    ) -> list[str]:
        """Add texts, replacing documents with the same ids, and return the ids.

        ``batch_size``, which LangChain's indexing passes, is ignored: one write adds all texts.
        Other arguments raise TypeError.
        """
        _check_known(unknown)
        listed = list(texts)
        vectors = self._embedding.embed_documents(listed) if listed else []
        return self.add_embeddings(vectors, metadatas, ids, listed)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **unknown: Any,
    ) -> list[str]:
        """Like ``add_texts``."""
        _check_known(unknown)
        listed = list(texts)
        vectors = await self._embedding.aembed_documents(listed) if listed else []
        return await self.aadd_embeddings(vectors, metadatas, ids, listed)

    @in_store
    async def aadd_embeddings(
        self,
        embeddings: Sequence[Sequence[float]],
        metadatas: list[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        texts: Iterable[str] | None = None,
    ) -> list[str]:
        """Add precomputed vectors, and return the ids.

        Without ``texts``, each text is the value of the key "data" in the metadata.
        """
        of_rows = metadatas or [{}] * len(embeddings)
        listed = [str(row.get("data", "")) for row in of_rows] if texts is None else list(texts)
        for name, given in {"vectors": embeddings, "metadatas": metadatas, "ids": ids}.items():
            if given is not None and len(given) != len(listed):
                raise InvalidArgumentError(name, len(given), f"as many as texts, {len(listed)}")
        if not listed:
            return []
        written = [id or new_id() for id in ids or [None] * len(listed)]
        rows = list(map(self._bridge.row, written, listed, embeddings, of_rows))
        await self._bridge.write(len(embeddings[0]), lambda table: table.upsert(rows))
        return written

    @blocking(aadd_embeddings)
    def add_embeddings(self) -> Any:
        """Like ``aadd_embeddings``."""

    @in_store
    async def adelete(
        self, ids: Sequence[str] | None = None, *, filter: Filter = None, **unknown: Any
    ) -> bool | None:
        """Delete documents by their ids, by a filter, or by both.

        In LangChain, ``ids=None`` deletes everything. This method raises an error for ``ids=None``
        without a filter, so that an unset variable cannot delete everything; to delete everything,
        call ``delete_collection``.
        """
        refuse_options(unknown, where="filter")
        where = self._bridge.where(filter)
        if ids is None and where is None:
            raise InvalidArgumentError(
                "ids", ids, "ids, or a filter; delete_collection() deletes everything"
            )
        await self._bridge.read(lambda table: table.delete(ids, where=where, **unknown), 0)
        return True

    @blocking(adelete)
    def delete(self) -> Any:
        """Like ``adelete``."""

    async def adelete_collection(self) -> None:
        """Delete everything. The next write creates the table again."""
        await self._bridge.drop()

    @blocking(adelete_collection)
    def delete_collection(self) -> Any:
        """Like ``adelete_collection``."""

    # Reading

    @in_store
    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids."""
        rows = await self._bridge.read(lambda table: table.get(ids, include_vector=False), ())
        return list(map(self._document, rows))

    @blocking(aget_by_ids)
    def get_by_ids(self) -> Any:
        """Like ``aget_by_ids``."""

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents nearest to a text."""
        return _without_scores(self.similarity_search_with_score(query, k, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Like ``similarity_search``."""
        return _without_scores(await self.asimilarity_search_with_score(query, k, **kwargs))

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the ``k`` documents nearest to a text, each with its score."""
        vector = self._embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, query=query, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Like ``similarity_search_with_score``."""
        vector = await self._embedding.aembed_query(query)
        return await self.asimilarity_search_with_score_by_vector(vector, k, query=query, **kwargs)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """Return the ``k`` documents nearest to a vector."""
        scored = await self.asimilarity_search_with_score_by_vector(embedding, k, **kwargs)
        return _without_scores(scored)

    @blocking(asimilarity_search_by_vector)
    def similarity_search_by_vector(self) -> Any:
        """Like ``asimilarity_search_by_vector``."""

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Return ``k`` of the ``fetch_k`` nearest documents, chosen to differ from each other."""
        return self.similarity_search(query, k, **_varied(k, fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Like ``max_marginal_relevance_search``."""
        return await self.asimilarity_search(query, k, **_varied(k, fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """Like ``max_marginal_relevance_search``, but for a vector instead of a text."""
        options = _varied(k, fetch_k, lambda_mult)
        return await self.asimilarity_search_by_vector(embedding, k, **options, **kwargs)

    @blocking(amax_marginal_relevance_search_by_vector)
    def max_marginal_relevance_search_by_vector(self) -> Any:
        """Like ``amax_marginal_relevance_search_by_vector``."""

    @in_store
    async def asimilarity_search_with_score_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        *,
        filter: Filter = None,
        query: str | None = None,
        hybrid: bool = False,
        **options: Any,
    ) -> list[tuple[Document, float]]:
        """Return the ``k`` documents nearest to a vector, each with its score."""
        refuse_options(options, where="filter", limit="k")
        if hybrid and query is None:
            raise InvalidArgumentError("hybrid", hybrid, "False in a search by a vector only")
        search = partial(Table.search_hybrid, query=query or "") if hybrid else Table.search
        where = self._bridge.where(filter)
        nearest = partial(search, vector=embedding, limit=k, where=where, **options)
        hits = await self._bridge.read(nearest, ())
        return [(self._document(hit), hit.score) for hit in hits]

    @blocking(asimilarity_search_with_score_by_vector)
    def similarity_search_with_score_by_vector(self) -> Any:
        """Like ``asimilarity_search_with_score_by_vector``."""

    def _document(self, row: Record | Hit) -> Document:
        text = row.fields.get(self._bridge.text)
        return Document(id=row.id, page_content=text or "", metadata=self._bridge.metadata(row))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # After the search, the bridge knows the metric of an existing table.
        return lambda score: relevance(score, self._bridge.metric)


def _varied(k: int, fetch_k: int, lambda_mult: float) -> dict[str, Any]:
    """Return the options of a search for near hits that differ from each other."""
    return {"diversity": 1 - lambda_mult, "fetch_k": max(k, fetch_k)}


def _without_scores(scored: list[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in scored]


def _check_known(unknown: Mapping[str, Any]) -> None:
    """Raise TypeError for unknown arguments, which the base class accepts for other stores."""
    if unknown:
        raise TypeError(f"unexpected arguments: {', '.join(unknown)}")
