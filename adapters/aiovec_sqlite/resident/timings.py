"""What searches cost, stage by stage, since the store was opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("queue", "fresh", "filter", "scan", "rescore", "fetch")


class Timings:
    """Sums for one table. Written by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._searches = 0
        self._batches = 0
        self._candidates = 0
        self._largest_batch = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self._seconds[name] += took

    def add_batch(self, searches: int, candidates: int) -> None:
        with self._lock:
            self._searches += searches
            self._batches += 1
            self._candidates += candidates
            self._largest_batch = max(self._largest_batch, searches)

    def add_waiting(self, seconds: float) -> None:
        with self._lock:
            self._seconds["queue"] += seconds

    def to_dict(self) -> dict[str, float]:
        """Milliseconds a search in each stage, and the means of the counts."""
        with self._lock:
            searches = max(self._searches, 1)
            shown = {f"{name}_ms": 1000 * s / searches for name, s in self._seconds.items()}
            return {
                "searches": self._searches,
                **shown,
                "candidates": self._candidates / searches,
                "batch": self._searches / max(self._batches, 1),
                "largest_batch": self._largest_batch,
            }
