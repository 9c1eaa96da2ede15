"""The memory of this machine, and the share of it that is the default budget."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_SHARE = 0.25
_MOST = 4 * 2**30
# The number of this option in glibc's malloc.h.
_M_ARENA_MAX = -8
# Where the system tells nothing.
_ASSUMED = 4 * 2**30


def default_budget() -> int:
    """A quarter of the machine's memory, or of the container's, at most 4 GiB."""
    return min(_MOST, int(_SHARE * total_memory()))


def size_text(count: int) -> str:
    """A count of bytes as a person reads it."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def total_memory() -> int:
    found = [size for size in (_machine(), _container()) if size]
    return min(found, default=_ASSUMED)


def bound_allocator() -> None:
    """Have glibc use no more separate heaps than there are processor cores, four at least.

    It makes eight for each core, one thread after another, and each keeps some ten MiB of what was
    freed. For the process as a whole, so it is done only where a driver brings many threads. What
    the user set in the environment stands.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None and "arena_max" not in tunables:
        mallopt(_M_ARENA_MAX, max(4, os.cpu_count() or 1))


def resident_memory() -> int:
    """Bytes of memory that the process holds now; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * int(os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        return 0


def give_back() -> None:
    """Give the system what the C library keeps of freed memory. Not on the event loop.

    glibc keeps freed buffers below 32 MiB for the next ones, for each thread apart, however long
    none is wanted. Others give large blocks back on their own.
    """
    if sys.platform.startswith("linux"):
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
