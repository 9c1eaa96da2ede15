"""Static models, which have a vector for each token and need neither a service nor a download.

The vector of a text is the mean of its tokens' vectors, scaled to length 1. The extra ``local``
installs a static model; a folder that model2vec saved can be used too.
"""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings

BUILT_IN = "wordllama-l2-supercat-256"
"""The name that tables store for wordllama's model."""
ENGLISH = frozenset({"plain", "english", "ngram"})
"""Analyzers of tables that may have English texts, which the model is for."""

_PACKAGE_FILES = (
    "weights/l2_supercat_256.safetensors",
    "tokenizers/l2_supercat_tokenizer_config.json",
)
_FOLDER_FILES = ("model.safetensors", "tokenizer.json")
_TYPES = {"F16": "<f2", "F32": "<f4"}


class StaticModel:
    """A memory-mapped table of token vectors. The first call, in a thread, loads the tokenizer."""

    weight = 0.5

    def __init__(self, name: str, settings: EmbedderSettings) -> None:
        self.model = settings.model or BUILT_IN
        self._key = f"retrieval.embedders.{name}"
        self._lock = threading.Lock()  # held while the tokenizer loads
        self._tokenizer: Any = None
        folder = self._package("wordllama") if self.model == BUILT_IN else Path(self.model)
        files = _PACKAGE_FILES if self.model == BUILT_IN else _FOLDER_FILES
        self._weights, self._tokens = (folder / file for file in files)
        self._package("tokenizers")
        try:
            self._vectors = self._mapped()
            self._tokens.stat()
        except Exception as exc:  # a damaged header can be any JSON
            raise self._unreadable(exc) from exc
        self.dim = int(self._vectors.shape[1])
        if settings.dim not in (0, self.dim):
            key = f"{self._key}.dim"
            raise ConfigError(
                f"{key} is {settings.dim}, but the model {self.model!r} has {self.dim}", key=key
            )

    def prepare(self) -> None:
        """Load the tokenizer."""
        from tokenizers import Tokenizer

        with self._lock:
            if self._tokenizer is None:
                try:
                    tokenizer = Tokenizer.from_file(str(self._tokens))
                except Exception as exc:  # the package raises only this class
                    raise self._unreadable(exc) from exc
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._tokenizer = tokenizer

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text, in order."""
        self.prepare()
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for row, tokens in zip(result, encoded, strict=True):
            # A long text repeats tokens, so each distinct token is read once.
            ids, counts = np.unique(tokens.ids, return_counts=True)
            known = np.searchsorted(ids, len(self._vectors))
            if known:
                row += counts[:known] @ self._vectors[ids[:known]].astype(np.float32)
        lengths = np.linalg.norm(result, axis=1)
        result[lengths == 0, 0] = 1  # a text without tokens, such as an empty one
        result /= np.where(lengths == 0, 1, lengths)[:, None]
        return result

    def _unreadable(self, exc: Exception) -> ConfigError:
        return ConfigError(
            f"no static model can be read in {self._weights.parent}: {exc}",
            key=f"{self._key}.model",
        )

    def _package(self, package: str) -> Path:
        """Return the folder of an installed package without importing it."""
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f'the embedder "local" needs {package}; install it with: '
                'pip install "aiovec[local]"',
                key=f"{self._key}.kind",
            )
        return Path(spec.origin).parent

    def _mapped(self) -> npt.NDArray[Any]:
        """Map the vectors of a safetensors file, in which the numbers follow a JSON header."""
        with self._weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 2**20:
                raise ValueError(f"{self._weights.name} is not a safetensors file")
            tensors = json.loads(file.read(length))
        tensors.pop("__metadata__", None)
        ((name, tensor),) = tensors.items()  # token weights and other tensors are unsupported
        if name not in ("embeddings", "embedding.weight"):
            raise ValueError(f"{self._weights.name} has no tensor 'embeddings'")
        rows, dim = tensor["shape"]
        start = 8 + length + tensor["data_offsets"][0]
        dtype = np.dtype(_TYPES[tensor["dtype"]])
        return np.memmap(self._weights, dtype, mode="r", offset=start, shape=(rows, dim))
