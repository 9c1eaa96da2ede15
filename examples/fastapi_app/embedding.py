"""A stand-in for an embedding model: hashed words and parts of words, nothing to download.

Put your model in its place: ``model``, ``dim`` and ``embed`` are all that the app knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


class HashingEmbedder:
    """Texts that share words, or parts of words, get near vectors."""

    model = "hashed-words-256"
    dim = 256

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One row for each text. Takes the processor's time, so call it in a thread."""
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature in _features(text):
                digest = blake2b(feature.encode(), digest_size=4).digest()
                number = int.from_bytes(digest, "big")
                row[number % self.dim] += 1 if number >> 31 else -1
            if not row.any():
                row[0] = 1  # a text without a word needs a direction too
        return rows


def _features(text: str) -> Iterator[str]:
    for word in re.findall(r"\w+", text.lower()):
        yield word
        padded = f"<{word}>"
        yield from (padded[start : start + 4] for start in range(len(padded) - 3))
