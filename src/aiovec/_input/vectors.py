"""Vectors in any form, checked and converted to one float32 matrix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from struct import pack
from typing import Any, cast

import numpy as np

from .._model.arrays import Float32Array
from .._model.arrow import check_array, is_number, plain
from .._model.schema import Schema
from .._tools.lazy_arrow import is_array, is_list, is_of, pa, pc
from ..backend.threads import INLINE_LIMIT
from ..errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from .arguments import check_words, is_iterable, read_all
from .columns import Places, first_fault, located
from .foreign_rows import array_of_typed, is_typed

# No component of a vector may exceed the first bound, and at least one must reach the second.
# Float32 can hold the squares of both.
_LARGEST, _SMALLEST = 1e15, 1e-15
# A vector with a squared length between these bounds fulfils both conditions.
_SHORT, _LONG = 1e-23, 1e28
_LISTS_OF_ARROW = ("ListScalar", "LargeListScalar", "FixedSizeListScalar")


def query_vector(vector: Any, schema: Schema) -> Float32Array:
    """Return a query vector as a contiguous float32 array, checked like a row's vector."""
    if (array := _usual(vector, schema.dim)) is not None:
        return array
    if vector is None and schema.embed is not None:
        raise InvalidVectorError("is missing; pass a vector, or a text to search for")
    if schema.embed is None and (vector is None or isinstance(vector, str)):
        reason = "is missing" if vector is None else "is text"
        field = next((name for name, each in schema.fields.items() if each.kind == "text"), "body")
        raise InvalidVectorError(
            f"{reason}, and the table has no embedder for texts; pass a vector, use "
            f"search_text(), or create the table with Schema(embed=Embed({field!r}))"
        )
    if isinstance(vector, np.ndarray) and vector.ndim == 2:
        raise InvalidVectorError("is a list of vectors; search_many() searches for several")
    if isinstance(vector, (list, tuple)) and vector and isinstance(vector[0], (str, list, tuple)):
        what = "texts" if isinstance(vector[0], str) else "vectors"
        raise InvalidVectorError(f"is a list of {what}; search_many() searches for several")
    try:
        length = len(vector)
    except Exception:  # noqa: BLE001 - any class may be a vector; its conversion names the fault
        length = 0
    if length > max(INLINE_LIMIT, schema.dim):  # before it is read
        raise DimensionMismatchError(schema.dim, length)
    return cast("Float32Array", matrix_of([vector], schema, None)[0])


async def collect_vectors(vectors: Any, in_thread: Callable[..., Awaitable[Any]]) -> Any:
    """Read many queries once, into a form that can be read again."""
    if isinstance(vectors, np.ndarray) and vectors.ndim:
        return vectors
    if isinstance(vectors, (str, bytes, Mapping)) or not is_iterable(vectors):
        raise InvalidArgumentError("vectors", vectors, "a sequence of vectors")
    if is_typed(vectors):
        vectors = await in_thread(array_of_typed, vectors, "vectors")
    if is_array(vectors):
        return vectors
    return list(vectors) if isinstance(vectors, (list, tuple)) else await read_all(vectors)


def texts_among(vectors: Any) -> dict[int, str]:
    """Return the texts among queries from ``collect_vectors``, by their positions."""
    if not isinstance(vectors, list):
        return {}
    return {position: text for position, text in enumerate(vectors) if isinstance(text, str)}


def check_query_texts(texts: Mapping[int, str]) -> list[str]:
    """Return texts to search for; raise InvalidArgumentError for an empty text or invalid
    Unicode."""
    for text in texts.values():
        if not text:
            raise InvalidArgumentError(
                "the text to search for", text, "text of at least one character"
            )
        check_words("the text to search for", text)
    return list(texts.values())


def many_queries(vectors: Any, schema: Schema, of_texts: Mapping[int, Any]) -> list[Float32Array]:
    """Return the queries from ``collect_vectors`` as vectors.

    ``of_texts`` maps the positions of the texts among them to the texts' vectors.
    """
    if of_texts:
        vectors = [of_texts.get(position, vector) for position, vector in enumerate(vectors)]
    return list(given_matrix(vectors, schema, Places()))


def given_matrix(vectors: Any, schema: Schema, places: Places | None) -> Float32Array:
    """Return vectors from an argument (a sequence, a matrix or an Arrow column) as a matrix."""
    if is_array(vectors):
        check_array(vectors, "vectors")
        return arrow_matrix(plain(vectors, "vectors"), schema, places)
    if isinstance(vectors, np.ndarray) and vectors.ndim == 1 and vectors.dtype != object:
        reason = "vectors is a single vector; put it in a list"
        raise InvalidArgumentError("vectors", vectors.shape, reason=reason)
    return matrix_of(vectors, schema, places)


