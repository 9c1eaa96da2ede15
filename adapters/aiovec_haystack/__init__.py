"""aiovec as Haystack's document store, with retrievers by vector, by keywords, and by both."""

from .retrievers import AiovecEmbeddingRetriever, AiovecHybridRetriever, AiovecKeywordRetriever
from .store import AiovecDocumentStore

__all__ = [
    "AiovecDocumentStore",
    "AiovecEmbeddingRetriever",
    "AiovecHybridRetriever",
    "AiovecKeywordRetriever",
]
