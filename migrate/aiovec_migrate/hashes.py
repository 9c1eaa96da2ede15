"""Hash rows, one Arrow batch at a time: equal rows have equal hashes in every store.

Two rows are equal if a store would return the same values for them:

- Vectors are compared bit by bit.
- Fields are compared by their values. A null is neither an empty string nor an empty list. A
  negative zero equals zero: neither SQLite nor LanceDB keeps the sign of a zero in a field.
- Payloads are compared as JSON values: white space and the order of keys do not matter, but 1 is
  not 1.0, because both stores distinguish them. An empty object equals a null: neither has a key.

The strength of the hashes: long values are read as words of 32 bits, and a hash is the sum of each
word times a random 64-bit key for its position. If two inputs differ by ``d`` in some word, they
have the same sum for one key in ``2**64 / 2**z``, where ``z`` is the number of zeros below the
lowest bit of ``d``. That is why words have only 32 bits: in 64-bit words, a flipped sign of the
upper float would be ``d = 2**63``, and two flipped signs would collide for half of all key pairs.
With 32 bits ``z`` is at most 31, so a sum misses a difference once in ``2**33``, and the two sums
with separate keys miss it once in ``2**66``. Short values (a number, a finished sum, an item of a
list) go through a bijection that mixes all bits, with a key for their position, before they are
added up.

Everything works on whole columns. Only two kinds of values are processed one by one in Python:
payloads, whose JSON is parsed, and strings above 64 KiB, which are hashed piece by piece.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aiovec.backend import BoolArray, Int64Array, Schema, UInt64Array, one_array, to_matrix

# Strings are padded to one of these lengths, so that strings of one length are rows of a matrix.
# From 24 bytes on, at most a third is padding.
_WIDTHS = np.array(
    sorted({8, 24, *(2**n for n in range(4, 17)), *(3 * 2**n for n in range(4, 15))}),
    dtype=np.int64,
)
_PIECE = int(_WIDTHS[-1])
# The number of words multiplied at a time: in their 64-bit form, they fit in a core's cache.
_BLOCK = 2**16

_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Hashes:
    """For every row of a batch, the hash of its id and the hash of the whole row."""

    ids: UInt64Array
    rows: UInt64Array


class Hasher:
    """Hashes the rows of tables that have this schema's fields.

    Two hashers agree if they have the same ``vector`` and ``seed``, and if their schemas have the
    same fields. The keys are computed from the seed. Without ``vector``, vectors are ignored, and
    the batches need not have vectors.
    """

    def __init__(self, schema: Schema, *, vector: bool = True, seed: int = 0) -> None:
        self._schema = schema
        self._vector = vector
        self._seed = seed

    def ids(self, ids: pa.Array | pa.ChunkedArray) -> UInt64Array:
        """Return the hashes of ids, as in ``Hashes.ids``."""
        return mixed(_text(_one(ids), self._seed) + _key(self._seed, "id"))

    def rows(self, batch: pa.RecordBatch | pa.Table) -> Hashes:
        """Return the hashes of all rows."""
        seed, schema = self._seed, self._schema
        ids = self.ids(batch.column("id"))
        total = ids.copy()
        for name, field in schema.fields.items():
            values = _HASHED[field.kind](_one(batch.column(name)), seed)
            total += mixed(values + _key(seed, "field " + name))
        if schema.payload:
            values = _payload(_one(batch.column("payload")), seed)
            total += mixed(values + _key(seed, "payload"))
        if self._vector:
            values = _vectors(_one(batch.column(schema.vector)), seed)
            total += mixed(values + _key(seed, "vector"))
        return Hashes(ids, mixed(total))


def mixed(values: UInt64Array) -> UInt64Array:
    """Apply the last step of splitmix64, a bijection that mixes all bits of a value.

    Changes ``values`` in place, so the caller must not use the array again.
    """
    moved = values >> _SHIFTS[0]
    values ^= moved
    values *= _FACTORS[0]
    np.right_shift(values, _SHIFTS[1], out=moved)
    values ^= moved
    values *= _FACTORS[1]
    np.right_shift(values, _SHIFTS[2], out=moved)
    values ^= moved
    return values


@lru_cache(maxsize=1024)
def _key(seed: int, name: str) -> np.uint64:
    """Return a pseudorandom number that depends only on the seed and the name."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


