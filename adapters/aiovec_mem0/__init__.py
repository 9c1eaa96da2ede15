"""aiovec as a mem0 vector store, with keyword search.

Importing this package registers the store as the provider "aiovec".
"""

from .vectorstore import AiovecVectorStore, Config, register

__all__ = ["AiovecVectorStore", "Config"]

register()
