"""Models that sentence-transformers runs on this machine."""

from __future__ import annotations

import importlib
from typing import Any

from .local import LocalModel
from .openai import missing
from .protocol import Purpose


class SentenceTransformersEmbedder(LocalModel):
    """A model of sentence-transformers."""

    def load(self) -> Any:
        """Return the model, or raise Failure where sentence-transformers is not installed."""
        try:
            library = importlib.import_module("sentence_transformers")
        except ModuleNotFoundError as exc:
            raise missing("sentence-transformers", "sentence-transformers") from exc
        return library.SentenceTransformer(self.model)

    def embed(self, model: Any, texts: list[str], kind: Purpose) -> Any:
        """Return the vectors of texts."""
        # Since version 5 a model may have an instruction of its own for each.
        name = "encode_query" if kind == "query" else "encode_document"
        encode = getattr(model, name, model.encode)
        return encode(
            texts, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
