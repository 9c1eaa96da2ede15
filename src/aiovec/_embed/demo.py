"""The demo's small model as an embedder: it needs no key, no download and no network."""

from __future__ import annotations

from typing import Any

from .._demo.embedder import HashingEmbedder


class DemoEmbedder:
    """Texts that share words and parts of words are near one another."""

    model = HashingEmbedder.model
    dim = HashingEmbedder.dim

    def __init__(self) -> None:
        self._embedder = HashingEmbedder()

    def __call__(self, texts: list[str]) -> Any:
        """Return the vectors of texts."""
        return self._embedder.embed_many(texts)
