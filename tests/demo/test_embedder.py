"""The hashing embedder: the same everywhere, of length one, and near where words are shared."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiovec._demo import HashingEmbedder

pytestmark = pytest.mark.slow

EMBEDDER = HashingEmbedder()


def cosine(one: str, other: str) -> float:
    return float(EMBEDDER.embed(one) @ EMBEDDER.embed(other))


def test_its_vectors_are_unit_float32_of_256_dimensions() -> None:
    vectors = EMBEDDER.embed_many(["open a file", "close it"])
    assert vectors.shape == (2, EMBEDDER.dim) == (2, 256)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert EMBEDDER.model == "aiovec-demo-hash-256"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_every_text_has_a_direction_that_does_not_depend_on_the_batch(texts: list[str]) -> None:
    together = EMBEDDER.embed_many(texts)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert EMBEDDER.embed(text) == pytest.approx(vector, abs=1e-6)


def test_no_texts_give_no_rows() -> None:
    assert EMBEDDER.embed_many([]).shape == (0, 256)


@pytest.mark.parametrize("text", ["", " \n", "!?", "\ud800", "x" * 1_000_000, "日本語", "\0"])
def test_odd_texts_have_a_direction(text: str) -> None:
    assert np.linalg.norm(EMBEDDER.embed(text)) == pytest.approx(1, abs=1e-5)


def test_a_text_is_nearest_to_itself_then_to_one_that_shares_words() -> None:
    text = "compress a file with gzip"
    itself = cosine(text, text)
    related = cosine(text, "reading and writing gzip compressed files")
    foreign = cosine(text, "the median of numeric data")
    assert itself == pytest.approx(1, abs=1e-6)
    assert itself > related > 0.3 > foreign


def test_case_does_not_count_and_parts_of_names_do() -> None:
    assert cosine("HTTP SERVER", "http server") == pytest.approx(1, abs=1e-6)
    assert cosine("HTTPServer", "http server") > 0.5
    assert cosine("set_name", "name") > 0.5


def test_common_words_hardly_count() -> None:
    assert cosine("the lock of the process", "lock process") > 0.9
    assert cosine("the lock of the process", "the end of the page") < 0.3


def test_words_of_one_stem_are_near() -> None:
    assert cosine("compression", "compressing") > 0.4
    assert cosine("compression", "median") < 0.15


def test_a_repeated_word_counts_more_but_not_as_often_as_it_stands() -> None:
    few, many = cosine("lock file", "lock"), cosine("lock " * 10 + "file", "lock")
    plain_counting = 10 / np.hypot(10, 1)
    assert few < many < plain_counting - 0.01


def test_the_vector_is_the_same_in_a_process_with_other_hash_seeds() -> None:
    # Python salts hash() in every process; these vectors are stored and must not depend on it.
    script = (
        "import sys; from aiovec._demo import HashingEmbedder;"
        "sys.stdout.write(HashingEmbedder().embed('compress a file with gzip').tobytes().hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {EMBEDDER.embed("compress a file with gzip").tobytes().hex()}


def test_the_model_of_this_name_keeps_its_vectors() -> None:
    # Stored vectors carry the model's name. Whoever changes the model changes the name, and this.
    vector = EMBEDDER.embed("compress a file with gzip")
    largest = np.argsort(-np.abs(vector), kind="stable")[:3]
    assert dict(zip(largest.tolist(), vector[largest].tolist(), strict=True)) == pytest.approx(
        {87: 0.218246, 213: -0.212434, 80: 0.165932}, abs=1e-5
    )