@lru_cache(maxsize=8)
def _keys(seed: int, words: int) -> tuple[UInt64Array, UInt64Array]:
    """Return two pseudorandom keys for each word position, which depend only on the seed."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, (2, words), dtype=np.uint64)
    return drawn[0], drawn[1]


def _sums(words: npt.NDArray[np.uint32], seed: int) -> UInt64Array:
    """Return one hash for each row of a matrix of words."""
    count, width = words.shape
    first_keys, second_keys = _keys(seed, width)
    first = np.empty(count, dtype=np.uint64)
    second = np.empty(count, dtype=np.uint64)
    step = max(1, _BLOCK // width)
    for start in range(0, count, step):
        block = words[start : start + step].astype(np.uint64)
        # Faster than a matrix product, which is slow for integers.
        np.einsum("ij,j->i", block, first_keys, out=first[start : start + step])
        np.einsum("ij,j->i", block, second_keys, out=second[start : start + step])
    return mixed(first + mixed(second))


# Columns


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    column = one_array(column)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _nulls(column: pa.Array) -> BoolArray:
    return cast("BoolArray", column.is_null().to_numpy(zero_copy_only=False))


def _with_nulls(values: UInt64Array, column: pa.Array, seed: int) -> UInt64Array:
    """Replace the hashes of nulls with a constant: the buffer can hold anything under a null."""
    if column.null_count:
        values[_nulls(column)] = _key(seed, "null")
    return values


def _int(column: pa.Array, seed: int) -> UInt64Array:
    numbers = column.cast(pa.int64(), safe=False)
    return _with_nulls(mixed(_buffer(numbers, np.uint64).copy()), numbers, seed)


def _float(column: pa.Array, seed: int) -> UInt64Array:
    numbers = column.cast(pa.float64())
    plain = _buffer(numbers, np.float64) + 0.0  # turns -0.0 into 0.0
    return _with_nulls(mixed(plain.view(np.uint64)), numbers, seed)


def _bool(column: pa.Array, seed: int) -> UInt64Array:
    flags = column.cast(pa.uint8())
    return _with_nulls(mixed(_buffer(flags, np.uint8).astype(np.uint64)), flags, seed)


def _datetime(column: pa.Array, seed: int) -> UInt64Array:
    return _int(column.cast(pa.timestamp("us", tz="UTC")), seed)


def _buffer(column: pa.Array, kind: Any) -> npt.NDArray[Any]:
    """Return the column's raw values, including the values under nulls."""
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), dtype=kind)
    return np.frombuffer(data, dtype=kind)[column.offset : column.offset + len(column)]


def _text(column: pa.Array, seed: int) -> UInt64Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_utf8())
    hashes = np.full(len(column), _key(seed, "null"), dtype=np.uint64)
    filled = np.flatnonzero(~_nulls(column)) if column.null_count else None
    texts = column if filled is None else column.take(pa.array(filled))
    hashed = _bytes_of(texts, seed)
    if filled is None:
        return hashed
    hashes[filled] = hashed
    return hashes


def _bytes_of(texts: pa.Array, seed: int) -> UInt64Array:
    """Return the hashes of strings, none of which is null."""
    lengths = _lengths(texts)
    hashes = np.empty(len(texts), dtype=np.uint64)
    classes = np.searchsorted(_WIDTHS, lengths)
    for kind in np.flatnonzero(np.bincount(classes)).tolist():
        chosen = np.flatnonzero(classes == kind)
        if kind == len(_WIDTHS):
            for place in chosen.tolist():
                hashes[place] = _long(texts[place].as_buffer(), seed)
            continue
        part = texts if len(chosen) == len(texts) else texts.take(pa.array(chosen))
        hashes[chosen] = _sums(_padded(part, int(_WIDTHS[kind])), seed)
    # The length distinguishes trailing zeros of the string from padding.
    return mixed(hashes + lengths.astype(np.uint64))


def _lengths(texts: pa.Array) -> Int64Array:
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64) if len(texts) else np.zeros(1)
    return np.diff(offsets[texts.offset : texts.offset + len(texts) + 1]).astype(np.int64)


