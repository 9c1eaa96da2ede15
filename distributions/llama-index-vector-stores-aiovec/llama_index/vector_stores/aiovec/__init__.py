"""aiovec for LlamaIndex, in the namespace of LlamaIndex's packages."""

from aiovec_llamaindex import AiovecVectorStore

__all__ = ["AiovecVectorStore"]
