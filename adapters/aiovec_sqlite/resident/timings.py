"""What searches cost, stage by stage, since the store was opened."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from aiovec.backend import Place, watch_searches

STAGES = ("queue", "fresh", "filter", "scan", "rescore", "fetch")


class Timings:
    """Sums for one table, and what telemetry is told of it. Written by several threads."""

    def __init__(self, place: Place, table: str) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._searches = 0
        self._batches = 0
        self._candidates = 0
        self._largest_batch = 0
        self._observer = watch_searches(place, table)

    def stage(self, name: str) -> Stage:
        """What is done within counts as this stage of a batch."""
        return Stage(self, name)

    def add(self, name: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name] += seconds
        if self._observer is not None:
            self._observer.add_stage(name, seconds)

    def add_waiting(self, seconds: float) -> None:
        """One search waited for its batch."""
        self.add("queue", seconds)

    def add_batch(self, searches: int, candidates: int) -> None:
        with self._lock:
            self._searches += searches
            self._batches += 1
            self._candidates += candidates
            self._largest_batch = max(self._largest_batch, searches)
        if self._observer is not None:
            self._observer.add_batch(searches, candidates)

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


class Stage:
    __slots__ = ("_began", "_name", "_timings")

    def __init__(self, timings: Timings, name: str) -> None:
        self._timings = timings
        self._name = name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timings.add(self._name, time.perf_counter() - self._began)
