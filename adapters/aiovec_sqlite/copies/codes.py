"""int8 codes of vectors, and how far from the truth a value by codes can be.

``docs/EXACT_SEARCH.md`` derives the bound. A row is x = m·(c/127 + r), with m its largest
component, c its codes and r what rounding left out. Its *value* ranks it, higher is better:

    cosine  x·q/‖x‖ with ‖q‖ = 1      dot  x·q      l2  x·q - ‖x‖²/2

By codes the value is ``scale·query.scale·(c·c_q) + offset``. It misses the true one by at most
``query.length·error + query.slack·reach + rounding·|offset| + query.blur``, where ``error`` is the
length of what the row's codes leave out and ``reach`` the length of what they hold. Queries are
encoded in ``scan.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from aiovec.backend import Float32Array, Metric

from .kernel.library import address, library

Int8Array = npt.NDArray[np.int8]
_Scalar = TypeVar("_Scalar", bound=np.generic)

_STEPS = 127
# Half a unit in the last place of a float32 near 1.
_UNIT = 2.0**-24


def rounding(dim: int) -> float:
    """The relative error of a float32 sum of ``dim`` products in any order, and some more."""
    return (dim + 32) * _UNIT


@dataclass(frozen=True, slots=True)
class RowCodes:
    """Rows as codes, with 12 bytes a row beside them, and perhaps the vectors."""

    codes: Int8Array
    scale: Float32Array
    offset: Float32Array
    error: Float32Array
    vectors: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def part(self, rows: slice) -> RowCodes:
        vectors = None if self.vectors is None else self.vectors[rows]
        facts = self.scale[rows], self.offset[rows], self.error[rows]
        return RowCodes(self.codes[rows], *facts, vectors)


def encode_rows(vectors: Float32Array, metric: Metric) -> RowCodes:
    """Codes of vectors whose components are 0 or lie between 1e-15 and 1e15 in size."""
    count, dim = vectors.shape
    largest: Float32Array = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))
    unit: Float32Array = np.where(largest > 0, largest, np.float32(1.0))
    steps: Float32Array = vectors * (np.float32(_STEPS) / unit)[:, None]
    coded = np.rint(steps)
    codes = coded.astype(np.int8)
    steps -= coded
    relative = np.float32(1 + rounding(dim))
    # A component of ``steps`` is off by some units in the last place of numbers up to 127.
    left_out: Float32Array = _lengths(steps) * relative
    left_out += np.float32(4 * _STEPS * _UNIT * dim**0.5)
    nothing = np.zeros(count, dtype=np.float32)
    if metric == "cosine":
        lengths = _lengths(vectors)
        lengths[largest == 0] = 1.0
        scale: Float32Array = unit / (np.float32(_STEPS) * lengths)
        return RowCodes(codes, scale, nothing, left_out * scale * relative)
    scale = unit / np.float32(_STEPS)
    offset = nothing if metric == "dot" else _squares(vectors) / np.float32(-2.0)
    return RowCodes(codes, scale, offset, left_out * scale * relative)


def halved(codes: Int8Array) -> tuple[Int8Array, Int8Array, float]:
    """The upper halves of rows' codes, the lower ones, and the most that these are long.

    A code and 128 is a number of eight bits, of which four go to either side. Two codes share a
    byte: one of a row's first half in the lower bits, one of its second half in the upper ones. The
    length is that of a row's lower halves less 7.5, their middle.
    """
    codes = np.ascontiguousarray(codes)
    count, dim = codes.shape
    upper, lower = (np.empty((count, (dim + 1) // 2), dtype=np.int8) for _ in range(2))
    squares = library().halve(address(codes), count, dim, address(upper), address(lower))
    return upper, lower, squares**0.5 / 2


def put_together(upper: Int8Array, lower: Int8Array, dim: int) -> Int8Array:
    """The codes that ``halved`` took apart."""
    high, low = upper.view(np.uint8), lower.view(np.uint8)
    codes = np.concatenate([high << 4 | low & 15, high & 240 | low >> 4], axis=1)
    return (codes ^ 128).view(np.int8)[:, :dim]


def stacked(rows: Sequence[npt.NDArray[_Scalar]]) -> npt.NDArray[_Scalar]:
    """Return rows as one matrix; a single one as it lies, which takes a tenth of the time."""
    return np.stack(rows) if len(rows) > 1 else rows[0][None]


def value_of(distance: float, query: Float32Array, metric: Metric, longest: float) -> float:
    """The value of a row at this distance from the query, or a hair less: never more.

    No row is longer than ``longest``.
    """
    # What float64 may have rounded in the distance, relative to what was summed up.
    hair = rounding(len(query)) * 2.0**-26
    if metric == "cosine":
        return 1.0 - distance - 4 * hair
    length = float(np.linalg.norm(query.astype(np.float64)))
    if metric == "dot":
        return -distance - hair * length * longest
    return (length**2 - distance**2) / 2 - hair * (2 * length + distance) ** 2


def _lengths(rows: Float32Array) -> Float32Array:
    return np.sqrt(_squares(rows))


def _squares(rows: Float32Array) -> Float32Array:
    squares: Float32Array = np.einsum("ij,ij->i", rows, rows)
    return squares
