"""Exact search in memory: int8 codes with a certified bound, settled by the stored vectors."""

from .searcher import ResidentSearch

__all__ = ["ResidentSearch"]
