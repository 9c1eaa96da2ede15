"""Exact search in memory: int8 codes with a certified bound, settled by the stored vectors."""

from .search import ResidentSearch
from .segments import LIMITS as COPY_LIMITS
from .segments import CopyLimits

__all__ = ["COPY_LIMITS", "CopyLimits", "ResidentSearch"]
