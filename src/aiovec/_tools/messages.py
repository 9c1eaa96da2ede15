"""Parts of messages: shortened user values, lists of names, and suggestions for names."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from heapq import nlargest
from os.path import commonprefix
from pathlib import PosixPath, WindowsPath
from typing import Any
from uuid import UUID

_OWN = frozenset({
    bool, bytearray, bytes, complex, date, datetime, Decimal, dict, float, frozenset, int,
    list, PosixPath, range, set, str, time, timedelta, timezone, tuple, type, type(None), type(...),
    UUID, WindowsPath,
})  # fmt: skip
_SCALARS = frozenset({"numpy", "pandas"})


class _Shown(reprlib.Repr):
    """Shortens values, without calling the ``repr`` of unknown types.

    ``repr`` is called only for types of Python and aiovec, and for scalars of NumPy and pandas.
    The ``repr`` of another library may read unvalidated memory, show addresses, or be slow.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = self.maxlong = most
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x)
        if kind in _OWN:
            return super().repr1(x, level)
        if issubclass(kind, Enum):
            return f"{kind.__name__}.{x._name_}"
        if issubclass(kind, str):  # also NumPy's
            return self.repr_str(str.__str__(x), level)
        library = kind.__module__.partition(".")[0]
        # NumPy's and pandas' numbers, dates and missing values. Arrays and frames have a length.
        if library == "aiovec" or (library in _SCALARS and not hasattr(kind, "__len__")):
            return self.repr_instance(x, level)
        try:
            return f"<{kind.__name__} of length {len(x)}>"
        except Exception:  # noqa: BLE001 - no length
            return f"<{kind.__name__}>"


def shown(value: object, most: int = 120) -> str:
    """Return a user's value, shortened for a message. Fast, and never raises."""
    try:
        text = _Shown(most).repr(value)
    except Exception:  # noqa: BLE001 - Python refuses numbers of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shortened(text: str, most: int) -> str:
    """Return the text, cut to at most ``most`` characters; "…" marks a cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" with the most similar known name, or ""."""
    near = nearest_name(name, known) if isinstance(name, str) else None
    return f"; did you mean {near!r}?" if near else ""


def nearest_name(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the most similar known name, if any. If many names are known, only the names that
    share the longest prefixes with ``name`` are compared."""
    from difflib import get_close_matches  # rarely needed

    name = name[:_LONGEST_COMPARED]

    def beginning(other: str) -> int:
        return len(commonprefix((name, other)))  # noqa: RUF071 - of texts, not of paths

    names = nlargest(_MOST_COMPARED, known, key=beginning)  # a comparison takes about 40 µs
    near = get_close_matches(name, names, 1, likeness)
    return near[0] if near else None


_MOST_COMPARED, _LONGEST_COMPARED = 100, 100


def listed(
    names: Sequence[Any], *others: str, most: int = 50, show: Callable[[Any], str] = str
) -> str:
    """Join names for a message: the first ``most``, the number of further ones, and ``others``."""
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return ", ".join([*map(show, names[:most]), *more, *others])
