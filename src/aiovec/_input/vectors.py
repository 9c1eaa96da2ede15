"""Vectors, whatever they came as, checked and turned into one float32 matrix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from struct import pack
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .._model.arrays import Float32Array
from .._model.arrow import check_array, is_number, one_array, plain
from .._model.schema import Schema
from ..backend.threads import INLINE_LIMIT
from ..backend.weight import NUMBERS_A_VALUE
from ..errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from .arguments import is_iterable, read_all
from .columns import Place, encodable
from .foreign_rows import array_of_typed, is_typed

_FLOATS = {float}


def query_vector(vector: Any, schema: Schema) -> Float32Array:
    """One query as a contiguous float32 array, checked like a row's vector."""
    if (found := _copy_of_usual(vector, schema.dim)) is not None:
        return found
    _refuse_long(vector, schema)
    array = matrix_of([vector], schema, lambda _: (None, None))
    return cast("Float32Array", array[0])


def kept_query(given: Any) -> Any:
    """A vector or small matrix as it is now, of the kinds that a caller may write into again.

    What is large is read in a thread in any case, and its caller must leave it alone meanwhile.
    """
    if type(given) is list and len(given) <= INLINE_LIMIT:
        return list(given)
    if type(given) is np.ndarray and given.size <= NUMBERS_A_VALUE * INLINE_LIMIT:
        return given.copy()
    return given


def one_query(vector: Any, schema: Schema, made: Mapping[int, Any]) -> list[Float32Array]:
    """A single query, or what was ``made`` of its text."""
    return [query_vector(made.get(0, vector), schema)]


def _copy_of_usual(vector: Any, dim: int) -> Float32Array | None:
    """Return a copy of a vector that is as nearly all are; None for one to be looked at."""
    if not _is_usual(vector, dim):
        return None
    numbers = vector
    if type(vector) is list:  # at half the time of ``np.array``
        numbers = np.frombuffer(pack(f"{len(vector)}d", *vector))
    with np.errstate(over="ignore"):
        found = np.array(numbers, dtype=np.float32, order="C")
    return found if _has_length(found) else None


def _has_length(vector: Float32Array) -> bool:
    """Return whether a vector has usual numbers alone. If not, the reason is to be found."""
    with np.errstate(over="ignore", invalid="ignore"):
        return 0.0 < float(np.dot(vector, vector)) < np.inf


def _is_usual(vector: Any, dim: int) -> bool:
    """Return whether a vector is of the form that nearly all have."""
    if type(vector) is list:
        return len(vector) == dim and set(map(type, vector)) == _FLOATS
    return type(vector) is np.ndarray and vector.dtype == np.float32 and vector.shape == (dim,)


def _refuse_long(vector: Any, schema: Schema) -> None:
    """Refuse what is far too long for a query before anything of it is copied or looked at."""
    if vector is None or isinstance(vector, (str, bytes, Mapping)):
        kind = type(vector).__name__
        reason = "is missing" if vector is None else f"is {kind}, not a sequence of numbers"
        if schema.embed is None and (vector is None or isinstance(vector, str)):
            reason += "; the table makes no vectors of texts, since its schema has no embed"
        raise InvalidVectorError(reason)
    if isinstance(vector, np.ndarray) and vector.ndim != 1 and vector.size > INLINE_LIMIT:
        raise InvalidVectorError("is not a flat sequence of numbers")
    try:
        length = len(vector)
    except Exception:  # noqa: BLE001 - any class may be a vector; its conversion names the fault
        return
    if length > max(INLINE_LIMIT, schema.dim):
        raise DimensionMismatchError(schema.dim, length)


async def collect_vectors(vectors: Any, in_thread: Callable[..., Awaitable[Any]]) -> Any:
    """Many queries, read once, in a form that can be read again."""
    if isinstance(vectors, np.ndarray) and vectors.ndim:
        return vectors
    if isinstance(vectors, (str, bytes, Mapping)) or not is_iterable(vectors):
        raise InvalidArgumentError("vectors", vectors, "a sequence of vectors")
    if is_typed(vectors):
        vectors = await in_thread(array_of_typed, vectors, "vectors")
    if isinstance(vectors, (pa.Array, pa.ChunkedArray)):
        return vectors
    return list(vectors) if isinstance(vectors, (list, tuple)) else await read_all(vectors)


