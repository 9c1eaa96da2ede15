"""How much memory there is for resident copies, and giving back what making them took."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_SHARE = 0.25
_MOST = 4 * 2**30
# Where the system tells nothing.
_ASSUMED = 4 * 2**30


def default_budget() -> int:
    """A quarter of the machine's memory, or of the container's, at most 4 GiB."""
    return min(_MOST, int(_SHARE * total_memory()))


def total_memory() -> int:
    found = [size for size in (_machine(), _container()) if size]
    return min(found, default=_ASSUMED)


def give_back_freed() -> None:
    """Have the C library give freed memory back to the system, where it keeps it for later.

    glibc does, for each thread apart: of a loader that has ended, some MiB that nobody would use
    again (``python -m bench search``). Others give large blocks back on their own.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))


def _machine() -> int:
    if hasattr(os, "sysconf"):
        with contextlib.suppress(ValueError, OSError):
            return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    if os.name == "nt":
        return _windows_memory()
    return 0


def _container() -> int:
    """The limit of the control group that the process is in, 0 where there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    return 0


def _windows_memory() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("others", ctypes.c_ulonglong * 6),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll", None)
    if kernel is None or not kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status.total)
