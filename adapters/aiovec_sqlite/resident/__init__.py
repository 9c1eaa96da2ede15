"""Exact search in memory: int8 codes with a certified bound, settled by the stored vectors."""

from .memory import default_budget
from .searcher import ResidentSearch

__all__ = ["ResidentSearch", "default_budget"]
