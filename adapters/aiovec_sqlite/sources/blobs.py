"""Vectors as SQLite's values hold them: BLOBs of numbers, or JSON text; and batches of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import BoolArray, Float64Array

from ..errors import CORRUPT, NOTADB, code_of

_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 32 * 2**20


def batches(
    db: sqlite3.Connection, sql: str, values: Sequence[Any], size: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a statement, up to ``size`` at once, and fewer where they are large."""
    cursor = db.execute(sql, tuple(values))
    try:
        held: list[tuple[Any, ...]] = []
        nbytes = 0
        while found := cursor.fetchmany(min(size, _ROWS_AT_ONCE)):
            held += found
            nbytes += sum(len(v) for row in found for v in row if isinstance(v, (bytes, str)))
            if len(held) >= size or nbytes >= _BYTES_AT_ONCE:
                yield held
                held, nbytes = [], 0
        if held:
            yield held
    finally:
        cursor.close()


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite itself finds the file damaged, rather than the statement at fault."""
    return code_of(error) in (CORRUPT, NOTADB)


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
) -> tuple[Matrix, BoolArray, dict[int, str]]:
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


def _from_json(values: Sequence[Any], dim: int) -> tuple[Matrix, BoolArray, dict[int, str]]:
    good = np.zeros(len(values), dtype=bool)
    faults: dict[int, str] = {}
    rows = []
    for i, value in enumerate(values):
        numbers = numbers_in(value)
        if value is None:
            faults[i] = "the vector is missing"
        elif numbers is None:
            faults[i] = "the vector is not a JSON array of numbers"
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
        if not isinstance(numbers, list) or not all(type(n) in (int, float) for n in numbers):
            return None
        return [float(n) for n in numbers]
    except (ValueError, RecursionError, OverflowError):
        return None


def readings(sample: Sequence[Any]) -> tuple[str, ...]:
    """The ways in which some values of a column can be read as vectors, the likeliest first.

    None where they are no vectors. More than one where their bytes make sense in several ways:
    a float16 vector is as long as a float32 vector of half as many dimensions, and often as
    plausible.
    """
    values = [v for v in sample if v is not None]
    if not values:
        return ()
    if all(isinstance(v, str) for v in values):
        read = [numbers_in(v) for v in values]
        usual = [numbers for numbers in read if numbers is not None and len(numbers) > 1]
        return (JSON,) if len(usual) * 2 > len(values) else ()
    blobs = [v for v in values if isinstance(v, bytes)]
    if len(blobs) * 2 <= len(values):
        return ()
    with np.errstate(invalid="ignore"):  # of signalling NaNs, which other bytes may be
        likely = [dtype for dtype in ("float32", "float64") if _are_likely(blobs, dtype)]
        if likely and likely[0] == "float32":
            wider = "float64" in likely and _has_empty_halves(blobs, "float32")
            return ("float32", *_float16_too(blobs), *(["float64"] if wider else []))
        return tuple(likely)


def _are_likely(blobs: Sequence[bytes], dtype: str) -> bool:
    kind = DTYPES[dtype]
    fitting = [b for b in blobs if len(b) % kind.itemsize == 0 and len(b) >= 2 * kind.itemsize]
    return sum(_plausible(np.frombuffer(b, dtype=kind)) for b in fitting) * 2 > len(blobs)


def _float16_too(blobs: Sequence[bytes]) -> list[str]:
    """float16, where BLOBs that pass for float32 pass for it as well.

    The upper half of a float32 of usual size, read as float16, is always within a small range. Its
    lower half is noise, and has sizes of every order.
    """
    if _has_empty_halves(blobs, "float16"):
        return []
    words = np.frombuffer(b"".join(b for b in blobs if len(b) % 4 == 0), dtype="<f2")
    sizes = np.abs(words.astype(np.float64))
    if not np.isfinite(sizes).all():
        return []
    there = sizes[sizes > 0]
    if not len(there) or there.max() > 64 or there.min() < 1e-5:
        return []
    low, high = (part[part > 0] for part in (sizes[::2], sizes[1::2]))
    of_float32 = _within(high, 0.2, 7.0) and not _within(low, 0.2, 7.0)
    return [] if of_float32 else ["float16"]


def _within(sizes: Float64Array, least: float, most: float) -> bool:
    return bool(((sizes >= least) & (sizes < most)).all())


def _has_empty_halves(blobs: Sequence[bytes], dtype: str) -> bool:
    """Return whether every second number is 0, as in halves of wider numbers such as 1.0."""
    kind = DTYPES[dtype]
    even = [b for b in blobs if len(b) % (2 * kind.itemsize) == 0]
    return bool(even) and not any(np.frombuffer(b, dtype=kind)[::2].any() for b in even)


def _plausible(vector: Matrix) -> bool:
    """Return whether numbers look like an embedding's: other bytes read as floats hardly do."""
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
