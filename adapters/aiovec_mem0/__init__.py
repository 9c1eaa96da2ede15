"""aiovec as a mem0 vector store, with keyword search. The import registers it as "aiovec"."""

from .vectorstore import AiovecVectorStore, Config, register

__all__ = ["AiovecVectorStore", "Config"]

register()
