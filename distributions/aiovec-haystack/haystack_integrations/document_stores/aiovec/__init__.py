"""aiovec for Haystack, in the namespace of Haystack's integrations."""

from aiovec_haystack import AiovecDocumentStore

__all__ = ["AiovecDocumentStore"]
