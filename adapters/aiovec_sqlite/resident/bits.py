"""Values of rows by their signs: one bit for each component, 1/32 of the vector's size.

A row's bits stand for a vector of +1 and -1. A query is not cut down so far: its components become
one of 16 steps, which are four bits. Each of these four planes is compared with the rows' bits by
Hamming distance, and the distances, weighted by 8, 4, 2 and 1, give the product of the query's
steps with the rows' signs. On real vectors that finds as much with 40 candidates as the query's
signs alone with 160, and one query's four planes are scanned as quickly as one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from aiovec.backend import Metric

from ..connection import Ticket
from ..layout import TableLayout
from ..vectors import BitReader, VectorReader, ordinary
from .codes import CodeArray, Float32Array, RowCodes
from .segments import Int64Array, Segment
from .workspace import Workspace

UInt8Array = npt.NDArray[np.uint8]

# Rows measured with whole vectors, for each one wanted: recall@10 is 0.985 on real vectors, with 4
# it is 0.96 (``python -m bench search``).
BIT_OVERSAMPLE = 8.0
_PLANES = 4
_TOP = 2**_PLANES - 1
# Steps reach to so many times the mean size of the query's components; larger ones are cut off.
_REACH = 2.5
# From here on spelling out the signs takes less time than four planes for each query.
_MANY_QUERIES = 4
# Numbers that are read at once, and rows for which whole chunks are still read.
_READ, _FEWEST = 2**18, 1024


class SignReader:
    """The codes of the scan by bits, as the file holds them."""

    def __init__(self, db: sqlite3.Connection, table: TableLayout) -> None:
        schema = table.schema
        self.width = schema.dim // 8
        self._metric = schema.metric
        self._bits = BitReader(db, table)
        # Lengths count in the other metrics, so there the vectors have to be read.
        self._vectors = None if schema.metric == "cosine" else VectorReader(db, table)
        numbers = schema.dim if self._vectors else self.width
        self.together = max(_FEWEST, _READ // numbers)

    def read(self, rowids: Int64Array, ticket: Ticket) -> RowCodes:
        bits = self._bits.read(rowids, ticket)
        nothing = np.zeros(len(rowids), dtype=np.float32)
        if self._vectors is None:
            return RowCodes(bits, nothing + 1, nothing, nothing)
        vectors = ordinary(self._vectors.read(rowids, ticket))
        squares: Float32Array = np.einsum("ij,ij->i", vectors, vectors)
        sizes: Float32Array = np.abs(vectors).sum(axis=1)
        # So that on the average the product with the signs is that with the vector.
        divisors: Float32Array = np.maximum(sizes, np.float32(1e-30))
        scale: Float32Array = squares / divisors
        halves: Float32Array = squares / np.float32(-2.0)
        offset = halves if self._metric == "l2" else nothing
        return RowCodes(bits, scale, offset, nothing)


class SignValues:
    """For a batch of queries the values of rows by their bits.

    A few queries are compared with the bits as they are, by Hamming distance. For more of them it
    is quicker to spell the bits of some rows out as +1 and -1, and multiply. Both ways add up the
    same whole numbers.
    """

    def __init__(
        self, queries: Sequence[Float32Array], metric: Metric, workspace: Workspace
    ) -> None:
        self._steps, levels = _steps(np.stack(queries))
        self._metric = metric
        self._workspace = workspace
        self._products = _ByPlanes(levels) if len(queries) < _MANY_QUERIES else _BySigns(levels)

    def __call__(self, segment: Segment) -> Float32Array:
        """The values, which are overwritten by the thread's next ones."""
        values = self._workspace.values(segment.count, len(self._steps))
        together = self._products.rows
        for start in range(0, segment.count, together):
            block = slice(start, min(start + together, segment.count))
            self._products.put(segment.codes[block], values[block])
        if self._metric != "cosine":
            values *= segment.scale[: segment.count, None] * self._steps
            values += segment.offset[: segment.count, None]
        return values


class _ByPlanes:
    """Products of steps and signs by the Hamming distances to the planes of the steps' bits."""

    # As many as stay in the processor's cache with all planes' distances.
    rows = 4096

    def __init__(self, levels: UInt8Array) -> None:
        planes = [levels >> plane & 1 for plane in reversed(range(_PLANES))]
        bits = np.packbits(np.concatenate(planes), axis=1, bitorder="little")
        self._packed = numkong.hammings_pack(bits)
        self._most = _TOP * levels.shape[1]
        self._room: Any = numkong.empty((self.rows, len(bits)), dtype="uint32")

    def put(self, bits: CodeArray, products: Float32Array) -> None:
        room = self._room[: len(bits)]
        distances = np.asarray(numkong.hammings_packed(bits, self._packed, out=room))
        columns = products.shape[1]
        np.copyto(products, distances[:, :columns], casting="unsafe")
        for plane in range(1, _PLANES):
            # Each plane counts twice what the next one counts.
            products *= 2.0
            products += distances[:, plane * columns : (plane + 1) * columns]
        # Equal signs add a step's level, different ones take it away.
        products *= -2.0
        products += self._most


class _BySigns:
    """The same products, by spelling the signs out."""

    # As many as stay in the processor's cache when spelled out.
    rows = 1024

    def __init__(self, levels: UInt8Array) -> None:
        steps = levels.astype(np.int8) * 2 - _TOP
        self._packed = numkong.dots_pack(np.ascontiguousarray(steps, dtype=np.int8))
        self._signs = np.empty((self.rows, levels.shape[1] // 8), dtype=np.uint64)
        self._room: Any = numkong.empty((self.rows, len(levels)), dtype="int32")

    def put(self, bits: CodeArray, products: Float32Array) -> None:
        signs = self._signs[: len(bits)]
        np.take(_SIGNS_OF_BYTES, bits, out=signs, mode="clip")
        room = self._room[: len(bits)]
        found = numkong.dots_packed(signs.view(np.int8), self._packed, out=room)
        np.copyto(products, np.asarray(found), casting="unsafe")


def _signs_of_bytes() -> npt.NDArray[np.uint64]:
    """For each byte the signs of its bits, the lowest first, in eight bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    signs = np.where(bits == 1, 1, -1).astype(np.int8)
    return signs.view(np.uint64).reshape(-1)


_SIGNS_OF_BYTES = _signs_of_bytes()


def _steps(queries: Float32Array) -> tuple[Float32Array, UInt8Array]:
    """Each query's step, and its components as 0 to 15: multiples of the step from -15 to 15."""
    exact = queries.astype(np.float64)
    sizes = np.sqrt(np.square(exact).mean(axis=1, keepdims=True))
    steps = np.where(sizes > 0, sizes, 1.0) * _REACH / _TOP
    levels = np.clip(np.floor((exact / steps + _TOP + 1) / 2), 0, _TOP)
    return steps[:, 0].astype(np.float32), levels.astype(np.uint8)
