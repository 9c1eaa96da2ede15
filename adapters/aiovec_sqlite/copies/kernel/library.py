"""Load and call the compiled scan.

If there is no usable library, ``load`` returns None, and all searches read the file. For tests and
comparisons, the environment variable ``AIOVEC_SCAN`` selects a kind of scan; "off" disables the
library.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiovec.backend import Float32Array, Float64Array, Metric, distances

from .build import LIBRARY

LOG = logging.getLogger("aiovec.sqlite")

VARIABLE = "AIOVEC_SCAN"
OFF = "off"
# The numbers of the kinds in scan.c. The last kind that a processor supports is the fastest.
KINDS = {"portable": 0, "avx2": 1, "avx512-vnni": 2, "neon": 3}
_VERSION = 12

# The numbers of the metrics in scan.c.
METRICS: dict[Metric, int] = {"cosine": 0, "l2": 1, "dot": 2}

# The layout of SegmentRecord must be the same as in scan.c.


class SegmentRecord(ctypes.Structure):
    _fields_ = (
        ("upper", ctypes.c_void_p), ("lower", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("offset", ctypes.c_void_p), ("error", ctypes.c_void_p), ("rowids", ctypes.c_void_p),
        ("vectors", ctypes.c_void_p), ("rows", ctypes.c_int64), ("dead", ctypes.c_int64),
        ("most_error", ctypes.c_double), ("most_reach", ctypes.c_double),
        ("most_offset", ctypes.c_double), ("most_lower", ctypes.c_double),
    )  # fmt: skip


_NUMBER, _PLACE = ctypes.c_int64, ctypes.c_void_p
_ASKED = (
    _NUMBER, _PLACE, _NUMBER, _PLACE, _PLACE, _PLACE, _NUMBER, _NUMBER, _NUMBER, ctypes.c_double,
    _PLACE,
)  # fmt: skip
_ANSWERED = _NUMBER, _PLACE, _PLACE, _PLACE, _PLACE
# The types of each function's result and arguments.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "version": (_NUMBER,),
    "kinds": (_NUMBER,),
    "search": (_NUMBER, *_ASKED, *_ANSWERED),
    "begin": (_PLACE, *_ASKED, _NUMBER, _NUMBER),
    "part": (None, _PLACE),
    "end": (_NUMBER, _PLACE, *_ANSWERED),
    "free": (None, _PLACE),
    "halve": (_NUMBER, _PLACE, _NUMBER, _NUMBER, _PLACE, _PLACE),
    "distances": (_NUMBER, *[_PLACE] * 4, _NUMBER, _NUMBER, _NUMBER, _PLACE),
    "words": (
        _NUMBER, _PLACE, _NUMBER, _NUMBER, _PLACE, _PLACE, _NUMBER, ctypes.c_double,
        ctypes.c_double, _NUMBER, _PLACE, _PLACE, _NUMBER, _PLACE, _PLACE,
    ),
}  # fmt: skip


class UnusableError(Exception):
    """There is no usable library; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of a loaded library, by name, and the kind of scan to use.

    ``search`` does a whole search in one call; ``begin``, ``part``, ``end`` and ``free`` are
    the steps of a search.
    """

    functions: Mapping[str, Callable[..., Any]]
    kinds: tuple[str, ...]
    kind: str


def load() -> Library | None:
    """Return the library, or None if it is unusable. The first call reads the disk."""
    return _loaded(os.environ.get(VARIABLE, ""))


def library() -> Library:
    """Return the library. Raises UnusableError if it is unusable.

    Tables are loaded into memory only if the library is usable.
    """
    loaded = load()
    if loaded is None:
        raise UnusableError(why_not())
    return loaded


def why_not() -> str:
    """Return the reason why the library cannot be loaded; "" if it can."""
    try:
        opened(os.environ.get(VARIABLE, ""), LIBRARY)
    except UnusableError as exc:
        return str(exc)
    return ""


@lru_cache(maxsize=8)
def _loaded(wanted: str) -> Library | None:
    try:
        return opened(wanted, LIBRARY)
    except UnusableError as exc:
        LOG.warning("searches are answered from the file, which takes longer: %s", exc)
        return None


def opened(wanted: str, library: Path) -> Library:
    """Return the library at a path, with the ``wanted`` kind of scan, or the fastest kind if "".

    Raises UnusableError if the library cannot be used.
    """
    if wanted == OFF:
        raise UnusableError(f"{VARIABLE}={wanted} disables it")
    try:
        if _is_cut_short(library):
            raise UnusableError(f"{library.name} is damaged; install the package again")
    except FileNotFoundError as exc:
        raise UnusableError("the native scan was not compiled when the package was built") from exc
    except OSError as exc:
        raise UnusableError(f"{library.name} cannot be read: {exc.strerror}") from exc
    try:
        native = ctypes.CDLL(str(library))
        functions = {name: getattr(native, f"aiovec_scan_{name}") for name in _SIGNATURES}
    except (OSError, AttributeError) as exc:
        raise UnusableError(f"{library.name} cannot be loaded: {exc}") from exc
    for name, (result, *arguments) in _SIGNATURES.items():
        functions[name].restype, functions[name].argtypes = result, arguments
    if functions["version"]() != _VERSION:
        raise UnusableError(f"{library.name} has another version; install the package again")
    kinds = functions["kinds"]()
    available = tuple(name for name, bit in KINDS.items() if kinds >> bit & 1)
    if wanted and wanted not in available:
        raise UnusableError(
            f"{VARIABLE}={wanted} is not a scan of this processor; it has {', '.join(available)}"
        )
    return Library(functions, available, wanted or available[-1])


# For 32-bit and 64-bit ELF files: the format of an offset; where the program headers' offset, entry
# size and number are; and where in an entry the segment's offset and size are.
_ELF = {1: ("I", 28, 42, 44, 4, 16), 2: ("Q", 32, 54, 56, 8, 32)}


def _is_cut_short(library: Path) -> bool:
    """Return whether a library for Linux is shorter than its headers say.

    Loading it would crash the process. Other systems' loaders check this themselves.
    """
    with library.open("rb") as file:
        head, length = file.read(4096), os.fstat(file.fileno()).st_size
    if not head.startswith(b"\x7fELF"):
        return False
    try:
        number, parts, size, count, place, nbytes = _ELF[head[4]]
        order = "<" if head[5] == 1 else ">"

        def value(at: int, kind: str = number) -> int:
            return int(struct.unpack_from(order + kind, head, at)[0])

        entries = [value(parts) + entry * value(size, "H") for entry in range(value(count, "H"))]
        return any(value(entry + place) + value(entry + nbytes) > length for entry in entries)
    except (struct.error, LookupError):
        return True


def address(array: npt.NDArray[np.generic]) -> int:
    """Return the address of an array's first byte. Keep the array alive while using it."""
    place: int = array.__array_interface__["data"][0]
    return place


def measured(rows: Float32Array, point: Float32Array, metric: Metric) -> Float64Array:
    """Return the distances of rows to a point.

    The distances are the same to the last bit with and without the library.
    """
    if (native := load()) is None:
        return distances(rows, point, metric)
    rows, point = (np.ascontiguousarray(array, np.float32) for array in (rows, point))
    count, dim = rows.shape
    numbers, point_of = np.arange(count), np.zeros(count, np.int64)
    far = np.empty(count, dtype=np.float64)
    done = native.functions["distances"](
        address(rows), address(numbers), address(point), address(point_of), count, dim,
        METRICS[metric], address(far),
    )  # fmt: skip
    if done < 0:
        raise MemoryError("no memory for distances")
    return far
