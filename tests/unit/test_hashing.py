"""The embedder "demo", which stored rows and the figures of the docs rest on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from aiovec._embed.hashing import HashingEmbedder

EMBEDDER = HashingEmbedder()


def cosine(text: str, other: str) -> float:
    return float(np.dot(*EMBEDDER([text, other])))


def test_every_text_has_a_direction_that_does_not_depend_on_the_batch() -> None:
    texts = ["open a file", "", " \n", "!?", "\ud800", "x" * 100_000, "日本語", "\0"]
    together = EMBEDDER(texts)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert EMBEDDER([text])[0] == pytest.approx(vector, abs=1e-6)
    assert EMBEDDER([]).shape == (0, 256)


def test_texts_that_share_words_are_near() -> None:
    text = "compress a file with gzip"
    assert cosine(text, text) == pytest.approx(1, abs=1e-6)
    assert cosine(text, "reading and writing gzip compressed files") > 0.3
    assert cosine(text, "the median of numeric data") < 0.3
    assert cosine("HTTPServer", "http server") > 0.5
    assert cosine("the lock of the process", "lock process") > 0.9


@pytest.mark.slow
def test_the_model_of_this_name_keeps_its_vectors() -> None:
    # Stored vectors carry the model's name: another model needs another name, and new figures.
    assert EMBEDDER.model == "aiovec-demo-hash-256"
    vector = EMBEDDER(["compress a file with gzip"])[0]
    largest = np.argsort(-np.abs(vector), kind="stable")[:3]
    assert dict(zip(largest.tolist(), vector[largest].tolist(), strict=True)) == pytest.approx(
        {87: 0.218246, 213: -0.212434, 80: 0.165932}, abs=1e-5
    )
    # Python salts hash() in every process.
    script = (
        "import sys; from aiovec._embed.hashing import HashingEmbedder;"
        "sys.stdout.write(HashingEmbedder()(['compress a file with gzip']).tobytes().hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert other.stdout == vector.tobytes().hex()
