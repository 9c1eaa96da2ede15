"""Giving back the memory that making a resident copy took."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """Have the C library give freed memory back to the system, where it keeps it for later.

    glibc does, for each thread apart: of a loader that has ended, some MiB that nobody would use
    again (``python -m bench search``). Others give large blocks back on their own.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))
