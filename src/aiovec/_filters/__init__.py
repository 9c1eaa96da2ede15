"""Filters: the tree, Python operators for it, the text parser, and the check against a schema."""

from __future__ import annotations

from .check import bind
from .operators import F
from .parser import where
from .tree import Expr

__all__ = ["Expr", "F", "bind", "where"]
