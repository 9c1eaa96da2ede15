"""aiovec as LangGraph's long-term memory: ``graph.compile(store=AiovecStore("memory.db"))``."""

from .store import AiovecStore

__all__ = ["AiovecStore"]
