"""Models that run on this machine, with fastembed or sentence-transformers."""

from __future__ import annotations

import copy
import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .protocol import Purpose

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings


class LocalModel:
    """A model that is loaded at its first use, and never downloaded if ``offline``.

    The batcher calls it in a thread, one call at a time.
    """

    def __init__(self, settings: EmbedderSettings, *, offline: bool = False) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self._kind = settings.kind
        self._offline = offline
        self._batch_size = settings.batch_size
        self._lock = threading.Lock()  # held while the model loads
        self._loaded: Any = None

    def prepare(self) -> None:
        """Load the model, and download it first if needed."""
        with self._lock:
            if self._loaded is not None:
                return
            library = importlib.import_module(self._kind.replace("-", "_"))
            options = {"local_files_only": True} if self._offline else {}
            if self._kind == "fastembed":
                self._loaded = library.TextEmbedding(model_name=self.model, **options)
            else:
                self._loaded = library.SentenceTransformer(self.model, **options)

    def tokenizer(self) -> tuple[Any, int | None]:
        """Return the model's tokenizer without truncation, and the model's token limit.

        Each is None if unknown.
        """
        self.prepare()
        model = self._loaded.model if self._kind == "fastembed" else self._loaded
        tokenizer: Any = getattr(model, "tokenizer", None)
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # transformers wraps it
        if not hasattr(tokenizer, "no_truncation"):
            return None, None
        most = getattr(self._loaded, "max_seq_length", None)
        most = most or (tokenizer.truncation or {}).get("max_length")
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer, most

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Any:
        """Return the vectors of texts."""
        self.prepare()
        is_query = kind == "query"
        if self._kind == "fastembed":
            if is_query:
                return np.stack(list(self._loaded.query_embed(texts)))
            return np.stack(list(self._loaded.passage_embed(texts, batch_size=self._batch_size)))
        # Since version 5, a model may have separate instructions for queries and documents.
        name = "encode_query" if is_query else "encode_document"
        encode = getattr(self._loaded, name, self._loaded.encode)
        return encode(
            texts, batch_size=self._batch_size, show_progress_bar=False, convert_to_numpy=True
        )
