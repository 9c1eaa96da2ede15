"""Vectors as SQLite's values hold them: BLOBs of numbers, or JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[Any]

# All little-endian, as every program that is known to write them does.
DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "float32": np.dtype("<f4"),
        "float64": np.dtype("<f8"),
        "float16": np.dtype("<f2"),
        "int8": np.dtype("i1"),
    }
)
JSON = "json"


def matrix_of(
    values: Sequence[Any], dim: int, dtype: str
) -> tuple[Matrix, npt.NDArray[np.bool_], dict[int, str]]:
    """The vectors that can be read, which of the values they are, and what is wrong with others.

    Whether their numbers can be taken is for the importer to find out.
    """
    if dtype == JSON:
        return _from_json(values, dim)
    kind = DTYPES[dtype]
    wanted = dim * kind.itemsize
    lengths = np.fromiter(
        (len(v) if isinstance(v, bytes) else -1 for v in values), dtype=np.int64, count=len(values)
    )
    good = lengths == wanted
    faults = {
        i: _what_is_wrong(values[i], dim, kind.itemsize) for i in np.flatnonzero(~good).tolist()
    }
    read = values
    if faults:
        read = [value for value, right in zip(values, good.tolist(), strict=True) if right]
    return np.frombuffer(b"".join(read), dtype=kind).reshape(-1, dim), good, faults


def _what_is_wrong(value: Any, dim: int, size: int) -> str:
    if value is None:
        return "the vector is missing"
    if not isinstance(value, bytes):
        return f"the vector is {_kind_of(value)}, not a BLOB"
    if len(value) % size:
        return f"the vector has {len(value)} bytes, no multiple of {size}"
    return f"the vector has {len(value) // size} dimensions, not {dim}"


def _from_json(
    values: Sequence[Any], dim: int
) -> tuple[Matrix, npt.NDArray[np.bool_], dict[int, str]]:
    good = np.zeros(len(values), dtype=bool)
    faults: dict[int, str] = {}
    rows = []
    for i, value in enumerate(values):
        numbers = numbers_in(value)
        if value is None:
            faults[i] = "the vector is missing"
        elif numbers is None:
            faults[i] = "the vector is no JSON array of numbers"
        elif len(numbers) != dim:
            faults[i] = f"the vector has {len(numbers)} dimensions, not {dim}"
        else:
            good[i] = True
            rows.append(numbers)
    return np.array(rows, dtype=np.float64).reshape(-1, dim), good, faults


def numbers_in(value: Any) -> list[float] | None:
    """The numbers of a JSON array, or None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        numbers = json.loads(value)
        if not isinstance(numbers, list) or isinstance(numbers[:1], bool):
            return None
        if not all(type(n) in (int, float) for n in numbers):
            return None
        return [float(n) for n in numbers]
    except (ValueError, RecursionError, OverflowError):
        return None


def looks_like(sample: Sequence[Any]) -> str | None:
    """What some values of a column seem to be: a dtype, or None where they are no vectors.

    float16 cannot be told from half as many float32, so it has to be said.
    """
    values = [v for v in sample if v is not None]
    if not values:
        return None
    if all(isinstance(v, str) for v in values):
        read = [numbers_in(v) for v in values]
        usual = [numbers for numbers in read if numbers is not None and len(numbers) > 1]
        return JSON if len(usual) * 2 > len(values) else None
    blobs = [v for v in values if isinstance(v, bytes)]
    if len(blobs) * 2 <= len(values):
        return None
    for dtype in ("float32", "float64"):
        kind = DTYPES[dtype]
        fitting = [b for b in blobs if len(b) % kind.itemsize == 0 and len(b) >= 2 * kind.itemsize]
        likely = [b for b in fitting if _plausible(np.frombuffer(b, dtype=kind))]
        if len(likely) * 2 > len(blobs):
            return dtype
    return None


def _plausible(vector: Matrix) -> bool:
    """Whether numbers look like an embedding's. Other bytes, read as floats, hardly ever do."""
    if not np.isfinite(vector).all():
        return False
    sizes = np.abs(vector.astype(np.float64))
    there = sizes[sizes > 0]
    if not len(there):
        return False
    likely = (there > 1e-12) & (there < 1e4)
    return bool(there.max() > 1e-4 and likely.mean() > 0.99)


def _kind_of(value: Any) -> str:
    return {str: "text", int: "a whole number", float: "a number"}.get(type(value), "no BLOB")
