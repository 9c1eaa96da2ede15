"""Exact search in memory: int8 codes with a certified bound, settled by the stored vectors."""

from .search import ResidentSearch

__all__ = ["ResidentSearch"]
