"""The memory of this machine, and the share of it that is the default budget."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_SHARE = 0.25
_MOST = 4 * 2**30
# Used if the system does not report its memory.
_ASSUMED = 4 * 2**30


def default_budget() -> int:
    """Return a quarter of the machine's memory, or of the container's, at most 4 GiB."""
    return min(_MOST, int(_SHARE * total_memory()))


def size_text(count: int) -> str:
    """Return a number of bytes as readable text."""
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def total_memory() -> int:
    """Return the memory of the machine, or of the container if that has less."""
    nbytes = [size for size in (_machine(), _container()) if size]
    return min(nbytes, default=_ASSUMED)


def give_back() -> None:
    """Return freed memory from the C library to the system. Must not run on the event loop.

    glibc keeps freed buffers below 32 MiB in each thread; other C libraries return large blocks on
    their own.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))


def _machine() -> int:
    if sys.platform == "win32":
        status = (ctypes.c_ulonglong * 8)(64)  # a MEMORYSTATUSEX, which begins with its size
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[1])
    with contextlib.suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _container() -> int:
    """Return the limit of the process's control group; 0 if it has none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    return 0
