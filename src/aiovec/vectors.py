"""Vectors, whatever they came as, checked and turned into one float32 matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .columns import Place
from .errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from .schema import Schema

Float32Array = npt.NDArray[np.float32]


def query_vector(vector: Any, schema: Schema) -> Float32Array:
    """One query as a contiguous float32 array, checked like a row's vector."""
    array = matrix_of([vector], schema, lambda _: (None, None))
    return cast("Float32Array", array[0])


def query_vectors(vectors: Any, schema: Schema) -> list[Float32Array]:
    """Many queries, as a two-dimensional array or an iterable of vectors."""
    if isinstance(vectors, np.ndarray) and vectors.ndim == 1 and vectors.dtype != object:
        raise InvalidArgumentError("vectors", vectors.shape, "a sequence of vectors, not one")
    if isinstance(vectors, (str, bytes)) or not isinstance(vectors, Iterable):
        raise InvalidArgumentError("vectors", vectors, "a sequence of vectors")
    many = vectors if isinstance(vectors, np.ndarray) else list(vectors)
    return list(matrix_of(many, schema, lambda row: (row, None))) if len(many) else []


def arrow_matrix(column: pa.Array, schema: Schema, place: Place) -> Float32Array:
    kind = column.type
    if column.null_count:
        number, id = place(column.is_null().index(True).as_py())
        raise InvalidVectorError("is missing", row=number, id=id)
    if not len(column):
        return np.empty((0, schema.dim), dtype=np.float32)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        if kind.list_size != schema.dim:
            number, id = place(0)
            raise DimensionMismatchError(schema.dim, kind.list_size, row=number, id=id)
        flat = column.flatten()
        if flat.null_count:
            number, id = place(flat.is_null().index(True).as_py() // schema.dim)
            raise InvalidVectorError("has a null in it", row=number, id=id)
        return matrix_of(flat.to_numpy(zero_copy_only=False).reshape(-1, schema.dim), schema, place)
    return matrix_of(column.to_pylist(), schema, place)


def matrix_of(vectors: Any, schema: Schema, place: Place) -> Float32Array:
    """Vectors as one contiguous float32 matrix, each of the right length, finite, not zero."""
    array = vectors if isinstance(vectors, np.ndarray) and vectors.dtype != object else None
    if array is None:
        vectors = [np.asarray(v) if _is_buffer(v) else v for v in vectors]
        try:
            array = np.asarray(vectors)
        except (ValueError, TypeError, OverflowError):
            array = None
    if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        if len(vectors) == 0:
            return np.empty((0, schema.dim), dtype=np.float32)
        _blame_vector(vectors, schema, place)
        array = np.stack([np.asarray(v, dtype=np.float64) for v in vectors])
    if array.shape[1] != schema.dim and len(array):
        number, id = place(0)
        raise DimensionMismatchError(schema.dim, array.shape[1], row=number, id=id)
    if array.dtype == np.float32:
        matrix = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(matrix)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        number, id = place(row)
        value = array[row][~finite[row]][0]
        reason = f"has {value} in it"
        if np.isfinite(value):
            reason = f"has {value} in it, too large for float32"
        raise InvalidVectorError(reason, row=number, id=id)
    if schema.metric == "cosine":
        zero = ~matrix.any(axis=1)
        if zero.any():
            number, id = place(int(np.flatnonzero(zero)[0]))
            raise InvalidVectorError("is zero, so it has no cosine", row=number, id=id)
    return matrix


def _is_buffer(vector: Any) -> bool:
    return not isinstance(vector, (list, tuple, np.ndarray, str, bytes)) and (
        hasattr(vector, "__array__")
        or isinstance(vector, memoryview)
        or hasattr(vector, "typecode")
    )


def _blame_vector(vectors: Any, schema: Schema, place: Place) -> None:
    """Name the vector because of which no matrix came about."""
    for row, vector in enumerate(vectors):
        number, id = place(row)
        if isinstance(vector, (str, bytes, Mapping)):
            raise InvalidVectorError(
                f"is {type(vector).__name__}, not a sequence of numbers", row=number, id=id
            )
        try:
            array = np.asarray(vector)
        except (ValueError, TypeError) as exc:
            raise InvalidVectorError(
                "is not a flat sequence of numbers", row=number, id=id
            ) from exc
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            if array.dtype == object and array.ndim == 1 and all(
                isinstance(v, int) and not isinstance(v, bool) for v in array
            ):  # fmt: skip
                raise InvalidVectorError("has a number too large for float32", row=number, id=id)
            raise InvalidVectorError("is not a flat sequence of numbers", row=number, id=id)
        if len(array) != schema.dim:
            raise DimensionMismatchError(schema.dim, len(array), row=number, id=id)
