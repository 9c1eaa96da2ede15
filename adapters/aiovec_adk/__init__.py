"""aiovec as a memory service for Google's Agent Development Kit."""

from .memory import AiovecMemoryService

__all__ = ["AiovecMemoryService"]
