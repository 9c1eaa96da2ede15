"""Retrievers of an aiovec store, in the namespace of Haystack's integrations."""

from aiovec_haystack import (
    AiovecEmbeddingRetriever,
    AiovecHybridRetriever,
    AiovecKeywordRetriever,
)

__all__ = [
    "AiovecEmbeddingRetriever",
    "AiovecHybridRetriever",
    "AiovecKeywordRetriever",
]
