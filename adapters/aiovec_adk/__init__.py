"""aiovec as a memory service of Google's Agent Development Kit."""

from .memory import AiovecMemoryService

__all__ = ["AiovecMemoryService"]
