"""aiovec as the storage of CrewAI's memory: ``Memory(storage=AiovecStorage("memory.db"))``."""

from .storage import AiovecStorage

__all__ = ["AiovecStorage"]