def arrow_matrix(column: pa.Array, schema: Schema, places: Places | None) -> Float32Array:
    """Return a column from ``arrow.plain`` as one matrix."""
    kind, dim = column.type, schema.dim
    if is_list(kind) and is_number(kind.value_type) and not column.null_count:
        if pa.types.is_fixed_size_list(kind):  # a fifth of the time of ``flatten``
            fits = kind.list_size == dim
            flat = column.values.slice(column.offset * dim, len(column) * dim)
        else:
            fits = pc.all(pc.equal(pc.list_value_length(column), dim)).as_py() is not False
            flat = column.flatten()
        if fits and not flat.null_count:
            rows = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
            return matrix_of(rows, schema, places)
    step = 1_000
    for start in range(0, len(column), step):  # to find the bad row
        rows = column.slice(start, step).to_pylist()
        matrix_of(rows, schema, places and places.of(range(start, start + len(rows))))
    if len(column):
        raise InvalidVectorError(f"is of the Arrow type {kind}, not a list of numbers")
    return np.empty((0, dim), dtype=np.float32)


def matrix_of(vectors: Any, schema: Schema, places: Places | None) -> Float32Array:
    """Return vectors as one contiguous float32 matrix, each of the right length and in range."""
    if len(vectors) == 1 and (array := _usual(vectors[0], schema.dim)) is not None:
        return array[None, :]
    try:
        return _matrix(schema, vectors)
    except ValueError:
        row, fault = first_fault(_matrix, schema, vectors)
    if isinstance(fault, DimensionMismatchError):
        raise DimensionMismatchError(fault.expected, fault.given, **located(places, row)) from None
    raise InvalidVectorError(str(fault), **located(places, row)) from fault.__cause__


def _usual(vector: Any, dim: int) -> Float32Array | None:
    """Return a float32 copy of a vector in a common form; None if it needs the full check."""
    numbers = vector
    if type(vector) is list:
        if len(vector) != dim or set(map(type, vector)) != {float}:
            return None
        numbers = np.frombuffer(pack(f"{dim}d", *vector))  # half the time of ``np.array``
    elif not (type(vector) is np.ndarray and vector.dtype == np.float32 and vector.shape == (dim,)):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.array(numbers, dtype=np.float32, order="C")
        return array if _SHORT < float(np.dot(array, array)) < _LONG else None


def _matrix(schema: Schema, vectors: Any) -> Float32Array:
    """Convert vectors to a matrix, or raise ValueError if any of them is invalid."""
    array = vectors
    if not isinstance(vectors, np.ndarray) or vectors.dtype == object:
        if not len(vectors):
            return np.empty((0, schema.dim), dtype=np.float32)
        numbers = [_numbers(vector, schema) for vector in vectors]
        try:
            array = np.asarray(numbers)
        except Exception as exc:  # objects among the numbers may raise anything
            raise ValueError(f"is not a flat sequence of numbers: {exc!s:.300}") from exc
    elif _is_masked(vectors):
        raise ValueError("has a masked value")
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError("is not a flat sequence of numbers")
    if array.shape[1] != schema.dim:
        raise DimensionMismatchError(schema.dim, array.shape[1])
    if not len(array):
        return np.empty((0, schema.dim), dtype=np.float32)
    with np.errstate(over="ignore"):
        matrix = np.ascontiguousarray(array, dtype=np.float32)
    # NaN compares as false.
    if not (matrix.min() >= -_LARGEST and matrix.max() <= _LARGEST):
        value = array[~(np.abs(matrix) <= _LARGEST)][0]
        raise ValueError(f"has {value} in it; its numbers must be finite and at most {_LARGEST:g}")
    # A vector can be too close to zero only if its first number is this small.
    small = np.abs(matrix[:, 0]) < _SMALLEST
    if small.any():
        largest = np.abs(array[small]).max(axis=1)
        if schema.metric == "cosine" and not largest.all():
            raise ValueError("is zero, so it has no cosine")
        if ((largest > 0) & (largest < _SMALLEST)).any():
            raise ValueError(f"is too close to zero: none of its numbers reaches {_SMALLEST:g}")
    return matrix


def _is_masked(vector: object) -> bool:
    """Return whether any values are masked. NumPy would read the numbers under the mask."""
    return isinstance(vector, np.ma.MaskedArray) and np.ma.is_masked(vector)


def _numbers(vector: Any, schema: Schema) -> Any:
    """Return a vector in a form that NumPy reads as numbers, or raise ValueError."""
    if isinstance(vector, (list, tuple, np.ndarray)) and is_iterable(vector):
        if _is_masked(vector):
            raise ValueError("has a masked value")
        if len(vector) and isinstance(vector[0], (bool, np.bool_)):
            raise ValueError("has True or False among its numbers")
        return vector
    if vector is None:
        fix = "; in a table with vector_nullable=True, rows may have none"
        fix = "" if schema.vector_nullable else fix
        raise ValueError(f"is missing (key {schema.vector!r}){fix}")
    if isinstance(vector, (str, bytes, Mapping)):
        fixes = {str: "; for JSON, pass json.loads(…)", bytes: "; pass np.frombuffer(…, '<f4')"}
        fix = fixes.get(type(vector), "")
        raise ValueError(f"is {type(vector).__name__}, not a sequence of numbers{fix}")
    try:
        if is_of(vector, "pyarrow", *_LISTS_OF_ARROW):
            vector = vector.values  # one vector of a column
        if is_array(vector):
            vector.validate(full=True)
        return np.asarray(vector)
    except Exception as exc:
        raise ValueError(f"cannot be read as numbers: {exc!s:.300}") from exc
