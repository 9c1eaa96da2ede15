"""Models that run on this machine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from .protocol import Purpose

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings


class LocalModel(ABC):
    """A model that is loaded at its first use. Called in a thread, by one caller at a time."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self.batch_size = settings.batch_size
        self._lock = threading.Lock()  # stores of two event loops may share a thread's end
        self._loaded: Any = None

    def prepare(self) -> None:
        """Load the model, which may be downloaded first."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self.load()

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Any:
        """Return the vectors of texts."""
        self.prepare()
        with self._lock:
            return self.embed(self._loaded, texts, kind)

    @abstractmethod
    def load(self) -> Any:
        """Return the model, or raise Failure where its package is not installed."""

    @abstractmethod
    def embed(self, model: Any, texts: list[str], kind: Purpose) -> Any:
        """Return the vectors of texts."""
