"""aiovec for LangChain, by the module name that LangChain's packages have."""

from aiovec_langchain import (
    AiovecByteStore,
    AiovecDocumentIndex,
    AiovecRecordManager,
    AiovecVectorStore,
)

__all__ = [
    "AiovecByteStore",
    "AiovecDocumentIndex",
    "AiovecRecordManager",
    "AiovecVectorStore",
]
