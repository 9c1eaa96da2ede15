"""New ids, and the text form of ids that are numbers or UUIDs."""

from __future__ import annotations

import random
import threading
import time
import uuid
from numbers import Integral

# A UUIDv7 has 48 bits of milliseconds and 74 free bits.
_FREE = 74
_RANDOM = random.SystemRandom()

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return a new id: a UUIDv7 as text. Later ids of this process sort after it."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return new ids in ascending order."""
    global _last
    with _lock:
        drawn = (time.time_ns() // 1_000_000 << _FREE) + _RANDOM.getrandbits(_FREE - 1)
        # The clock may stop or go back.
        first = max(drawn, _last + 1 + _RANDOM.getrandbits(64))
        _last = first + count - 1
    return [_text(number) for number in range(first, first + count)]


def _text(number: int) -> str:
    milliseconds, free = number >> _FREE, number & ((1 << _FREE) - 1)
    digits = (milliseconds << 16 | 0x7000 | free >> 62) << 64 | 2 << 62 | free & ((1 << 62) - 1)
    text = f"{digits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_text(value: object) -> str | None:
    """Return the text of an id: text unchanged, a whole number in decimal digits, a UUID in its
    canonical lower-case form. None for anything else, including True and False."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bool):
        return None
    # NumPy registers its durations as integers too.
    is_duration = getattr(getattr(value, "dtype", None), "kind", "") == "m"
    if not isinstance(value, Integral) or is_duration:
        return None
    try:
        return str(int(value))
    except ValueError:  # too many digits for Python to convert, or for an id
        return None
