"""aiovec as LlamaIndex's vector store: ``AiovecVectorStore("notes.db")``."""

from .vectorstore import AiovecVectorStore

__all__ = ["AiovecVectorStore"]
