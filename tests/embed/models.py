"""A stand-in for fastembed and sentence-transformers, which are not installed where tests run."""

from __future__ import annotations

import threading
import types
from typing import Any

import numpy as np


def stand_in(log: list[Any], dim: int = 2) -> types.ModuleType:
    """Return a module with both packages' classes, which log each load and each call."""
    module = types.ModuleType("models")

    class Model:
        def __init__(self, name: str = "", model_name: str = "", **options: Any) -> None:
            if "missing" in (name, model_name):
                raise ValueError("the model missing is not supported")
            log.append(("load", name or model_name, options, threading.current_thread()))

        def encode(self, texts: Any, kind: str = "document", **options: Any) -> Any:
            log.append((kind, list(texts), options, threading.current_thread()))
            rest = [0] * (dim - 2)
            return np.float32([[len(text), 1 + (kind == "query"), *rest] for text in texts])

        def encode_query(self, texts: Any, **_: Any) -> Any:
            return self.encode(texts, "query")

        passage_embed, query_embed = encode, encode_query

    module.TextEmbedding = module.SentenceTransformer = Model  # type: ignore[attr-defined]
    return module
