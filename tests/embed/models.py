"""A stand-in for fastembed and sentence-transformers, which are not installed where tests run, and
tiny ONNX models."""

from __future__ import annotations

import json
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest


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


def onnx_folder(
    folder: Path,
    vectors: Any = ((0, 0), (3, 0), (0, 4)),
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    output: str = "last_hidden_state",
    files: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder with a model that has a vector for each of three words, and no pooling.

    ``files`` are JSON files of the folder by their path.
    """
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(parents=True)
    words = tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.onnx").write_bytes(_onnx(np.float32(vectors), inputs, output))
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Return a message of Protocol Buffers: the numbers of its fields, and their values."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(value)) + value
    return encoded


def _varint(value: int) -> bytes:
    parts = [value & 127]
    while value := value >> 7:
        parts[-1] |= 128
        parts.append(value & 127)
    return bytes(parts)


def _onnx(vectors: np.ndarray[Any, Any], inputs: tuple[str, ...], output: str) -> bytes:
    """Return an ONNX model that looks up the vector of each token."""

    def value(name: str, kind: int, *shape: str) -> bytes:
        dims = _message(*((1, _message((2, each))) for each in shape))
        return _message((1, name), (2, _message((1, _message((1, kind), (2, dims))))))

    dims = [(1, size) for size in vectors.shape]
    table = _message(*dims, (2, 1), (8, "table"), (9, vectors.tobytes()))
    node = _message((1, "table"), (1, "input_ids"), (2, output), (4, "Gather"))
    graph = _message(
        (1, node), (2, "words"), (5, table),
        *((11, value(name, 7, "batch", "sequence")) for name in inputs),
        (12, value(output, 1, "batch", "sequence", *(f"n{at}" for at in range(vectors.ndim - 1)))),
    )  # fmt: skip
    return _message((1, 8), (7, graph), (8, _message((2, 13))))
