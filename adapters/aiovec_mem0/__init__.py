"""aiovec as a vector store of mem0, with keywords. The import makes the provider "aiovec" known."""

from .vectorstore import AiovecVectorStore, Config, register

__all__ = ["AiovecVectorStore", "Config"]

register()
