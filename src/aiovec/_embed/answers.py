"""The answer of an embedder, checked and made one float32 matrix."""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import islice
from typing import Any

import numpy as np

from .._model.arrays import Float32Array
from .failures import Failure


def checked_matrix(answer: Any, count: int, dim: int) -> Float32Array:
    """Return one row for each of ``count`` texts, or raise Failure with what is wrong.

    Rows may still hold NaN or infinity, which is the fault of one text alone. An iterator computes
    its vectors here.
    """
    if isinstance(answer, (str, bytes, Mapping, Set)) or not hasattr(answer, "__iter__"):
        raise Failure(f"it gave {type(answer).__name__}, not a list of vectors")
    try:
        vectors = answer if isinstance(answer, np.ndarray) else list(islice(answer, count + 1))
        if len(vectors) != count:
            raise Failure(f"it gave {len(vectors)} vectors for {count} texts")
        for vector in vectors:
            if isinstance(vector, (str, bytes, Mapping)) or not hasattr(vector, "__len__"):
                raise Failure(f"it gave a {type(vector).__name__} in the place of a vector")
            if len(vector) != dim:
                raise Failure(f"it gave a vector of {len(vector)} dimensions, not {dim}")
        found = np.asarray(vectors)
    except (TypeError, ValueError, OverflowError, RuntimeError) as exc:
        raise Failure(f"it gave no list of vectors: {exc}"[:300]) from exc
    if found.dtype.kind not in "fiu" or found.ndim != 2:
        # None and huge integers make an array of objects.
        raise Failure("it gave vectors that are not flat lists of numbers")
    with np.errstate(over="ignore"):  # too large for float32 is infinity, found by the caller
        # A copy of its own: the embedder may use its array again.
        return np.array(found, dtype=np.float32, order="C")
