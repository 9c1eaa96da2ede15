"""Models that fastembed runs on this machine."""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .openai import missing
from .protocol import Purpose

if TYPE_CHECKING:
    from .._settings.embedders import EmbedderSettings


class FastEmbedEmbedder:
    """A model that is loaded at its first use. Called in a thread, by one caller at a time."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self._batch_size = settings.batch_size
        self._lock = threading.Lock()  # stores of two event loops may share a thread's end
        self._loaded: Any = None

    def prepare(self) -> None:
        """Load the model, which may be downloaded first."""
        with self._lock:
            if self._loaded is None:
                try:
                    fastembed = importlib.import_module("fastembed")
                except ModuleNotFoundError as exc:
                    raise missing("fastembed", "fastembed") from exc
                self._loaded = fastembed.TextEmbedding(model_name=self.model)

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Any:
        """Return the vectors of texts."""
        self.prepare()
        with self._lock:
            model = self._loaded
            if kind == "query":
                return np.stack(list(model.query_embed(texts)))
            return np.stack(list(model.passage_embed(texts, batch_size=self._batch_size)))