def texts_among(vectors: Any) -> dict[int, str]:
    """The texts among queries that ``collect_vectors`` gave, by their places."""
    if not isinstance(vectors, list):
        return {}
    return {place: text for place, text in enumerate(vectors) if isinstance(text, str)}


def check_query_texts(texts: Mapping[int, str]) -> list[str]:
    """Texts to search for, or InvalidArgumentError for one that is empty or no valid Unicode."""
    for text in texts.values():
        if not text:
            raise InvalidArgumentError(
                "the text to search for", text, "text of at least one character"
            )
        if not text.isascii():
            fault = partial(InvalidArgumentError, "the text to search for", text, "valid Unicode")
            encodable(text, fault)
    return list(texts.values())


def many_queries(vectors: Any, schema: Schema, made: Mapping[int, Any]) -> list[Float32Array]:
    """Many queries, as ``collect_vectors`` gives them; ``made`` of texts, by their places."""
    if made:
        vectors = [made.get(place, vector) for place, vector in enumerate(vectors)]
    if isinstance(vectors, (pa.Array, pa.ChunkedArray)):
        check_array(vectors, "vectors")
        return checked_query_vectors(vectors, schema)
    if isinstance(vectors, np.ndarray) and vectors.ndim == 1 and vectors.dtype != object:
        raise InvalidArgumentError("vectors", vectors.shape, "a sequence of vectors, not one")
    return list(matrix_of(vectors, schema, lambda row: (row, None))) if len(vectors) else []


def checked_query_vectors(column: pa.Array | pa.ChunkedArray, schema: Schema) -> list[Float32Array]:
    """Many queries in a column that Arrow has validated in full."""
    if len(column) == 1 and column.type == pa.list_(pa.float32(), schema.dim):
        one = one_array(column)
        vector = one.values.slice(one.offset * schema.dim, schema.dim)
        if not one.null_count and not vector.null_count:
            found: Float32Array = vector.to_numpy()
            if _has_length(found):
                return [found]
    return list(arrow_matrix(plain(column, "vectors"), schema, lambda row: (row, None)))


