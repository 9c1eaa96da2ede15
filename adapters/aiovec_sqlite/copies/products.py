"""Products of codes without the native scan: by numkong where it is installed, else by NumPy.

They are whole numbers, and the same in each way. Rows are codes, or bits that stand for a vector
of +1 and -1.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aiovec.backend import UInt64Array

from .codes import CodeArray, Int8Array
from .kernel.library import NUMPY, VARIABLE

Int32Array = npt.NDArray[np.int32]
UInt8Array = npt.NDArray[np.uint8]

PLANES = 4
"""Bits of a query's component where rows are signs."""
TOP = 2**PLANES - 1
# From here on spelling out the signs takes less time than four planes for each query.
_MANY_QUERIES = 4
# numkong takes as long for fewer queries than a multiple of this.
_WIDTH = 4
# Products of so many codes, of 127 at most, add up to less than 2**24: float32 holds their sum.
_EXACT = 1024
# Rows that are converted, spelled out or compared at once, and stay in the processor's cache.
_ROWS, _ROWS_OF_PLANES = 1024, 4096


class Products(Protocol):
    """The products of rows with the queries it was made for."""

    @property
    def width(self) -> int:
        """The count of columns: one for each query, and some more that mean nothing."""
        ...

    def put(self, rows: CodeArray, room: Int32Array) -> None:
        """Write a row of products for each of the rows."""
        ...


def products_of(queries: Int8Array, *, signs: bool) -> Products:
    """Products with these codes; for ``signs`` they are odd numbers from -15 to 15."""
    kernels = numkong()
    if signs and kernels is not None and len(queries) < _MANY_QUERIES:
        return _ByPlanes(kernels, queries)
    whole = _OfNumpy(queries) if kernels is None else _OfNumkong(kernels, queries)
    return _BySigns(whole) if signs else whole


def numkong() -> ModuleType | None:
    """The library of kernels, if it is installed and wanted."""
    return None if os.environ.get(VARIABLE) == NUMPY else _imported()


@cache
def _imported() -> ModuleType | None:
    try:
        return import_module("numkong")
    except ImportError:
        return None


class _OfNumkong:
    def __init__(self, kernels: Any, queries: Int8Array) -> None:
        self.width = 1 if len(queries) == 1 else len(queries) + -len(queries) % _WIDTH
        self._kernels = kernels
        padded = np.pad(queries, ((0, self.width - len(queries)), (0, 0)))
        self._packed = kernels.dots_pack(padded)

    def put(self, rows: CodeArray, room: Int32Array) -> None:
        # The rows are not copied, even if they are parts of longer ones.
        self._kernels.dots_packed(rows, self._packed, out=self._kernels.from_dlpack(room))


class _OfNumpy:
    def __init__(self, queries: Int8Array) -> None:
        self.width = len(queries)
        self._parts = [
            (slice(first, first + _EXACT), queries[:, first : first + _EXACT].T.astype(np.float32))
            for first in range(0, queries.shape[1], _EXACT)
        ]

    def put(self, rows: CodeArray, room: Int32Array) -> None:
        for first in range(0, len(rows), _ROWS):
            block = slice(first, first + _ROWS)
            for number, (columns, queries) in enumerate(self._parts):
                found = rows[block, columns].astype(np.float32) @ queries
                if number:
                    room[block] += found.astype(np.int32)
                else:
                    room[block] = found


class _ByPlanes:
    """Signs and levels by the Hamming distances of the signs to the planes of the levels' bits."""

    def __init__(self, kernels: Any, queries: Int8Array) -> None:
        self.width = len(queries)
        self._kernels = kernels
        levels = ((queries.astype(np.int16) + TOP) // 2).astype(np.uint8)
        planes = [levels >> plane & 1 for plane in reversed(range(PLANES))]
        bits = np.packbits(np.concatenate(planes), axis=1, bitorder="little")
        self._packed = kernels.hammings_pack(bits)
        self._most = TOP * queries.shape[1]
        self._columns = len(bits)

    def put(self, rows: CodeArray, room: Int32Array) -> None:
        every = np.empty((_ROWS_OF_PLANES, self._columns), dtype=np.int32)
        for first in range(0, len(rows), _ROWS_OF_PLANES):
            bits = rows[first : first + _ROWS_OF_PLANES]
            products, distances = room[first : first + len(bits)], every[: len(bits)]
            out = self._kernels.from_dlpack(distances.view(np.uint32))
            self._kernels.hammings_packed(bits, self._packed, out=out)
            products[:] = distances[:, : self.width]
            for plane in range(1, PLANES):
                # Each plane counts twice what the next one counts.
                products *= 2
                products += distances[:, plane * self.width : (plane + 1) * self.width]
            # Equal signs add a component's number, different ones take it away.
            products *= -2
            products += self._most


class _BySigns:
    """The same, by spelling the signs out."""

    def __init__(self, whole: Products) -> None:
        self.width = whole.width
        self._whole = whole

    def put(self, rows: CodeArray, room: Int32Array) -> None:
        signs = np.empty((_ROWS, rows.shape[1]), dtype=np.uint64)
        for first in range(0, len(rows), _ROWS):
            bits = rows[first : first + _ROWS]
            some = np.take(_signs_of_bytes(), bits, out=signs[: len(bits)], mode="clip")
            self._whole.put(some.view(np.int8), room[first : first + len(bits)])


@cache
def _signs_of_bytes() -> UInt64Array:
    """For each byte the signs of its bits, the lowest first, in eight bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    signs = np.where(bits == 1, 1, -1).astype(np.int8)
    return signs.view(np.uint64).reshape(-1)
