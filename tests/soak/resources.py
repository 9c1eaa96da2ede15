"""The memory, threads and open files of a process at a quiet moment."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships without types

from aiovec._core.threads import idle_threads

# Threads in which a loop's library runs single functions: it keeps some for the next ones, as the
# stores do, so their number tells what ran last.
_POOLED = ("AnyIO", "asyncio_", "ThreadPoolExecutor")


@dataclass(frozen=True, slots=True)
class Resources:
    memory: int
    threads: int
    files: int

    @classmethod
    def now(cls) -> Resources:
        gc.collect()
        process: Any = psutil.Process()
        pooled = sum(thread.name.startswith(_POOLED) for thread in threading.enumerate())
        pooled += idle_threads()
        with process.oneshot():
            files = process.num_handles() if sys.platform == "win32" else process.num_fds()
            return cls(process.memory_info().rss, process.num_threads() - pooled, files)


def growth(values: list[int]) -> float:
    """Return by which share the last third of the values lies above the first third."""
    third = max(1, len(values) // 3)
    first = sorted(values[:third])[third // 2]
    last = sorted(values[-third:])[third // 2]
    return last / first - 1
