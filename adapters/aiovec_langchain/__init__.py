"""aiovec as LangChain's vector store, record manager, byte store and document index."""

from .index import AiovecDocumentIndex
from .keyvalue import AiovecByteStore
from .records import AiovecRecordManager
from .vectorstore import AiovecVectorStore

__all__ = ["AiovecByteStore", "AiovecDocumentIndex", "AiovecRecordManager", "AiovecVectorStore"]
