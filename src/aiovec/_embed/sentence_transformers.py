"""Models that sentence-transformers runs on this machine."""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

from .openai import missing
from .protocol import Purpose

if TYPE_CHECKING:
    from .._settings.embedders import EmbedderSettings


class SentenceTransformersEmbedder:
    """A model that is loaded at its first use. Called in a thread, by one caller at a time."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self._batch_size = settings.batch_size
        self._lock = threading.Lock()
        self._loaded: Any = None

    def prepare(self) -> None:
        """Load the model, which may be downloaded first."""
        with self._lock:
            if self._loaded is None:
                try:
                    library = importlib.import_module("sentence_transformers")
                except ModuleNotFoundError as exc:
                    raise missing("sentence-transformers", "sentence-transformers") from exc
                self._loaded = library.SentenceTransformer(self.model)

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Any:
        """Return the vectors of texts."""
        self.prepare()
        with self._lock:
            # Since version 5 a model may have an instruction of its own for each.
            name = "encode_query" if kind == "query" else "encode_document"
            encode = getattr(self._loaded, name, self._loaded.encode)
            return encode(
                texts, batch_size=self._batch_size, show_progress_bar=False, convert_to_numpy=True
            )
