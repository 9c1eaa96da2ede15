"""Parts of the demo: a small embedding model, and text that every machine has.

Neither is meant for real use. ``HashingEmbedder`` finds passages that share words and parts of
words; it does not understand meaning. Its vectors carry the model name "aiovec-demo-hash-256".
"""

from __future__ import annotations

from .embedder import HashingEmbedder
from .passages import stdlib_passages

__all__ = ["HashingEmbedder", "stdlib_passages"]
