"""The memory and the cores that this process may use, and the default memory budget."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache, lru_cache
from pathlib import Path

_MOST = 4 * 2**30
# Used if the system does not report its memory.
_ASSUMED = 4 * 2**30
# The folder with the limits of control groups, and the file that lists this process's groups.
_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The number of this option in glibc's malloc.h.
_ARENA_MAX = -8


def default_budget() -> int:
    """Return a quarter of the machine's or the container's memory, but at most 4 GiB."""
    return min(_MOST, int(0.25 * total_memory()))


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


@cache
def limit_heaps() -> None:
    """Limit the separate heaps of glibc to the number of processor cores, but not below four.

    glibc makes up to eight heaps for each core, and the small pieces that a call frees in a heap
    stay there: after an hour of mixed calls on two cores, 480 MiB remained, of which 140 MiB were
    in use. The limit applies to the whole process. Settings in the environment take precedence.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform.startswith("linux") and "MALLOC_ARENA_MAX" not in os.environ:
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if set_option is not None and "arena_max" not in tunables:
            set_option(_ARENA_MAX, max(4, os.cpu_count() or 1))


def _machine() -> int:
    if sys.platform == "win32":
        status = (ctypes.c_ulonglong * 8)(64)  # a MEMORYSTATUSEX, which begins with its size
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[1])
    with contextlib.suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _container() -> int:
    """Return the lowest memory limit of the process's control groups; 0 if they have none."""
    limits = [
        int(text)
        for name in ("memory.max", "memory.limit_in_bytes")
        for text in _of_groups("memory", name)
        if text.isdigit()
    ]
    return min(limits, default=0)


@lru_cache(maxsize=1)
def usable_cores() -> int:
    """Return the number of cores that the process may keep busy.

    The process's affinity and the quotas of its control groups limit this number. Quotas are
    rounded down: with more threads than a quota allows, the system stops all of them for a part of
    each period. The result is cached for the life of the process, since threads and semaphores
    depend on it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    limits = [text.split() for text in _of_groups("cpu", "cpu.max")]
    names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
    limits += map(list, zip(*(_of_groups("cpu", name) for name in names), strict=False))
    for quota, period in limits:
        if quota.isdigit():  # otherwise "max" or -1
            cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def _of_groups(controller: str, name: str) -> list[str]:
    """Return the contents of the file called ``name`` in each control group of the process, and
    in their parent groups.

    In version 1 of control groups, each controller has a separate tree.
    """
    groups = {_GROUPS, _GROUPS / controller}
    with contextlib.suppress(OSError, ValueError):
        for line in _OWN.read_text(encoding="utf-8").splitlines():
            _, names, path = line.split(":", 2)
            if not names or controller in names.split(","):
                tree = _GROUPS / controller if names else _GROUPS
                group = tree / path.lstrip("/")
                groups |= {group, *(above for above in group.parents if tree in above.parents)}
    texts = []
    for group in sorted(groups):
        with contextlib.suppress(OSError, ValueError):
            texts.append((group / name).read_text(encoding="ascii").strip())
    return texts