def _padded(texts: pa.Array, width: int) -> npt.NDArray[np.uint32]:
    """Return strings of up to ``width`` bytes as rows of a matrix, padded with zeros."""
    if pa.types.is_large_binary(texts.type):
        # pyarrow cannot pad binary values; its padding of strings does not check their encoding.
        texts = pa.Array.from_buffers(
            pa.large_utf8(), len(texts), texts.buffers(), offset=texts.offset
        )
    padded = pc.ascii_rpad(texts, width, padding="\0")
    offsets = np.frombuffer(padded.buffers()[1], dtype=np.int64)
    start = int(offsets[padded.offset])
    flat = np.frombuffer(padded.buffers()[2], dtype=np.uint8)[start : start + width * len(padded)]
    return flat.view("<u4").reshape(len(padded), width // 4)


def _long(data: pa.Buffer, seed: int) -> np.uint64:
    """Return the hash of a string longer than the largest width, computed piece by piece."""
    flat = np.frombuffer(data, dtype=np.uint8)
    pieces = np.zeros((-(-len(flat) // _PIECE), _PIECE), dtype=np.uint8)
    pieces.reshape(-1)[: len(flat)] = flat
    hashes = _sums(pieces.view("<u4"), seed)
    return cast("np.uint64", _placed(hashes, np.arange(len(hashes)), seed).sum(dtype=np.uint64))


def _placed(hashes: UInt64Array, places: Int64Array, seed: int) -> UInt64Array:
    """Return hashes mixed with their positions, so that a sum depends on the order."""
    return mixed(hashes + mixed(places.astype(np.uint64) + _key(seed, "place")))


def _list(column: pa.Array, seed: int) -> UInt64Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    flat = column.flatten()  # without the items below a null
    if pa.types.is_integer(flat.type):
        items = _int(flat, seed)
    else:
        items = _float(flat, seed) if pa.types.is_floating(flat.type) else _text(flat, seed)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    places = np.arange(len(items)) - np.repeat(starts, lengths)
    # The sums wrap around at 64 bits, but their differences modulo 2**64 are still right.
    upto = np.zeros(len(items) + 1, dtype=np.uint64)
    np.cumsum(_placed(items, places, seed), out=upto[1:])
    sums = upto[ends] - upto[starts]
    return _with_nulls(mixed(sums + mixed(lengths.astype(np.uint64))), column, seed)


def _vectors(column: pa.Array, seed: int) -> UInt64Array:
    return _sums(to_matrix(column).view(np.uint32), seed)


# The payload


def _payload(column: pa.Array, seed: int) -> UInt64Array:
    if column.null_count == len(column):
        return np.full(len(column), _key(seed, "null"), dtype=np.uint64)
    # Payloads often repeat, and parsing a payload takes ten times as long as looking it up.
    coded = column.dictionary_encode()
    forms = pa.array(_canonical(coded.dictionary.to_pylist()), type=pa.large_binary())
    codes = coded.indices.fill_null(len(forms)).to_numpy()
    hashes = np.append(_text(forms, seed), _key(seed, "null"))
    return cast("UInt64Array", hashes[codes])


def _within(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    # A tuple, because a list stands for an array. No key is repeated, so values are never compared.
    return tuple(sorted(dict(pairs).items()))


_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
_decode = json.JSONDecoder(object_pairs_hook=_within).decode
# Later versions of the format write shared objects once, so equal values could have unequal bytes.
_MARSHAL = 2


def _canonical(texts: Sequence[str]) -> list[bytes | None]:
    """Return each JSON value in its canonical form, with sorted keys; None for an empty object."""
    forms: list[bytes | None] = []
    # Most payloads of a table have the same keys, which are sorted and written only once.
    shapes: dict[tuple[str, ...], tuple[bytes, Callable[[Any], Any]]] = {}
    for text in texts:
        try:
            value = _value_of(text)
        except (ValueError, RecursionError, StopIteration):
            # Damaged, but the other table may have the same text.
            forms.append(b"text " + text.encode())
            continue
        if not isinstance(value, dict):
            forms.append(b"value " + marshal.dumps(value, _MARSHAL))
            continue
        keys = tuple(value)
        shape = shapes.get(keys)
        if shape is None:
            shape = shapes[keys] = _shape_of(keys)
        start, values_of = shape
        forms.append(start + marshal.dumps(values_of(value), _MARSHAL) if keys else None)
    return forms


def _value_of(text: str) -> Any:
    """Parse a JSON value; its nested objects become tuples of their sorted items."""
    if text[:1] == "{" and text.find("{", 1) < 0:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    value = _decode(text)
    return dict(value) if isinstance(value, tuple) else value


def _shape_of(keys: tuple[str, ...]) -> tuple[bytes, Callable[[Any], Any]]:
    ordered = tuple(sorted(keys))
    # For one key, ``itemgetter`` returns no tuple; without a key, it raises an error.
    values_of: Callable[[Any], Any] = itemgetter(*(ordered or ("",)))
    return b"keys " + marshal.dumps(ordered, _MARSHAL), values_of


_HASHED: dict[str, Callable[[pa.Array, int], UInt64Array]] = {
    "text": _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "list[text]": _list,
    "list[int]": _list,
    "list[float]": _list,
}


def among(hashes: UInt64Array, wanted: UInt64Array) -> BoolArray:
    """Return a mask of the hashes that are in ``wanted``, which is sorted and not empty."""
    places = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
    return wanted[places] == hashes  # type: ignore[no-any-return]  # numpy's comparison


def unlike(source: Hashes, target: Hashes) -> tuple[UInt64Array, UInt64Array, UInt64Array]:
    """Return the id hashes of rows only in the source, rows only in the target, and rows that
    differ.

    A row's hash covers its id, so equal hashes mean the same row. A row that one table has twice
    also counts as different.
    """
    only_source = np.unique(source.ids[~np.isin(source.rows, target.rows)])
    only_target = np.unique(target.ids[~np.isin(target.rows, source.rows)])
    twice = np.concatenate([_repeated(source.ids), _repeated(target.ids)])
    return (
        np.setdiff1d(only_source, only_target, assume_unique=True),
        np.setdiff1d(only_target, only_source, assume_unique=True),
        np.union1d(np.intersect1d(only_source, only_target, assume_unique=True), twice),
    )


def _repeated(hashes: UInt64Array) -> UInt64Array:
    ordered = np.sort(hashes)
    return cast("UInt64Array", ordered[1:][ordered[1:] == ordered[:-1]])
