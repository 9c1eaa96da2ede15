"""Models that fastembed runs on this machine."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .local import LocalModel
from .openai import missing
from .protocol import Purpose


class FastEmbedEmbedder(LocalModel):
    """A model of fastembed."""

    def load(self) -> Any:
        """Return the model, or raise Failure where fastembed is not installed."""
        try:
            fastembed = importlib.import_module("fastembed")
        except ModuleNotFoundError as exc:
            raise missing("fastembed", "fastembed") from exc
        return fastembed.TextEmbedding(model_name=self.model)

    def embed(self, model: Any, texts: list[str], kind: Purpose) -> Any:
        """Return the vectors of texts."""
        if kind == "query":
            return np.stack(list(model.query_embed(texts)))
        return np.stack(list(model.passage_embed(texts, batch_size=self.batch_size)))
