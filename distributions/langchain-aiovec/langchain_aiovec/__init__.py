"""aiovec for LangChain, under a module name like those of LangChain's packages."""

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