def arrow_matrix(column: pa.Array, schema: Schema, place: Place) -> Float32Array:
    """A column of ``arrow_data.plain`` as one matrix."""
    kind = column.type
    if column.null_count:
        number, id = place(column.is_null().index(True).as_py())
        raise InvalidVectorError("is missing", row=number, id=id)
    if not len(column):
        return np.empty((0, schema.dim), dtype=np.float32)
    fixed = pa.types.is_fixed_size_list(kind)
    if not (fixed or pa.types.is_list(kind)) or not is_number(kind.value_type):
        number, id = place(0)
        raise InvalidVectorError(
            f"is of the Arrow type {kind}, not a list of numbers", row=number, id=id
        )
    if fixed and kind.list_size != schema.dim:
        number, id = place(0)
        raise DimensionMismatchError(schema.dim, kind.list_size, row=number, id=id)
    if not fixed:
        lengths = pc.list_value_length(column).to_numpy()
        wrong = np.flatnonzero(lengths != schema.dim)
        if len(wrong):
            number, id = place(int(wrong[0]))
            given = int(lengths[wrong[0]])
            raise DimensionMismatchError(schema.dim, given, row=number, id=id)
    if fixed:  # at a fifth of the time of ``flatten``, since no row is null
        flat = column.values.slice(column.offset * schema.dim, len(column) * schema.dim)
    else:
        flat = column.flatten()
    if flat.null_count:
        number, id = place(flat.is_null().index(True).as_py() // schema.dim)
        raise InvalidVectorError("has a null in it", row=number, id=id)
    return matrix_of(flat.to_numpy(zero_copy_only=False).reshape(-1, schema.dim), schema, place)


def matrix_of(vectors: Any, schema: Schema, place: Place) -> Float32Array:
    """Vectors as one contiguous float32 matrix, each of the right length, finite, not zero."""
    if type(vectors) is list and len(vectors) == 1:
        found = _copy_of_usual(vectors[0], schema.dim)
        if found is not None:
            return found[None, :]
    _refuse_masked(vectors, place)
    array = vectors if isinstance(vectors, np.ndarray) and vectors.dtype != object else None
    if array is None:
        vectors = [
            _as_array(v, row, place) if _is_buffer(v) else v for row, v in enumerate(vectors)
        ]
        try:
            array = np.asarray(vectors)
        except Exception:  # noqa: BLE001 - any class may be in them; ``_blame_vector`` names it
            array = None
    if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        if len(vectors) == 0:
            return np.empty((0, schema.dim), dtype=np.float32)
        _blame_vector(vectors, schema, place)
        array = np.stack([np.asarray(v, dtype=np.float64) for v in vectors])
    if array is not vectors:
        _refuse_flags(vectors, array, place)
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


def _refuse_masked(vectors: Any, place: Place) -> None:
    """Refuse vectors of which values are masked, that is missing; NumPy gives what lies below."""
    if isinstance(vectors, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(vectors)
        rows = np.flatnonzero(masked.any(axis=tuple(range(1, masked.ndim)))).tolist()
    elif np.ma.MaskedArray in set(map(type, vectors)):
        rows = [row for row, vector in enumerate(vectors) if np.ma.is_masked(vector)]
    else:
        return
    if rows:
        number, id = place(rows[0])
        raise InvalidVectorError("has a masked value in it", row=number, id=id)


def _refuse_flags(vectors: Any, array: npt.NDArray[Any], place: Place) -> None:
    """Refuse vectors with True or False in them, which NumPy takes for 1 and 0."""
    if all(isinstance(vector, np.ndarray) and vector.dtype.kind == "f" for vector in vectors):
        return
    # Real embeddings hold no 0 and no 1, so hardly a vector has to be looked through.
    for row in np.flatnonzero(((array == 0) | (array == 1)).any(axis=1)).tolist():
        vector = vectors[row]
        if isinstance(vector, np.ndarray) and vector.dtype != object:
            flags = vector.dtype.kind == "b"
        else:
            flags = not {bool, np.bool_}.isdisjoint(map(type, vector))
        if flags:
            number, id = place(row)
            raise InvalidVectorError("has True or False in it, not numbers", row=number, id=id)


def _is_buffer(vector: Any) -> bool:
    return not isinstance(vector, (list, tuple, np.ndarray, str, bytes)) and (
        hasattr(vector, "__array__")
        or isinstance(vector, (memoryview, pa.Scalar))
        or hasattr(vector, "typecode")
    )


def _as_array(vector: Any, row: int, place: Place) -> Any:
    if isinstance(vector, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)):
        vector = vector.values  # one vector of a column
    if isinstance(vector, (pa.Array, pa.ChunkedArray)):
        try:
            vector.validate(full=True)
        except pa.ArrowException:
            return None
        if not is_number(vector.type):
            return vector.to_pylist()
    try:
        return np.asarray(vector)
    except Exception as exc:
        raise _unreadable(exc, row, place) from exc


def _unreadable(error: Exception, row: int, place: Place) -> InvalidVectorError:
    """Return the error for a vector that NumPy cannot read, as its own library says."""
    number, id = place(row)
    return InvalidVectorError(f"cannot be read as numbers: {error!s:.300}", row=number, id=id)


def _blame_vector(vectors: Any, schema: Schema, place: Place) -> None:
    """Name the vector because of which no matrix came about."""
    for row, vector in enumerate(vectors):
        number, id = place(row)
        if vector is None:
            raise InvalidVectorError("is missing", row=number, id=id)
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
        except Exception as exc:
            raise _unreadable(exc, row, place) from exc
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            if array.dtype == object and array.ndim == 1 and all(
                isinstance(v, int) and not isinstance(v, bool) for v in array
            ):  # fmt: skip
                raise InvalidVectorError("has a number too large for float32", row=number, id=id)
            raise InvalidVectorError("is not a flat sequence of numbers", row=number, id=id)
        if len(array) != schema.dim:
            raise DimensionMismatchError(schema.dim, len(array), row=number, id=id)
