"""The embedder "demo": a self-contained model of hashed words and character n-grams."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

# A run of letters and digits; "HTTPServer" and "set_name" are split further.
_RUN = re.compile(r"[^\W_]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\WA-Za-z\d_]+")

# There is no corpus to learn frequencies from, so the most frequent English words are listed here.
# These words have a small weight instead of none, so that a text with no other words has a
# direction too.
_COMMON = frozenset(
    "a about after all also an and any are as at be been but by can could do does each either "
    "else etc for from given had has have how i if in into is it its itself just like may more "
    "most must my no not of on one only or other our should since so some such than that the "
    "their them then there these they this those to unless until up upon us use used using very "
    "was we were what when where whether which while who whose why will with within without would "
    "you your".split()
)

# Each feature is projected, with signs, onto this many of the dimensions. Two features that share
# one dimension are then still nearly orthogonal.
_SPREAD = 8


class HashingEmbedder:
    """Turns text into unit vectors of 256 dimensions, the same on every machine.

    The words of a text and their character n-grams are hashed, and each hash chooses dimensions and
    signs. A word's weight grows with the logarithm of its count, and the sum is scaled to length 1.
    Nothing is trained or loaded. The model finds passages that share words and parts of words; it
    does not understand meaning.
    """

    model = "aiovec-demo-hash-256"
    dim = 256
    weight = 0.5

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text, in order. A row does not depend on the other texts."""
        counts = [Counter(_words(text)) for text in texts]
        vocabulary = {word: n for n, word in enumerate(dict.fromkeys(w for c in counts for w in c))}
        words = _word_vectors(vocabulary)
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, count in enumerate(counts):
            chosen = words[[vocabulary[word] for word in count]]
            weights = [0.1 if word in _COMMON else 1.0 for word in count]
            damped = [w * (1 + math.log(n)) for w, n in zip(weights, count.values(), strict=True)]
            result[row] = np.asarray(damped, dtype=np.float32) @ chosen
        lengths = np.linalg.norm(result, axis=1)
        result[lengths == 0, 0] = 1  # all signs cancelled out exactly
        result /= np.where(lengths == 0, 1, lengths)[:, None]
        return result


def _words(text: str) -> Iterable[str]:
    """Yield the words of a text in lower case, and the parts of names such as ``HTTPServer``."""
    for run in _RUN.findall(text) or [text]:  # a text without words counts as one word
        yield run.lower()
        parts = _PART.findall(run)
        if len(parts) > 1:
            yield from (part.lower() for part in parts)


def _word_vectors(words: Iterable[str]) -> npt.NDArray[np.float32]:
    """Return one row for each word: the sum of the directions of the word and its n-grams."""
    digests: list[bytes] = []
    weights: list[float] = []
    owners: list[int] = []
    number = 0
    for number, word in enumerate(words, 1):
        features = [b"w" + _encoded(word)]
        # Making the n-grams of a very long word would be slow.
        bounded = f"<{word[:40]}>"
        features += [
            b"g" + _encoded(bounded[start : start + size])
            for size in (3, 4, 5)
            for start in range(len(bounded) - size + 1)
        ]
        digests += [blake2b(feature, digest_size=_SPREAD + 1).digest() for feature in features]
        weights.append(1.0)
        if len(features) > 1:
            # With this weight, "compressing" is near "compression". The root is needed because the
            # squared lengths of orthogonal directions add up.
            weights += [1.5 / math.sqrt(len(features) - 1)] * (len(features) - 1)
        owners += [number - 1] * len(features)

    # 256 dimensions: a byte of the hash is a dimension, the bits of one more byte are the signs.
    hashed = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _SPREAD + 1)
    signs = np.unpackbits(hashed[:, _SPREAD:], axis=1).astype(np.float64) * 2 - 1
    values = signs * (np.asarray(weights) / math.sqrt(_SPREAD))[:, None]
    cells = np.asarray(owners, dtype=np.int64)[:, None] * 256 + hashed[:, :_SPREAD]
    sums = np.bincount(cells.ravel(), weights=values.ravel(), minlength=number * 256)
    return sums.reshape(number, 256).astype(np.float32)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
