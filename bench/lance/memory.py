"""The most memory that something takes."""

from __future__ import annotations

import threading

import psutil

_EVERY = 0.02


class Peak:
    """Looks at the process's memory, in a thread, for as long as the block runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak", daemon=True)
        self._before = self._most = 0

    @property
    def mib(self) -> float:
        """The MiB beyond those at the beginning."""
        return (self._most - self._before) / 2**20

    def __enter__(self) -> Peak:
        self._before = self._most = int(self._process.memory_info().rss)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._most = max(self._most, int(self._process.memory_info().rss))
